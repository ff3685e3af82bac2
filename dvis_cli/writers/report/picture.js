"use strict";
// One frame on the canvas: the film's picture, the segments over it, their outlines and names.

const TINT = { thing: 1, stuff: 0.62 }; // shares of the opacity: the scene stays a scene

class Picture {
  /** canvas: to draw on; segments: of label 1, 2, ... at 0, 1, ...; look: what is shown, see `page.js`. */
  constructor(canvas, maps, segments, look) {
    Object.assign(this, { canvas, maps, segments, look });
    canvas.width = maps.width;
    canvas.height = maps.height;
    this.context = canvas.getContext("2d", { alpha: false });
    this.layer = Object.assign(document.createElement("canvas"), { width: maps.width, height: maps.height });
    this.layerContext = this.layer.getContext("2d");
    this.image = this.layerContext.createImageData(maps.width, maps.height);
    this.pixels = new Uint32Array(this.image.data.buffer);
    this.line = Math.max(1, Math.round(Math.min(maps.width, maps.height) / 400));
    this.places = new Map(); // label -> where its name was
    this.areas = new Uint32Array(segments.length + 1); // of the frame that is shown
  }

  /** Draw a frame: its map, and the film's picture where there is one. */
  draw(map, video) {
    const { width, height } = this.maps;
    const context = this.context;
    context.imageSmoothingEnabled = true;
    if (video && this.look.picture) context.drawImage(video, 0, 0, width, height);
    else {
      context.fillStyle = "#15181d";
      context.fillRect(0, 0, width, height);
    }
    this.paint(map);
    this.layerContext.putImageData(this.image, 0, 0);
    context.drawImage(this.layer, 0, 0);
    this.measure(map);
    if (this.look.labels) this.write(map);
  }

  /** [fill, outline] of each label as RGBA in the machine's order. */
  colors() {
    const { look, segments } = this;
    const fill = new Uint32Array(segments.length + 1);
    const edge = new Uint32Array(segments.length + 1);
    const bytes = new Uint8ClampedArray(8);
    const words = new Uint32Array(bytes.buffer);
    segments.forEach((segment, row) => {
      if (look.hides(segment)) return;
      const chosen = look.selected === segment;
      const share = look.selected ? (chosen ? Math.max(look.opacity, 0.35) * 1.15 : look.opacity * 0.35)
        : look.opacity * (segment.thing ? TINT.thing : TINT.stuff);
      const light = chosen ? 1 : 0.62;
      segment.color.forEach((value, i) => {
        bytes[i] = value;
        bytes[4 + i] = value + (255 - value) * light;
      });
      bytes[3] = 255 * Math.min(share, 1);
      bytes[7] = look.outlines || chosen ? (look.selected && !chosen ? 90 : 235) : bytes[3];
      if (!look.outlines && !chosen) for (let i = 4; i < 7; i++) bytes[i] = bytes[i - 4];
      fill[row + 1] = words[0];
      edge[row + 1] = words[1];
    });
    return [fill, edge];
  }

  paint(map) {
    const { width, height, stride } = this.maps;
    const [fill, edge] = this.colors();
    const { pixels, line } = this;
    let out = 0;
    for (let y = 0; y < height; y++) {
      let i = this.maps.at(0, y);
      const down = y + line < height ? line * stride : 0;
      const up = y >= line ? line * stride : 0;
      let label = map[i], left = label;
      for (let x = 0; x < width; x++, i++, out++) {
        const right = map[i + 1];
        const met = left !== label || right !== label || map[i - up] !== label || map[i + down] !== label;
        pixels[out] = met ? edge[label] : fill[label];
        left = label;
        label = right;
      }
    }
  }

