/** Shows the report: a verdict in words, the curves, and all numbers for those who want them. */

import { app } from "../../scripts/app.js";
import { base } from "./lib/base_style.js";
import { addPlace, scrollOrZoom } from "./lib/canvas.js";
import { chart } from "./lib/chart.js";
import { briefly, element, shadowed } from "./lib/dom.js";
import { fromMarkdown } from "./lib/markdown.js";
import { followOutputs } from "./lib/outputs.js";
import { fileUrl, savePicture } from "./lib/picture_files.js";
import { say } from "./lib/words.js";
import { turnViews } from "./sweep_view.js";

const FIRST_SIZE = [460, 520];
const MIN_HEIGHT = 260;
const CHART_HEIGHTS = [170, 420];
const ASIDE_MS = 2500;

const sheet = `
:host { min-height: ${MIN_HEIGHT}px; font-size: 13px; line-height: 1.4; }
.report { display: flex; flex-direction: column; gap: 6px; height: 100%; padding: 4px 6px; overflow: hidden auto; }
.empty { flex: 1; position: static; border: 1px dashed var(--muted); border-radius: 6px; }
.verdict { margin: 0; font-size: 15px; font-weight: 600; user-select: text; text-wrap: pretty; }
.curves { flex: 1 0 ${CHART_HEIGHTS[0]}px; max-height: ${CHART_HEIGHTS[1]}px; min-height: 0; }
svg { display: block; width: 100%; height: 100%; font-size: 11px; }
text { fill: var(--muted); }
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
.aside { color: var(--muted); }
.numbers { overflow-x: auto; user-select: text; font-size: 12px; }
`;

function panels({ levels, area }) {
  // Sharpness spans decades.
  const of = (level) => Math.log10(Math.max(level.laplacian[area], 1e-8));
  const sharpness = levels.map(of);
  const bottom = Math.min(...sharpness);
  const most = Math.max(...sharpness);
  // Half a decade at least: equal pictures are a level line, not magnified rounding.
  const low = Math.min(bottom, most - 0.5);
  const title = { picture: say("Sharpness"), background: say("Sharpness of the background") }[area];
  return [
    { title, ends: [say("soft"), say("sharp")], of, low, high: most },
    { title: say("Like the pivot's scene"), ends: ["0", "1"], of: (level) => level.alignment, low: 0, high: 1 },
  ];
}

function addReport(node) {
  const empty = element("div.message.empty", {}, say("Queue the graph to measure the sweep."));
  const verdict = element("p.verdict", { role: "status" });
  const curves = element("div.curves");
  const numbers = element("div.numbers");
  const details = element("details", {}, element("summary", {}, say("All numbers")), numbers);
  const save = element("a", { href: "#", role: "button" }, say("Save the figure"));
  const aside = element("span.aside", { role: "status" });
  const foot = element("div.foot", {}, save, aside);
  const shown = element("div", { hidden: true, style: "display: contents" }, verdict, curves, foot, details);
  const report = element("div.report", {}, empty, shown);
  const host = shadowed("bokeh-report", [base, sheet], report);
  scrollOrZoom(host, report);
  addPlace(node, "report shown", "bokeh_report", host, MIN_HEIGHT);
  node.setSize(FIRST_SIZE);

  let current = null;
  const tell = briefly(aside, ASIDE_MS);
  const pick = (value) => {
    if (!turnViews(node, value)) tell(say("No sweep view in this graph shows this level."));
  };
  const draw = () => {
    const { clientWidth: width, clientHeight: height } = curves;
    if (!current || !width || !height) return;
    const focused = [...curves.querySelectorAll("g")].indexOf(host.shadowRoot.activeElement);
    curves.replaceChildren(chart(current, panels(current), { width, height }, pick));
    curves.querySelectorAll("g")[focused]?.focus({ preventScroll: true });
  };
  new ResizeObserver(draw).observe(curves);
  save.addEventListener("click", async (event) => {
    event.preventDefault();
    try {
      await savePicture(fileUrl(current.plot), "bokeh_report.png");
    } catch (error) {
      tell(`${say("The figure cannot be saved")} (${error.message})`);
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
    // The figure is sent for apps and the queue as well.
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
