// The viewer: NiiVue draws the images in turns, each is copied to a canvas of its own, and these canvases lie
// over each other. How two of them are compared is style only, so that no choice draws anything anew.
"use strict";
const FLICKER_MS = 600;
const stage = document.getElementById("stage"), $ = (id) => document.getElementById(id);
const state = { a: "fixed", b: "warped", mode: "swipe", position: 0.5 };
const panes = {};
let nv, overlay, timer, loading = true;

async function loadNiivue() {
  const script = document.createElement("script");
  script.textContent = new TextDecoder().decode(await bytesOf("niivue", "gzip"));
  document.head.append(script);
  nv = new niivue.Niivue({
    crosshairWidth: 0, isOrientationTextVisible: false, loadingText: "", logLevel: "error", dragAndDropEnabled: false,
    multiplanarShowRender: 0, multiplanarPadPixels: 4, backColor: [0, 0, 0, 1], viewModeHotKey: "", clipPlaneHotKey: "",
    cycleClipPlaneHotKey: "", sliceType: 3,
  });
  await nv.attachToCanvas($("scene"), false);
  withoutGradients(nv);
}

/** Leaves out the gradients of 3D renderings, which take seconds without a GPU and are not shown. */
function withoutGradients({ gl, blurShader, sobelBlurShader, sobelFirstOrderShader, sobelSecondOrderShader }) {
  for (const shader of [blurShader, sobelBlurShader, sobelFirstOrderShader, sobelSecondOrderShader])
    shader.use = () => {
      gl.useProgram(shader.program);
      gl.drawArrays = () => {};
    };
  gl.deleteFramebuffer = (buffer) => { // the end of what draws them
    delete gl.drawArrays;
    WebGL2RenderingContext.prototype.deleteFramebuffer.call(gl, buffer);
  };
}

/** A canvas for an image, and its texture. */
async function addPane(image) {
  const values = await bytesOf(`data-${image.id}`);
  const volume = await niivue.NVImage.new(nifti(values, image.window), `${image.id}.nii`, "gray", 1, null, ...image.window);
  Object.assign(nv, { volumes: [], overlays: [], back: null, volumeTexture: null });
  loading = true;
  nv.addVolume(volume);
  loading = false;
  const element = document.createElement("div"), canvas = document.createElement("canvas"), tint = document.createElement("div");
  element.className = "pane away";
  tint.className = "tint";
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", `${image.title}, in planes through the crosshair`);
  element.dataset.image = image.id;
  element.append(canvas, tint);
  stage.insertBefore(element, $("overlay"));
  panes[image.id] = { element, canvas, values, image, volume, texture: nv.volumeTexture };
}

/** What the page shows first, then the rest. */
async function open() {
  await loadNiivue();
  const layers = { palettes: {}, labels: {} };
  overlay = new Overlay($("overlay"), nv, layers);
  await addPane(view.images[0]);
  follow();
  update();
  stage.dataset.first = "true";
  await new Promise((shown) => setTimeout(shown));
  await addPane(view.images[1]);
  listen();
  update();
  stage.dataset.ready = "true";
  await loadLayers(layers);
  for (const image of view.images.slice(2)) await addPane(image);
  update();
  stage.dataset.complete = "true";
}

async function loadLayers(layers) {
  const moved = await bytesOf("data-remainder"), count = moved.length / 3;
  layers.remainder = [0, 1, 2].map((k) => Uint8Array.from({ length: count }, (_, i) => moved[3 * i + k]));
  layers.moved = moved;
  for (const [name, { colours }] of Object.entries(view.map.scalars)) {
    layers[name] = await bytesOf(`data-${name}`);
    layers.palettes[name] = Array.from({ length: 256 }, (_, level) => (level ? [...colour(colours, (level - 1) / 254), 255] : [0, 0, 0, 0]));
  }
  for (const name of view.labels.of || []) {
    const bytes = await bytesOf(`data-labels-${name}`);
    layers.labels[name] = view.labels.bytes === 1 ? bytes : new Uint16Array(bytes.buffer);
  }
}

