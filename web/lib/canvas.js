/** What the nodes' own content owes to the canvas around it. */

import { app } from "../../../scripts/app.js";
import { element } from "./dom.js";
import { after, locator } from "./outputs.js";

// The page has no event for an element that it shows in place of another.
const SETTLE_MS = 150;

/** Let the graph zoom and pan as if the view were not in the way. */
export function passToCanvas(element) {
  const pass = (event) => {
    event.preventDefault();
    event.stopPropagation();
    app.canvas.canvas.dispatchEvent(new event.constructor(event.type, event));
  };
  element.addEventListener("wheel", pass, { passive: false });
  const passMiddle = (event) => {
    if (event.button === 1 || event.buttons & 4) pass(event);
  };
  for (const type of ["pointerdown", "pointermove", "pointerup"]) element.addEventListener(type, passMiddle);
}

/** Let the wheel scroll `inside` where it is longer than its place, and else zoom the graph. */
export function scrollOrZoom(element, inside) {
  element.addEventListener("wheel", (event) => {
    if (inside.scrollHeight > inside.clientHeight) event.stopPropagation();
    else app.canvas.canvas.dispatchEvent(new WheelEvent(event.type, event));
  });
}

/** settle() of the places of nodes that sit in a graph, and the place on screen of each content. */
const settled = new Set();
const seen = new Map();

/**
 * A place for `content` in a node, neither saved with it nor sent to the server; grows with the node unless it is a text.
 * Vue nodes go on showing the element of a node that undo has replaced by a copy: the copy's content moves in there.
 */
export function addPlace(node, name, type, content, height, isText = false) {
  // With this class it grows.
  const place = element("div", { className: isText ? "" : "widget-expands", style: "height: 100%" }, content);
  const options = { hideOnZoom: isText, serialize: false, getMinHeight: () => height };
  node.addDOMWidget(name, type, place, options).serialize = false;
  const settle = () => {
    const id = `${locator(node)} ${name}`;
    if (place.isConnected) seen.set(id, place);
    const at = seen.get(id);
    if (at?.isConnected && content.parentNode !== at) at.replaceChildren(content);
  };
  if (node.graph) settled.add(settle);
  after(node, "onAdded", () => settled.add(settle));
  after(node, "onRemoved", () => settled.delete(settle));
}

app.registerExtension({
  name: "Bokeh.Places",
  setup() {
    setInterval(() => settled.forEach((settle) => settle()), SETTLE_MS);
  },
});
