/** What the nodes' own content owes to the canvas around it. */

import { app } from "../../../scripts/app.js";

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

/** The place on screen of each node, by the node's locator. */
const places = new Map();

/**
 * Keep a node's content where it is seen. Vue nodes go on showing the element of a node that undo has replaced by a
 * copy of itself; the copy's content moves in there. To be called now and then.
 */
export function settle(locator, place, content) {
  if (place.isConnected) places.set(locator, place);
  const seen = places.get(locator);
  if (seen?.isConnected && content.parentNode !== seen) seen.replaceChildren(content);
}
