/** The buttons under the picture. */

import { element, icon } from "./dom.js";

const ICONS = {
  compare: "M8 1.5v13M2 3.5h4v9H2zM10 3.5h4v9h-4z",
  copy: "M5.5 5.5h8v8h-8zM10.5 5.5v-3h-8v8h3",
  loupe: "M11 7A4 4 0 1 1 3 7a4 4 0 0 1 8 0M10 10l4 4M5 7h4M7 5v4",
  open: "M6.5 3H3v10h10V9.5M9 2.5h4.5V7M13.5 2.5 7.5 8.5",
  save: "M8 2.5v7M5 6.5l3 3 3-3M3 13.5h10",
  use: "M2.5 8h9M8 4.5 11.5 8 8 11.5M13.5 3v10",
};
const SAYS = {
  compare: "Compare with the pivot (double-click)",
  copy: "Copy the value",
  loupe: "Loupe at 100 % (L)",
  save: "Save this picture (S)",
  use: "Use this level: it leaves the node at image and blur (U)",
};

/** The buttons by their names, each calling the act of that name; `open` is a link. `element` holds them all. */
export function tools(acts) {
  const made = {};
  for (const [name, title] of Object.entries(SAYS)) {
    made[name] = element("button", { className: name, type: "button", title, ariaLabel: title }, icon(ICONS[name]));
    made[name].addEventListener("click", acts[name]);
  }
  made.open = element("a", { className: "open", target: "_blank", rel: "noopener" }, icon(ICONS.open));
  // Where there is no room for all, these are in the menu.
  const files = [made.save, made.open, made.copy];
  for (const button of files) button.classList.add("in-menu");
  made.element = element("div", { className: "buttons" }, made.compare, made.loupe, made.use, ...files);
  return made;
}

/** Name a button by what it would do now. */
export function say(button, text) {
  button.title = button.ariaLabel = text;
}
