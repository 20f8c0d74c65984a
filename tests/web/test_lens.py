"""F-numbers in the real page: a sweep through the lens node into the view."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect
from sweep_view import View

pytestmark = [pytest.mark.server, pytest.mark.browser]

BUILD = """
const pictures = add("LoadImage", 20, [200, 300], { image: "wide2.webp" });
const sweep = add("BokehTestSweep", 240, [200, 120], { blurs: "3.4188, 13.6752", pivot: 13.6752 });
const values = { mode: "blur to f-number", focal_length: 50, focus_distance: 2, sensor: "full frame, 36 x 24 mm" };
const lens = add("BokehLens", 460, [320, 480], { ...values, width: 768, height: 512 });
const view = add("BokehSweepView", 800, [400, 500], {});
sweep.connect(0, lens, lens.inputs.findIndex((input) => input.name === "sweep"));
pictures.connect(0, view, 0);
lens.connect(3, view, 1);
"""


def test_the_view_reads_f_numbers_and_the_lens_says_what_is_sharp(page):
    page.build(BUILD)
    page.queue()
    view = View(page).ready()
    view.expect_value(13.68, "blur 13.68, f/2, pivot")
    expect(view.element.locator(".label")).to_have_text(["f/8", "f/2"])
    view.press("ArrowLeft")
    view.expect_value(3.42, "blur 3.42, f/8")
    view.press("Shift+ArrowRight")
    expect(view.slider).to_have_attribute("aria-valuetext", "blur 4.4, between f/8 and f/2")
    expect(page.page.get_by_text("hyperfocal distance")).to_be_visible()
