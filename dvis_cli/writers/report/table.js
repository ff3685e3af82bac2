"use strict";
// Classes, the table of objects with their time lines, keys, and the start.

function swatch(segment) {
  const made = element("span", null, { className: segment.thing ? "swatch" : "swatch stuff" });
  made.style.background = rgb(segment.color);
  return made;
}

// ---- classes

const classes = new Map(); // name -> its segments
segments.forEach((segment, row) => {
  segment.row = row;
  if (!classes.has(segment.name)) classes.set(segment.name, []);
  classes.get(segment.name).push(segment);
});
const boxes = new Map();
[...classes.entries()].sort(([, a], [, b]) => b[0].thing - a[0].thing || b.length - a.length).forEach(([name, all]) => {
  const box = element("input", null, { type: "checkbox", checked: true });
  box.addEventListener("change", () => switchClass(name, box.checked));
  const label = element("label");
  label.append(box, swatch(all[0]), element("span", name, { className: "text" }));
  if (all[0].thing) label.append(element("span", String(all.length), { className: "count", title: "objects" }));
  const item = element("li");
  item.append(label);
  $("classes").append(item);
  boxes.set(name, box);
});
function switchClass(name, on) {
  boxes.get(name).checked = on;
  if (on) look.off.delete(name); else look.off.add(name);
  showOff();
}
function showOff() {
  rows.forEach((row, i) => row.classList.toggle("off", look.hides(segments[i])));
  redraw();
}
$("all").onclick = () => classes.forEach((all, name) => switchClass(name, true));
$("none").onclick = () => classes.forEach((all, name) => switchClass(name, false));
$("things").onclick = () => classes.forEach((all, name) => switchClass(name, all[0].thing));

// ---- objects

const DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-_";
segments.forEach((segment) => {
  segment.heights = Uint8Array.from(segment.areas, (digit) => DIGITS.indexOf(digit)); // from its first frame on
});
const lanes = [];
const rows = segments.map((segment) => {
  const row = element("tr");
  const head = element("th", null, { scope: "row" });
  const button = element("button", null, { type: "button", title: title(segment) });
  button.append(swatch(segment), element("span", segment.name, { className: "text" }));
  if (segment.numbered) button.append(element("span", String(segment.id), { className: "id" }));
  button.setAttribute("aria-pressed", "false");
  button.onclick = () => select(look.selected === segment ? null : segment, "table");
  head.append(button);
  const lane = element("canvas");
  lane.setAttribute("role", "img");
  lane.setAttribute("aria-label", segment.seen
    ? `seen from ${clock(timeOf(segment.first))} to ${clock(timeOf(segment.last))}, in ${segment.seen} of ${times.length} frames` : "never seen");
  lane.addEventListener("click", (event) => {
    film.go(frameAt(event, lane));
    select(segment, "table");
  });
  lanes.push(lane);
  const cell = element("td", null, { className: "lane" });
  cell.append(lane);
  const area = element("td", "", { className: "number now" });
  areaCells.push(area);
  row.append(head, cell, area, element("td", segment.score.toFixed(2), { className: "number score" }));
  return row;
});

