"use strict";
// The maps of the film, read from the chunks in the page; coding.py writes them and says how.

const CONTEXTS = { other: 1024, third: 1152, label: 1160, length: 1176, bit: 1208, count: 1209 };
const CACHE_BYTES = 96e6;

class Maps {
  /** width, height: pixels; frames: of the film; chunkFrames: of a chunk; labels: how many there are. */
  constructor(width, height, frames, chunkFrames, labels, levels, textOf) {
    Object.assign(this, { width, height, frames, chunkFrames, levels, textOf });
    this.stride = width + 4;
    this.kind = labels < 256 ? Uint8Array : Uint16Array;
    this.kept = new Map(); // frame -> padded map, oldest use first
    const bytes = this.stride * (height + 3) * this.kind.BYTES_PER_ELEMENT;
    this.capacity = Math.max(3, Math.floor(CACHE_BYTES / bytes));
    this.chunk = null;
  }

  /** Where pixel (x, y) is in a map. */
  at(x, y) {
    return (y + 2) * this.stride + x + 2;
  }

  /** The map of a frame: labels, padded by two rows above, one below and two columns on each side. */
  get(frame) {
    const first = frame - (frame % this.chunkFrames);
    let from = frame;
    while (from >= first && !this.kept.has(from)) from--;
    let map = from < first ? null : this.kept.get(from);
    if (from === frame) this.kept.delete(frame);
    for (let next = from + 1; next <= frame; next++) {
      map = this.read(next, map);
      if (next < frame) this.keep(next, map);
    }
    this.keep(frame, map);
    return map;
  }

  keep(frame, map) {
    this.kept.set(frame, map);
    if (this.kept.size > this.capacity) this.kept.delete(this.kept.keys().next().value);
  }

  open(number) {
    if (this.chunk && this.chunk.number === number) return this.chunk;
    const text = atob(this.textOf(number));
    const bytes = new Uint8Array(text.length);
    for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
    const view = new DataView(bytes.buffer);
    const count = Math.min(this.chunkFrames, this.frames - number * this.chunkFrames);
    const chances = Uint16Array.from(bytes.subarray(0, CONTEXTS.count), (level) => this.levels[level]);
    const starts = [];
    let start = CONTEXTS.count + 4 * count;
    for (let i = 0; i < count; i++) {
      starts.push(start);
      start += 4 + 2 * view.getUint32(CONTEXTS.count + 4 * i, true);
    }
    if (start !== bytes.length) throw new Error("the page is damaged: a chunk of maps has another length");
    this.chunk = { number, view, chances, starts };
    return this.chunk;
  }

  read(frame, before) {
    const { view, chances, starts } = this.open(Math.floor(frame / this.chunkFrames));
    let place = starts[frame % this.chunkFrames];
    let state = view.getUint32(place, true);
    place += 4;

    const decide = (context) => {
      const chance = chances[context];
      const rest = state & 4095;
      const yes = rest < chance;
      state = yes ? chance * (state >>> 12) + rest : (4096 - chance) * (state >>> 12) + rest - chance;
      if (state < 65536) {
        state = state * 65536 + view.getUint16(place, true);
        place += 2;
      }
      return yes;
    };
    const spelledGap = () => {
      let length = 0;
      while (decide(CONTEXTS.length + length)) length++;
      let value = 1;
      for (let i = 0; i < length; i++) value = 2 * value + (decide(CONTEXTS.bit) ? 1 : 0);
      return value - 1;
    };
    const spelledLabel = () => {
      let value = 0;
      for (let i = 0; i < 16; i++) value = 2 * value + (decide(CONTEXTS.label + i) ? 1 : 0);
      return value;
    };
    const near = [0, 0, 0, 0, 0, 0];
    const otherThan = (left) => {
      let second = 0;
      while (second < 6 && near[second] === left) second++;
      if (second === 6) return spelledLabel();
      const label = near[second];
      let context = CONTEXTS.other + 16 * second;
      for (let i = 1; i < 5; i++) if (near[i] === label) context += 1 << (i - 1);
      if (decide(context)) return label;
      let third = second + 1;
      while (third < 6 && (near[third] === left || near[third] === label)) third++;
      return third < 6 && decide(CONTEXTS.third + third) ? near[third] : spelledLabel();
    };

    const { width, height, stride } = this;
    const now = new this.kind(stride * (height + 3));
    const chained = before !== null;
    let gap = spelledGap();
    for (let y = 0; y < height; y++) {
      let i = this.at(0, y);
      if (y) now[i - 1] = now[i - 2] = now[i - stride];
      let a = now[i - 1], b = now[i - stride - 1], c = 0, d = now[i - stride], right = chained ? before[i] : d;
      for (let x = 0; x < width; x++, i++) {
        c = b;
        b = d;
        d = now[i - stride + 1];
        const same = right;
        right = chained ? before[i + 1] : d;
        const below = chained ? before[i + stride] : b;
        if (a === b && a === c && a === d && a === same && a === right && a === below) {
          if (gap) {
            gap--;
            now[i] = a;
          } else {
            a = now[i] = spelledLabel();
            gap = spelledGap();
          }
          continue;
        }
        const above = chained ? before[i - stride] : b;
        const aboveLeft = chained ? before[i - stride - 1] : c;
        const aboveRight = chained ? before[i - stride + 1] : d;
        const left2 = chained ? before[i - 2] : a;
        const context =
          (same === a ? 1 : 0) | (above === b ? 2 : 0) | (d === a ? 4 : 0) | (b === a ? 8 : 0) |
          (right === a ? 16 : 0) | (now[i - 2 * stride - 1] === a ? 32 : 0) | (aboveRight === d ? 64 : 0) |
          (below === a ? 128 : 0) | (left2 === a ? 256 : 0) | (aboveLeft === a ? 512 : 0);
        if (decide(context)) {
          now[i] = a;
        } else {
          near[0] = b; near[1] = same; near[2] = d; near[3] = right; near[4] = below; near[5] = c;
          a = now[i] = otherThan(a);
        }
      }
      now[i] = now[i + 1] = now[i - 1];
    }
    now.copyWithin((height + 2) * stride, (height + 1) * stride, (height + 2) * stride);
    return now;
  }
}