function colour(colours, place) {
  const at = place * (colours.length - 1), first = Math.min(Math.floor(at), colours.length - 2);
  return colours[first].map((value, k) => value + (at - first) * (colours[first + 1][k] - value));
}

/** Whatever draws the scene draws it once for each image that is seen, and what lies over it. */
function follow() {
  const draw = nv.drawScene.bind(nv);
  nv.drawScene = () => {
    if (loading) return;
    for (const name of new Set([state.a, state.b])) if (panes[name]) drawPane(panes[name], draw);
    select(panes.fixed);
    overlay.draw();
    clip();
    readout();
  };
}

function select({ volume, texture }) {
  Object.assign(nv, { volumes: [volume], back: volume, volumeTexture: texture });
}

function drawPane(pane, draw) {
  const { canvas } = pane, { width, height } = nv.gl.canvas;
  select(pane);
  draw();
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  canvas.getContext("2d").drawImage(nv.gl.canvas, 0, 0);
}

/** Which images lie over each other, and how. */
function update() {
  const { a, b, mode } = state, alone = mode === "a" || mode === "b", seen = alone ? [state[mode]] : [a, b];
  for (const [name, { element }] of Object.entries(panes)) {
    element.classList.toggle("away", !seen.includes(name));
    element.classList.toggle("over", !alone && a !== b && name === b);
    element.classList.toggle("matched", name !== "fixed" && seen.includes("fixed"));
  }
  stage.dataset.mode = mode;
  clearInterval(timer);
  if (mode === "flicker") timer = setInterval(flip, FLICKER_MS);
  $("position").disabled = mode !== "swipe" && mode !== "checker";
  stage.classList.remove("swapped");
  nv.drawScene();
}

function flip() {
  stage.classList.toggle("swapped");
}

/** The part of the upper image that is seen, tile by tile. */
function clip() {
  const over = stage.querySelector(".over");
  for (const { element } of Object.values(panes)) if (element !== over) element.style.clipPath = "";
  if (!over || (state.mode !== "swipe" && state.mode !== "checker")) return over && (over.style.clipPath = "");
  const ratio = overlay.ratio, parts = [];
  const box = (x, y, w, h) => parts.push(`M${x / ratio} ${y / ratio}h${w / ratio}v${h / ratio}h${-w / ratio}z`);
  for (const tile of overlay.tiles()) {
    const start = tile.width * state.position;
    if (state.mode === "swipe") box(tile.left + start, tile.top, tile.width - start, tile.height);
    else checker(tile, box);
  }
  return (over.style.clipPath = `path("${parts.join("") || "M0 0"}")`);
}

function checker(tile, box) {
  const side = Math.max(6, tile.width / (2 + Math.round(state.position * 18)));
  for (let j = 0; j * side < tile.height; j++)
    for (let i = j % 2; i * side < tile.width; i += 2)
      box(tile.left + i * side, tile.top + j * side, Math.min(side, tile.width - i * side), Math.min(side, tile.height - j * side));
}

