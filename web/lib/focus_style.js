/** The look of Bokeh Focus, on top of the common one. */

export const sheet = `
:host { min-height: 260px; }
.view { font-size: clamp(11px, 3.1cqw, 20px); }
.screen { --ratio: 1.5; flex: 1 1 min(calc(100cqw / var(--ratio)), 125cqw); }
.frame { cursor: crosshair; outline: none; }
.point { position: absolute; width: 2.6em; height: 2.6em; translate: -50% -50%; pointer-events: none; }
/* Corners of a frame, as in a viewfinder, light on dark and dark on light. */
.point::before, .point::after { content: ""; position: absolute; inset: 0; border: 0.2em solid currentColor;
  border-radius: 0.3em; filter: drop-shadow(0 0 0.1em #000) drop-shadow(0 0 0.2em #000);
}
.point::before { clip-path: polygon(-9% -9%, 32% -9%, 32% 109%, -9% 109%, -9% 68%, 109% 68%, 109% 109%, 68% 109%, 68% -9%, 109% -9%, 109% 32%, -9% 32%); }
.point::after { inset: calc(50% - 0.12em); border-width: 0.12em; border-radius: 50%; }
.point.from { color: #ffd84a; }
.point.to { color: #6ee7ff; }
.frame:focus-visible .point.from { outline: 2px solid var(--accent); outline-offset: 2px; }
.line { position: absolute; height: 0.14em; transform-origin: 0 50%; background: linear-gradient(90deg, #ffd84a, #6ee7ff); opacity: 0.8; pointer-events: none; }
.ring { position: relative; flex: none; height: 2.6em; margin-top: 0.5em; border-radius: 0.4em; overflow: hidden;
  cursor: ew-resize; touch-action: none; outline: none;
  /* The knurled edge and the round of a lens's barrel. */
  background:
    linear-gradient(90deg, rgb(0 0 0 / 0.75), transparent 30%, transparent 70%, rgb(0 0 0 / 0.75)),
    repeating-linear-gradient(90deg, #3a3a3a 0 0.22em, #262626 0.22em 0.44em) 0 100% / 100% 0.6em no-repeat,
    #2b2b2b;
}
.ring:focus-visible { outline: 2px solid var(--accent); outline-offset: 1px; }
.marks { position: absolute; left: 50%; top: 0.35em; }
.mark { position: absolute; translate: -50%; color: #bbb; font-size: 0.95em; white-space: nowrap; }
.mark.set { color: #ffd84a; font-weight: 600; }
.ring::after { content: ""; position: absolute; left: 50%; bottom: 0; width: 0.7em; height: 0.5em; translate: -50%; background: #ffd84a; clip-path: polygon(50% 0, 100% 100%, 0 100%); }
.row { display: flex; align-items: center; gap: 0.35em; min-height: 2.4em; padding: 0.3em 0.2em 0; }
.row button { padding: 0.35em 0.45em; }
.words { flex: 1; min-width: 0; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
`;
