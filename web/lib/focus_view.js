/** A picture in which focus is chosen, with the aperture ring under it. Knows nothing of nodes and graphs. */

import { base } from "./base_style.js";
import { briefly, element, isPages, onDrag, shadowed, take, within } from "./dom.js";
import { focusOf, ringOf, stepAt } from "./focus_optics.js";
import { Preview } from "./focus_preview.js";
import { sheet } from "./focus_style.js";
import { say } from "./words.js";

// From one step of the ring to the next, in em.
const STEP_EM = 1.5;
const KEY_STEP = 0.01;
const FINE_KEY_STEP = 0.001;
const SAID_MS = 3500;
// A key that was let go elsewhere has ended by then.
const KEY_MS = 600;
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

export class FocusView {
  #picture = null;
  #map = null;
  #size = null;
  #changes = {};
  #preview = null;
  #frame = 0;
  #say;
  #ringFrom = 0;
  #ringKey = "";
  #keyTimer = 0;

  /** @param {object} calls read() and write(changes) the widgets, a sentence where it cannot; mayStart() a gesture */
  constructor({ read, write, mayStart }) {
    this.read = read;
    this.write = write;
    this.#build(mayStart);
    this.refresh();
  }

  #build(mayStart) {
    this.canvas = element("canvas", { role: "img", ariaLabel: say("The picture, out of focus as it is set") });
    this.from = element("div.point.from");
    this.to = element("div.point.to", { hidden: true });
    this.line = element("div.line", { hidden: true });
    this.tag = element("div.tag");
    this.said = element("div.tag.said", { role: "status" });
    this.#say = briefly(this.said, SAID_MS);
    this.message = element("div.message");
    const inside = [this.canvas, this.line, this.to, this.from, this.tag, this.said];
    const ariaLabel = say("Focus point: click, or move it with the arrow keys. Alt-click sets where a focus pull ends.");
    this.frame = element("div.frame", { tabIndex: 0, role: "application", ariaLabel }, ...inside);
    this.screen = element("div.screen", {}, this.frame, this.message);
    this.marks = element("div.marks");
    this.ring = element("div.ring", { role: "slider", tabIndex: 0, ariaLabel: say("Aperture") }, this.marks);
    this.words = element("div.words");
    const toggle = (text, title, onChange) => {
      const made = element("button", { type: "button", title, ariaPressed: "false" }, text);
      made.addEventListener("click", () => {
        made.ariaPressed = String(made.ariaPressed !== "true");
        onChange?.();
      });
      return made;
    };
    const refresh = () => this.refresh();
    this.pull = toggle(say("pull"), say("The next click sets where a focus pull ends (Alt-click)"));
    this.overlay = toggle(say("in focus"), say("Colour what is in focus"), refresh);
    this.plain = toggle(say("sharp"), say("Show the picture without blur"), refresh);
    const row = element("div.row", {}, this.words, this.pull, this.overlay, this.plain);
    const all = element("div.view", {}, this.screen, this.ring, row);
    this.element = shadowed("bokeh-focus-view", [base, sheet], all);
    try {
      this.#preview = new Preview(this.canvas);
    } catch (error) {
      // The canvas then draws the picture alone.
      console.warn(`Bokeh Focus: no preview of the blur (${error.message})`);
    }