const span = times[last] + 1 / data.fps || 1;
function frameAt(event, canvas) {
  const box = canvas.getBoundingClientRect();
  return film.at(((event.clientX - box.left) / box.width) * span);
}
function fit(canvas) {
  const dots = window.devicePixelRatio || 1;
  canvas.width = Math.max(1, Math.round(canvas.clientWidth * dots));
  canvas.height = Math.max(1, Math.round(canvas.clientHeight * dots));
  const context = canvas.getContext("2d");
  return { context, dots, width: canvas.width, height: canvas.height };
}
const styleOf = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function drawLane(segment, canvas, ground) {
  const { context, dots, width, height } = fit(canvas);
  const pad = 5 * dots, tall = height - 2 * pad;
  context.fillStyle = ground;
  context.fillRect(0, pad, width, tall);
  const columns = new Float32Array(width);
  segment.heights.forEach((value, i) => {
    if (!value) return;
    const index = segment.first + i;
    const from = Math.floor((times[index] / span) * width);
    const to = Math.max(from + 1, Math.ceil(((index < last ? times[index + 1] : span) / span) * width));
    for (let x = from; x < Math.min(to, width); x++) columns[x] = Math.max(columns[x], value / 63);
  });
  context.fillStyle = rgb(segment.color);
  for (const [alpha, full] of [[0.25, true], [segment.thing ? 1 : 0.6, false]]) {
    context.globalAlpha = alpha;
    for (let x = 0; x < width; x++) {
      if (!columns[x]) continue;
      const size = full ? tall : Math.max(2 * dots, columns[x] * tall);
      context.fillRect(x, pad + tall - size, 1, size);
    }
  }
  context.globalAlpha = 1;
}
function drawRuler() {
  const { context, dots, width, height } = fit($("ruler"));
  const room = 72 * dots;
  const step = [0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600, 7200].find((one) => (one / span) * width >= room) || span;
  context.fillStyle = context.strokeStyle = styleOf("--mute");
  context.font = `${11.5 * dots}px system-ui, "DejaVu Sans", sans-serif`;
  context.textBaseline = "middle";
  for (let time = Math.ceil(data.start / step - 1e-6) * step; time < data.start + span; time += step) {
    const x = ((time - data.start) / span) * width;
    context.fillRect(Math.round(x), height - 6 * dots, dots, 6 * dots);
    const text = step < 1 ? clock(time) : clock(time).slice(0, -3);
    if (x + room * 0.6 < width) context.fillText(text, x + 4 * dots, height / 2);
  }
}
function drawLanes() {
  const ground = styleOf("--lane");
  drawRuler();
  segments.forEach((segment, i) => { if (rows[i].isConnected) drawLane(segment, lanes[i], ground); });
  placeHead(frame);
}
function placeHead(index) {
  const ruler = $("ruler"), box = $("lanes"), head = $("head");
  const left = ruler.getBoundingClientRect().left - box.getBoundingClientRect().left;
  head.style.left = `${left + ((times[index] + 0.5 / data.fps) / span) * ruler.clientWidth}px`;
  head.style.height = `${box.firstElementChild.offsetHeight}px`;
}
$("ruler").addEventListener("pointerdown", (event) => {
  const move = (one) => film.go(frameAt(one, $("ruler")));
  $("ruler").setPointerCapture(event.pointerId);
  $("ruler").addEventListener("pointermove", move);
  $("ruler").addEventListener("pointerup", () => $("ruler").removeEventListener("pointermove", move), { once: true });
  film.pause();
  move(event);
});

const ORDERS = {
  first: (a, b) => b.thing - a.thing || a.first - b.first || b.area - a.area, area: (a, b) => b.area - a.area,
  seen: (a, b) => b.seen - a.seen, score: (a, b) => b.score - a.score, id: (a, b) => a.id - b.id,
  name: (a, b) => a.name.localeCompare(b.name) || a.id - b.id,
};
let listed = [];
function list() {
  const sought = $("find").value.trim().toLowerCase().split(/[\s,]+/).filter(Boolean);
  listed = segments.filter((segment) => !sought.length || sought.some((one) => segment.name.toLowerCase().includes(one) || String(segment.id) === one))
    .sort(ORDERS[$("sort").value]);
  $("rows").replaceChildren(...listed.map((segment) => rows[segment.row]));
  $("empty").hidden = listed.length > 0;
  drawLanes();
}
$("find").addEventListener("input", list);
$("sort").addEventListener("change", list);

// ---- controls and keys

