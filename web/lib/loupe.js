/** A part of the picture at 100 % or more, under the pointer. */

import { element } from "./dom.js";

// Of a pixel: on the display, and beside the picture.
const LEAST_ZOOM = 1;
const BESIDE_SCREEN = 2;

export class Loupe {
  #canvas = element("canvas");
  #zoom = element("span.tag");
  #place = { x: 0.5, y: 0.5 };

  constructor(screen) {
    this.screen = screen;
    this.element = element("div.magnifier", { hidden: true, ariaHidden: "true" }, this.#canvas, this.#zoom);
    screen.frame.append(this.element);
    screen.frame.addEventListener("pointermove", (event) => {
      const { left, top, width, height } = screen.frame.getBoundingClientRect();
      this.#place = { x: (event.clientX - left) / width, y: (event.clientY - top) / height };
      this.draw();
    });
  }

  get on() {
    return !this.element.hidden;
  }

  set on(on) {
    this.element.hidden = !on;
    this.draw();
  }

  draw() {
    if (!this.on) return;
    const { frame, picture } = this.screen;
    const { x, y } = this.#place;
    this.element.style.left = `${100 * x}%`;
    this.element.style.top = `${100 * y}%`;
    // The graph's zoom is in the rectangle alone.
    const screen = devicePixelRatio;
    const shown = (frame.getBoundingClientRect().width * screen) / picture.width;
    const zoom = Math.max(LEAST_ZOOM, BESIDE_SCREEN * shown);
    const side = Math.round(this.element.getBoundingClientRect().width * screen);
    const part = side / zoom;
    this.#canvas.width = this.#canvas.height = side;
    const context = this.#canvas.getContext("2d");
    context.imageSmoothingEnabled = false;
    context.drawImage(picture, x * picture.width - part / 2, y * picture.height - part / 2, part, part, 0, 0, side, side);
    this.#zoom.textContent = `${Math.round(100 * zoom)} %`;
  }
}
