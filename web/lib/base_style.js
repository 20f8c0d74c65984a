/** What the pack's views have in common; adopted by their shadow roots only, so that nothing of it reaches the page. */

export const base = new CSSStyleSheet();

base.replaceSync(`
:host {
  --text: var(--input-text, #ddd);
  --muted: color-mix(in srgb, var(--text) 62%, transparent);
  --control: color-mix(in srgb, var(--text) 9%, transparent);
  --accent: var(--p-primary-color, #3b82f6);
  container-type: inline-size;
  display: block;
  box-sizing: border-box;
  height: 100%;
  color: var(--text);
  font-family: Inter, system-ui, sans-serif;
  user-select: none;
  -webkit-user-select: none;
}
* { box-sizing: border-box; }
[hidden] { display: none !important; }
`);
