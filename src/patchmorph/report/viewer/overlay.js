// What is drawn over the images, plane by plane: contours of labels, the deformed grid, values in colours.
"use strict";
const OUTLINES = { fixed: "#56b4e9", warped: "#e69f00" };
const LINES = "#ffd24d";

/** The world axes to the right and up of a tile, and across it. */
const AXES = [[0, 1, 2], [0, 2, 1], [1, 2, 0]]; // axial, coronal, sagittal: NiiVue's order

class Overlay {
  constructor(canvas, nv, layers) {
    Object.assign(this, { canvas, nv, layers, shown: new Set(), opacity: 0.7 });
  }

  /** The tiles of NiiVue's picture, with `x` and `y` that take fractions of the image to pixels. */
  tiles() {
    const volume = this.nv.volumes[0], low = volume.extentsMinOrtho, high = volume.extentsMaxOrtho;
    return this.nv.screenSlices.filter((tile) => tile.axCorSag < 3 && tile.leftTopMM.length).map((tile) => {
      const [left, top, width, height] = tile.leftTopWidthHeight, [a, b, normal] = AXES[tile.axCorSag];
      const mm = (axis, fraction) => low[axis] + fraction * (high[axis] - low[axis]);
      const x = (f) => left + ((mm(a, f) - tile.leftTopMM[0]) / tile.fovMM[0]) * width;
      const y = (f) => top + height - ((mm(b, f) - tile.leftTopMM[1]) / tile.fovMM[1]) * height;
      const fraction = Number.isFinite(tile.sliceFrac) ? tile.sliceFrac : this.nv.scene.crosshairPos[normal];
      const at = Math.min(Math.max(Math.floor(fraction * view.shape[normal]), 0), view.shape[normal] - 1);
      return { left, top, width, height, a, b, normal, at, fraction, x, y };
    });
  }

  draw() {
    const gl = this.nv.gl.canvas, context = this.canvas.getContext("2d", { willReadFrequently: true });
    if (this.canvas.width !== gl.width || this.canvas.height !== gl.height) {
      this.canvas.width = gl.width;
      this.canvas.height = gl.height;
    }
    context.clearRect(0, 0, gl.width, gl.height);
    this.ratio = gl.width / Math.max(1, gl.clientWidth);
    for (const tile of this.tiles()) {
      context.save();
      context.beginPath();
      context.rect(tile.left, tile.top, tile.width, tile.height);
      context.clip();
      for (const name of Object.keys(view.map.scalars)) if (this.shown.has(name)) this.colours(context, tile, name);
      if (this.shown.has("grid")) this.grid(context, tile);
      if (this.shown.has("labels")) for (const name of view.labels.of) this.outlines(context, tile, name);
      this.crosshair(context, tile);
      context.restore();
    }
  }

  colours(context, tile, name) {
    const { shape, step, scalars } = view.map, palette = this.layers.palettes[name];
    const cut = plane(this.layers[name], shape, tile.normal, Math.min(Math.round(tile.at / step), shape[tile.normal] - 1));
    const picture = new ImageData(cut.u, cut.v);
    for (let k = 0; k < cut.values.length; k++) picture.data.set(palette[cut.values[k]], 4 * k);
    const small = new OffscreenCanvas(cut.u, cut.v);
    small.getContext("2d", { willReadFrequently: true }).putImageData(picture, 0, 0);
    const edge = (k, axis) => (k * step - step / 2 + 0.5) / view.shape[axis];
    const [left, right] = [0, cut.u].map((k) => tile.x(edge(k, tile.a)));
    const [bottom, top] = [0, cut.v].map((k) => tile.y(edge(k, tile.b)));
    context.globalAlpha = this.opacity;
    context.setTransform((right - left) / cut.u, 0, 0, (top - bottom) / cut.v, left, bottom);
    context.drawImage(small, 0, 0);
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.globalAlpha = 1;
  }

