"""Menus of ready values, in both kinds of nodes: lists for Bokeh Sweep, apertures of lenses for Bokeh Blur."""

from __future__ import annotations

import pytest
from page import RENDERERS, HostPage
from playwright.sync_api import expect

from bokeh.optics.lens import blur_of

pytestmark = [pytest.mark.server, pytest.mark.browser]

LIST = "0..30/7"
NODE = "window.app.graph.nodes[0]"
FIND = f"(name) => {NODE}.widgets.find((widget) => widget.name === name)"
VALUE = f"(name) => ({FIND})(name).value"
SET = f"([name, value]) => {{ const widget = ({FIND})(name); widget.value = value; widget.callback?.(value); }}"
PLACE = f"""
(name) => {{
  const {{ canvas }} = window.app, node = {NODE}, widget = ({FIND})(name);
  const [x, y] = canvas.ds.convertOffsetToCanvas([node.pos[0] + node.size[0] / 2, node.pos[1] + widget.y + 10]);
  const {{ left, top }} = canvas.canvas.getBoundingClientRect();
  return [left + x, top + y];
}}
"""
LINK = f"""
() => {{
  const {{ graph }} = window.app, node = {NODE}, text = window.LiteGraph.createNode("PrimitiveString");
  graph.add(text);
  text.connect(0, node, node.inputs.findIndex(({{ name }}) => name === "blurs"));
}}
"""
# What the page was not told of is no step of its own.
SEEN = "window.app.extensionManager.workflow.activeWorkflow.changeTracker.checkState()"


class Menu:
    """The menu ``label`` of the only node, which sets the widget ``name``."""

    def __init__(self, page: HostPage, vue: bool, kind: str, label: str, name: str):
        self.page, self.vue, self.label, self.name = page, vue, label, name
        page.build(f'add("{kind}", 200, [340, 240], {{}});')
        # The node has its height.
        page.rest(800)
        page.page.evaluate(SEEN)
        self.drawn = page.page.locator(".lg-node-widget", has_text=label).get_by_role("combobox")

    def choose(self, entry: str) -> None:
        if self.vue:
            self.drawn.click()
            self.page.page.get_by_role("option", name=entry, exact=True).click()
        else:
            self.page.page.mouse.click(*self.page.page.evaluate(PLACE, self.label))
            self.page.page.locator(".litemenu-entry", has_text=entry).click()

    def expect(self, shown: str, value: str | float) -> None:
        is_shown = f"([label, shown]) => ({VALUE})(label) === shown"
        self.page.page.wait_for_function(is_shown, arg=[self.label, shown])
        found = self.page.page.evaluate(VALUE, self.name)
        assert found == (value if isinstance(value, str) else pytest.approx(value, abs=0.001))
        if self.vue:
            expect(self.drawn).to_have_text(shown)


@pytest.mark.parametrize("renderer", RENDERERS)
def test_a_ready_list_is_chosen_undone_and_left(renderer, browser, sweep_server):
    vue = renderer == "vue"
    with HostPage(browser, sweep_server, RENDERERS[renderer]) as page:
        menu = Menu(page, vue, "BokehSweep", "ready list", "blurs")
        default = page.page.evaluate(VALUE, "blurs")
        menu.expect(default, default)
        before = page.undoable()
        menu.choose(LIST)
        menu.expect(LIST, LIST)
        if vue:
            expect(page.page.locator(".lg-node-widget input").first).to_have_value(LIST)
        page.rest(500)
        assert page.undoable() == before + 1
        page.page.evaluate("window.app.extensionManager.command.execute('Comfy.Undo')")
        menu.expect(default, default)
        page.page.evaluate(SET, ["blurs", "1, 2"])
        menu.expect("own", "1, 2")
        assert "ready list" not in next(iter(page.prompt().values()))["inputs"]
        (saved,) = page.page.evaluate("window.app.graph.serialize().nodes")
        assert saved["widgets_values"] == ["1, 2", 1, 0]


@pytest.mark.parametrize("renderer", RENDERERS)
def test_the_apertures_of_a_lens_set_the_blur_that_bokeh_lens_gives(renderer, browser, sweep_server):
    with HostPage(browser, sweep_server, RENDERERS[renderer]) as page:
        menu = Menu(page, renderer == "vue", "BokehBlur", "lens at 2 m", "blur")
        menu.expect("own", 15)
        for f_number in (1.8, 4):
            menu.choose(f"50 mm f/{f_number}")
            menu.expect(f"50 mm f/{f_number}", round(blur_of(50, f_number, 2, 24, 512, 512), 1))


def test_nothing_is_chosen_where_another_node_sets_it(browser, sweep_server):
    with HostPage(browser, sweep_server, RENDERERS["canvas"]) as page:
        Menu(page, False, "BokehSweep", "ready list", "blurs")
        page.page.evaluate(LINK)
        page.page.wait_for_function(f"({FIND})('ready list').disabled")