const scrub = $("scrub");
scrub.max = last;
scrub.addEventListener("input", () => {
  film.pause();
  film.go(Number(scrub.value));
});
const step = (frames) => {
  film.pause();
  film.go(film.wanted + frames);
};
const toggle = () => (film.playing ? film.pause() : film.play());
const jump = (index) => {
  film.pause();
  film.go(index);
};
$("first").onclick = () => jump(0);
$("back").onclick = () => step(-1);
$("forward").onclick = () => step(1);
$("play").onclick = toggle;
$("speed").onchange = () => {
  video.playbackRate = Number($("speed").value);
  Object.assign(film, { from: frame, began: performance.now() });
};
$("sound").onclick = () => {
  video.muted = !video.muted;
  $("sound").setAttribute("aria-pressed", !video.muted);
};
$("opacity").oninput = () => {
  look.opacity = $("opacity").value / 100;
  redraw();
};
for (const name of ["outlines", "labels", "picture"]) {
  $(name).onchange = () => {
    look[name] = $(name).checked;
    redraw();
  };
}
const press = (name) => $(name).click();
const fade = (change) => {
  $("opacity").value = Number($("opacity").value) + change;
  $("opacity").oninput();
};
/** Where the selected object begins to be seen, after or before this frame. */
function comes(direction) {
  const segment = look.selected;
  if (!segment) return;
  const seen = (index) => Boolean(segment.heights[index - segment.first]);
  for (let index = frame + direction; index >= 0 && index <= last; index += direction) {
    if (seen(index) && !seen(index - 1)) return jump(index);
  }
  say(`${title(segment)} does not ${direction > 0 ? "come again" : "come before"}`);
}
function neighbour(direction) {
  if (!listed.length) return;
  const at = listed.indexOf(look.selected);
  select(listed[at < 0 ? (direction > 0 ? 0 : listed.length - 1) : Math.min(Math.max(at + direction, 0), listed.length - 1)], "keys");
}
function theme(name) {
  document.documentElement.dataset.theme = name;
  $("theme").textContent = name === "dark" ? "Light" : "Dark";
  drawLanes();
}
const system = matchMedia("(prefers-color-scheme: dark)");
let chosenTheme = null;
try { chosenTheme = localStorage.getItem("dvis-theme"); } catch { /* pages from the disk may have no storage */ }
system.addEventListener("change", () => { if (!chosenTheme) theme(system.matches ? "dark" : "light"); });
$("theme").onclick = () => {
  chosenTheme = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
  try { localStorage.setItem("dvis-theme", chosenTheme); } catch { /* it lasts as long as the page */ }
  theme(chosenTheme);
};
$("help").onclick = () => $("keys").showModal();

const KEYS = {
  " ": toggle, ArrowLeft: () => step(-1), ArrowRight: () => step(1), Home: () => jump(0), End: () => jump(last),
  ArrowUp: () => neighbour(-1), ArrowDown: () => neighbour(1), n: () => comes(1), p: () => comes(-1), s: solo,
  c: () => look.selected && copy(String(look.selected.id), "id"),
  e: () => look.selected && copy(command(look.selected), "command"),
  Escape: () => select(null), "[": () => fade(-10), "]": () => fade(10), o: () => press("outlines"), l: () => press("labels"),
  v: () => press("picture"), t: () => press("theme"), "?": () => press("help"),
};
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || $("keys").open) return;
  const kind = event.target.type || event.target.tagName;
  if (["search", "select-one", "textarea"].includes(kind)) return;
  if (kind === "range" && /^(Arrow|Home|End)/.test(event.key) && event.target.id !== "scrub") return;
  if (event.key === " " && ["button", "submit", "checkbox", "file"].includes(kind)) return; // it presses that
  if (event.shiftKey && event.key.startsWith("Arrow")) {
    const index = film.at(times[film.wanted] + (event.key === "ArrowRight" ? 1 : -1));
    if (/Left|Right/.test(event.key)) jump(index);
    event.preventDefault();
    return;
  }
  const action = KEYS[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (!action) return;
  event.preventDefault();
  action();
});

// ---- start

$("name").textContent = data.name;
$("facts").textContent = data.facts;
$("made").textContent = data.note;
$("sound").hidden = !data.has_audio;
video.muted = true;
theme(chosenTheme || (system.matches ? "dark" : "light"));
select(null);
list();
new ResizeObserver(() => {
  drawLanes();
  redraw();
}).observe($("lanes"));
show(0);
if (data.film) {
  if (data.film_kind === "overlay") {
    $("notice").firstElementChild.textContent = "The film was not found when this page was made; it plays the overlay video, on which the segments are drawn already.";
    $("notice").hidden = false;
    $("opacity").value = 0;
    look.opacity = 0;
    look.labels = $("labels").checked = false;
  }
  follow();
  video.src = data.film;
} else missing("The film was not found when this page was made: only its objects are shown.");
