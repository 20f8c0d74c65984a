"""Widgets that change nothing at the present setting are not there to be seen, in both kinds of nodes."""

from __future__ import annotations

import pytest
from page import RENDERERS, both_renderers
from playwright.sync_api import expect

pytestmark = [pytest.mark.server, pytest.mark.browser]

BUILD = """
["BokehRender", "LoadImageMask", "BokehFocus"].forEach((type, at) => add(type, 460 * at, [440, 700], {}));
"""
SHOWN = """
(vue) => {
  const node = window.app.graph.nodes[0];
  if (!vue) return node.widgets.filter((widget) => node.isWidgetVisible(widget)).map(({ name }) => name);
  const rows = [...document.querySelectorAll(`[data-node-id="${node.id}"] .lg-node-widget`)];
  const labels = rows.filter((row) => row.checkVisibility()).map((row) => row.innerText + row.innerHTML);
  return node.widgets.map(({ name }) => name).filter((name) => labels.some((label) => label.includes(name)));
}
"""
SET = """([name, value]) => {
  const widget = window.app.graph.nodes[0].widgets.find((widget) => widget.name === name);
  widget.value = value;
  widget.callback?.(value);
}"""
LINK = """([from, output, name]) => {
  const [node] = window.app.graph.nodes, slot = node.inputs.findIndex((input) => input.name === name);
  if (from) window.app.graph.nodes[from].connect(output, node, slot);
  else node.disconnectInput(slot);
}"""
# No room is left on the canvas where a widget is hidden.
CLOSED_UP = """() => {
  const node = window.app.graph.nodes[0];
  const ys = node.widgets.filter((widget) => node.isWidgetVisible(widget)).map(({ y }) => y);
  return new Set(ys.slice(1).map((y, at) => y - ys[at])).size === 1;
}"""
# A fresh node is as high as what it shows.
SNUG = "() => window.app.graph.nodes.every((node) => node.size[1] === node.computeSize()[1])"
FRESH = """() => {
  const { graph } = window.app;
  ["BokehRender", "BokehFocus"].forEach((type) => graph.add(window.LiteGraph.createNode(type)));
}"""
ALWAYS = {"cats_eye", "highlight"}
WITHOUT_FOCUS = {"depth_is", "repair", "blurs", "blades"}


@both_renderers
def test_only_widgets_that_change_something_are_shown(page, settings):
    vue = settings is RENDERERS["vue"]
    page.page.set_viewport_size({"width": 1600, "height": 1000})
    page.build(BUILD)

    def expect_shown(*names: str) -> None:
        page.page.wait_for_function(
            f"([vue, expected]) => JSON.stringify(({SHOWN})(vue).filter((name) => !name.includes(' ')).sort()) "
            "=== JSON.stringify(expected)",
            arg=[vue, sorted({*names, *ALWAYS})],
            timeout=30_000,
        )
        if not vue:
            page.page.wait_for_function(CLOSED_UP, timeout=30_000)

    expect_shown(*WITHOUT_FOCUS, "depth_range", "focus_by", "focus_x", "focus_y")
    page.page.evaluate(SET, ["focus_by", "value"])
    expect_shown(*WITHOUT_FOCUS, "depth_range", "focus_by", "focus_value")
    page.page.evaluate(SET, ["blades", "6"])
    expect_shown(*WITHOUT_FOCUS, "depth_range", "focus_by", "focus_value", "rotation")
    page.page.evaluate(SET, ["depth_is", "metres"])
    expect_shown(*WITHOUT_FOCUS, "focus_by", "focus_value", "rotation")
    page.page.evaluate(LINK, [1, 0, "mask"])
    expect_shown(*WITHOUT_FOCUS, "rotation")
    # A mask whose node is switched off does not count.
    page.page.evaluate("() => { window.app.graph.nodes[1].mode = 2; }")
    expect_shown(*WITHOUT_FOCUS, "focus_by", "focus_value", "rotation")
    page.page.evaluate(LINK, [2, 0, "focus"])
    expect_shown("blades", "rotation")
    page.page.evaluate(LINK, [0, 0, "focus"])
    page.page.evaluate(SET, ["depth_is", "near is dark"])
    page.page.evaluate(SET, ["focus_by", "point"])
    expect_shown(*WITHOUT_FOCUS, "depth_range", "focus_by", "focus_x", "focus_y", "rotation")
    # What is hidden keeps its value and its place in the workflow.
    assert page.prompt()["1"]["inputs"]["focus_value"] == 0.5
    expect(page.page.locator(".bokeh-focus-view")).to_be_visible()


def test_a_fresh_node_leaves_no_room_for_what_it_hides(page):
    page.build("")
    page.page.evaluate(FRESH)
    page.rest(500)
    assert page.page.evaluate(SNUG)
