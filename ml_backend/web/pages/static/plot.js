"use strict";
/* Points on a canvas: a picture of them is put together point by point, so that a million take some hundredths of a second and need no
   graphics card. Dragging draws around points, or moves the picture; two fingers and the wheel zoom. */

const GRID = 65535, NONE_OF = { 1: 255, 2: 65535 };

class Plot {
  /* chosen(places): what was drawn around. */
  constructor(canvas, overlay, chosen) {
    Object.assign(this, { canvas, overlay, chosen, x: new Uint16Array(0), y: new Uint16Array(0), count: 0 });
    Object.assign(this, { values: null, palette: new Uint32Array(1), marks: null, zoom: 1, left: 0, top: 0, lasso: true });
    this.fingers = new Map();
    this.path = [];
    this.due = false;
    for (const [name, handle] of Object.entries({ pointerdown: "down", pointermove: "moved", pointerup: "up", pointercancel: "gone" })) {
      canvas.addEventListener(name, (event) => this[handle](event));
    }
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.zoomAt(Math.exp(-event.deltaY / 400), ...this.at(event));
    }, { passive: false });
    canvas.addEventListener("keydown", (event) => this.key(event));
    new ResizeObserver(() => this.resize()).observe(canvas);
    this.resize();
  }

  resize() {
    const box = this.canvas.getBoundingClientRect(), sharp = Math.min(window.devicePixelRatio || 1, 2);
    this.sharp = sharp;
    for (const each of [this.canvas, this.overlay]) {
      each.width = Math.max(1, Math.round(box.width * sharp));
      each.height = Math.max(1, Math.round(box.height * sharp));
    }
    this.picture = this.canvas.getContext("2d").createImageData(this.canvas.width, this.canvas.height);
    this.pixels = new Uint32Array(this.picture.data.buffer);
    this.draw();
  }

  /* So many points in all, of which add() brings some at a time. */
  expect(total) {
    this.x = new Uint16Array(total);
    this.y = new Uint16Array(total);
    this.count = 0;
    this.values = this.marks = null;
  }

  add(x, y) {
    this.x.set(x, this.count);
    this.y.set(y, this.count);
    this.count += x.length;
    this.draw();
  }

  /* values: a number for each point; palette: its colour as the canvas has it, 0 for not shown; the last one is of no value. */
  colour(values, palette) {
    Object.assign(this, { values, palette, faint: palette.map((one) => one ? (one & 0xffffff) | 0x55000000 : 0) });
    this.draw();
  }

  mark(places) {
    this.marks = places && places.length ? new Uint8Array(this.x.length) : null;
    if (this.marks) for (const place of places) this.marks[place] = 1;
    this.draw();
  }

  draw() {
    if (this.due) return;
    this.due = true;
    requestAnimationFrame(() => { this.due = false; this.paint(); });
  }

  /* From a place on the grid to pixels: x * scale + shift. */
  view() {
    const { width, height } = this.canvas, side = Math.min(width, height) * this.zoom;
    return { scale: side / GRID, dx: (width - side) / 2 + this.left * this.sharp, dy: (height - side) / 2 + this.top * this.sharp };
  }

  size() {
    const shown = this.count / this.zoom;
    return Math.round(this.sharp * (shown > 200_000 ? 1 : shown > 20_000 ? 2 : shown > 5_000 ? 3 : shown > 1_000 ? 4 : 6));
  }

  paint() {
    this.pixels.fill(0);
    for (const marked of this.marks ? [false, true] : [false]) { // what is chosen on top, and what has a value on what has none
      if (this.values) this.dots(marked, false);
      if (this.values) this.dots(marked, true);
    }
    this.canvas.getContext("2d").putImageData(this.picture, 0, 0);
    this.canvas.dataset.points = String(this.values ? this.count : 0);
  }

  dots(marked, valued) {
    const { x, y, values, marks, pixels } = this, { width, height } = this.canvas, { scale, dx, dy } = this.view();
    const size = this.size() + (marked ? Math.ceil(this.sharp) : 0), palette = marks && !marked ? this.faint : this.palette, last = palette.length - 1;
    for (let i = 0; i < this.count; i++) {
      if (marks && marks[i] !== (marked ? 1 : 0)) continue;
      const value = values[i];
      if (value < last !== valued) continue;
      const colour = palette[valued ? value : last];
      const px = (x[i] * scale + dx) | 0, py = (y[i] * scale + dy) | 0;
      if (!colour || px < 0 || py < 0 || px + size > width || py + size > height) continue;
      for (let row = py * width + px, down = 0; down < size; down++, row += width) {
        for (let across = 0; across < size; across++) pixels[row + across] = colour;
      }
    }
  }

  // -- moving and choosing --------------------------------------------------------------------------------------------

  at(event) {
    const box = this.canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  }

  zoomAt(factor, px = this.canvas.clientWidth / 2, py = this.canvas.clientHeight / 2) {
    const zoom = Math.min(Math.max(this.zoom * factor, 0.5), 400), by = zoom / this.zoom;
    const middle = [this.canvas.clientWidth / 2, this.canvas.clientHeight / 2];
    this.left = (this.left + middle[0] - px) * by - middle[0] + px;
    this.top = (this.top + middle[1] - py) * by - middle[1] + py;
    this.zoom = zoom;
    this.draw();
  }

  move(dx, dy) {
    this.left += dx;
    this.top += dy;
    this.draw();
  }

  whole() {
    Object.assign(this, { zoom: 1, left: 0, top: 0 });
    this.draw();
  }

  key(event) {
    const step = 60, moves = { ArrowLeft: [step, 0], ArrowRight: [-step, 0], ArrowUp: [0, step], ArrowDown: [0, -step] };
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (moves[event.key]) this.move(...moves[event.key]);
    else if (event.key === "+" || event.key === "=") this.zoomAt(1.4);
    else if (event.key === "-") this.zoomAt(1 / 1.4);
    else if (event.key === "0") this.whole();
    else if (event.key === "Escape") this.chosen([]);
    else return;
    event.preventDefault();
  }

  down(event) {
    if (event.button > 1) return;
    this.canvas.setPointerCapture(event.pointerId);
    this.fingers.set(event.pointerId, this.at(event));
    this.drawing = this.fingers.size === 1 && event.button === 0 && this.lasso !== event.shiftKey;
    this.path = this.drawing ? [this.at(event)] : [];
    this.outline();
  }

  moved(event) {
    const before = this.fingers.get(event.pointerId);
    if (!before) return;
    const now = this.at(event);
    this.fingers.set(event.pointerId, now);
    if (this.fingers.size === 2) {
      const [a, b] = [...this.fingers.entries()].map(([id, place]) => ({ now: place, before: id === event.pointerId ? before : place }));
      const apart = (when) => Math.hypot(a[when][0] - b[when][0], a[when][1] - b[when][1]);
      this.move((now[0] - before[0]) / 2, (now[1] - before[1]) / 2);
      this.zoomAt(apart("now") / Math.max(apart("before"), 1), (a.now[0] + b.now[0]) / 2, (a.now[1] + b.now[1]) / 2);
    } else if (this.drawing) {
      this.path.push(now);
      this.outline();
    } else {
      this.move(now[0] - before[0], now[1] - before[1]);
    }
  }

  up(event) {
    const drawn = this.drawing && this.fingers.size === 1 ? this.path : [];
    this.gone(event);
    if (drawn.length) this.chosen(this.within(drawn));
  }

  gone(event) {
    this.fingers.delete(event.pointerId);
    this.drawing = false;
    this.path = [];
    this.outline();
  }

  trace(context, path) {
    context.beginPath();
    for (const [px, py] of path) context.lineTo(px * this.sharp, py * this.sharp);
    context.closePath();
  }

  outline() {
    const context = this.overlay.getContext("2d");
    context.clearRect(0, 0, this.overlay.width, this.overlay.height);
    if (this.path.length < 2) return;
    this.trace(context, this.path);
    context.lineWidth = 2 * this.sharp;
    context.strokeStyle = getComputedStyle(this.canvas).color;
    context.globalAlpha = 0.12;
    context.fillStyle = context.strokeStyle;
    context.fill();
    context.globalAlpha = 1;
    context.stroke();
  }

  /* The places of the points that are shown within the path; of a path that is a mere click, those around it. */
  within(path) {
    const [px, py] = path[0], far = Math.max(...path.map((at) => Math.hypot(at[0] - px, at[1] - py)));
    if (far < 4) path = [[px - 7, py - 7], [px + 7, py - 7], [px + 7, py + 7], [px - 7, py + 7]];
    const { width, height } = this.canvas, { scale, dx, dy } = this.view(), size = this.size() / 2, last = this.palette.length - 1;
    const mask = new OffscreenCanvas(width, height).getContext("2d");
    this.trace(mask, path);
    mask.fill("evenodd");
    const inside = mask.getImageData(0, 0, width, height).data, found = [];
    for (let i = 0; i < this.count; i++) {
      const x = (this.x[i] * scale + dx + size) | 0, y = (this.y[i] * scale + dy + size) | 0;
      if (x < 0 || y < 0 || x >= width || y >= height || inside[4 * (y * width + x) + 3] < 128) continue;
      if (this.values && this.palette[Math.min(this.values[i], last)]) found.push(i);
    }
    return found;
  }
}
