/** Small helpers for elements. */

const SVG = "http://www.w3.org/2000/svg";

export const within = (value, least, most) => Math.min(Math.max(value, least), most);

/** An element, "div.its-class", with properties (or attributes) and children. */
export function element(tag, properties = {}, ...children) {
  const [name, ...classes] = tag.split(".");
  const made = document.createElement(name);
  made.classList.add(...classes);
  for (const [key, value] of Object.entries(properties)) {
    if (key in made) made[key] = value;
    else made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

/** The same of a drawing, with attributes alone. */
export function drawn(tag, attributes, ...children) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

/** A line drawing of 16 by 16 units in the text's colour. */
export const icon = (path) => drawn("svg", { viewBox: "0 0 16 16", "aria-hidden": true }, drawn("path", { d: path }));

/** An element with styles of its own, untouched by the page's. */
export function shadowed(className, styles, ...children) {
  const host = element(`div.${className}`);
  const root = host.attachShadow({ mode: "open" });
  root.append(element("style", {}, ...styles), ...children);
  return host;
}

/** Writes words into an element that are gone after `ms` milliseconds. */
export function briefly(target, ms) {
  let timer = 0;
  return (text) => {
    target.textContent = text;
    clearTimeout(timer);
    timer = setTimeout(() => (target.textContent = ""), ms);
  };
}

/** Take an event from the page, which would move the node or scroll. */
export function take(event) {
  event.preventDefault();
  event.stopPropagation();
}

/** Whether a key is meant for the page. */
export const isPages = (event) => event.ctrlKey || event.metaKey || event.altKey;

/** Follow a pressed pointer, mouse, pen or finger, of the main button. */
export function onDrag(target, canStart, { onStart, onMove, onEnd }) {
  target.addEventListener("pointerdown", (down) => {
    if (down.button !== 0 || !down.isPrimary || !canStart(down)) return;
    // The node must not be dragged along.
    down.stopPropagation();
    target.setPointerCapture(down.pointerId);
    const ours = (handler) => (event) => {
      if (event.pointerId !== down.pointerId) return;
      event.stopPropagation();
      handler?.(event);
    };
    const stop = new AbortController();
    const end = ours((event) => {
      stop.abort();
      onEnd?.(event);
    });
    const { signal } = stop;
    target.addEventListener("pointermove", ours(onMove), { signal });
    target.addEventListener("pointerup", end, { signal });
    target.addEventListener("pointercancel", end, { signal });
    onStart?.(down);
  });
}
