/** One sweep as one picture with a slider: what the node shows. Knows nothing of nodes and graphs. */

import { base } from "./base_style.js";
import { briefly, element } from "./dom.js";
import { around, clampTo, levelsOf, nearest, plain, written } from "./levels.js";
import { Loupe } from "./loupe.js";
import { Menu } from "./menu.js";
import { Other } from "./other.js";
import { copyPicture, savePicture } from "./picture_files.js";
import { Pictures } from "./pictures.js";
import { Slider } from "./slider.js";
import { Screen } from "./screen.js";
import { sheet } from "./style.js";
import { say, tools } from "./tools.js";

// Time constant of the fade after a key press, in ms.
const FADE_MS = 60;
// Zoomed out further than to this scale, text would become too small to read.
const READABLE_SCALE = 0.75;
const MAX_ENLARGED = 2.2;
// From here on the text needs the place of the buttons.
const FAR = 1.4;
const SAID_MS = 2500;
const EMPTY = "Queue the graph to look through the sweep.";
const GONE = "The server no longer has these pictures. Queue the graph again.";

const still = matchMedia("(prefers-reduced-motion: reduce)");

export class SweepView {
  #levels = [];
  #sweep = null;
  #pictures = null;
  #used = null;
  #value = 0;
  #committed = 0;
  #shown = 0;
  #scrubFrom = 0;
  #enlarged = 1;
  #fitted = null;
  #frame = 0;
  #lastTime = 0;
  #say;