/** Numbers at the crosshair. */
function readout() {
  const voxel = Array.from(nv.scene.crosshairPos, (f, k) => f * view.shape[k] - 0.5);
  const at = voxel.map((value, k) => Math.min(Math.max(Math.round(value), 0), view.shape[k] - 1));
  const index = at[0] + view.shape[0] * (at[1] + view.shape[1] * at[2]);
  const mm = (point) => point.map((value) => value.toFixed(1)).join(", "), here = apply(view.toWorld, voxel);
  const rows = [["fixed, mm", mm(here)]], { layers } = overlay;
  if (layers.moved) {
    const there = mapped(layers.moved, voxel);
    rows.push(["moving, mm", mm(there)], ["shift", `${Math.hypot(...there.map((v, k) => v - here[k])).toFixed(1)} mm`]);
  }
  for (const { image, values } of Object.values(panes)) {
    const [low, high] = image.window;
    rows.push([image.title, Number((low + (values[index] / 255) * (high - low)).toPrecision(3)).toString()]);
  }
  for (const [name, { range: [low, high] }] of Object.entries(view.map.scalars)) {
    const level = layers[name] ? coarse(layers[name], voxel) : 0, value = low + ((level - 1) / 254) * (high - low);
    if (level >= 1) rows.push(name === "jacobian" ? ["volume", `× ${(2 ** value).toFixed(2)}`] : [name, `${value.toFixed(2)} mm`]);
  }
  for (const [name, labels] of Object.entries(layers.labels)) rows.push([`label, ${name}`, String(view.labels.ids[labels[index]])]);
  $("readout").replaceChildren(...rows.map(([term, value]) => {
    const pair = document.createElement("div"), dt = document.createElement("dt"), dd = document.createElement("dd");
    dt.textContent = term;
    dd.textContent = value;
    pair.append(dt, dd);
    return pair;
  }));
}

/** Several planes of each direction, or three through the crosshair. */
function arrange(choice) {
  const low = panes.fixed.volume.extentsMinOrtho, high = panes.fixed.volume.extentsMaxOrtho;
  const row = (letter, k) => `${letter} ${[0.25, 0.35, 0.45, 0.55, 0.65, 0.75].map((f) => (low[k] + f * (high[k] - low[k])).toFixed(1)).join(" ")}`;
  const mosaic = choice === "mosaic";
  stage.classList.toggle("tall", mosaic);
  nv.opts.sliceMosaicString = mosaic ? [row("A", 2), row("C", 1), row("S", 0)].join(" ; ") : "";
  nv.opts.sliceType = { axial: 0, coronal: 1, sagittal: 2 }[choice] ?? 3;
  update();
}

function step(axis, by) {
  const limit = (f) => Math.min(Math.max(f, 0), 1);
  nv.scene.crosshairPos[axis] = limit(nv.scene.crosshairPos[axis] + by / view.shape[axis]);
  nv.drawScene();
}

function setMode(mode) {
  state.mode = mode;
  document.querySelector(`input[name=mode][value=${mode}]`).checked = true;
  update();
}

function toggle(layer) {
  const box = $(`layer-${layer}`);
  if (!box) return;
  overlay.shown[box.checked ? "add" : "delete"](layer);
  overlay.draw();
}

const KEYS = {
  ArrowLeft: () => step(0, -1), ArrowRight: () => step(0, 1), ArrowDown: () => step(2, -1), ArrowUp: () => step(2, 1),
  PageDown: () => step(1, -1), PageUp: () => step(1, 1), " ": flip,
  f: () => setMode("flicker"), s: () => setMode("swipe"), c: () => setMode("checker"), g: () => setMode("agreement"),
  d: () => setMode("difference"), 1: () => setMode("a"), 2: () => setMode("b"),
};

function listen() {
  stage.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || !KEYS[event.key]) return;
    event.preventDefault();
    event.stopPropagation();
    KEYS[event.key]();
  }, true);
  for (const side of ["a", "b"]) $(`image-${side}`).addEventListener("change", (event) => ((state[side] = event.target.value), update()));
  for (const input of document.querySelectorAll("input[name=mode]")) input.addEventListener("change", () => setMode(input.value));
  for (const input of document.querySelectorAll("input[name=layer]")) input.addEventListener("change", () => toggle(input.value));
  $("position").addEventListener("input", (event) => ((state.position = event.target.value / 100), clip()));
  $("opacity").addEventListener("input", (event) => ((overlay.opacity = event.target.value / 100), overlay.draw()));
  $("arrangement").addEventListener("change", (event) => arrange(event.target.value));
  $("radiological").addEventListener("change", (event) => ((nv.opts.isRadiologicalConvention = event.target.checked), update()));
}

open().catch((error) => {
  stage.dataset.failed = String(error && error.message);
  $("viewer").classList.add("failed");
});
