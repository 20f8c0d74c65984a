"""Names and tooltips of nodes in the real page, which takes them from the schemas: the pack has no second copy."""

from __future__ import annotations

import pytest
from page import HostPage, chromium
from playwright.sync_api import expect

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
  return [node.title, widget.label ?? widget.name, node.inputs.map((input) => input.label ?? input.name)];
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


def test_a_node_shows_the_names_and_tooltips_of_its_schema(sweep_server):
    settings = {"Comfy.VueNodes.Enabled": False, "LiteGraph.Node.TooltipDelay": 0}
    with chromium() as browser, HostPage(browser, sweep_server, settings) as page:
        title, label, inputs = page.page.evaluate(BUILD)
        assert (title, label) == ("Bokeh Match Colors", "match_contrast")
        assert inputs[:2] == ["images", "sweep"]
        page.page.evaluate("window.app.extensionManager.setting.set('Comfy.EnableTooltips', true)")
        page.page.wait_for_timeout(500)
        x, y = page.page.evaluate(PLACE)
        page.page.mouse.move(x, y)
        page.page.mouse.move(x + 2, y + 1)
        expect(page.page.get_by_text("Also match the contrast of each colour channel.")).to_be_visible()