    let place = null;
    onDrag(this.frame, () => this.#picture && mayStart(), {
      onStart: (event) => {
        this.frame.focus({ preventScroll: true });
        const pulls = event.altKey || this.pull.ariaPressed === "true";
        place = pulls ? ["pull_x", "pull_y"] : ["focus_x", "focus_y"];
        if (pulls && this.#isOn(this.to, event)) {
          place = null;
          this.#change({ pull: "off" });
        } else this.#point(place, event);
      },
      onMove: (event) => place && this.#point(place, event),
      onEnd: () => {
        this.pull.ariaPressed = "false";
        this.#commit();
      },
    });
    let pressed = 0;
    onDrag(this.ring, mayStart, {
      onStart: (event) => {
        this.ring.focus({ preventScroll: true });
        pressed = event.clientX;
        this.#ringFrom = stepAt(ringOf(this.#values));
      },
      onMove: (event) => {
        // On screen: holds at every zoom of the graph.
        const { width } = this.ring.getBoundingClientRect();
        const em = (width / this.ring.offsetWidth) * parseFloat(getComputedStyle(this.ring).fontSize);
        this.#turn(this.#ringFrom - Math.round((event.clientX - pressed) / (STEP_EM * em)));
      },
      onEnd: () => this.#commit(),
    });
    this.frame.addEventListener("keydown", (event) => this.#onFrameKey(event));
    this.ring.addEventListener("keydown", (event) => this.#onRingKey(event));
    // A key that is held down is one gesture.
    for (const part of [this.frame, this.ring]) {
      for (const type of ["keyup", "blur"]) part.addEventListener(type, () => this.#commit());
    }
  }

  get #values() {
    return { ...this.read(), ...this.#changes };
  }

  /** A small picture, its depth {width, height, values, low, high, metres, plane} if known, the real picture's size. */
  show(picture, map, size) {
    this.#picture = picture;
    this.#size = size;
    this.#map = map && {
      ...map,
      valueAt: (x, y) => {
        const column = within(Math.floor(x * map.width), 0, map.width - 1);
        return map.values[within(Math.floor(y * map.height), 0, map.height - 1) * map.width + column];
      },
    };
    if (picture) {
      this.screen.style.setProperty("--ratio", picture.width / picture.height);
      if (this.#preview) this.#preview.setScene(picture, map);
      else {
        Object.assign(this.canvas, { width: picture.width, height: picture.height });
        this.canvas.getContext("2d")?.drawImage(picture, 0, 0);
      }
    }
    this.refresh();
  }

  /** Show what the widgets say, at the next frame. */
  refresh() {
    this.#frame ||= requestAnimationFrame(() => this.#draw());
  }

  dispose() {
    cancelAnimationFrame(this.#frame);
    this.#preview?.dispose();
  }

  #draw() {
    this.#frame = 0;
    const values = this.#values;
    const picture = this.#picture;
    this.frame.hidden = !picture;
    const empty = say("Connect a Load Image to see its picture here, or queue the graph once.");
    this.message.textContent = picture ? "" : empty;
    this.#drawRing(values);
    this.#drawPoints(values);
    if (!picture) return;
    const plain = this.plain.ariaPressed === "true" || !this.#map;
    const drawn = this.#map ? (plain ? "" : say("preview")) : say("queue once for the preview");
    this.tag.textContent = this.#preview ? drawn : say("no preview: no WebGL 2");
    if (!this.#map) {
      this.words.textContent = "";
      this.#preview?.draw({ plane: 0, gain: 0, sharp: 0, limit: -1, overlay: false, plain: true });
      return;
    }
    const focus = focusOf(values, this.#map, this.#size.width, this.#size.height);
    const scale = Math.min(picture.width, picture.height) / 512;
    const { plane, sharp, words } = focus;
    this.words.textContent = this.words.title = words;
    const overlay = this.overlay.ariaPressed === "true";
    this.#preview?.draw({ plane, sharp, gain: focus.gain * scale, limit: focus.limit * scale, overlay, plain });
  }

  #drawPoints({ focus_by, focus_x, focus_y, pull, pull_x, pull_y }) {
    this.from.hidden = focus_by !== "point";
    this.to.hidden = pull === "off";
    this.line.hidden = this.from.hidden || this.to.hidden;
    const put = (part, x, y) => Object.assign(part.style, { left: `${100 * x}%`, top: `${100 * y}%` });
    put(this.from, focus_x, focus_y);
    put(this.to, pull_x, pull_y);
    put(this.line, focus_x, focus_y);
    const [x, y] = [(pull_x - focus_x) * this.frame.clientWidth, (pull_y - focus_y) * this.frame.clientHeight];
    Object.assign(this.line.style, { width: `${Math.hypot(x, y)}px`, rotate: `${Math.atan2(y, x)}rad` });
  }

  #drawRing(values) {
    const ring = ringOf(values);
    const set = stepAt(ring);
    const key = JSON.stringify([ring.name, ring.steps[0], set]);
    if (key === this.#ringKey) return;
    this.#ringKey = key;
    this.marks.replaceChildren(
      ...ring.steps.flatMap((step, index) => {
        const apart = index - set;
        const written = index === set || (ring.name === "blur" ? step % 2 === 0 : index % 3 === set % 3);
        if (!written || Math.abs(apart) > 15) return [];
        const mark = element("span", { className: index === set ? "mark set" : "mark" }, index === set ? ring.write(step) : String(step));
        mark.style.left = `${apart * STEP_EM}em`;
        return mark;
      }),
    );
    const [ariaValueMin, ariaValueMax, ariaValueNow] = [ring.steps[0], ring.steps.at(-1), ring.steps[set]];
    const ariaValueText = ring.write(ariaValueNow);
    Object.assign(this.ring, { ariaValueMin, ariaValueMax, ariaValueNow, ariaValueText });
  }

  #isOn(point, { clientX, clientY }) {
    const { left, right, top, bottom } = point.getBoundingClientRect();
    return clientX >= left && clientX <= right && clientY >= top && clientY <= bottom;
  }

  #point([x, y], event) {
    const { left, top, width, height } = this.frame.getBoundingClientRect();
    const at = (distance, side) => Number(within(distance / side, 0, 1).toFixed(4));
    this.#move(x, y, at(event.clientX - left, width), at(event.clientY - top, height));
  }

  #move(nameX, nameY, x, y) {
    const values = this.#values;
    const other = nameX === "focus_x" ? { focus_by: "point" } : values.pull === "off" ? { pull: "eased" } : {};
    this.#change({ [nameX]: x, [nameY]: y, ...other });
  }

  #turn(step) {
    const { name, steps } = ringOf(this.#values);
    this.#change({ [name]: steps[within(step, 0, steps.length - 1)] });
  }

  #change(changes) {
    Object.assign(this.#changes, changes);
    this.refresh();
  }

  #commit() {
    clearTimeout(this.#keyTimer);
    const before = this.read();
    const changes = Object.fromEntries(Object.entries(this.#changes).filter(([name, value]) => before[name] !== value));
    this.#changes = {};
    if (!Object.keys(changes).length) return;
    const problem = this.write(changes);
    if (problem) this.#say(problem);
    this.refresh();
  }

  #onFrameKey(event) {
    const way = ARROWS[event.key];
    // Alt moves the end of the pull.
    if (!way || !this.#picture || event.ctrlKey || event.metaKey) return;
    this.#take(event);
    const [nameX, nameY] = event.altKey ? ["pull_x", "pull_y"] : ["focus_x", "focus_y"];
    const step = event.shiftKey ? FINE_KEY_STEP : KEY_STEP;
    const values = this.#values;
    const at = (name, by) => Number(within(values[name] + by * step, 0, 1).toFixed(4));
    this.#move(nameX, nameY, at(nameX, way[0]), at(nameY, way[1]));
  }

  #onRingKey(event) {
    if (isPages(event)) return;
    const ring = ringOf(this.#values);
    const [along, up] = ARROWS[event.key] ?? [0, 0];
    const ends = { Home: -Infinity, End: Infinity };
    const by = ends[event.key] ?? along - up;
    if (!by) return;
    this.#take(event);
    this.#turn(stepAt(ring) + by);
  }

  #take(event) {
    take(event);
    clearTimeout(this.#keyTimer);
    this.#keyTimer = setTimeout(() => this.#commit(), KEY_MS);
  }
}
