/** Where a value lies among levels {value, label, caption, file, reference}, which rise; caption is another name. */

import { within } from "./dom.js";
import { named } from "./words.js";

/** The levels of a scene (from 0) of what the node sent, in rising order and each value once. */
export function levelsOf(sweep, scene) {
  const count = sweep.levels.length / scenesOf(sweep);
  const levels = new Map();
  sweep.levels.slice(scene * count, (scene + 1) * count).forEach(({ value, label, caption, ...file }, row) => {
    if (!levels.has(value)) levels.set(value, { value, label: named(label), caption, file, reference: row === sweep.reference });
  });
  return [...levels.values()].sort((a, b) => a.value - b.value);
}

/** How many scenes it shows; one of none. */
export const scenesOf = (sweep) => sweep?.scenes ?? 1;

export const clampTo = (levels, value) => within(value, levels[0].value, levels.at(-1).value);

/** The two levels around a value, and how far (0..1) it is from the lower one. */
export function around(levels, value) {
  const found = levels.findIndex((level) => level.value >= value);
  const upper = found < 0 ? levels.length - 1 : found;
  if (upper === 0 || levels[upper].value <= value) return { lower: upper, upper, mix: 0 };
  const lower = upper - 1;
  const gap = levels[upper].value - levels[lower].value;
  return { lower, upper, mix: (value - levels[lower].value) / gap };
}

export function nearest(levels, value) {
  const { lower, upper, mix } = around(levels, value);
  return mix < 0.5 ? lower : upper;
}

/** The value one step on: the next level in that direction (1 or -1), or a tenth of the way to it. */
export function stepped(levels, value, direction, fine) {
  const { lower, upper, mix } = around(levels, value);
  const from = mix > 0 && direction < 0 ? upper : lower;
  const next = levels[from + direction];
  if (!next) return value;
  if (!fine) return next.value;
  const gap = next.value - levels[from].value;
  const moved = value + gap / 10;
  // Tenths do not add up, and a level must be met to show its picture alone.
  const met = levels[nearest(levels, moved)].value;
  return Math.abs((met - moved) / gap) < 1e-3 ? met : moved;
}

/** The value in the readout: between levels only as precisely as the gap deserves. */
export function written(levels, value) {
  const { lower, upper, mix } = around(levels, value);
  if (mix === 0) return plain(levels[lower].value, 2);
  return plain(value, levels[upper].value - levels[lower].value < 1 ? 2 : 1);
}

/** A number without trailing zeros. */
export const plain = (value, decimals) => String(Number(value.toFixed(decimals)));
