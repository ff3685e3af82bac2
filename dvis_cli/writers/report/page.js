"use strict";
// The page: what is shown, the film's clock, and what the user does.

const $ = (id) => document.getElementById(id);
const data = JSON.parse($("data").textContent);
const times = data.times; // seconds since the first frame
const last = times.length - 1;
const segments = data.segments;

const look = {
  opacity: 0.55, outlines: true, labels: true, picture: true, selected: null, solo: false, off: new Set(),
  hides: (segment) => look.off.has(segment.name) || (look.solo && look.selected !== null && segment !== look.selected),
};
const maps = new Maps(data.width, data.height, times.length, data.chunk_frames, segments.length + 1, data.levels,
  (number) => $(`maps-${number}`).textContent);
const view = $("view"), video = $("video");
const picture = new Picture(view, maps, segments, look);
let frame = 0; // the one that is shown
let map = null;

function element(name, text, properties = {}) {
  const made = Object.assign(document.createElement(name), properties);
  if (text !== null && text !== undefined) made.textContent = text;
  return made;
}
const rgb = (color) => `rgb(${color.join(",")})`;
const title = (segment) => (segment.numbered ? `${segment.name} ${segment.id}` : segment.name);
const say = (text) => { $("status").textContent = text; };
function clock(seconds) {
  const hundredths = Math.round(seconds * 100);
  const [minutes, rest] = [Math.floor(hundredths / 6000), hundredths % 6000];
  return `${minutes}:${String(Math.floor(rest / 100)).padStart(2, "0")}.${String(rest % 100).padStart(2, "0")}`;
}
const timeOf = (index) => data.start + times[index];

// ---- the clock of the film

const film = {
  ready: false, playing: false, wanted: 0, seeking: false, began: 0, from: 0,

  /** A time well inside a frame: what a player shows there is that frame. */
  inside(index) {
    const next = index < last ? times[index + 1] : times[index] + 1 / data.fps;
    return (times[index] + next) / 2;
  },
  /** The frame that is shown at a time of the film. */
  at(time) {
    let low = 0, high = last;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (times[middle] <= time + 1e-4) low = middle; else high = middle - 1;
    }
    return low;
  },
  go(index) {
    index = Math.min(Math.max(index, 0), last);
    film.wanted = index;
    if (!film.ready) {
      film.from = index;
      film.began = performance.now();
      show(index);
    } else if (!film.seeking) film.seek();
    if (!film.playing) mark(index);
  },
  seek() {
    film.seeking = true;
    film.target = film.wanted;
    video.currentTime = film.inside(film.target);
  },
  sought() {
    film.seeking = false;
    if (film.wanted !== film.target) film.seek();
    else if (!film.playing) show(film.target);
  },
  play() {
    if (frame >= last) film.go(0);
    film.playing = true;
    film.began = performance.now();
    film.from = film.wanted = frame >= last ? 0 : frame;
    if (film.ready) video.play().catch(() => film.pause());
    else requestAnimationFrame(film.tick);
    film.told();
  },
  pause() {
    if (!film.playing) return;
    film.playing = false;
    if (film.ready) {
      video.pause();
      film.go(frame);
    }
    film.told();
  },
  told() {
    $("play").classList.toggle("playing", film.playing);
    $("play").setAttribute("aria-label", film.playing ? "Pause" : "Play");
  },
  /** Without a film: our own clock. */
  tick() {
    if (!film.playing || film.ready) return;
    const time = times[film.from] + ((performance.now() - film.began) / 1000) * Number($("speed").value);
    const index = film.at(time);
    if (index !== frame) show(index);
    if (time >= times[last] + 1 / data.fps) film.pause();
    else requestAnimationFrame(film.tick);
  },
  /** A picture of the film is on the screen: `time` is its own. */
  presented(time) {
    if (film.seeking && !film.playing) return;
    if (film.playing) show((film.wanted = film.at(time)));
  },
};

function follow() {
  if ("requestVideoFrameCallback" in video) {
    const next = (now, facts) => {
      film.presented(facts.mediaTime);
      video.requestVideoFrameCallback(next);
    };
    video.requestVideoFrameCallback(next);
  } else {
    const next = () => {
      if (film.playing && film.ready && film.at(video.currentTime) !== frame) film.presented(video.currentTime);
      requestAnimationFrame(next);
    };
    requestAnimationFrame(next);
  }
}

video.addEventListener("loadeddata", () => {
  film.ready = true;
  $("notice").hidden = data.film_kind !== "overlay";
  film.seek();
});
video.addEventListener("seeked", film.sought);
video.addEventListener("ended", () => {
  film.playing = false;
  film.told();
  show((film.wanted = last));
});
video.addEventListener("error", () => missing(`The film ${data.film} is not beside this page, or this browser cannot play it: only its objects are shown.`));

function missing(text) {
  film.ready = film.seeking = false;
  $("notice").firstElementChild.textContent = text;
  $("notice").hidden = false;
  show(frame);
}
$("choose").addEventListener("change", (event) => {
  const [file] = event.target.files;
  if (file) video.src = URL.createObjectURL(file);
});

// ---- what is shown

function show(index) {
  frame = index;
  map = maps.get(index);
  refresh();
}
let due = false;
function refresh() {
  due = false;
  picture.draw(map, film.ready ? video : null);
  view.dataset.frame = frame;
  mark(frame);
  showAreas();
}
/** Draw again soon, once, whatever changed. */
function redraw() {
  if (!due && map) requestAnimationFrame(refresh);
  due = true;
}

