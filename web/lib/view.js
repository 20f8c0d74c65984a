/** One sweep as one picture with a slider: what the node shows. Knows nothing of nodes and graphs. */

import { element, icon } from "./dom.js";
import { around, clampTo, levelsOf, nearest, plain, written } from "./levels.js";
import { Pictures } from "./pictures.js";
import { Slider } from "./slider.js";
import { Stage } from "./stage.js";
import { sheet } from "./style.js";

// Time constant of the fade after a key press, in ms.
const FADE_MS = 60;
// Zoomed out further than to this scale, text would become too small to read.
const READABLE_SCALE = 0.75;
const MAX_ENLARGED = 2.2;
const SAID_MS = 2500;
const EMPTY = "Queue the graph to look through the sweep.";
const GONE = "The server no longer has these pictures. Queue the graph again.";

const ICONS = {
  compare: "M8 1.5v13M2 3.5h4v9H2zM10 3.5h4v9h-4z",
  copy: "M5.5 5.5h8v8h-8zM10.5 5.5v-3h-8v8h3",
  open: "M6.5 3H3v10h10V9.5M9 2.5h4.5V7M13.5 2.5 7.5 8.5",
};

const still = matchMedia("(prefers-reduced-motion: reduce)");

export class SweepView {
  #levels = [];
  #sweep = null;
  #pictures = null;
  #value = 0;
  #committed = 0;
  #shown = 0;
  #scrubFrom = 0;
  #enlarged = 1;
  #fitted = null;
  #frame = 0;
  #lastTime = 0;
  #sayTimer = 0;

  /**
   * @param {(file: object) => string} pictureUrl address of a picture for the page
   * @param {(file: object) => string} originalUrl address of the untouched file
   * @param {() => boolean} mayStart whether a press may start a drag now
   * @param {(value: number) => void} onPlace the user has turned to another value
   */
  constructor({ pictureUrl, originalUrl, mayStart, onPlace }) {
    this.pictureUrl = pictureUrl;
    this.originalUrl = originalUrl;
    this.onPlace = onPlace;
    this.stage = new Stage({
      mayStart: () => this.#levels.length > 0 && mayStart(),
      onScrub: (fraction, width) => this.#scrub(fraction, width),
      onScrubbed: () => this.#commit(),
      onChange: () => this.#redraw(),
      onToggle: () => this.#toggleCompare(),
    });
    this.slider = new Slider({
      onInput: (value, { smooth }) => this.#turnTo(value, smooth),
      onCommit: () => this.#commit(),
      mayStart,
    });
    this.#build();
    this.slider.setLevels([], "blur", null);
    this.slider.moveThumb(0);
    this.#setState("empty", EMPTY);
  }

