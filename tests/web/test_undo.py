"""What the nodes show after an undo, for which the page builds every node anew."""

from __future__ import annotations

import pytest
from page import both_renderers
from playwright.sync_api import expect
from sweep_view import View, grey, workflow

pytestmark = [pytest.mark.server, pytest.mark.browser]

ADD = """
() => {
  const { graph } = window.app;
  const add = (type, pos) => {
    const node = window.LiteGraph.createNode(type);
    node.pos = pos;
    graph.add(node);
    return node;
  };
  const report = add("BokehReport", [820, 0]);
  [1, 2].forEach((id, input) => graph.getNodeById(id).connect(0, report, input));
  const { ds } = window.app.canvas;
  [ds.scale, ds.offset] = [0.8, [20, 60]];
}
"""
CHANGE = """
([kind, name, value]) => {
  const { canvas, graph } = window.app;
  canvas.emitBeforeChange();
  graph.nodes.find((node) => node.comfyClass === kind).widgets.find((widget) => widget.name === name).value = value;
  canvas.emitAfterChange();
}
"""


@both_renderers
def test_every_node_s_content_is_alive_after_an_undo(page):
    page.page.set_viewport_size({"width": 1500, "height": 900})
    page.load(workflow())
    page.page.evaluate(ADD)
    page.queue()
    view = View(page).ready()
    page.page.evaluate(CHANGE, ["BokehTestSweep", "blurs", "0, 5, 10, 15, 20, 25"])
    page.page.evaluate("() => window.app.extensionManager.command.execute('Comfy.Undo')")
    page.rest(600)
    view.ready().drag(0.5, 22 / 30)
    view.expect_value(22, "blur 22")
    view.expect_grey(grey(4, 6))
    page.page.evaluate(CHANGE, ["BokehTestSweep", "blurs", "0, 5, 10, 15, 20, 25"])
    page.queue()
    expect(view.slider).to_have_attribute("aria-valuemax", "25")
    view.press("End")
    view.expect_value(25, "blur 25")
    page.page.get_by_text("All numbers").click()
    expect(page.page.get_by_role("cell", name="25", exact=True).first).to_be_visible()
