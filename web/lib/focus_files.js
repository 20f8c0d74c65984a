/** Pictures and depth maps for Bokeh Focus, out of files. */

import { within } from "./dom.js";
import { fetched } from "./picture_files.js";

// Shorter and longer side of the copy that the preview draws.
const SIDES = [512, 768];
const THUMB = 16;
// Mean difference of two copies of one picture in 255ths: other scaling, other formats.
const SAME = 12;

async function bitmapOf(url) {
  // Values as they are: without the colours of a profile, and with those that transparency hides.
  return createImageBitmap(await fetched(url), { premultiplyAlpha: "none", colorSpaceConversion: "none" });
}

export function pixelsOf(bitmap, width, height) {
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0, width, height);
  return context.getImageData(0, 0, width, height).data;
}

/** {bitmap, width, height}: a small copy of a picture, and its real size. */
export async function pictureOf(url) {
  const full = await bitmapOf(url);
  const { width, height } = full;
  const scale = Math.min(1, SIDES[0] / Math.min(width, height), SIDES[1] / Math.max(width, height));
  if (scale === 1) return { bitmap: full, width, height };
  const [resizeWidth, resizeHeight] = [width, height].map((side) => Math.max(1, Math.round(side * scale)));
  const bitmap = await createImageBitmap(full, { resizeWidth, resizeHeight, resizeQuality: "high" });
  full.close();
  return { bitmap, width, height };
}

/** Whether two pictures of `pictureOf` show the same: one may be the file of the other's last run. */
export function sameScene(one, other) {
  if (one === other) return true;
  if (Math.abs(one.width / one.height / (other.width / other.height) - 1) > 0.02) return false;
  const [a, b] = [one, other].map(({ bitmap }) => pixelsOf(bitmap, THUMB, THUMB));
  return a.reduce((sum, value, i) => sum + Math.abs(value - b[i]), 0) / a.length < SAME;
}

/** The depth of a run: sixteen bits in red and green. */
export async function mapOfRun(run, url) {
  const { low, high, metres, plane } = run;
  return map(await bitmapOf(url), (r, g) => (256 * r + g) / 65535, { low, high, metres, plane });
}

/** A grey depth picture, stretched to its full range; null for one without any depth. */
export async function mapOfGrey(url, depthIs) {
  const made = map(await bitmapOf(url), (r, g, b) => (r + g + b) / 765, { low: 0, high: 1, metres: false, plane: 1 });
  // As in optics/depth.py, all but a thousandth on either side.
  const sorted = made.values.slice().sort();
  const out = Math.round(0.001 * (sorted.length - 1));
  const [low, high] = [sorted[out], sorted.at(-1 - out)];
  if (low === high) return null;
  const bright = depthIs === "near is bright";
  made.values.forEach((value, i) => {
    const near = within((value - low) / (high - low), 0, 1);
    made.values[i] = bright ? near : 1 - near;
  });
  return made;
}

function map(bitmap, valueOf, rest) {
  const { width, height } = bitmap;
  const data = pixelsOf(bitmap, width, height);
  const values = Float32Array.from({ length: width * height }, (_, i) => valueOf(data[4 * i], data[4 * i + 1], data[4 * i + 2]));
  bitmap.close();
  return { width, height, values, ...rest };
}
