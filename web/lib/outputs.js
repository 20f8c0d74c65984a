/** Hands nodes their last output: after a run, from an earlier one that the page knows of, and after a reload. */

import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";
import { isRunOf, keep, kept, outputOf, runOf } from "./runs.js";

/** The nodes that sit in a graph: node -> show(output). */
const followed = new Map();

// The event that brought the output a node is being given; it alone tells the run.
let lastExecuted = null;

/** Outputs that the page gave to nodes of another workflow than the one that ran, as text. */
const foreign = new Set();

const rootGraph = () => app.rootGraph ?? app.graph;

/** The node's id as the page's table of outputs has it. */
export function locator(node) {
  return node.graph === rootGraph() ? String(node.id) : `${node.graph.id}:${node.id}`;
}

/** The node's name over reloads: its workflow and its place in it. */
function address(node) {
  return `${rootGraph().id}/${locator(node)}`;
}

/** The ids of a node in a run of this workflow; several where it is in a subgraph that is used more than once. */
export function executionIds(run, node) {
  const isIt = (id) => id.split(":").at(-1) === String(node.id) && isRunOf(run, rootGraph(), id, node.comfyClass);
  return Object.keys(run.prompt).filter(isIt);
}

/** What the browser keeps of what was looked at in a node: `look(node)` reads, `look(node, fields)` adds. */
export function look(node, fields) {
  if (fields) keep(address(node), fields);
  return kept(address(node));
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

/** The output of the node's last run, if that was a run of this workflow with such a node. */
async function recall(node) {
  const { run: id, node: nodeId } = kept(address(node));
  const run = id && (await runOf(id));
  return run && isRunOf(run, rootGraph(), nodeId, node.comfyClass) ? outputOf(id, nodeId) : undefined;
}

/** Call `show(output)` with the node's output whenever there is one; it tells whether the output was for it. */
export function followOutputs(node, show) {
  let shows = 0;
  const pass = (output) => {
    if (output && !foreign.has(JSON.stringify(output)) && show(output)) shows++;
  };
  const executed = async (output) => {
    const event = lastExecuted?.output === output ? lastExecuted : undefined;
    // The page gives outputs to whatever node has the id in the workflow that is open when they come.
    const nodeId = event?.display_node ?? event?.node;
    const run = event && (await runOf(event.prompt_id));
    if (run && !isRunOf(run, rootGraph(), nodeId, node.comfyClass)) {
      foreign.add(JSON.stringify(output));
      return;
    }
    if (!node.graph) return;
    foreign.delete(JSON.stringify(output));
    pass(output);
    if (event) look(node, { run: event.prompt_id, node: event.node });
  };
  // The page's listeners have no order to rely on; all have run by then.
  after(node, "onExecuted", (output) => queueMicrotask(() => executed(output)));
  after(node, "onAdded", () => {
    followed.set(node, pass);
    const before = shows;
    // Its properties and those of its graph are read in after it was added.
    queueMicrotask(async () => {
      if (!node.graph) return;
      const output = await recall(node);
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
