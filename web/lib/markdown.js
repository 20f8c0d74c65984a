/** The little Markdown that this pack's nodes write: paragraphs, lists, tables, bold. */

import { element } from "./dom.js";

/** Text with `**bold**` parts as nodes. */
function inline(text) {
  return text.split("**").map((part, index) => (index % 2 ? element("b", {}, part) : part));
}

function cells(line) {
  return line.replace(/^\||\|\s*$/g, "").split("|").map((cell) => cell.trim());
}

function table(lines) {
  const [head, , ...body] = lines.map(cells);
  const row = (tag) => (values) => element("tr", {}, ...values.map((value) => element(tag, {}, ...inline(value))));
  return element("table", {}, element("thead", {}, row("th")(head)), element("tbody", {}, ...body.map(row("td"))));
}

/** Elements for a text; what it does not know stays as it is. */
export function fromMarkdown(text) {
  return text
    .trim()
    .split(/\n{2,}/)
    .map((block) => {
      const lines = block.split("\n");
      if (lines.length > 2 && /^\|[\s:|-]+\|$/.test(lines[1])) return table(lines);
      if (lines.every((line) => line.startsWith("- "))) {
        return element("ul", {}, ...lines.map((line) => element("li", {}, ...inline(line.slice(2)))));
      }
      return element("p", {}, ...lines.flatMap((line, index) => [...(index ? [element("br")] : []), ...inline(line)]));
    });
}
