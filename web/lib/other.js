/** What is left of the divider: the pivot, a level that is held there, or the last run. */

import { clampTo, levelsOf, nearest } from "./levels.js";
import { Pictures } from "./pictures.js";

export class Other {
  #levels = [];
  #sweep = null;
  /** null for the level that stands for the pivot. */
  #held = null;
  #last = null;
  #lastPictures = null;

  /**
   * @param {(file: object) => string} pictureUrl address of a picture for the page
   * @param {() => void} onChange a picture of the last run came
   */
  constructor(pictureUrl, onChange) {
    this.pictureUrl = pictureUrl;
    this.onChange = onChange;
  }

  /** Take another sweep; a level that is held stays held, if the new sweep has it. */
  setSweep(sweep, levels) {
    this.stopLast();
    // Pictures that the server lost are asked for again by the same sweep.
    if (this.#sweep && JSON.stringify(sweep) !== JSON.stringify(this.#sweep)) this.#last = this.#sweep;
    this.#sweep = sweep;
    this.#levels = levels;
    this.#held = levels.find(({ value }) => value === this.#held?.value) ?? null;
  }

  /** The level that stands for the pivot. */
  get reference() {
    return this.#levels.find((level) => level.reference);
  }

  get hasLast() {
    return this.#last !== null;
  }

  /** Hold a level; null for the pivot's. */
  hold(level) {
    this.stopLast();
    this.#held = level;
  }

  /** Take the last run, from its level nearest to a value on. */
  takeLast(value) {
    this.stopLast();
    const levels = levelsOf(this.#last);
    const urls = levels.map((level) => this.pictureUrl(level.file));
    this.#lastPictures = new Pictures(urls, this.#last, this.onChange);
    this.#lastPictures.load(nearest(levels, clampTo(levels, value)));
  }

  stopLast() {
    this.#lastPictures?.close();
    this.#lastPictures = null;
  }

  /** Its name and its picture beside the level at a value; no picture while it is under way. */
  at(value, pictures) {
    if (this.#lastPictures) {
      const levels = levelsOf(this.#last);
      const index = nearest(levels, clampTo(levels, value));
      return { label: `last run, ${levels[index].label}`, picture: this.#lastPictures.at(index) };
    }
    const level = this.#held ?? this.reference;
    const label = level.value === this.#sweep.pivot ? `pivot, ${level.label}` : level.label;
    return { label, picture: pictures?.at(this.#levels.indexOf(level)) };
  }
}
