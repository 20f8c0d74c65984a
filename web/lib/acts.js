/** What can be done with the level that is seen, and the buttons and the menu for it. */

import { element, icon } from "./dom.js";
import { plain, scenesOf } from "./levels.js";
import { copyPicture, savePicture } from "./picture_files.js";
import { say } from "./words.js";

/** Button -> drawing. */
const ICONS = {
  compare: "M8 1.5v13M2 3.5h4v9H2zM10 3.5h4v9h-4z",
  loupe: "M11 7A4 4 0 1 1 3 7a4 4 0 0 1 8 0M10 10l4 4M5 7h4M7 5v4",
  use: "M2.5 8h9M8 4.5 11.5 8 8 11.5M13.5 3v10",
  save: "M8 2.5v7M5 6.5l3 3 3-3M3 13.5h10",
  open: "M6.5 3H3v10h10V9.5M9 2.5h4.5V7M13.5 2.5 7.5 8.5",
  copy: "M5.5 5.5h8v8h-8zM10.5 5.5v-3h-8v8h3",
};

/** In the order of the menu: name now, what it does, key. */
export function actsOf(view) {
  const { near, screen, sweep, scene } = view;
  const level = near.label;
  const first = scenesOf(sweep) > 1 ? `scene_${scene + 1}_` : "";
  const name = `${first}${sweep.name}_${plain(near.value, 2)}.png`;
  const url = () => view.originalUrl(near.file);
  const withPicture = (act, done, failed) => async () => {
    try {
      await act();
      if (done) view.tell(done);
    } catch (error) {
      view.tell(`${failed} (${error.message})`);
    }
  };
  const use = () => {
    view.onUse(near.value);
    view.tell(say("{level} leaves the node at image and blur from the next run on", { level }));
  };
  const acts = {
    use: [say("Use {level}", { level }), use, "U"],
    hold: [say("Compare with {level}", { level }), () => view.compareWith(near), "A"],
    compare: screen.comparing
      ? [say("Stop comparing"), () => view.toggleCompare()]
      : [say("Compare with the pivot"), () => view.compareWith(null)],
    last: [say("Compare with the last run"), () => view.compareWith("last")],
    loupe: [say("Loupe at 100 %"), () => view.toggleLoupe(), "L"],
    full: [document.fullscreenElement ? say("Leave the full window") : say("Full window"), () => view.toggleFull(), "F"],
    copy: [
      say("Copy the picture of {level}", { level }),
      withPicture(() => copyPicture(url()), say("Copied {level}", { level }), say("The browser does not allow copying here")),
    ],
    save: [
      say("Save the picture of {level}", { level }),
      withPicture(() => savePicture(url(), name), "", say("The picture cannot be saved")),
      "S",
    ],
    open: [say("Open the picture of {level} at full size", { level }), () => window.open(url(), "_blank", "noopener")],
    input: [
      say("Load it in a new node"),
      withPicture(
        () => view.onInput(near.file, name),
        say("Load Image has {level}", { level }),
        say("The picture cannot be loaded"),
      ),
    ],
  };
  if (!view.other.hasLast) delete acts.last;
  return Object.entries(acts).map(([id, [text, act, key]]) => ({ id, text, act, key }));
}

/** A button with a drawing. */
export function iconButton(path, act, properties) {
  const button = element("button", { type: "button", ...properties }, icon(path));
  button.addEventListener("click", act);
  return button;
}

/** The buttons by their names, each calling `act(name)`; `element` holds them all. */
export function tools(act) {
  const made = {};
  for (const [key, path] of Object.entries(ICONS)) {
    made[key] = iconButton(path, () => act(key), { className: key });
  }
  made.element = element("div.buttons", {}, ...Object.values(made));
  /** Name them by what they would do now. */
  made.name = (acts) => {
    for (const { id, text, key } of acts) {
      if (made[id]) made[id].title = made[id].ariaLabel = key ? `${text} (${key})` : text;
    }
  };
  return made;
}

/** All of it as a menu, for the pointer and for keys. */
export class Menu {
  #back;

  constructor(parent) {
    this.element = element("div.menu", { role: "menu", popover: "manual" });
    this.element.addEventListener("keydown", (event) => this.#onKey(event));
    this.element.addEventListener("focusout", ({ relatedTarget }) => {
      if (!this.element.contains(relatedTarget)) this.element.togglePopover(false);
    });
    parent.append(this.element);
  }

  /** Open at a point on screen with entries {text, act, key?}; `back` gets the focus afterwards. */
  open({ clientX, clientY }, entries, back) {
    const menu = this.element;
    this.#back = back;
    menu.replaceChildren(
      ...entries.map(({ text, act, key = "" }) => {
        const properties = { type: "button", role: "menuitem", tabIndex: -1 };
        const entry = element("button", properties, text, element("kbd", { ariaHidden: true }, key));
        entry.addEventListener("click", () => {
          this.#close();
          act();
        });
        return entry;
      }),
    );
    menu.togglePopover(true);
    menu.style.left = `${Math.min(clientX, innerWidth - menu.offsetWidth)}px`;
    menu.style.top = `${Math.min(clientY, innerHeight - menu.offsetHeight)}px`;
    menu.firstElementChild.focus({ preventScroll: true });
  }

  #close() {
    this.element.togglePopover(false);
    this.#back.focus({ preventScroll: true });
  }

  #onKey(event) {
    event.stopPropagation();
    const entries = [...this.element.children];
    const at = entries.indexOf(event.target);
    const targets = { ArrowDown: at + 1, ArrowUp: at - 1 + entries.length, Home: 0, End: entries.length - 1 };
    if (event.key === "Tab" || event.key === "Escape") this.#close();
    else if (event.key in targets) entries[targets[event.key] % entries.length].focus({ preventScroll: true });
    else return;
    event.preventDefault();
  }
}
