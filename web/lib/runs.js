/**
 * Which run a node's output is from. The page forgets it on a reload, the server's history does not; which run to ask
 * for is kept in the browser, because in the workflow it would be a change that can be undone.
 */

import { api } from "../../../scripts/api.js";

const KEY = "bokeh.nodes";
const MAX_ENTRIES = 100;
// Of every workflow that was given none.
const NO_ID = "00000000-0000-0000-0000-000000000000";

function read() {
  try {
    return new Map(JSON.parse(localStorage.getItem(KEY) ?? "[]"));
  } catch {
    return new Map();
  }
}

/** What is kept of the node at an address; {} for nothing. */
export const kept = (address) => read().get(address) ?? {};

export function keep(address, fields) {
  const nodes = read();
  const all = { ...nodes.get(address), ...fields };
  nodes.delete(address);
  nodes.set(address, all);
  try {
    localStorage.setItem(KEY, JSON.stringify([...nodes].slice(-MAX_ENTRIES)));
  } catch {
    // Full or forbidden: costs the picture after a reload.
  }
}

async function ask(path) {
  const answer = await api.fetchApi(path);
  return answer.json();
}

const known = new Map();

/** The run as the server has it, {prompt, workflow}: undefined when it cannot be had any more. */
export function runOf(id) {
  if (!known.has(id)) {
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

export async function outputOf(id, nodeId) {
  try {
    return (await ask(`/history/${encodeURIComponent(id)}`))[id].outputs[nodeId];
  } catch {
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

/** Whether what a node of a prompt makes gets to another. */
export function reaches(prompt, from, to, seen = new Set()) {
  if (from === to) return true;
  if (seen.has(to)) return false;
  seen.add(to);
  const links = Object.values(prompt[to]?.inputs ?? {}).filter(Array.isArray);
  return links.some(([before]) => reaches(prompt, from, String(before), seen));
}