  /** Lines on which a coordinate of the map without its affine part is a multiple of the step. */
  grid(context, tile) {
    const { shape, step, largest, gridStep } = view.map;
    const at = Math.min(Math.round(tile.at / step), shape[tile.normal] - 1);
    context.strokeStyle = LINES;
    context.lineWidth = this.ratio;
    context.beginPath();
    for (const axis of [tile.a, tile.b]) {
      const part = plane(this.layers.remainder[axis], shape, tile.normal, at);
      const place = (i, j) => [tile.x((i * step + 0.5) / view.shape[tile.a]), tile.y((j * step + 0.5) / view.shape[tile.b])];
      const coordinate = (i, j) =>
        ((axis === tile.a ? i : j) * step + ((part.values[j * part.u + i] - 127) * largest) / 127) / gridStep;
      for (let j = 0; j + 1 < part.v; j++)
        for (let i = 0; i + 1 < part.u; i++) {
          triangle(context, [[i, j], [i + 1, j], [i, j + 1]], coordinate, place);
          triangle(context, [[i + 1, j + 1], [i + 1, j], [i, j + 1]], coordinate, place);
        }
    }
    context.stroke();
  }

  /** Borders between voxels of different labels. */
  outlines(context, tile, name) {
    const { u, v, values } = plane(this.layers.labels[name], view.shape, tile.normal, tile.at);
    const x = Array.from({ length: u + 1 }, (_, i) => tile.x(i / u)), y = Array.from({ length: v + 1 }, (_, j) => tile.y(j / v));
    context.strokeStyle = OUTLINES[name];
    context.lineWidth = 1.25 * this.ratio;
    context.beginPath();
    for (let j = 0; j < v; j++)
      for (let i = 0; i < u; i++) {
        const here = values[j * u + i];
        if (i + 1 < u && values[j * u + i + 1] !== here) context.moveTo(x[i + 1], y[j]), context.lineTo(x[i + 1], y[j + 1]);
        if (j + 1 < v && values[(j + 1) * u + i] !== here) context.moveTo(x[i], y[j + 1]), context.lineTo(x[i + 1], y[j + 1]);
      }
    context.stroke();
  }

  crosshair(context, tile) {
    const position = this.nv.scene.crosshairPos, gap = 6 * this.ratio;
    const x = tile.x(position[tile.a]), y = tile.y(position[tile.b]);
    const { left, top, width, height } = tile;
    if (Math.abs(tile.fraction - position[tile.normal]) * view.shape[tile.normal] <= 0.5) {
      context.strokeStyle = "#7fd6a0cc";
      context.lineWidth = this.ratio;
      context.beginPath();
      for (const [x1, y1, x2, y2] of [[left, y, x - gap, y], [x + gap, y, left + width, y], [x, top, x, y - gap], [x, y + gap, x, top + height]])
        context.moveTo(x1, y1), context.lineTo(x2, y2);
      context.stroke();
    }
    const letters = ["LR", "PA", "IS"], flipped = tile.x(1) < tile.x(0);
    context.fillStyle = "#fff";
    context.shadowColor = "#000";
    context.shadowBlur = 3 * this.ratio;
    context.font = `600 ${12 * this.ratio}px system-ui, sans-serif`;
    context.textBaseline = "middle";
    context.textAlign = "left";
    context.fillText(letters[tile.a][+flipped], left + 4 * this.ratio, top + height / 2);
    context.textAlign = "right";
    context.fillText(letters[tile.a][+!flipped], left + width - 4 * this.ratio, top + height / 2);
    context.textAlign = "center";
    context.fillText(letters[tile.b][1], left + width / 2, top + 9 * this.ratio);
    context.shadowBlur = 0;
  }
}

/** The lines through a triangle on which a linear function is a whole number. */
function triangle(context, corners, value, place) {
  const values = corners.map(([i, j]) => value(i, j));
  const last = Math.floor(Math.max(...values));
  for (let level = Math.ceil(Math.min(...values)); level <= last; level++) {
    const ends = [];
    for (const [p, q] of [[0, 1], [1, 2], [2, 0]]) {
      const [from, to] = [values[p] - level, values[q] - level];
      if (from < 0 === to < 0) continue;
      const part = from / (from - to);
      ends.push(place(...corners[p].map((c, k) => c + part * (corners[q][k] - c))));
    }
    if (ends.length === 2) context.moveTo(...ends[0]), context.lineTo(...ends[1]);
  }
}
