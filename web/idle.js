/** Hides the widgets that change nothing at a node's present setting; its schema says when (`bokeh_idle`). */

import { app } from "../../scripts/app.js";
import { watch } from "./lib/canvas.js";
import { after } from "./lib/outputs.js";

function check(node, rules) {
  const { graph, inputs, widgets } = node;
  if (graph !== app.canvas.graph) return;
  const find = (list, wanted) => list.find(({ name }) => name === wanted);
  const linkInto = (name) => graph.getLink(find(inputs, name)?.link);
  // "input": linked to a node that runs; "input=value": set to that here.
  const holds = (condition) => {
    const [name, value] = condition.split("=");
    const link = linkInto(name);
    return value ? !link && find(widgets, name).value === value : link && graph.getNodeById(link.origin_id)?.mode === 0;
  };
  const isIdle = ([name, [, { bokeh_idle }]]) => !linkInto(name) && bokeh_idle.some(holds);
  const turned = rules.filter((rule) => isIdle(rule) === !find(widgets, rule[0]).hidden);
  for (const [name] of turned) {
    const widget = find(widgets, name);
    const hidden = (widget.hidden = !widget.hidden);
    // Older pages leave the room of a hidden widget empty: a height and their gap of 4 make nothing together.
    widget.computeSize = hidden ? () => [0, -4] : undefined;
    // Newer Vue nodes read the options when the list of widgets changes, older ones but once.
    if ("widgetId" in widget) widget.options.hidden = hidden;
  }
  if (turned.length) {
    const all = [...widgets];
    node.widgets = [];
    node.widgets = all;
    node.setDirtyCanvas(true, true);
  }
  const rows = document.querySelectorAll(`[data-node-id="${node.id}"] .lg-node-widget`);
  if (rows.length === widgets.length) rows.forEach((row, at) => (row.style.display = widgets[at].hidden ? "none" : ""));
}

app.registerExtension({
  name: "Bokeh.Idle",
  nodeCreated(node) {
    const { required, optional } = node.constructor.nodeData?.input ?? {};
    const rules = Object.entries({ ...required, ...optional }).filter(([, [, options]]) => options?.bokeh_idle);
    if (!rules.length) return;
    const look = () => check(node, rules);
    let isNew = true;
    watch(node, look);
    // Before it is drawn: nodes grow by themselves, and never shrink.
    after(node, "onAdded", () => {
      look();
      if (isNew) node.setSize([node.size[0], node.computeSize()[1]]);
    });
    after(node, "onConfigure", () => {
      isNew = false;
      look();
    });
  },
});
