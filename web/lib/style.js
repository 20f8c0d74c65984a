/** The look of the sweep view, on top of the common one. */

// Every size is in em, and em follows the node's width: a wider node has larger text.
export const sheet = `
:host { --line: color-mix(in srgb, var(--text) 26%, transparent); min-height: 240px; }

:host(:fullscreen) { padding: 1em; background: var(--comfy-menu-bg, #222); }
.view { position: relative; font-size: calc(clamp(11px, 3.1cqw, 20px) * var(--enlarge, 1)); }

/* The node alone says how high it is, so that it can be wide and flat. */
.screen { --ratio: 1; flex: 1 1 0; }
.frame { cursor: ew-resize; }
:host(:is([data-state="empty"], [data-state="gone"])) .frame { display: none; }

.message { border: 1px dashed var(--line); border-radius: 0.4em; }
.magnifier { position: absolute; width: min(14em, 60cqh); aspect-ratio: 1; translate: -50% -50%;
  border: 2px solid #fff; border-radius: 50%; overflow: hidden; box-shadow: 0 0.1em 0.8em #000; background: #000;
  pointer-events: none; }
.magnifier .tag { top: auto; bottom: 0.9em; left: 50%; translate: -50%; }
.menu { inset: auto; margin: 0; padding: 0.3em; border: 1px solid var(--line); border-radius: 0.5em; color: inherit;
  background: var(--comfy-menu-bg, #222); box-shadow: 0 0.3em 1.2em rgb(0 0 0 / 0.4); font-size: 13px; }
.menu:popover-open { display: grid; }
.menu button { display: flex; justify-content: space-between; gap: 1.5em; background: none; white-space: nowrap; }
.menu button:is(:hover, :focus-visible) { background: color-mix(in srgb, var(--text) 14%, transparent); outline: none; }
kbd { color: var(--muted); font: inherit; }
.remark { flex: none; margin: 0.4em 0.2em 0; padding: 0.4em 0.7em; border-left: 0.25em solid var(--pivot);
  border-radius: 0.3em; background: var(--control); }
.progress { right: 0.6em; left: auto; }
.scenes { position: absolute; bottom: 0.6em; left: 50%; translate: -50%; display: flex; align-items: center;
  border-radius: 0.4em; white-space: nowrap; background: rgb(0 0 0 / 0.62); color: #fff; }
.scenes button { background: none; }
.said:has(+ .scenes:not([hidden])) { bottom: 3.4em; }
:host([data-preview]) :is(.remark, .scenes) { display: none; }

/* The divider wipes the names away as it wipes the pictures. */
.side { display: none; position: absolute; top: 0; height: 100%; overflow: hidden; pointer-events: none; }
.side.left { left: 0; width: var(--split); }
.side.right { left: var(--split); right: 0; }
.comparing .side { display: block; }
.right .tag { right: 0.6em; left: auto; }
.divider { display: none; }
.comparing .divider { display: block; position: absolute; left: var(--split); top: 0; bottom: 0; width: 2em;
  translate: -50%; cursor: col-resize; outline: none; }
.divider::before { content: ""; position: absolute; inset: 0 calc(50% - 1px); background: #fff;
  box-shadow: 0 0 0 1px rgb(0 0 0 / 0.35); }
.grip { position: absolute; top: 50%; left: 50%; translate: -50% -50%; display: grid; width: 2em; height: 2em;
  padding: 0.35em; border-radius: 50%; background: #fff; color: #222; box-shadow: 0 0 0.4em rgb(0 0 0 / 0.5); }
.divider:focus-visible .grip { outline: 2px solid var(--accent); outline-offset: 2px; }

.panel { flex: none; padding: 0.3em 0.2em 0; }
.panel.off { opacity: 0.35; }
:host([data-state="empty"]) .panel { display: none; }
:host([data-far]) .buttons { display: none; }

.slider { padding: 0 0.75em; border-radius: 0.4em; cursor: pointer; touch-action: none; outline: none; }
.slider[aria-disabled="true"] { cursor: default; }
.rail { position: relative; height: 2.3em; }
.track { position: absolute; inset: calc(50% - 0.14em) 0 auto; height: 0.28em; border-radius: 1em;
  background: var(--line); }
.fill { height: 100%; border-radius: inherit; background: var(--accent); }
.slider[aria-disabled="true"] .fill { visibility: hidden; }
.tick { position: absolute; top: calc(50% + 0.36em); width: 1px; height: 0.42em; translate: -50%;
  background: var(--muted); }
.pivot-mark { position: absolute; top: 0.05em; width: 0.8em; height: 0.55em; translate: -50%;
  background: var(--pivot); clip-path: polygon(0 0, 100% 0, 50% 100%); }
.thumb { position: absolute; top: 50%; width: 1.15em; height: 1.15em; translate: -50% -50%;
  border: 0.2em solid var(--accent); border-radius: 50%; background: #fff; }
.slider:focus-visible .thumb { outline: 2px solid var(--accent); outline-offset: 2px; }
.labels { position: relative; height: 1.1em; margin-top: -0.15em; color: var(--muted); font-size: 0.8em; }
.label { position: absolute; translate: -50%; white-space: nowrap; }
.at-pivot { color: var(--pivot); font-weight: 600; }

.row { display: flex; align-items: center; gap: 0.6em; min-height: 2.4em; padding: 0.25em 0.3em 0; }
.readout { display: flex; flex: 1; align-items: baseline; gap: 0.4em; min-width: 0; white-space: nowrap; }
.name { color: var(--muted); }
.number { font-size: 1.5em; font-weight: 600; user-select: text; }
.note { overflow: hidden; color: var(--muted); font-size: 0.9em; text-overflow: ellipsis; }
.note.is-pivot { color: var(--pivot); font-weight: 600; }
.buttons { display: flex; gap: 0.3em; }
.buttons[inert] { opacity: 0.35; }
:is(.buttons, .scenes) > button { display: grid; place-items: center; width: 2.1em; height: 2.1em; padding: 0; }
/* They are in the menu. */
@container (max-width: 340px) { .buttons :is(.save, .open, .copy) { display: none; } }
svg { width: 1.15em; height: 1.15em; fill: none; stroke: currentColor; stroke-width: 1.4; stroke-linecap: round;
  stroke-linejoin: round; }
`;
