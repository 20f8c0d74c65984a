/** One sweep as one picture with a slider. Knows nothing of nodes and graphs. */

import { actsOf, iconButton, Menu, tools } from "./acts.js";
import { base } from "./base_style.js";
import { briefly, element, isPages, shadowed, take, within } from "./dom.js";
import { around, clampTo, levelsOf, nearest, plain, scenesOf, written } from "./levels.js";
import { Loupe } from "./loupe.js";
import { Other } from "./other.js";
import { Pictures } from "./pictures.js";
import { Screen } from "./screen.js";
import { Slider } from "./slider.js";
import { sheet } from "./style.js";
import { named, say } from "./words.js";

// Time constant of the fade after a key press, in ms.
const FADE_MS = 60;
// From here on text is enlarged.
const READABLE_SCALE = 0.75;
const MAX_ENLARGED = 2.2;
// From here on the text needs the place of the buttons.
const FAR = 1.4;
const SAID_MS = 2500;

const still = matchMedia("(prefers-reduced-motion: reduce)");

export class SweepView {
  #levels = [];
  /** What a preview stands in the place of. */
  #sampled = null;
  #preview = "";
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
  sweep = null;
  scene = 0;

  /**
   * @param {object} calls pictureUrl(file), originalUrl(file): of the page's and of the untouched picture; mayStart() a
   *     drag; onLook({place?, scene?}) at another; onUse(value); async onInput(file, name) of the graph
   */
  constructor(calls) {
    Object.assign(this, calls);
    this.other = new Other(this.pictureUrl, () => this.#redraw());
    this.screen = new Screen({
      mayStart: ({ target }) => this.#levels.length > 0 && !this.scenes.contains(target) && this.mayStart(),
      onScrub: (fraction, width) => this.#scrub(fraction, width),
      onScrubbed: () => this.#commit(),
      onChange: () => this.#redraw(),
      onToggle: () => this.toggleCompare(),
    });
    this.slider = new Slider({
      onInput: (value, { smooth }) => this.#turnTo(value, smooth),
      onCommit: () => this.#commit(),
      mayStart: this.mayStart,
    });
    this.#build();
    this.#clear();
  }

  #build() {
    const hidden = true;
    this.name = element("span.name");
    this.number = element("span.number");
    this.note = element("span.note");
    this.message = element("div.message");
    this.said = element("div.tag.said", { role: "status" });
    this.tell = briefly(this.said, SAID_MS);
    this.progress = element("div.tag.progress", { hidden });
    this.tools = tools((id) => this.#acts.find((act) => act.id === id).act());
    this.sceneName = element("span", { role: "status" });
    this.scenes = element(
      "div.scenes",
      { hidden },
      iconButton("M10 3 5 8l5 5", () => this.#turnScene(-1), { ariaLabel: say("Previous scene (Page Up)") }),
      this.sceneName,
      iconButton("M6 3l5 5-5 5", () => this.#turnScene(1), { ariaLabel: say("Next scene (Page Down)") }),
    );
    const readout = element("div.readout", {}, this.name, this.number, this.note);
    this.remark = element("p.remark", { role: "status", hidden });
    this.screen.element.append(this.message);
    // Two clicks on a button are no double-click.
    this.scenes.addEventListener("dblclick", (event) => event.stopPropagation());
    this.loupe = new Loupe(this.screen);
    this.screen.frame.append(this.progress, this.said, this.scenes);
    const row = element("div.row", {}, readout, this.tools.element);
    this.panel = element("div.panel", {}, this.slider.element, row);
    const all = element("div.view", {}, this.screen.element, this.remark, this.panel);
    this.menu = new Menu(all);
    this.element = shadowed("bokeh-sweep-view", [base, sheet], all);
    all.addEventListener("keydown", (event) => this.#onKey(event));
    all.addEventListener("contextmenu", (event) => {
      take(event);
      if (this.#acts.length) this.menu.open(event, this.#acts, this.slider.element);
    });
  }

  #clear() {
    this.dispose();
    this.#levels = [];
    this.sweep = null;
    this.scenes.hidden = true;
    this.slider.setLevels([], "", null);
    this.slider.moveThumb(0);
    this.#setState("empty", say("Queue the graph to look through the sweep."));
  }

  /** Show what the node sent, at a value (undefined for the pivot) and a scene. */
  show(sweep, { place, scene = 0 } = {}) {
    // A run that changed nothing sends the same files again.
    const isSame = JSON.stringify(sweep) === JSON.stringify(this.sweep);
    if (isSame && this.#pictures && !this.#pictures.failed) return;
    this.#setPreview("");
    this.#sampled = sweep;
    const [remark = ""] = sweep.remarks ?? [];
    this.remark.textContent = remark;
    this.remark.hidden = !remark;
    this.#display(sweep, place, scene);
  }

  /** Show what is being sampled, with words over it, until `show` or `endPreview`. */
  preview(sweep, words) {
    this.screen.comparing = this.loupe.on = false;
    this.#setPreview(words);
    this.#display(sweep, this.#levels.length ? this.#value : undefined, this.scene);
  }

  /** Sampling came to nothing: show what was there before. */
  endPreview() {
    if (!this.#preview) return;
    this.#setPreview("");
    if (this.#sampled) this.#display(this.#sampled, this.#value, this.scene);
    else this.#clear();
  }

  #setPreview(words) {
    this.#preview = words;
    this.tools.element.inert = Boolean(words);
    this.element.toggleAttribute("data-preview", Boolean(words));
  }

  #display(sweep, place, scene) {
    this.sweep = sweep;
    const count = scenesOf(sweep);
    this.scene = Math.min(scene, count - 1);
    this.scenes.hidden = count < 2;
    this.sceneName.textContent = say("scene {number} of {count}", { number: this.scene + 1, count });
    this.#levels = levelsOf(sweep, this.scene);
    if (!this.#preview) this.other.setSweep(sweep, this.#levels);
    this.#value = this.#shown = this.#committed = clampTo(this.#levels, place ?? this.#reference.value);
    // The canvas keeps its picture until a new one is there.
    this.#pictures?.close();
    const urls = this.#levels.map((level) => this.pictureUrl(level.file));
    const pictures = new Pictures(urls, sweep, () => pictures === this.#pictures && this.#arrived());
    this.#pictures = pictures;
    this.slider.setLevels(this.#levels, named(sweep.name), sweep.pivot);
    this.screen.comparing &&= this.#levels.length > 1;
    this.tools.compare.disabled = this.#levels.length < 2;
    this.#setState("loading", "");
    pictures.load(nearest(this.#levels, this.#value));
    this.#showValue();
    this.#redraw();
  }

  #turnScene(by) {
    const count = scenesOf(this.sweep);
    if (count < 2) return;
    this.#display(this.sweep, this.#value, (this.scene + by + count) % count);
    this.onLook({ scene: this.scene });
  }

  /** Enlarge the text when the graph is far away; in steps, so that it rests while the zoom moves. */
  setZoom(scale) {
    if (document.fullscreenElement === this.element) scale = 1;
    const enlarged = Math.round(5 * within(READABLE_SCALE / scale, 1, MAX_ENLARGED)) / 5;
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

  /** The value that leaves the node, null for the pivot's. */
  set used(value) {
    this.#used = value;
    if (this.#levels.length) this.#showValue();
  }

  get tallness() {
    return this.sweep.height / this.sweep.width;
  }

  dispose() {
    cancelAnimationFrame(this.#frame);
    this.#frame = 0;
    this.#pictures?.close();
    this.#pictures = null;
    this.other.stopLast();
  }

  /** The nearest level: what is done is done with it. */
  get near() {
    return this.#nearTo(this.#value);
  }

  get #reference() {
    return this.#levels.find((level) => level.reference);
  }

  /** What can be done; nothing with what is still being sampled. */
  get #acts() {
    return this.#levels.length && !this.#preview ? actsOf(this) : [];
  }

  #nearTo(value) {
    return this.#levels[nearest(this.#levels, clampTo(this.#levels, value))];
  }

  #arrived() {
    const { complete, failed, urls } = this.#pictures;
    if (failed === urls.length) {
      this.#setState("gone", say("The server no longer has these pictures. Queue the graph again."));
      return;
    }
    this.#setState(complete ? "ready" : "loading", "");
    this.#redraw();
  }

  #setState(state, message) {
    this.element.dataset.state = state;
    this.message.textContent = message;
    const { loaded = 0, failed = 0, complete = true, urls = [] } = this.#pictures ?? {};
    this.progress.hidden = complete && !failed && !this.#preview;
    const missing = say("{failed} of {count} pictures are missing", { failed, count: urls.length });
    this.progress.textContent = this.#preview || (complete ? missing : `${loaded} / ${urls.length}`);
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
    this.onLook({ place: this.#value });
  }

  #showValue() {
    const { lower, upper, mix } = around(this.#levels, this.#value);
    const number = written(this.#levels, this.#value);
    const name = named(this.sweep.name);
    const value = `${name} ${number}`;
    const isPivot = this.#value === this.sweep.pivot;
    const [low, high] = [lower, upper].map((index) => this.#levels[index].caption ?? plain(this.#levels[index].value, 2));
    const names = [this.#levels[lower].caption, isPivot && say("pivot")].filter(Boolean);
    const note = mix > 0 ? say("between {low} and {high}", { low, high }) : names.join(", ");
    this.name.textContent = name;
    this.number.textContent = number;
    this.note.textContent = note;
    this.note.classList.toggle("is-pivot", isPivot);
    this.slider.setValue(this.#value, note ? `${value}, ${note}` : value);
    const { near, tools } = this;
    tools.name(this.#acts);
    tools.use.ariaPressed = near === (this.#used === null ? this.#reference : this.#nearTo(this.#used));
    tools.compare.ariaPressed = this.screen.comparing;
    tools.loupe.ariaPressed = this.loupe.on;
    this.screen.setTexts({
      picture: say("The scene at {value}", { value }),
      left: this.screen.comparing ? this.other.at(this.#value).label : "",
      right: mix > 0 ? value : this.#levels[lower].label,
    });
  }

  #redraw() {
    if (!this.#frame) this.#frame = requestAnimationFrame((time) => this.#draw(time));
  }

  #draw(time) {
    this.#frame = 0;
    // No jump after a rest.
    const passed = Math.min(time - this.#lastTime, 32);
    this.#lastTime = time;
    const tolerance = this.slider.span / 1000;
    const left = this.#value - this.#shown;
    this.#shown = Math.abs(left) <= tolerance ? this.#value : this.#value - left * Math.exp(-passed / FADE_MS);
    this.slider.moveThumb(this.#shown);
    if (!this.#pictures?.loaded) return;
    const pictures = this.#pictures;
    this.#fitScreen(pictures);
    const { lower, upper, mix } = around(this.#levels, this.#shown);
    const lowerLoaded = pictures.nearestLoaded(lower);
    const upperLoaded = pictures.at(upper) ? upper : lowerLoaded;
    const other = this.screen.comparing ? this.other.at(this.#value, pictures).picture : null;
    this.screen.draw(pictures.at(lowerLoaded), pictures.at(upperLoaded), mix, other);
    this.loupe.draw();
    if (this.#shown !== this.#value) this.#redraw();
  }

  #fitScreen({ width, height }) {
    if (this.#fitted?.width === width && this.#fitted.height === height) return;
    this.#fitted = { width, height };
    this.screen.setSize(width, height);
  }

  toggleCompare() {
    if (this.#levels.length < 2 || this.#preview) return;
    this.screen.comparing = !this.screen.comparing;
    this.#showValue();
    this.#redraw();
  }

  /** Compare with a level, null for the pivot, or with "last", the last run. */
  compareWith(what) {
    if (what === "last") this.other.takeLast(this.#value, this.scene);
    else this.other.hold(what);
    this.screen.comparing = false;
    this.toggleCompare();
  }

  toggleFull() {
    if (document.fullscreenElement) document.exitFullscreen();
    else this.element.requestFullscreen();
    this.slider.focus();
  }

  toggleLoupe() {
    this.loupe.on = !this.loupe.on;
    this.#showValue();
  }

  #onKey(event) {
    if (isPages(event) || !this.#levels.length) return;
    const key = event.code.startsWith("Digit") ? event.code.slice(-1) : event.key;
    const level = this.#levels[Number(key) - 1];
    const keys = { PageUp: () => this.#turnScene(-1), PageDown: () => this.#turnScene(1) };
    for (const { key: letter, act } of this.#acts) if (letter) keys[letter] = act;
    if (level) keys[key] = () => (event.shiftKey && !this.#preview ? this.compareWith(level) : this.turnTo(level.value));
    if (this.screen.comparing || this.loupe.on) keys.Escape = () => this.#leave();
    if (event.target === this.slider.element) keys.Enter = () => this.toggleCompare();
    const act = keys[key] ?? keys[key.toUpperCase()];
    if (!act) return;
    take(event);
    act();
  }

  #leave() {
    if (this.loupe.on) this.toggleLoupe();
    else this.toggleCompare();
    this.slider.focus();
  }
}
