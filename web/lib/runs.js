/**
 * Finds a node's last output again after the page was reloaded.
 *
 * The page forgets outputs on a reload, but the server's history has them. Which run to ask for is kept in the
 * browser and not in the workflow: there every run would mark the workflow as changed and add a step to undo.
 */

import { api } from "../../../scripts/api.js";

const KEY = "bokeh.lastRuns";
const MAX_ENTRIES = 100;

function read() {
  try {
    return new Map(JSON.parse(localStorage.getItem(KEY) ?? "[]"));
  } catch {
    return new Map();
  }
}

/** Keep that a node, named by `place`, got its output as `nodeId` of the run `runId`. */
export function remember(place, runId, nodeId) {
  const runs = read();
  runs.delete(place);
  runs.set(place, [runId, nodeId]);
  try {
    localStorage.setItem(KEY, JSON.stringify([...runs].slice(-MAX_ENTRIES)));
  } catch {
    // A full or forbidden storage costs the picture after a reload, nothing else.
  }
}

/** The last output of the node named by `place`, undefined when it cannot be had any more. */
export async function recall(place) {
  try {
    const [runId, nodeId] = read().get(place);
    const answer = await api.fetchApi(`/history/${encodeURIComponent(runId)}`);
    const history = await answer.json();
    return history[runId].outputs[nodeId];
  } catch {
    // Never run here, forgotten by the server, or no answer: the node then asks to be queued.
    return undefined;
  }
}
