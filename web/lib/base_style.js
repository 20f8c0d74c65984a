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
.view { display: flex; flex-direction: column; height: 100%; min-height: inherit; line-height: 1.25; }
.screen { container-type: size; position: relative; min-height: 80px; display: grid; place-items: center; }
.frame {
  position: relative;
  width: min(100cqw, calc(100cqh * var(--ratio)));
  aspect-ratio: var(--ratio);
  border-radius: 0.4em;
  overflow: hidden;
  background: var(--control);
  touch-action: none;
}
canvas { display: block; width: 100%; height: 100%; }
`);