  /** Areas of all labels, and the middle of each one's pixels. */
  measure(map) {
    const { width, height } = this.maps;
    const count = this.segments.length + 1;
    this.areas.fill(0);
    const sumX = new Float64Array(count), sumY = new Float64Array(count);
    const runs = (this.runs = []); // label, x, y, length of each run that could hold a name
    for (let y = 0; y < height; y++) {
      const from = this.maps.at(0, y);
      let begin = 0;
      for (let x = 1; x <= width; x++) {
        if (x < width && map[from + x] === map[from + begin]) continue;
        const label = map[from + begin], length = x - begin;
        this.areas[label] += length;
        sumX[label] += length * (begin + length / 2);
        sumY[label] += length * y;
        if (label && length > 5) runs.push(label, begin, y, length);
        begin = x;
      }
    }
    this.middle = (label) => [sumX[label] / this.areas[label], sumY[label] / this.areas[label]];
  }

  /** Names at the widest place near each segment's middle; they glide, and never cover one another. */
  write(map) {
    const { width, height } = this.maps;
    const scale = width / Math.max(this.canvas.clientWidth, 1);
    const size = 12.5 * scale;
    const best = new Map();
    for (let i = 0; i < this.runs.length; i += 4) {
      const [label, x, y, length] = [this.runs[i], this.runs[i + 1], this.runs[i + 2], this.runs[i + 3]];
      const [cx, cy] = this.middle(label);
      const score = Math.min(length, 16 * size) - Math.abs(y - cy) - 0.5 * Math.abs(x + length / 2 - cx);
      const found = best.get(label);
      if (!found || score > found.score) best.set(label, { score, x: x + length / 2, y, length });
    }
    const order = [...best.keys()].filter((label) => !this.look.hides(this.segments[label - 1]))
      .sort((a, b) => (this.segments[b - 1] === this.look.selected) - (this.segments[a - 1] === this.look.selected) ||
        this.areas[b] - this.areas[a]);
    const context = this.context;
    context.font = `600 ${size}px system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif`;
    context.textBaseline = "middle";
    const boxes = [], places = new Map();
    for (const label of order) {
      const segment = this.segments[label - 1];
      const chosen = segment === this.look.selected;
      const text = segment.thing && segment.numbered ? `${segment.name} ${segment.id}` : segment.name;
      const wide = context.measureText(text).width + size, tall = 1.6 * size;
      if (!chosen && this.areas[label] < wide * tall * 0.5) continue;
      let { x, y } = best.get(label);
      const before = this.places.get(label);
      if (before && Math.hypot(before.x - x, before.y - y) < width / 6) {
        const [bx, by] = [Math.round(before.x), Math.round(before.y)];
        const inside = map[this.maps.at(bx, by)] === label;
        x = before.x + (x - before.x) * (inside ? 0.12 : 0.4);
        y = before.y + (y - before.y) * (inside ? 0.12 : 0.4);
      }
      x = Math.min(Math.max(x, wide / 2), width - wide / 2);
      y = Math.min(Math.max(y, tall / 2), height - tall / 2);
      places.set(label, { x, y });
      const box = [x - wide / 2, y - tall / 2, x + wide / 2, y + tall / 2];
      if (boxes.some((one) => box[0] < one[2] && one[0] < box[2] && box[1] < one[3] && one[1] < box[3])) continue;
      boxes.push(box);
      context.globalAlpha = this.look.selected && !chosen ? 0.45 : 1;
      const [red, green, blue] = segment.color.map((value) => Math.round(value * 0.5));
      context.fillStyle = chosen ? "#fff" : `rgba(${red},${green},${blue},.86)`;
      context.beginPath();
      roundBox(context, box[0], box[1], wide, tall, 0.45 * size);
      context.fill();
      context.fillStyle = chosen ? "#111" : "#fff";
      context.fillText(text, box[0] + size / 2, y + size * 0.06);
    }
    context.globalAlpha = 1;
    this.places = places;
  }
}

function roundBox(context, x, y, width, height, radius) {
  if (context.roundRect) context.roundRect(x, y, width, height, radius);
  else context.rect(x, y, width, height);
}

