/** What is left of the divider: the pivot, a level that is held there, or the last run. */

import { clampTo, levelsOf, nearest, scenesOf } from "./levels.js";
import { Pictures } from "./pictures.js";
import { say } from "./words.js";

export class Other {
  #levels = [];
  #sweep = null;
  /** null for the level that stands for the pivot. */
  #held = null;
  #last = null;
  #lastLevels = [];
  #lastPictures = null;

  /** `onChange()`: a picture of the last run came. */
  constructor(pictureUrl, onChange) {
    this.pictureUrl = pictureUrl;
    this.onChange = onChange;
  }

  /** A level that is held stays held, if the new ones have it. */
  setSweep(sweep, levels) {
    this.stopLast();
    // Pictures that the server lost are asked for again by the same sweep.
    if (this.#sweep && JSON.stringify(sweep) !== JSON.stringify(this.#sweep)) this.#last = this.#sweep;
    this.#sweep = sweep;
    this.#levels = levels;
    this.#held = levels.find(({ value }) => value === this.#held?.value) ?? null;
  }

  get hasLast() {
    return this.#last !== null;
  }

  /** Hold a level; null for the pivot's. */
  hold(level) {
    this.stopLast();
    this.#held = level;
  }

  /** Take a scene of the last run, from its level nearest to a value on. */
  takeLast(value, scene) {
    this.stopLast();
    this.#lastLevels = levelsOf(this.#last, Math.min(scene, scenesOf(this.#last) - 1));
    const urls = this.#lastLevels.map((level) => this.pictureUrl(level.file));
    this.#lastPictures = new Pictures(urls, this.#last, this.onChange);
    this.#lastPictures.load(this.#lastNear(value));
  }

  #lastNear(value) {
    return nearest(this.#lastLevels, clampTo(this.#lastLevels, value));
  }

  stopLast() {
    this.#lastPictures?.close();
    this.#lastPictures = null;
  }

  /** Its name and, once it is there, its picture beside the level at a value. */
  at(value, pictures) {
    if (this.#lastPictures) {
      const index = this.#lastNear(value);
      const { label } = this.#lastLevels[index];
      return { label: say("last run, {level}", { level: label }), picture: this.#lastPictures.at(index) };
    }
    const level = this.#held ?? this.#levels.find(({ reference }) => reference);
    const isPivot = level.value === this.#sweep.pivot;
    const label = isPivot ? say("pivot, {level}", { level: level.label }) : level.label;
    return { label, picture: pictures?.at(this.#levels.indexOf(level)) };
  }
}
