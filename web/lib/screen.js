/** The picture above the slider: fades between two levels, and compares them with another beside a divider. */

import { element, icon, isPages, onDrag, take, within } from "./dom.js";
import { say } from "./words.js";

const DIVIDER_STEP = 0.05;
const CLICK_PX = 3;

export class Screen {
  #canvas = element("canvas", { role: "img" });
  #context = this.#canvas.getContext("2d", { alpha: false });
  #left = element("span.tag");
  #right = element("span.tag");
  #divider = element(
    "div.divider",
    {
      role: "separator",
      tabIndex: 0,
      ariaLabel: say("Divider between the two pictures"),
      ariaOrientation: "vertical",
      ariaValueMin: "0",
      ariaValueMax: "100",
    },
    element("span.grip", {}, icon("M6 4.5 2.5 8 6 11.5M10 4.5 13.5 8 10 11.5")),
  );
  #split = 0.5;

  /**
   * @param {object} calls mayStart() a drag; onScrub(share of the picture's width, that width) while it goes on, null at
   *     its start; onScrubbed() at its end; onChange(): draw again; onToggle(): compare, or stop
   */
  constructor({ mayStart, onScrub, onScrubbed, onChange, onToggle }) {
    this.onChange = onChange;
    const left = element("div.side.left", {}, this.#left);
    const right = element("div.side.right", {}, this.#right);
    this.frame = element("div.frame", {}, this.#canvas, left, right, this.#divider);
    this.element = element("div.screen", {}, this.frame);
    this.comparing = false;
    let start = 0;
    let isDrag = false;
    onDrag(this.frame, mayStart, {
      onStart: (event) => {
        start = event.clientX;
        isDrag = false;
        onScrub(null, 0);
        if (event.target.closest(".divider")) this.#divider.focus({ preventScroll: true });
      },
      onMove: (event) => {
        // A double-click's tremor is no drag.
        isDrag ||= Math.abs(event.clientX - start) >= CLICK_PX;
        if (!isDrag) return;
        const { left, width } = this.frame.getBoundingClientRect();
        if (this.comparing) this.#moveDivider((event.clientX - left) / width);
        else onScrub((event.clientX - start) / width, width);
      },
      onEnd: onScrubbed,
    });
    this.frame.addEventListener("dblclick", (event) => {
      event.stopPropagation();
      onToggle();
    });
    this.#divider.addEventListener("keydown", (event) => this.#onKey(event));
    this.#showSplit();
  }

  set comparing(on) {
    this.element.classList.toggle("comparing", on);
  }

  get comparing() {
    return this.element.classList.contains("comparing");
  }

  /** What is drawn now, at its own size. */
  get picture() {
    return this.#canvas;
  }

  setSize(width, height) {
    this.#canvas.width = width;
    this.#canvas.height = height;
    this.element.style.setProperty("--ratio", width / height);
  }

  setTexts({ picture, left, right }) {
    this.#canvas.ariaLabel = picture;
    this.#left.textContent = left;
    this.#right.textContent = right;
  }

  /** `upper` over `lower` with opacity `mix`; when comparing, `other` left of the divider. */
  draw(lower, upper, mix, other) {
    const context = this.#context;
    const { width, height } = this.#canvas;
    context.drawImage(lower, 0, 0);
    if (mix > 0 && upper !== lower) {
      context.globalAlpha = mix;
      context.drawImage(upper, 0, 0);
      context.globalAlpha = 1;
    }
    const left = Math.round(this.#split * width);
    if (this.comparing && other && left > 0) {
      // A picture of the last run may have another size.
      context.drawImage(other, 0, 0, this.#split * other.width, other.height, 0, 0, this.#split * width, height);
    }
  }

  #moveDivider(split) {
    this.#split = within(split, 0, 1);
    this.#showSplit();
    this.onChange();
  }

  #showSplit() {
    this.frame.style.setProperty("--split", `${100 * this.#split}%`);
    this.#divider.ariaValueNow = Math.round(100 * this.#split);
  }

  #onKey(event) {
    const steps = { ArrowLeft: -DIVIDER_STEP, ArrowRight: DIVIDER_STEP, Home: -1, End: 1 };
    if (!(event.key in steps) || isPages(event)) return;
    take(event);
    this.#moveDivider(this.#split + steps[event.key]);
  }
}
