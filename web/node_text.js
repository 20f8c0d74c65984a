/** Shows what a node says in words inside the node: where something was saved, what a lens does. */

import { app } from "../../scripts/app.js";
import { addPlace, element } from "./lib/dom.js";
import { fromMarkdown } from "./lib/markdown.js";
import { followOutputs } from "./lib/outputs.js";

/** Node -> height of its text in graph units. */
const HEIGHTS = { BokehSweepSave: 60, BokehSaveAdapter: 60, BokehLens: 130, BokehPrompt: 90, BokehRender: 90, BokehPortrait: 90, BokehInvert: 110, BokehPairs: 90 };
/** Nodes that have a note now and then, and no place for it before the first one. */
const NOTED = new Set(["BokehBlur", "BokehSweep"]);
const NOTE_HEIGHT = 50;

const sheet = new CSSStyleSheet();
sheet.replaceSync(`
:host { display: block; height: 100%; color: var(--input-text, #ddd); font: 12px/1.45 Inter, system-ui, sans-serif; }
:host([data-empty]) { visibility: hidden; }
.text { height: 100%; overflow: auto; padding: 6px 8px; box-sizing: border-box; border-radius: 6px;
  background: var(--comfy-input-bg, #222); user-select: text; overflow-wrap: anywhere; }
p, ul, table { margin: 0 0 8px; }
ul { padding-left: 16px; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; overflow-wrap: normal; }
th, td { padding: 1px 12px 1px 0; text-align: right; white-space: nowrap; font-weight: normal; }
th { color: var(--descrip-text, #999); border-bottom: 1px solid var(--border-color, #444); }
th:first-child, td:first-child { text-align: left; }
`);

/** A place for text in the node; returns what writes into it. Without words it stays empty. */
function addText(node, height) {
  const host = element("div", { "data-empty": "" });
  const text = element("div", { className: "text" });
  const root = host.attachShadow({ mode: "open" });
  root.adoptedStyleSheets = [sheet];
  root.append(text);
  // The wheel scrolls a text that is longer than its place, and else zooms the graph.
  host.addEventListener("wheel", (event) => {
    if (text.scrollHeight > text.clientHeight) event.stopPropagation();
    else app.canvas.canvas.dispatchEvent(new WheelEvent(event.type, event));
  });
  addPlace(node, "text shown", "bokeh_text", host, height, true);
  return (words) => {
    text.replaceChildren(...fromMarkdown(words));
    host.toggleAttribute("data-empty", !words);
  };
}

/** Let `write(words)` follow what the node says. */
function followText(node, write) {
  followOutputs(node, ({ text }) => {
    if (!Array.isArray(text)) return false;
    write(text.join("\n\n"));
    return true;
  });
}

app.registerExtension({
  name: "Bokeh.NodeText",
  nodeCreated(node) {
    const height = HEIGHTS[node.comfyClass];
    if (height) followText(node, addText(node, height));
    if (!NOTED.has(node.comfyClass)) return;
    let write = null;
    followText(node, (words) => {
      if (words) write ??= addText(node, NOTE_HEIGHT);
      write?.(words);
    });
  },
});
