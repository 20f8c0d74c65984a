"""Names and tooltips of nodes in the real page: from the schemas in English, from the locales in other languages."""

from __future__ import annotations

import json
from typing import Any

import pytest
from page import RENDERERS, HostPage
from places import CHECKOUT
from playwright.sync_api import expect
from sweep_view import View, workflow

pytestmark = [pytest.mark.server, pytest.mark.browser]

BUILD = """
() => {
  const { graph, canvas } = window.app;
  graph.clear();
  const node = window.LiteGraph.createNode("BokehMatchColors");
  graph.add(node);
  node.pos = [200, 200];
  canvas.setDirty(true, true);
  const widget = node.widgets.find((widget) => widget.name === "match_contrast");
  const nameOf = (part) => part.label ?? part.localized_name ?? part.name;
  return [node.title, nameOf(widget), node.inputs.map(nameOf)];
}
"""
PLACE = """
() => {
  const { graph, canvas } = window.app;
  const node = graph._nodes[0], widget = node.widgets.find((widget) => widget.name === "match_contrast");
  const [x, y] = canvas.ds.convertOffsetToCanvas([node.pos[0] + node.size[0] / 3, node.pos[1] + widget.y + 10]);
  const { left, top } = canvas.canvas.getBoundingClientRect();
  return [left + x, top + y];
}
"""


def read(language: str, name: str) -> dict[str, Any]:
    return json.loads((CHECKOUT / "locales" / language / name).read_text(encoding="utf-8"))


def expect_tooltip(page: HostPage, text: str) -> None:
    page.page.evaluate("window.app.extensionManager.setting.set('Comfy.EnableTooltips', true)")
    page.rest(500)
    x, y = page.page.evaluate(PLACE)
    page.page.mouse.move(x, y)
    page.page.mouse.move(x + 2, y + 1)
    expect(page.page.get_by_text(text)).to_be_visible()


def test_a_node_shows_the_names_and_tooltips_of_its_schema(page):
    title, label, inputs = page.page.evaluate(BUILD)
    assert (title, label) == ("Bokeh Match Colors", "match_contrast")
    assert inputs[:2] == ["images", "sweep"]
    expect_tooltip(page, "Also match the contrast of each colour channel.")


@pytest.mark.parametrize("language", ["zh", "ja"])
def test_nodes_and_scripts_speak_the_page_s_language(browser, sweep_server, language):
    texts = {name: read(language, f"{name}.json") for name in ("nodeDefs", "main")}
    node = texts["nodeDefs"]["BokehMatchColors"]
    with HostPage(browser, sweep_server, {**RENDERERS["canvas"], "Comfy.Locale": language}) as page:
        title, label, inputs = page.page.evaluate(BUILD)
        assert (title, label) == (node["display_name"], node["inputs"]["match_contrast"]["name"])
        assert inputs[:2] == [node["inputs"][name]["name"] for name in ("images", "sweep")]
        expect_tooltip(page, node["inputs"]["match_contrast"]["tooltip"])
        page.load(workflow())
        view = View(page)
        empty = "Queue the graph to look through the sweep."
        expect(view.element.locator(".message")).to_have_text(texts["main"]["bokeh"][empty])
        page.queue()
        name = texts["main"]["bokeh"]["blur"]
        view.ready().expect_value(15, f"{name} 15, {texts['main']['bokeh']['pivot']}")
