/** The slider under the picture: a track with a tick at every level, the pivot's mark and a thumb. */

import { element, isPages, onDrag, take } from "./dom.js";
import { around, clampTo, plain, stepped } from "./levels.js";
import { say } from "./words.js";

const MAGNET_PX = 5;
// A character's width, and the least gap between labels.
const CHARACTER_EM = 0.6;
const LABEL_GAP_EM = 0.9;

export class Slider {
  #levels = [];
  #ticks = element("div.ticks");
  #labels = element("div.labels");
  #fill = element("div.fill");
  #thumb = element("div.thumb");
  #track = element("div.track", {}, this.#fill);
  #pivotValue = null;

  /** @param {object} calls onInput(value, {smooth}) at every new value; onCommit() when it is over; mayStart() */
  constructor({ onInput, onCommit, mayStart }) {
    this.onInput = onInput;
    this.onCommit = onCommit;
    const rail = element("div.rail", {}, this.#track, this.#ticks, this.#thumb);
    this.element = element("div.slider", { role: "slider", tabIndex: 0 }, rail, this.#labels);
    onDrag(this.element, () => this.#levels.length > 0 && mayStart(), {
      onStart: (event) => this.#point(event),
      onMove: (event) => this.#point(event),
      onEnd: () => this.onCommit(),
    });
    this.element.addEventListener("keydown", (event) => this.#onKey(event));
    new ResizeObserver(() => this.#placeLabels()).observe(this.element);
  }

  /** Show other levels; a `pivot` outside them, or null, is not marked. */
  setLevels(levels, name, pivot) {
    this.#levels = levels;
    const inside = pivot !== null && levels.length > 0 && pivot === clampTo(levels, pivot);
    this.#pivotValue = inside ? pivot : null;
    const marks = levels.map(({ value }) => this.#mark("tick", value));
    if (inside) {
      const title = say("pivot {value}", { value: plain(pivot, 2) });
      marks.push(Object.assign(this.#mark("pivot-mark", pivot), { title }));
    }
    this.#ticks.replaceChildren(...marks);
    const [first, last] = [levels[0], levels.at(-1)];
    const range = { ariaValueMin: first?.value ?? null, ariaValueMax: last?.value ?? null };
    Object.assign(this.element, { ariaLabel: name, ariaDisabled: levels.length < 2, ...range });
    this.#placeLabels();
  }

  setValue(value, text) {
    this.value = value;
    Object.assign(this.element, { ariaValueNow: plain(value, 2), ariaValueText: text });
  }

  /** The thumb lags behind the value while the picture fades. */
  moveThumb(value) {
    const left = this.#percent(value);
    this.#thumb.style.left = left;
    this.#fill.style.width = left;
  }

  get span() {
    return this.#levels.length ? this.#levels.at(-1).value - this.#levels[0].value : 0;
  }

  focus() {
    this.element.focus({ preventScroll: true });
  }

  #fraction(value) {
    return this.span > 0 ? (value - this.#levels[0].value) / this.span : 0.5;
  }

  #percent(value) {
    return `${100 * this.#fraction(value)}%`;
  }

  #mark(name, value, ...text) {
    return element(`span.${name}`, { style: `left: ${this.#percent(value)}` }, ...text);
  }

  #point(event) {
    if (this.#levels.length < 2) return;
    // On screen: holds at every zoom of the graph.
    const { left, width } = this.#track.getBoundingClientRect();
    const value = this.#levels[0].value + ((event.clientX - left) / width) * this.span;
    this.onInput(this.attracted(clampTo(this.#levels, value), width), { smooth: false });
  }

  /** The value, or the level that is only a few pixels away on a track of this width. */
  attracted(value, width) {
    const { lower, upper, mix } = around(this.#levels, value);
    if (mix === 0) return value;
    const gap = ((this.#levels[upper].value - this.#levels[lower].value) / this.span) * width;
    const reach = Math.min(MAGNET_PX / gap, 0.2);
    if (mix < reach) return this.#levels[lower].value;
    return mix > 1 - reach ? this.#levels[upper].value : value;
  }

  #onKey(event) {
    if (!this.#levels.length || isPages(event)) return;
    const step = (way) => stepped(this.#levels, this.value, way, event.shiftKey);
    const [less, more] = [() => step(-1), () => step(1)];
    const ends = { Home: () => this.#levels[0].value, End: () => this.#levels.at(-1).value };
    const target = { ArrowLeft: less, ArrowDown: less, ArrowRight: more, ArrowUp: more, ...ends }[event.key];
    if (!target) return;
    take(event);
    this.onInput(target(), { smooth: !event.repeat });
    this.onCommit();
  }

  /** As many values, or f-stops, under the ticks as fit: the ends and the pivot first. */
  #placeLabels() {
    const font = parseFloat(getComputedStyle(this.#labels).fontSize);
    const width = this.#track.clientWidth / font;
    const levels = width ? this.#levels : [];
    const isPivot = ({ value }) => value === this.#pivotValue;
    const placed = [];
    for (const level of [...levels.slice(0, 1), ...levels.slice(-1), ...levels.filter(isPivot), ...levels]) {
      const text = level.caption ?? plain(level.value, 1);
      const half = (text.length * CHARACTER_EM) / 2;
      const middle = this.#fraction(level.value) * width;
      const free = placed.every((other) => Math.abs(other.middle - middle) >= other.half + half + LABEL_GAP_EM);
      if (free) placed.push({ level, text, half, middle });
    }
    const classOf = (level) => (isPivot(level) ? "label.at-pivot" : "label");
    this.#labels.replaceChildren(...placed.map(({ level, text }) => this.#mark(classOf(level), level.value, text)));
  }
}