  #build() {
    this.name = element("span", { className: "name" });
    this.number = element("span", { className: "number" });
    this.note = element("span", { className: "note" });
    this.message = element("div", { className: "message" });
    this.said = element("div", { className: "said", role: "status" });
    this.progress = element("div", { className: "progress", hidden: true });
    const button = (className, label, path, onClick) => {
      const made = element("button", { className, type: "button", title: label, ariaLabel: label }, icon(path));
      made.addEventListener("click", onClick);
      return made;
    };
    this.compareButton = button("compare", "Compare with the pivot (double-click)", ICONS.compare, () =>
      this.#toggleCompare(),
    );
    this.copyButton = button("copy", "Copy the value", ICONS.copy, () => this.#copy());
    this.openLink = element("a", { className: "open", target: "_blank", rel: "noopener" }, icon(ICONS.open));
    const readout = element("div", { className: "readout" }, this.name, this.number, this.note);
    const buttons = element("div", { className: "buttons" }, this.compareButton, this.openLink, this.copyButton);
    this.stage.element.append(this.message);
    this.stage.frame.append(this.progress, this.said);
    const row = element("div", { className: "row" }, readout, buttons);
    this.panel = element("div", { className: "panel" }, this.slider.element, row);
    this.element = element("div", { className: "bokeh-sweep-view" });
    const root = this.element.attachShadow({ mode: "open" });
    root.adoptedStyleSheets = [sheet];
    root.append(element("div", { className: "view" }, this.stage.element, this.panel));
    root.addEventListener("keydown", (event) => this.#onKey(event));
  }

  /** Show what the node sent; `place` is the value to start at, undefined for the pivot. */
  show(sweep, place) {
    // A run that changed nothing sends the same files again.
    const isSame = JSON.stringify(sweep) === JSON.stringify(this.#sweep);
    if (isSame && this.#pictures && !this.#pictures.failed) return;
    this.#levels = levelsOf(sweep);
    this.#sweep = sweep;
    const start = place ?? this.#reference.value;
    this.#value = this.#shown = this.#committed = clampTo(this.#levels, start);
    // The canvas keeps what was drawn last until the first of the new pictures is there.
    this.#pictures?.close();
    const urls = this.#levels.map((level) => this.pictureUrl(level.file));
    const pictures = new Pictures(urls, sweep, () => pictures === this.#pictures && this.#arrived());
    this.#pictures = pictures;
    this.slider.setLevels(this.#levels, sweep.name, sweep.pivot);
    this.stage.comparing &&= this.#levels.length > 1;
    this.compareButton.disabled = this.#levels.length < 2;
    this.compareButton.ariaPressed = String(this.stage.comparing);
    this.#setState("loading", "");
    pictures.load(nearest(this.#levels, this.#value));
    this.#showValue();
    this.#redraw();
  }

  /** Enlarge the text when the graph is seen from far away; in steps, so that it rests while the zoom moves. */
  setZoom(scale) {
    const enlarged = Math.round(5 * Math.min(Math.max(READABLE_SCALE / scale, 1), MAX_ENLARGED)) / 5;
    if (enlarged === this.#enlarged) return;
    this.#enlarged = enlarged;
    this.element.style.setProperty("--enlarge", enlarged);
  }

  /** Height over width of the pictures, undefined while there are none. */
  get tallness() {
    return this.#sweep ? this.#sweep.height / this.#sweep.width : undefined;
  }

  dispose() {
    cancelAnimationFrame(this.#frame);
    this.#frame = 0;
    clearTimeout(this.#sayTimer);
    this.#pictures?.close();
    this.#pictures = null;
  }

  get #reference() {
    return this.#levels.find((level) => level.reference);
  }

  #arrived() {
    const pictures = this.#pictures;
    if (pictures.failed === pictures.urls.length) {
      this.#setState("gone", GONE);
      return;
    }
    this.#setState(pictures.complete ? "ready" : "loading", "");
    this.#redraw();
  }

  #setState(state, message) {
    this.element.dataset.state = state;
    this.message.textContent = message;
    const { loaded = 0, failed = 0, complete = true, urls = [] } = this.#pictures ?? {};
    this.progress.hidden = complete && !failed;
    const missing = `${failed} of ${urls.length} pictures are missing`;
    this.progress.textContent = complete ? missing : `${loaded} / ${urls.length}`;
    const off = state === "empty" || state === "gone";
    this.panel.inert = off;
    this.panel.classList.toggle("off", off);
  }

  #turnTo(value, smooth) {
    this.#value = value;
    if (!smooth || still.matches) this.#shown = value;
    this.#showValue();
    this.#redraw();
  }

  #scrub(fraction, width) {
    if (fraction === null) {
      this.#scrubFrom = this.#value;
      this.slider.focus();
      return;
    }
    if (this.#levels.length < 2) return;
    const value = clampTo(this.#levels, this.#scrubFrom + fraction * this.slider.span);
    this.#turnTo(this.slider.attracted(value, width), false);
  }

  #commit() {
    if (this.#value === this.#committed) return;
    this.#committed = this.#value;
    this.onPlace(this.#value);
  }

  #showValue() {
    const { lower, upper, mix } = around(this.#levels, this.#value);
    const number = written(this.#levels, this.#value);
    const isPivot = this.#value === this.#sweep.pivot;
    const called = (level) => level.caption ?? plain(level.value, 2);
    const between = `between ${called(this.#levels[lower])} and ${called(this.#levels[upper])}`;
    const names = [this.#levels[lower].caption, isPivot ? "pivot" : undefined].filter(Boolean);
    const note = mix > 0 ? between : names.join(", ");
    this.name.textContent = this.#sweep.name;
    this.number.textContent = number;
    this.note.textContent = note;
    this.note.classList.toggle("is-pivot", isPivot);
    this.slider.setValue(this.#value, `${this.#sweep.name} ${number}${note ? `, ${note}` : ""}`);
    const near = this.#levels[nearest(this.#levels, this.#value)];
    const open = `Open the picture of ${near.label} at full size`;
    this.openLink.href = this.originalUrl(near.file);
    this.openLink.title = this.openLink.ariaLabel = open;
    const copy = `Copy ${this.#sweep.name} ${number}`;
    this.copyButton.title = this.copyButton.ariaLabel = copy;
    const reference = this.#reference;
    const isTrue = reference.value === this.#sweep.pivot;
    this.stage.setTexts({
      picture: `The scene at ${this.#sweep.name} ${number}`,
      left: isTrue ? `pivot, ${reference.label}` : reference.label,
      right: mix > 0 ? `${this.#sweep.name} ${number}` : this.#levels[lower].label,
    });
  }

  #redraw() {
    if (!this.#frame) this.#frame = requestAnimationFrame((time) => this.#draw(time));
  }

  #draw(time) {
    this.#frame = 0;
    // A frame after a rest would otherwise jump by the whole rest.
    const passed = Math.min(time - this.#lastTime, 32);
    this.#lastTime = time;
    const tolerance = this.slider.span / 1000;
    const left = this.#value - this.#shown;
    this.#shown = Math.abs(left) <= tolerance ? this.#value : this.#value - left * Math.exp(-passed / FADE_MS);
    this.slider.moveThumb(this.#shown);
    if (!this.#pictures?.loaded) return;
    const pictures = this.#pictures;
    this.#fitStage(pictures);
    const { lower, upper, mix } = around(this.#levels, this.#shown);
    const lowerLoaded = pictures.nearestLoaded(lower);
    const upperLoaded = pictures.at(upper) ? upper : lowerLoaded;
    const reference = pictures.at(this.#levels.indexOf(this.#reference));
    this.stage.draw(pictures.at(lowerLoaded), pictures.at(upperLoaded), mix, reference);
    if (this.#shown !== this.#value) this.#redraw();
  }

  #fitStage({ width, height }) {
    if (this.#fitted?.width === width && this.#fitted.height === height) return;
    this.#fitted = { width, height };
    this.stage.setSize(width, height);
  }

  #toggleCompare() {
    if (this.#levels.length < 2) return;
    this.stage.comparing = !this.stage.comparing;
    this.compareButton.ariaPressed = String(this.stage.comparing);
    this.#redraw();
  }

  #onKey(event) {
    const leaves = event.key === "Escape" && this.stage.comparing;
    const toggles = event.key === "Enter" && event.target === this.slider.element;
    if (!leaves && !toggles) return;
    event.preventDefault();
    event.stopPropagation();
    this.#toggleCompare();
    if (leaves) this.slider.focus();
  }

  async #copy() {
    const number = written(this.#levels, this.#value);
    try {
      await navigator.clipboard.writeText(number);
      this.#say(`Copied ${number}`);
    } catch {
      // Without https, and away from localhost, a page has no clipboard at all.
      this.#say(`The browser does not allow copying here: ${number}`);
    }
  }

  #say(text) {
    this.said.textContent = text;
    clearTimeout(this.#sayTimer);
    this.#sayTimer = setTimeout(() => (this.said.textContent = ""), SAID_MS);
  }
}
