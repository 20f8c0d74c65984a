/** Hands nodes their last output: after a run, from an earlier one that the page knows of, and after a reload. */

import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";
import { isRunOf, keep, kept, outputOf, runOf } from "./runs.js";

/** The nodes that sit in a graph: node -> show(output). */
const followed = new Map();

// Tells the run of the output that a node is being given.
let lastExecuted = null;

/** Outputs that the page gave to nodes of a workflow that did not run, as text. */
const foreign = new Set();

const rootGraph = () => app.rootGraph ?? app.graph;

/** The node's id as the page's table of outputs has it. */
export function locator(node) {
  return node.graph === rootGraph() ? String(node.id) : `${node.graph.id}:${node.id}`;
}

/** The node's name over reloads. */
const address = (node) => `${rootGraph().id}/${locator(node)}`;

/** The ids of a node in a run of this workflow; several in a subgraph that is used more than once. */
export function executionIds(run, node) {
  const isIt = (id) => id.split(":").at(-1) === String(node.id) && isRunOf(run, rootGraph(), id, node.comfyClass);
  return Object.keys(run.prompt).filter(isIt);
}

/** What was looked at in a node: `look(node)` reads it, `look(node, fields)` adds. */
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

/** The output of the node's last run, if it was one of this workflow. */
async function recall(node) {
  const { run: id, node: nodeId } = kept(address(node));
  const run = id && (await runOf(id));
  return run && isRunOf(run, rootGraph(), nodeId, node.comfyClass) ? outputOf(id, nodeId) : undefined;
}

/** Call `show(output)` whenever there is one; it tells whether the output was for it. */
export function followOutputs(node, show) {
  let shows = 0;
  const pass = (output) => {
    if (output && !foreign.has(JSON.stringify(output)) && show(output)) shows++;
  };
  const executed = async (output) => {
    const event = lastExecuted?.output === output ? lastExecuted : undefined;
    // The page gives it to whatever node has the id in the workflow that is open.
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
  // All listeners of the page have run by then.
  after(node, "onExecuted", (output) => queueMicrotask(() => executed(output)));
  after(node, "onAdded", () => {
    followed.set(node, pass);
    const before = shows;
    // By then it is read in.
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
  /** Of another tab's workflow, or from the history. */
  onNodeOutputsUpdated(outputs) {
    for (const [node, pass] of followed) {
      if (node.graph) pass(outputs[locator(node)]);
    }
  },
});
