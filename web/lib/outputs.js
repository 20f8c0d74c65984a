/** Hands nodes their last output: after a run, from an earlier one that the page knows of, and after a reload. */

import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";
import { recall, remember } from "./runs.js";

/** The nodes that sit in a graph: node -> show(output). */
const followed = new Map();

// The event that brought the output a node is being given; it alone tells the run.
let lastExecuted = null;

const rootGraph = () => app.rootGraph ?? app.graph;

/** The node's id as the page's table of outputs has it. */
function locator(node) {
  return node.graph === rootGraph() ? String(node.id) : `${node.graph.id}:${node.id}`;
}

/** The node's name over reloads: its workflow and its place in it. */
function address(node) {
  return `${rootGraph().id}/${locator(node)}`;
}

/** Chain a callback of a node behind the one that is there. */
export function after(node, name, added) {
  const before = node[name];
  node[name] = function (...given) {
    const result = before?.apply(this, given);
    added(...given);
    return result;
  };
}

/** Call `show(output)` with the node's output whenever there is one; it tells whether the output was for it. */
export function followOutputs(node, show) {
  let shows = 0;
  const pass = (output) => {
    if (output && show(output)) shows++;
  };
  after(node, "onExecuted", (output) => {
    pass(output);
    // The page's listeners have no order to rely on; all have run by then.
    queueMicrotask(() => {
      if (lastExecuted?.output === output) remember(address(node), lastExecuted.prompt_id, lastExecuted.node);
    });
  });
  after(node, "onAdded", () => {
    followed.set(node, pass);
    const before = shows;
    // Its properties and those of its graph are read in after it was added.
    queueMicrotask(async () => {
      if (!node.graph) return;
      const output = await recall(address(node));
      if (shows === before && followed.has(node)) pass(output);
    });
  });
  after(node, "onRemoved", () => followed.delete(node));
}

app.registerExtension({
  name: "Bokeh.Outputs",
  setup() {
    api.addEventListener("executed", ({ detail }) => (lastExecuted = detail));
  },
  /** The page has outputs of an earlier run: another tab's workflow, or one from the history. */
  onNodeOutputsUpdated(outputs) {
    for (const [node, pass] of followed) {
      if (node.graph) pass(outputs[locator(node)]);
    }
  },
});
