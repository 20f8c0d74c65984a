/** The decoded pictures of a sweep, fetched in the order in which they are likely to be wanted. */

import { fetched } from "./picture_files.js";

const AT_ONCE = 4;
// 384 MB for a whole sweep; longer ones are shown smaller.
const MAX_PIXELS = 96e6;

export class Pictures {
  #bitmaps = [];
  #stop = new AbortController();

  /** One address (or blob) a level; the pictures' size in px; `onChange()` after each that came or failed. */
  constructor(urls, size, onChange) {
    this.urls = urls;
    this.onChange = onChange;
    this.loaded = 0;
    this.failed = 0;
    const scale = Math.min(1, Math.sqrt(MAX_PIXELS / (urls.length * size.width * size.height)));
    this.width = Math.max(1, Math.round(size.width * scale));
    this.height = Math.max(1, Math.round(size.height * scale));
    this.shrink = scale < 1;
  }

  get complete() {
    return this.loaded + this.failed === this.urls.length;
  }

  /** The picture of a level, undefined while it is under way. */
  at(index) {
    return this.#bitmaps[index];
  }

  nearestLoaded(index) {
    for (let distance = 0; distance < this.urls.length; distance++) {
      for (const near of [index - distance, index + distance]) {
        if (this.#bitmaps[near]) return near;
      }
    }
  }

  load(first) {
    const order = this.urls.map((_, index) => index);
    order.sort((a, b) => Math.abs(a - first) - Math.abs(b - first));
    const worker = async () => {
      for (let index = order.shift(); index !== undefined; index = order.shift()) await this.#loadOne(index);
    };
    for (let i = 0; i < AT_ONCE; i++) worker();
  }

  async #loadOne(index) {
    const { signal } = this.#stop;
    try {
      const url = this.urls[index];
      const blob = url instanceof Blob ? url : await fetched(url, { signal });
      const resize = { resizeWidth: this.width, resizeHeight: this.height, resizeQuality: "high" };
      const bitmap = await createImageBitmap(blob, this.shrink ? resize : {});
      if (signal.aborted) {
        bitmap.close();
        return;
      }
      this.#bitmaps[index] = bitmap;
      this.loaded++;
    } catch (error) {
      if (signal.aborted) return;
      console.warn(`Bokeh Sweep View: ${this.urls[index]} cannot be shown (${error.message})`);
      this.failed++;
    }
    this.onChange();
  }

  /** Give the memory back and stop what is under way. */
  close() {
    this.#stop.abort();
    for (const bitmap of this.#bitmaps) bitmap?.close();
    this.#bitmaps = [];
  }
}
