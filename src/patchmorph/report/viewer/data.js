// The layers that the page holds: zlib-compressed bytes in base64, and JSON that tells what they mean.
"use strict";
const view = JSON.parse(document.getElementById("view").textContent);

/** The bytes of a block of the page. */
async function bytesOf(id, format = "deflate") {
  const text = atob(document.getElementById(id).textContent);
  const packed = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) packed[i] = text.charCodeAt(i);
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream(format));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** A NIfTI-1 file in memory: bytes on the lattice, scaled to intensities. */
function nifti(values, window) {
  const file = new Uint8Array(352 + values.length), header = new DataView(file.buffer);
  const spacing = [0, 1, 2].map((k) => Math.hypot(view.toWorld[k], view.toWorld[4 + k], view.toWorld[8 + k]));
  header.setInt32(0, 348, true);
  [3, ...view.shape, 1, 1, 1, 1].forEach((n, k) => header.setInt16(40 + 2 * k, n, true));
  header.setInt16(70, 2, true); // uint8
  header.setInt16(72, 8, true);
  [1, ...spacing, 1, 1, 1, 1].forEach((length, k) => header.setFloat32(76 + 4 * k, length, true));
  header.setFloat32(108, 352, true);
  header.setFloat32(112, (window[1] - window[0]) / 255, true);
  header.setFloat32(116, window[0], true);
  header.setUint8(123, 2); // mm
  header.setFloat32(124, window[1], true);
  header.setFloat32(128, window[0], true);
  header.setInt16(254, 2, true); // sform: aligned
  view.toWorld.slice(0, 12).forEach((value, k) => header.setFloat32(280 + 4 * k, value, true));
  "n+1\0".split("").forEach((letter, k) => header.setUint8(344 + k, letter.charCodeAt(0)));
  file.set(values, 352);
  return file.buffer;
}

/** A plane of an array whose first axis is fastest: `at` along the axis `normal`, as `{u, v, values}`. */
function plane(values, shape, normal, at) {
  const [a, b] = [0, 1, 2].filter((k) => k !== normal);
  const stride = [1, shape[0], shape[0] * shape[1]];
  const [u, v] = [shape[a], shape[b]], cut = new values.constructor(u * v);
  for (let j = 0, k = 0; j < v; j++) {
    let from = at * stride[normal] + j * stride[b];
    for (let i = 0; i < u; i++, k++, from += stride[a]) cut[k] = values[from];
  }
  return { u, v, values: cut };
}

const apply = (m, p) => [0, 4, 8].map((r) => m[r] * p[0] + m[r + 1] * p[1] + m[r + 2] * p[2] + m[r + 3]);

/** The bytes of a map layer (`parts` a point) around a voxel, trilinear. */
function coarse(values, voxel, parts = 1, part = 0) {
  const { shape, step } = view.map;
  const lower = [], weight = [];
  for (let k = 0; k < 3; k++) {
    const at = Math.min(Math.max(voxel[k] / step, 0), shape[k] - 1);
    lower[k] = Math.min(Math.floor(at), Math.max(shape[k] - 2, 0));
    weight[k] = at - lower[k];
  }
  let sum = 0;
  for (let corner = 0; corner < 8; corner++) {
    let index = 0, share = 1, stride = 1;
    for (let k = 0; k < 3; k++) {
      const up = (corner >> k) & 1;
      share *= up ? weight[k] : 1 - weight[k];
      index += Math.min(lower[k] + up, shape[k] - 1) * stride;
      stride *= shape[k];
    }
    if (share) sum += share * values[index * parts + part];
  }
  return sum;
}

/** Where a voxel of the lattice lies in the moving image, in mm. */
function mapped(remainder, voxel) {
  const scale = view.map.largest / 127;
  const moved = voxel.map((value, k) => value + (coarse(remainder, voxel, 3, k) - 127) * scale);
  return apply(view.map.affine, apply(view.toWorld, moved));
}
