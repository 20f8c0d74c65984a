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
