/** A menu of what can be done with the picture, for the pointer and for keys. */

import { element } from "./dom.js";

export class Menu {
  #back = null;

  /** @param {HTMLElement} parent in which the menu opens; it must be positioned */
  constructor(parent) {
    this.parent = parent;
    this.element = element("div", { className: "menu", role: "menu", hidden: true });
    parent.append(this.element);
    this.element.addEventListener("keydown", (event) => this.#onKey(event));
    this.element.addEventListener("focusout", (event) => {
      if (!this.element.contains(event.relatedTarget)) this.element.hidden = true;
    });
  }

  /**
   * Open at a point on screen.
   *
   * @param {[string, () => void, string?][]} entries label, what it does, and the key that does the same
   * @param {HTMLElement} back what gets the focus afterwards
   */
  open({ clientX, clientY }, entries, back) {
    this.#back = back;
    this.element.replaceChildren(
      ...entries.map(([label, act, key]) => {
        const hint = key ? [element("kbd", {}, key)] : [];
        const entry = element("button", { type: "button", role: "menuitem", tabIndex: -1 }, label, ...hint);
        entry.addEventListener("click", () => {
          this.close();
          act();
        });
        return entry;
      }),
    );
    this.element.hidden = false;
    // On screen everything is scaled by the graph's zoom.
    const { left, top, width } = this.parent.getBoundingClientRect();
    const scale = width / this.parent.offsetWidth || 1;
    const most = (point, size, all) => Math.max(0, Math.min(point / scale, all - size));
    this.element.style.left = `${most(clientX - left, this.element.offsetWidth, this.parent.offsetWidth)}px`;
    this.element.style.top = `${most(clientY - top, this.element.offsetHeight, this.parent.offsetHeight)}px`;
    this.element.firstElementChild.focus({ preventScroll: true });
  }

  close() {
    this.element.hidden = true;
    this.#back?.focus({ preventScroll: true });
  }

  #onKey(event) {
    event.stopPropagation();
    const entries = [...this.element.children];
    const at = entries.indexOf(event.target);
    const targets = { ArrowDown: at + 1, ArrowUp: at - 1 + entries.length, Home: 0, End: entries.length - 1 };
    if (event.key === "Escape" || event.key === "Tab") this.close();
    else if (event.key in targets) entries[targets[event.key] % entries.length].focus({ preventScroll: true });
    else return;
    event.preventDefault();
  }
}
