/** What the nodes' own content owes to the canvas around it. */

import { app } from "../../../scripts/app.js";
import { element, take } from "./dom.js";
import { after, locator } from "./outputs.js";

// The page has no events that hold for undo, links and both renderings.
const WATCH_MS = 150;
const watched = new Set();

/** Call `check()` now and then while the node sits in a graph. */
export function watch(node, check) {
  if (node.graph) watched.add(check);
  after(node, "onAdded", () => watched.add(check));
  after(node, "onRemoved", () => watched.delete(check));
}

/** Change the graph as one step that can be undone. */
export function change(act) {
  app.canvas.emitBeforeChange();
  act();
  app.canvas.emitAfterChange();
}

/** Set a widget as a person does. */
export function setWidget(node, widget, value) {
  widget.value = value;
  widget.callback?.(value, app.canvas, node);
}

/** Let the graph zoom and pan as if the view were not in the way. */
export function passToCanvas(element) {
  const pass = (event) => {
    take(event);
    // In the full window there is no graph behind it.
    if (!document.fullscreenElement) app.canvas.canvas.dispatchEvent(new event.constructor(event.type, event));
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
  watch(node, () => {
    const id = `${locator(node)} ${name}`;
    if (place.isConnected) seen.set(id, place);
    const at = seen.get(id);
    if (at?.isConnected && content.parentNode !== at) at.replaceChildren(content);
  });
}

app.registerExtension({
  name: "Bokeh.Watch",
  setup() {
    setInterval(() => watched.forEach((check) => check()), WATCH_MS);
  },
});
