/** Hides the widgets that change nothing at a node's present setting; its schema says when (`bokeh_idle`). */

import { app } from "../../scripts/app.js";

// The page has no event for values and links that holds for undo and both renderings.
const CHECK_MS = 150;

function check(node) {
  const { required, optional } = node.constructor.nodeData?.input ?? {};
  const find = (name) => node.widgets.find((widget) => widget.name === name);
  const linkInto = (name) => node.graph.getLink(node.inputs.find((input) => input.name === name)?.link);
  // "input": connected to a node that runs; "input=value": set to that here, for what another node sets is not known.
  const holds = (condition) => {
    const [name, value] = condition.split("=");
    const link = linkInto(name);
    return value ? !link && find(name).value === value : link && node.graph.getNodeById(link.origin_id)?.mode === 0;
  };
  let idle = false;
  for (const [name, [, options]] of Object.entries({ ...required, ...optional })) {
    if (!options?.bokeh_idle) continue;
    idle = true;
    const widget = find(name);
    const hidden = !linkInto(name) && options.bokeh_idle.some(holds);
    if (hidden === !!widget.hidden) continue;
    widget.hidden = hidden;
    // Older pages' own nodes read the options but once; for them see below.
    if ("widgetId" in widget) widget.options.hidden = hidden;
    // Being set makes newer ones read them.
    node.widgets = [...node.widgets];
    node.setDirtyCanvas(true, true);
  }
  const rows = idle ? document.querySelectorAll(`[data-node-id="${node.id}"] .lg-node-widget`) : [];
  if (rows.length !== node.widgets?.length) return;
  rows.forEach((row, index) => (row.style.display = node.widgets[index].hidden ? "none" : ""));
}

app.registerExtension({
  name: "Bokeh.Idle",
  setup() {
    setInterval(() => app.canvas.graph?.nodes.forEach(check), CHECK_MS);
  },
});