function mark(index) {
  const scrub = $("scrub");
  scrub.value = index;
  scrub.setAttribute("aria-valuetext", `frame ${index} of ${times.length}, ${clock(timeOf(index))}`);
  $("clock").replaceChildren(clock(timeOf(index)), element("small", `frame ${index} / ${times.length}`));
  placeHead(index);
}

const areaCells = [];
let areasShown = 0;
function showAreas() {
  const now = performance.now();
  if (film.playing && now - areasShown < 150) return;
  areasShown = now;
  segments.forEach((segment, row) => {
    const area = picture.areas[row + 1];
    areaCells[row].textContent = area ? area.toLocaleString("en") : "–";
  });
  if (look.selected) showPicked();
  const seen = segments.filter((segment, row) => picture.areas[row + 1] && !look.hides(segment)).map(title);
  view.setAttribute("aria-label", `Frame ${frame} with ${seen.length} objects: ${seen.slice(0, 12).join(", ")}${seen.length > 12 ? ", …" : ""}`);
}

// ---- one object

function select(segment, from) {
  look.selected = segment;
  if (!segment) look.solo = false;
  rows.forEach((row, i) => {
    const on = segments[i] === segment;
    row.classList.toggle("on", on);
    row.querySelector("button").setAttribute("aria-pressed", on);
    if (on && from !== "table") reveal(row);
  });
  if (segment) say(`${title(segment)} selected`);
  showPicked();
  showOff();
}
/** Scroll the table, not the page. */
function reveal(row) {
  const box = $("lanes"), top = row.offsetTop - 30;
  if (top < box.scrollTop) box.scrollTop = top;
  else if (top + 64 > box.scrollTop + box.clientHeight) box.scrollTop = top + 64 - box.clientHeight;
}

const quoted = (text) => (/^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);
function folder() {
  if (location.protocol !== "file:") return data.name;
  return decodeURIComponent(location.pathname).replace(/\/[^/]*$/, "").replace(/^\/([A-Za-z]:)/, "$1") || "/";
}
const command = (segment) => `dvis export masks ${quoted(folder())} --only ${quoted(segment.numbered ? String(segment.id) : segment.name)}`;

async function copy(text, what) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = element("textarea", text);
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  say(`${what} copied`);
}

function showPicked() {
  const box = $("picked"), segment = look.selected;
  box.dataset.id = segment ? segment.id : "";
  if (!segment) {
    if (!box.querySelector(".why")) box.replaceChildren(element("p", "Click an object in the picture or in the table: to see it alone, to copy its id, or to export it.", { className: "why" }));
    return;
  }
  if (Number(box.dataset.row) !== segment.row || !box.querySelector("dl")) drawPicked(box, segment);
  const area = picture.areas[segment.row + 1];
  box.querySelector(".area-now").textContent = area ? `${area.toLocaleString("en")} px, ${((100 * area) / (data.width * data.height)).toFixed(1)} %` : "not in this frame";
  box.querySelector(".solo").setAttribute("aria-pressed", look.solo);
}
function drawPicked(box, segment) {
  box.dataset.row = segment.row;
  const who = element("p", null, { className: "who" });
  who.append(swatch(segment), element("span", segment.name));
  const facts = element("dl");
  const fact = (name, value, className = "") => facts.append(element("dt", name), element("dd", value, { className }));
  fact("id", `${segment.id} (${segment.thing ? "thing" : "stuff"})`);
  fact("score", segment.score.toFixed(2));
  fact("seen", segment.seen ? `${clock(timeOf(segment.first))} to ${clock(timeOf(segment.last))}, ${segment.seen} frames` : "never");
  fact("area", "", "area-now");
  const buttons = element("div", null, { className: "buttons" });
  const button = (text, action, className = "") => buttons.append(element("button", text, { type: "button", onclick: action, className }));
  button("Copy id", () => copy(String(segment.id), "id"), "copy-id");
  button("Copy command", () => copy(command(segment), "command"), "copy-command");
  button("Only this", solo, "solo");
  button("First frame", () => film.go(segment.first));
  button("Nothing", () => select(null));
  const code = element("code", command(segment).replace(/--only .*$/s, ""));
  code.append(element("span", command(segment).slice(code.textContent.length)));
  box.replaceChildren(who, facts, code, buttons);
}
function solo() {
  look.solo = !look.solo && look.selected !== null;
  showPicked();
  showOff();
}

// ---- the picture under the pointer

function segmentAt(event) {
  const box = view.getBoundingClientRect();
  const x = Math.floor(((event.clientX - box.left) * data.width) / box.width);
  const y = Math.floor(((event.clientY - box.top) * data.height) / box.height);
  if (!map || x < 0 || y < 0 || x >= data.width || y >= data.height) return null;
  return segments[map[maps.at(x, y)] - 1] || null;
}
view.addEventListener("click", (event) => {
  const segment = segmentAt(event);
  if (segment && look.hides(segment)) say(`${title(segment)} is switched off`);
  else select(segment === look.selected ? null : segment, "picture");
});
view.addEventListener("pointermove", (event) => {
  const segment = event.pointerType === "mouse" ? segmentAt(event) : null;
  const tip = $("tip");
  tip.hidden = !segment || look.hides(segment);
  if (tip.hidden) return;
  tip.textContent = title(segment);
  const box = $("stage").getBoundingClientRect();
  tip.style.left = `${Math.min(event.clientX - box.left + 14, box.width - tip.offsetWidth - 4)}px`;
  tip.style.top = `${Math.max(event.clientY - box.top - 28, 4)}px`;
});
view.addEventListener("pointerleave", () => { $("tip").hidden = true; });
