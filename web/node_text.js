/** Shows what a node says in words. */

import { app } from "../../scripts/app.js";
import { base } from "./lib/base_style.js";
import { addPlace, scrollOrZoom } from "./lib/canvas.js";
import { element, shadowed } from "./lib/dom.js";
import { fromMarkdown } from "./lib/markdown.js";
import { followOutputs } from "./lib/outputs.js";

/** Node -> height of its text in graph units. */
const HEIGHTS = { BokehSweepSave: 60, BokehSaveAdapter: 60, BokehLens: 130, BokehPrompt: 90, BokehRender: 90, BokehPortrait: 90, BokehInvert: 110, BokehPairs: 90 };
/** Nodes that have a note now and then. */
const NOTED = new Set(["BokehBlur", "BokehSweep"]);
const NOTE_HEIGHT = 50;

const sheet = `
:host { font-size: 12px; line-height: 1.45; }
:host([data-empty]) { visibility: hidden; }
.text { height: 100%; overflow: auto; padding: 6px 8px; border-radius: 6px; background: var(--comfy-input-bg, #222);
  user-select: text; overflow-wrap: anywhere; }
th { border-bottom: 1px solid var(--border-color, #444); }
`;

function addText(node, height) {
  const text = element("div.text");
  const host = shadowed("bokeh-text", [base, sheet], text);
  scrollOrZoom(host, text);
  addPlace(node, "text shown", "bokeh_text", host, height, true);
  const write = (words) => {
    text.replaceChildren(...fromMarkdown(words));
    host.toggleAttribute("data-empty", !words);
  };
  write("");
  return write;
}

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
