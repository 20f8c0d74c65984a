/** The optics of Bokeh Focus for its preview: the equations of optics/focus.py. */

import { within } from "./dom.js";
import { plain } from "./levels.js";
import { say } from "./words.js";

/** Apertures in thirds of a stop, as lenses count them. */
const THIRDS = [
  1, 1.1, 1.2, 1.4, 1.6, 1.8, 2, 2.2, 2.5, 2.8, 3.2, 3.5, 4, 4.5, 5, 5.6, 6.3, 7.1, 8, 9, 10, 11, 13, 14, 16, 18, 20,
  22, 25, 29, 32,
];
const BLUR_STEPS = Array.from({ length: 61 }, (_, step) => step / 2);
// Less looks sharp.
const LEAST_BLUR = 1;
const FARTHEST = 1e4;
// Largest disc that looks sharp, as a part of the diagonal.
const SHARP_DISC = 0.03 / 43.27;

/** Focal length, aperture and sensor of the chosen lens; null for a blur without a lens. */
function lensOf(values) {
  if (values.lens === "blur") return null;
  const own = values.lens === "own lens";
  const [, focal, widest] = own ? [, values.focal_length, 0] : /([\d.]+) mm f\/([\d.]+)/.exec(values.lens);
  const [, long, short] = /([\d.]+) x ([\d.]+) mm/.exec(own ? values.sensor : values.lens);
  return { focal: +focal, widest: +widest, fNumber: values.f_number || +widest, sensor: [+long, +short] };
}

/** What the ring turns through: the widget it sets, its steps, and which one is set. */
export function ringOf(values) {
  const lens = lensOf(values);
  const write = (step) => (lens ? `f/${step}` : `blur ${step}`);
  if (!lens) return { name: "blur", steps: BLUR_STEPS, value: values.blur, write };
  const steps = lens.widest ? [lens.widest, ...THIRDS.filter((stop) => stop > lens.widest + 0.01)] : THIRDS;
  return { name: "f_number", steps, value: lens.fNumber || steps[0], write };
}

/** Index of the step nearest to a value. */
export function stepAt({ steps, value }) {
  const apart = steps.map((step) => Math.abs(step - value));
  return apart.indexOf(Math.min(...apart));
}

/**
 * What the widgets' values mean for a map {low, high, metres, plane, valueAt(x, y)} from 0 (far) to 1 (near), low and
 * high in 1/m if metres. Gives plane: value in focus; gain: px of radius per unit of value at 512 px; sharp: half the
 * sharp range; limit: radius in px at 512 that still looks sharp; words.
 */
export function focusOf(values, map, width, height) {
  const lens = lensOf(values);
  const metric = map.metres || lens !== null;
  let { low, high } = map;
  if (!map.metres && lens) {
    const far = 1 / values.farthest;
    const span = 1 / values.nearest - far;
    [low, high] = [far + low * span, far + high * span];
  }
  const span = high - low;
  const plane = planeOf(values, map, metric, low, span);
  const disparity = low + plane * span;
  const short = Math.min(width, height);
  const limit = (SHARP_DISC / 2) * Math.hypot(width, height) * (512 / short);
  const gain = (lens ? strength(lens, disparity, width, height) : values.blur / span) * span;
  const sharp = values.sharp / 2;
  const reach = sharp + limit / gain;
  const at = (value) => (metric ? distance(low + value * span) : plain(within(value, 0, 1), 2));
  const way = metric ? reach : -reach;
  const far = at(plane - way);
  const near = far.endsWith(" m") ? at(plane + way).replace(" m", "") : at(plane + way);
  const words = say("focus {focus}, sharp {near} to {far}", { focus: at(plane), near, far });
  return { plane, gain, sharp, limit, words };
}

function planeOf(values, map, metric, low, span) {
  if (values.focus_by === "mask") return map.plane;
  if (values.focus_by === "point") return map.valueAt(values.focus_x, values.focus_y);
  const first = parseFloat(values.distances);
  return ((metric ? 1 / first : first) - low) / span || 0;
}

/** K in px per 1/m at 512 px (optics/lens.py). */
function strength({ focal, fNumber, sensor }, disparity, width, height) {
  const f = focal / 1000;
  const s = 1 / Math.max(disparity, 1 / FARTHEST);
  if (s <= f || !fNumber) return 0;
  const [along, across] = width >= height ? sensor : [sensor[1], sensor[0]];
  const shown = Math.min(along, (across * width) / height);
  return (((1000 * f * f * s) / (2 * fNumber * (s - f))) * ((width * 512) / Math.min(width, height))) / shown;
}

/** Aperture -> blur, to a tenth, of the lenses in `options`, focused at 2 m. */
export function blursOf(options) {
  const blurs = new Map();
  for (const name of options.filter((option) => option.includes("f/"))) {
    const lens = lensOf({ lens: name });
    for (const fNumber of [lens.widest, ...THIRDS.filter((stop, at) => at % 3 === 0 && stop > lens.widest)]) {
      const blur = Number(strength({ ...lens, fNumber }, 1 / 2, 1, 1).toFixed(1));
      if (blur >= LEAST_BLUR && blur <= BLUR_STEPS.at(-1)) blurs.set(name.replace(/f.*/, `f/${fNumber}`), blur);
    }
  }
  return blurs;
}

function distance(disparity) {
  if (disparity <= 1 / FARTHEST) return say("infinity");
  return `${Number((1 / disparity).toPrecision(3))} m`;
}
