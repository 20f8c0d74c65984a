/**
 * Which run a node's output is from, and what the browser keeps of it.
 *
 * The page forgets outputs on a reload, but the server's history has them. Which run to ask for, and what was looked
 * at, is kept in the browser and not in the workflow: there it would mark the workflow as changed and be undoable.
 */

import { api } from "../../../scripts/api.js";

const KEY = "bokeh.nodes";
const MAX_ENTRIES = 100;
// Workflow files written by hand, or by a page that gave none, have this id, all of them.
const NO_ID = "00000000-0000-0000-0000-000000000000";

function read() {
  try {
    return new Map(JSON.parse(localStorage.getItem(KEY) ?? "[]"));
  } catch {
    return new Map();
  }
}

/** What is kept of the node at an address; {} for nothing. */
export function kept(address) {
  return read().get(address) ?? {};
}

/** Keep more of the node at an address. */
export function keep(address, fields) {
  const nodes = read();
  const all = { ...nodes.get(address), ...fields };
  nodes.delete(address);
  nodes.set(address, all);
  try {
    localStorage.setItem(KEY, JSON.stringify([...nodes].slice(-MAX_ENTRIES)));
  } catch {
    // A full or forbidden storage costs the picture after a reload, nothing else.
  }
}

async function ask(path) {
  const answer = await api.fetchApi(path);
  return answer.json();
}

const known = new Map();

/** The run as the server has it, {prompt, workflow, outputs}: undefined when it cannot be had any more. */
export function runOf(id) {
  if (!known.has(id)) {
    // One question for all nodes of a run; the outputs of a finished one are asked for anew.
    known.set(id, lookUp(id).catch(() => undefined));
    if (known.size > MAX_ENTRIES) known.delete(known.keys().next().value);
  }
  return known.get(id);
}

async function lookUp(id) {
  const { queue_running: running } = await ask("/queue");
  const under = running.find(([, run]) => run === id);
  const entry = under ? { prompt: under } : (await ask(`/history/${encodeURIComponent(id)}`))[id];
  const [, , prompt, extra] = entry.prompt;
  return { prompt, workflow: extra?.extra_pnginfo?.workflow };
}

/** What the node with an id put out in a run, undefined when it cannot be had any more. */
export async function outputOf(id, nodeId) {
  try {
    return (await ask(`/history/${encodeURIComponent(id)}`))[id].outputs[nodeId];
  } catch {
    // Forgotten by the server, or no answer: the node then asks to be queued.
    return undefined;
  }
}

const shape = (nodes) => nodes.map(({ id, type }) => `${id}:${type}`).sort().join();

/** Whether a run was one of this graph, and its node `nodeId` one of this class. */
export function isRunOf({ prompt, workflow }, graph, nodeId, nodeClass) {
  if (prompt[nodeId]?.class_type !== nodeClass) return false;
  if (!workflow) return true;
  if ((workflow.id ?? graph.id) !== graph.id) return false;
  return graph.id !== NO_ID || shape(workflow.nodes) === shape(graph.nodes);
}

/** Whether what a node of a prompt makes gets to another, over however many between them. */
export function reaches(prompt, from, to, seen = new Set()) {
  if (from === to) return true;
  if (seen.has(to)) return false;
  seen.add(to);
  const links = Object.values(prompt[to]?.inputs ?? {}).filter(Array.isArray);
  return links.some(([before]) => reaches(prompt, from, String(before), seen));
}
