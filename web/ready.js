/** Menus of ready values: lists for Bokeh Sweep, lenses for Bokeh Blur. */

import { app } from "../../scripts/app.js";
import { change, setWidget, watch } from "./lib/canvas.js";
import { blursOf } from "./lib/focus_optics.js";
import { say } from "./lib/words.js";

const LISTS = ["0, 15, 30", "0, 4, 8, 15, 22, 30", "0, 5, 10, 20, 30", "0..30/7", "0..30/13"];

// The page rounds numbers.
const isAlike = (one, other) => one === other || Math.abs(one - other) < 0.005;

/** `ready`: what the menu says -> value of the widget `name`. */
function addMenu(node, label, name, ready) {
  const widget = node.widgets.find((each) => each.name === name);
  const [own, names] = [say("own"), [...ready.keys()]];
  const choose = (chosen) => ready.has(chosen) && change(() => setWidget(node, widget, ready.get(chosen)));
  const menu = node.addWidget("combo", label, own, choose, { values: [own, ...names], serialize: false });
  menu.serialize = false;
  watch(node, () => {
    const shown = names.find((each) => isAlike(ready.get(each), widget.value)) ?? own;
    if (menu.value !== shown) setWidget(node, menu, shown);
    menu.disabled = node.inputs.some((input) => input.widget?.name === name && input.link != null);
  });
}

app.registerExtension({
  name: "Bokeh.Ready",
  nodeCreated(node) {
    if (node.comfyClass === "BokehSweep") addMenu(node, say("ready list"), "blurs", new Map(LISTS.map((list) => [list, list])));
    if (node.comfyClass !== "BokehBlur") return;
    const [, { options }] = window.LiteGraph.registered_node_types.BokehFocus.nodeData.input.required.lens;
    addMenu(node, say("lens at 2 m"), "blur", blursOf(options));
  },
});