  /**
   * @param {(file: object) => string} pictureUrl address of a picture for the page
   * @param {(file: object) => string} originalUrl address of the untouched file
   * @param {() => boolean} mayStart whether a press may start a drag now
   * @param {(value: number) => void} onPlace the user has turned to another value
   * @param {(value: number) => void} onUse the level that is to leave the node
   * @param {(file: object, name: string) => Promise<void>} onInput make the picture an input of the graph
   */
  constructor({ pictureUrl, originalUrl, mayStart, onPlace, onUse, onInput }) {
    this.pictureUrl = pictureUrl;
    this.originalUrl = originalUrl;
    this.onPlace = onPlace;
    this.onUse = onUse;
    this.onInput = onInput;
    this.other = new Other(pictureUrl, () => this.#redraw());
    this.screen = new Screen({
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
    this.#say = briefly(this.said, SAID_MS);
    this.progress = element("div", { className: "progress", hidden: true });
    this.tools = tools({
      compare: () => this.#toggleCompare(),
      copy: () => this.#copy(),
      loupe: () => this.#toggleLoupe(),
      save: () => this.#save(),
      use: () => this.#use(),
    });
    const readout = element("div", { className: "readout" }, this.name, this.number, this.note);
    this.remark = element("p", { className: "remark", role: "status", hidden: true });
    this.screen.element.append(this.message);
    this.loupe = new Loupe(this.screen);
    this.screen.frame.append(this.progress, this.said);
    const row = element("div", { className: "row" }, readout, this.tools.element);
    this.panel = element("div", { className: "panel" }, this.slider.element, row);
    this.element = element("div", { className: "bokeh-sweep-view" });
    const root = this.element.attachShadow({ mode: "open" });
    root.adoptedStyleSheets = [base, sheet];
    const all = element("div", { className: "view" }, this.screen.element, this.remark, this.panel);
    this.menu = new Menu(all);
    root.append(all);
    root.addEventListener("keydown", (event) => this.#onKey(event));
    all.addEventListener("contextmenu", (event) => {
      event.preventDefault();
      event.stopPropagation();
      if (this.#levels.length) this.menu.open(event, this.#entries(), this.slider.element);
    });
  }

  /** Show what the node sent; `place` is the value to start at, undefined for the pivot. */
  show(sweep, place) {
    // A run that changed nothing sends the same files again.
    const isSame = JSON.stringify(sweep) === JSON.stringify(this.#sweep);
    if (isSame && this.#pictures && !this.#pictures.failed) return;
    this.#levels = levelsOf(sweep);
    this.#sweep = sweep;
    this.other.setSweep(sweep, this.#levels);
    const [remark = ""] = sweep.remarks ?? [];
    this.remark.textContent = remark;
    this.remark.hidden = !remark;
    const start = place ?? this.other.reference.value;
    this.#value = this.#shown = this.#committed = clampTo(this.#levels, start);
    // The canvas keeps what was drawn last until the first of the new pictures is there.
    this.#pictures?.close();
    const urls = this.#levels.map((level) => this.pictureUrl(level.file));
    const pictures = new Pictures(urls, sweep, () => pictures === this.#pictures && this.#arrived());
    this.#pictures = pictures;
    this.slider.setLevels(this.#levels, sweep.name, sweep.pivot);
    this.screen.comparing &&= this.#levels.length > 1;
    this.tools.compare.disabled = this.#levels.length < 2;
    this.tools.compare.ariaPressed = String(this.screen.comparing);
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
    this.element.toggleAttribute("data-far", enlarged > FAR);
  }

  /** Turn to a level; whether there is one of that value. */
  turnTo(value) {
    if (!this.#levels.some((level) => level.value === value)) return false;
    this.#turnTo(value, true);
    this.#commit();
    return true;
  }

  /** The value of the level that leaves the node, null for the pivot's. */
  set used(value) {
    this.#used = value;
    if (this.#levels.length) this.#showValue();
  }

  /** Height over width of the pictures, undefined while there are none. */
  get tallness() {
    return this.#sweep ? this.#sweep.height / this.#sweep.width : undefined;
  }

  dispose() {
    cancelAnimationFrame(this.#frame);
    this.#frame = 0;
    this.#pictures?.close();
    this.#pictures = null;
    this.other.stopLast();
  }

  /** The level that is meant by what can be done with one: the nearest. */
  get #near() {
    return this.#nearTo(this.#value);
  }

  #nearTo(value) {
    return this.#levels[nearest(this.#levels, clampTo(this.#levels, value))];
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
    const near = this.#near;
    this.tools.open.href = this.originalUrl(near.file);
    say(this.tools.open, `Open the picture of ${near.label} at full size`);
    say(this.tools.copy, `Copy ${this.#sweep.name} ${number}`);
    say(this.tools.save, `Save the picture of ${near.label} (S)`);
    const used = this.#used === null ? this.other.reference : this.#nearTo(this.#used);
    this.tools.use.ariaPressed = String(used === near);
    this.screen.setTexts({
      picture: `The scene at ${this.#sweep.name} ${number}`,
      left: this.other.at(this.#value).label,
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
    this.screen.draw(pictures.at(lowerLoaded), pictures.at(upperLoaded), mix, this.other.at(this.#value, pictures).picture);
    this.loupe.draw();
    if (this.#shown !== this.#value) this.#redraw();
  }

  #fitStage({ width, height }) {
    if (this.#fitted?.width === width && this.#fitted.height === height) return;
    this.#fitted = { width, height };
    this.screen.setSize(width, height);
  }

  #toggleCompare() {
    if (this.#levels.length < 2) return;
    this.screen.comparing = !this.screen.comparing;
    this.tools.compare.ariaPressed = String(this.screen.comparing);
    this.#redraw();
  }

  /** Compare with a level, null for the pivot, or with "last", the last run. */
  #compareWith(what) {
    if (what === "last") this.other.takeLast(this.#value);
    else this.other.hold(what);
    if (!this.screen.comparing) this.#toggleCompare();
    this.#showValue();
    this.#redraw();
  }

  #toggleLoupe() {
    this.loupe.on = !this.loupe.on;
    this.tools.loupe.ariaPressed = String(this.loupe.on);
  }

  #use() {
    const { value, label } = this.#near;
    this.onUse(value);
    this.#say(`${label} leaves the node at image and blur from the next run on`);
  }

  #fileName({ value }) {
    return `${this.#sweep.name}_${plain(value, 2)}.png`;
  }

  /** Do something with the nearest level's picture, and say when it did not work. */
  async #withPicture(act, done, failed) {
    const near = this.#near;
    try {
      await act(near);
      if (done) this.#say(`${done} ${near.label}`);
    } catch (error) {
      this.#say(`${failed} (${error.message})`);
    }
  }

  #save() {
    const save = (near) => savePicture(this.originalUrl(near.file), this.#fileName(near));
    return this.#withPicture(save, "", "The picture cannot be saved");
  }

  #entries() {
    const near = this.#near;
    const copy = ({ file }) => copyPicture(this.originalUrl(file));
    const input = (level) => this.onInput(level.file, this.#fileName(level));
    return [
      [`Use ${near.label}`, () => this.#use(), "U"],
      [`Compare with ${near.label}`, () => this.#compareWith(near), "A"],
      ["Compare with the pivot", () => this.#compareWith(null)],
      ...(this.other.hasLast ? [["Compare with the last run", () => this.#compareWith("last")]] : []),
      [this.loupe.on ? "Put the loupe away" : "Loupe at 100 %", () => this.#toggleLoupe(), "L"],
      ["Copy the picture", () => this.#withPicture(copy, "Copied", "The browser does not allow copying here")],
      ["Copy the value", () => this.#copy()],
      ["Save the picture", () => this.#save(), "S"],
      ["Open at full size", () => this.tools.open.click()],
      ["Load it in a new node", () => this.#withPicture(input, "Load Image has", "The picture cannot be loaded")],
    ];
  }

  #onKey(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || !this.#levels.length) return;
    const key = event.code.startsWith("Digit") ? event.code.slice(-1) : event.key.toLowerCase();
    const level = this.#levels[Number(key) - 1];
    const acts = {
      a: () => this.#compareWith(this.#near),
      l: () => this.#toggleLoupe(),
      s: () => this.#save(),
      u: () => this.#use(),
    };
    let act = acts[key];
    if (key === "escape" && (this.screen.comparing || this.loupe.on)) act = () => this.#leave();
    if (key === "enter" && event.target === this.slider.element) act = () => this.#toggleCompare();
    if (level) act = () => (event.shiftKey ? this.#compareWith(level) : this.turnTo(level.value));
    if (!act) return;
    event.preventDefault();
    event.stopPropagation();
    act();
  }

  #leave() {
    if (this.loupe.on) this.#toggleLoupe();
    else this.#toggleCompare();
    this.slider.focus();
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
}
