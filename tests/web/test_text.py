"""Words that nodes report, inside the nodes of the real page."""

from __future__ import annotations

import pytest
from page import both_renderers
from playwright.sync_api import expect

pytestmark = [pytest.mark.server, pytest.mark.browser]

BUILD = """
// A page gives a cleared graph an id of its own when it is loaded again, and then it is another workflow.
graph.id = crypto.randomUUID();
const pictures = add("LoadImage", 20, [200, 300], { image: "wide6.webp" });
const sweep = add("BokehTestSweep", 240, [200, 120], { blurs: "0, 4, 8, 15, 22, 30", pivot: 15 });
const report = add("BokehReport", 460, [400, 560], {});
pictures.connect(0, report, 0);
sweep.connect(0, report, 1);
// Content of nodes that are out of sight is not there.
const { canvas } = window.app;
[canvas.ds.scale, canvas.ds.offset] = [0.9, [40, 60]];
canvas.setDirty(true, true);
"""


@both_renderers
def test_the_reports_numbers_show_in_the_node_and_survive_a_reload(page):
    page.build(BUILD)
    page.queue()
    text = page.page.get_by_text("how sharpness falls with the blur")
    expect(text).to_be_hidden()
    page.page.get_by_text("All numbers").click()
    expect(text).to_be_visible()
    rows = page.page.locator("tr", has=page.page.get_by_role("cell", name="15 (pivot)"))
    expect(rows).to_have_count(1)
    # The page stores a changed graph a moment later.
    page.rest(1500)
    page.open()
    page.page.get_by_text("All numbers").click()
    expect(text).to_be_visible()
