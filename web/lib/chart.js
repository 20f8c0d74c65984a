/** The curves of a report, at the size that there is; every level can be clicked. */

import { drawn as part, take, within } from "./dom.js";
import { plain } from "./levels.js";
import { say } from "./words.js";

const LEFT = 40;
const RIGHT = 14;
const TOP = 22;
const FOOT = 22;
const GAP = 26;
// A character's width in px, and the least gap between labels.
const CHARACTER = 6.6;
const AIR = 10;

const text = (x, y, words, properties = {}) => part("text", { x, y, ...properties }, words);

/** One curve a panel {title, ends, of(level), low, high} over levels {value, label}, which rise. */
export function chart({ levels, pivot }, panels, { width, height }, onPick) {
  const first = levels[0].value;
  const span = levels.at(-1).value - first || 1;
  const x = (value) => LEFT + ((value - first) / span) * (width - LEFT - RIGHT);
  const each = (height - FOOT - GAP * (panels.length - 1)) / panels.length;
  const drawn = part("svg", { viewBox: `0 0 ${width} ${height}`, role: "group" });
  const bottom = height - FOOT;
  if (pivot !== null && pivot >= first && pivot <= first + span) {
    drawn.append(part("line", { class: "pivot", x1: x(pivot), x2: x(pivot), y1: TOP, y2: bottom }));
    const end = x(pivot) > width - 60;
    drawn.append(text(x(pivot) + (end ? -4 : 4), bottom - 4, say("pivot"), { class: "pivot", "text-anchor": end ? "end" : "start" }));
  }
  const dots = levels.map(() => []);
  panels.forEach(({ title, ends, of, low, high }, number) => {
    const top = number * (each + GAP) + TOP;
    const under = number * (each + GAP) + each;
    const y = (amount) => under - ((within(amount, low, high) - low) / (high - low || 1)) * (under - top);
    drawn.append(text(0, top - 9, title, { class: "title" }));
    for (const [edge, name] of [[under, ends[0]], [top, ends[1]]]) {
      drawn.append(part("line", { class: "rule", x1: LEFT, x2: width - RIGHT, y1: edge, y2: edge }));
      drawn.append(text(LEFT - 6, edge + 4, name, { "text-anchor": "end" }));
    }
    const points = levels.map((level) => [x(level.value), y(of(level))]);
    drawn.append(part("polyline", { points: points.map((point) => point.join()).join(" ") }));
    points.forEach(([cx, cy], index) => dots[index].push(part("circle", { cx, cy, r: 4 })));
  });
  let free = -Infinity;
  levels.forEach((level, index) => {
    const middle = x(level.value);
    const name = plain(level.value, 2);
    const half = (name.length * CHARACTER) / 2;
    const shown = middle - half > free + AIR ? [text(middle, height - 5, name, { "text-anchor": "middle" })] : [];
    if (shown.length) free = middle + half;
    // The whole column takes the click, halfway to its neighbours.
    const from = index ? (middle + x(levels[index - 1].value)) / 2 : middle - RIGHT;
    const to = index < levels.length - 1 ? (middle + x(levels[index + 1].value)) / 2 : middle + RIGHT;
    const column = part("rect", { x: from, y: 0, width: to - from, height, class: "column" });
    const told = panels.map(({ title, of }) => `${title.toLowerCase()} ${plain(of(level), 3)}`).join(", ");
    const said = `${level.label}: ${told}`;
    const shownAs = say("{said}. Show it in the view", { said });
    const pick = part("g", { role: "button", tabindex: 0, "aria-label": shownAs }, column, ...dots[index], ...shown);
    pick.append(part("title", {}, said));
    pick.addEventListener("click", () => onPick(level.value));
    pick.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      take(event);
      onPick(level.value);
    });
    drawn.append(pick);
  });
  return drawn;
}
