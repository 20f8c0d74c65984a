/** Shows the report in its node: a verdict in words, the curves, and all numbers for those who want them. */

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { chart } from "./lib/chart.js";
import { addPlace, element } from "./lib/dom.js";
import { fromMarkdown } from "./lib/markdown.js";
import { followOutputs } from "./lib/outputs.js";
import { savePicture } from "./lib/picture_files.js";
import { turnViews } from "./lib/together.js";

const FIRST_SIZE = [460, 520];
const MIN_HEIGHT = 260;
const CHART_HEIGHTS = [170, 420];
const ASIDE_MS = 2500;

const sheet = new CSSStyleSheet();
sheet.replaceSync(`
:host { display: block; height: 100%; min-height: ${MIN_HEIGHT}px; color: var(--input-text, #ddd);
  font: 13px/1.4 Inter, system-ui, sans-serif; --muted: color-mix(in srgb, currentColor 62%, transparent);
  --accent: var(--p-primary-color, #3b82f6); --pivot: color-mix(in srgb, #f59e0b 80%, currentColor); }
* { box-sizing: border-box; }
[hidden] { display: none !important; }
.report { display: flex; flex-direction: column; gap: 6px; height: 100%; padding: 4px 6px; overflow: hidden auto; }
.empty { flex: 1; display: grid; place-items: center; border: 1px dashed var(--muted); border-radius: 6px;
  color: var(--muted); }
.verdict { margin: 0; font-size: 15px; font-weight: 600; user-select: text; text-wrap: pretty; }
.curves { flex: 1 0 ${CHART_HEIGHTS[0]}px; max-height: ${CHART_HEIGHTS[1]}px; min-height: 0; }
svg { display: block; width: 100%; height: 100%; font-size: 11px; }
text { fill: var(--muted); font-variant-numeric: tabular-nums; }
text.title { fill: currentColor; font-weight: 600; font-size: 12px; }
.rule { stroke: currentColor; opacity: 0.18; }
polyline { fill: none; stroke: var(--accent); stroke-width: 2; }
circle { fill: var(--accent); stroke: none; }
line.pivot { stroke: var(--pivot); stroke-dasharray: 4 3; }
text.pivot { fill: var(--pivot); }
.column { fill: transparent; }
g { cursor: pointer; outline: none; }
g:hover .column, g:focus-visible .column { fill: color-mix(in srgb, var(--accent) 16%, transparent); }
g:focus-visible .column { stroke: var(--accent); }
.foot { display: flex; flex-wrap: wrap; align-items: center; gap: 4px 12px; }
summary, .foot a { color: var(--muted); cursor: pointer; text-decoration: underline; text-underline-offset: 2px; }
summary:focus-visible, .foot a:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
.aside { color: var(--muted); }
.numbers { overflow-x: auto; user-select: text; font-size: 12px; }
.numbers p, .numbers ul, .numbers table { margin: 6px 0; }
.numbers ul { padding-left: 16px; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 1px 12px 1px 0; text-align: right; white-space: nowrap; font-weight: normal; }
th { color: var(--muted); }
th:first-child, td:first-child { text-align: left; }
`);

/** The curves of a report: how sharp, and how much like the pivot's scene. */
function panels({ levels, area }) {
  // Sharpness spans decades.
  const sharpness = levels.map((level) => Math.log10(Math.max(level.laplacian[area], 1e-8)));
  const bottom = Math.min(...sharpness);
  const most = Math.max(...sharpness);
  // Half a decade at least, so that equal pictures are a level line and not magnified rounding.
  const low = Math.min(bottom, most - 0.5);
  const title = area === "picture" ? "Sharpness" : `Sharpness of the ${area}`;
  const of = (level) => Math.log10(Math.max(level.laplacian[area], 1e-8));
  return [
    { title, ends: ["soft", "sharp"], of, low, high: most },
    { title: "Like the pivot's scene", ends: ["0", "1"], of: (level) => level.alignment, low: 0, high: 1 },
  ];
}

/** The place for a report in its node; returns what shows one. */
function addReport(node) {
  const empty = element("div", { className: "empty" }, "Queue the graph to measure the sweep.");
  const verdict = element("p", { className: "verdict", role: "status" });
  const curves = element("div", { className: "curves" });
  const numbers = element("div", { className: "numbers" });
  const details = element("details", {}, element("summary", {}, "All numbers"), numbers);
  const save = element("a", { href: "#", role: "button" }, "Save the figure");
  const aside = element("span", { className: "aside", role: "status" });
  const foot = element("div", { className: "foot" }, save, aside);
  const shown = element("div", { hidden: true, style: "display: contents" }, verdict, curves, foot, details);
  const report = element("div", { className: "report" }, empty, shown);
  const host = element("div", { className: "bokeh-report" });
  const root = host.attachShadow({ mode: "open" });
  root.adoptedStyleSheets = [sheet];
  root.append(report);
  host.classList.add("widget-expands");
  host.addEventListener("wheel", (event) => {
    if (report.scrollHeight > report.clientHeight) event.stopPropagation();
    else app.canvas.canvas.dispatchEvent(new WheelEvent(event.type, event));
  });
  addPlace(node, "report shown", "bokeh_report", host, MIN_HEIGHT);
  node.setSize(FIRST_SIZE);

  let current = null;
  const say = (words) => {
    aside.textContent = words;
    setTimeout(() => (aside.textContent = ""), ASIDE_MS);
  };
  const pick = (value) => {
    if (!turnViews(node, value)) say("No sweep view in this graph shows this level.");
  };
  const draw = () => {
    const { clientWidth: width, clientHeight: height } = curves;
    if (!current || !width || !height) return;
    const focused = [...curves.querySelectorAll("g")].indexOf(root.activeElement);
    curves.replaceChildren(chart(current, panels(current), { width, height }, pick));
    curves.querySelectorAll("g")[focused]?.focus({ preventScroll: true });
  };
  new ResizeObserver(draw).observe(curves);
  save.addEventListener("click", async (event) => {
    event.preventDefault();
    try {
      await savePicture(api.apiURL(`/view?${new URLSearchParams(current.plot)}`), "bokeh_report.png");
    } catch (error) {
      say(`The figure cannot be saved (${error.message}).`);
    }
  });

  return (told, words) => {
    const levels = new Map(told.levels.map((level) => [level.value, level]));
    current = { ...told, levels: [...levels.values()].sort((a, b) => a.value - b.value) };
    empty.hidden = true;
    shown.hidden = false;
    verdict.textContent = told.verdict;
    curves.hidden = levels.size < 2;
    // The verdict stands above already.
    numbers.replaceChildren(...fromMarkdown(words.replace(/^\*\*.*?\*\*\n\n/, "")));
    draw();
  };
}

app.registerExtension({
  name: "Bokeh.Report",
  nodeCreated(node) {
    if (node.comfyClass !== "BokehReport") return;
    // The figure is sent for the page's apps and queue as well; in the node the curves are drawn anew.
    node.hideOutputImages = true;
    node.onDrawBackground = () => {};
    const show = addReport(node);
    followOutputs(node, ({ bokeh_report: [told] = [], text = [] }) => {
      if (!told) return false;
      show(told, text.join("\n\n"));
      return true;
    });
  },
});
