/** Lets nodes that show the same sweep turn together: a click in the report turns the views. */

/** The views that sit in a graph: node -> turn(value), which tells whether it has that level. */
const views = new Map();

export function join(node, turn) {
  views.set(node, turn);
}

export function leave(node) {
  views.delete(node);
}

/** Turn the views in a node's graph to a level; how many have it. */
export function turnViews(node, value) {
  return [...views].filter(([other, turn]) => other.graph === node.graph && turn(value)).length;
}
