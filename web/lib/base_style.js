/** What the pack's views have in common, for their shadow roots: nothing of it reaches the page. */

export const base = `
:host { --text: var(--input-text, #ddd); --muted: color-mix(in srgb, var(--text) 62%, transparent);
  --control: color-mix(in srgb, var(--text) 9%, transparent); --accent: var(--p-primary-color, #3b82f6);
  --pivot: color-mix(in srgb, #f59e0b 80%, var(--text)); container-type: inline-size; display: block;
  box-sizing: border-box; height: 100%; color: var(--text); font-family: Inter, system-ui, sans-serif;
  font-variant-numeric: tabular-nums; user-select: none; -webkit-user-select: none; }
* { box-sizing: border-box; }
[hidden] { display: none !important; }
.view { display: flex; flex-direction: column; height: 100%; min-height: inherit; line-height: 1.25; }
.screen { container-type: size; position: relative; min-height: 80px; display: grid; place-items: center; }
.frame { position: relative; width: min(100cqw, calc(100cqh * var(--ratio))); aspect-ratio: var(--ratio);
  border-radius: 0.4em; overflow: hidden; background: var(--control); touch-action: none; }
canvas { display: block; width: 100%; height: 100%; }
.message { position: absolute; inset: 0; display: grid; place-items: center; padding: 2em; color: var(--muted);
  text-align: center; text-wrap: balance; }
.tag { position: absolute; top: 0.6em; left: 0.6em; padding: 0.2em 0.6em; border-radius: 0.35em;
  background: rgb(0 0 0 / 0.62); color: #fff; font-size: 0.9em;
  pointer-events: none; white-space: nowrap; }
.said { top: auto; bottom: 0.8em; left: 50%; translate: -50%; max-width: 94%; white-space: normal; text-align: center; }
:is(.message, .tag):empty { display: none; }
button { padding: 0.35em 0.7em; border: 0; border-radius: 0.4em; background: var(--control); color: inherit;
  font: inherit; cursor: pointer; }
button:hover { background: color-mix(in srgb, var(--text) 18%, transparent); }
:is(button, summary, .foot a):focus-visible { outline: 2px solid var(--accent); outline-offset: 1px; }
button:disabled { opacity: 0.35; cursor: default; }
button[aria-pressed="true"] { background: var(--accent); color: #fff; }
table { border-collapse: collapse; overflow-wrap: normal; }
th, td { padding: 1px 12px 1px 0; text-align: right; white-space: nowrap; font-weight: normal; }
th { color: var(--muted); }
th:first-child, td:first-child { text-align: left; }
p, ul, table { margin: 0 0 8px; }
ul { padding-left: 16px; }
`;
