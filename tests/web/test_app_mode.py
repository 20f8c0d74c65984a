"""The sweep view as the result of an app, in pages that make apps of workflows."""

from __future__ import annotations

import pytest
from comfy_api.latest import io
from page import HostPage
from playwright.sync_api import expect
from sweep_view import View, workflow

pytestmark = [
    pytest.mark.server,
    pytest.mark.browser,
    pytest.mark.skipif("search_aliases" not in io.Schema.__dataclass_fields__, reason="this host's page has no apps"),
]


@pytest.mark.parametrize("picture", ["wide6", "tall6"])
def test_the_views_pictures_are_the_apps_result(browser, sweep_server, picture):
    """And its slider works in the app, where its maker puts it among the inputs."""
    app = {"linearData": {"inputs": [[3, "sweep view"]], "outputs": [3]}, "linearMode": True}
    with HostPage(browser, sweep_server, viewport={"width": 1440, "height": 900}) as page:
        # The page's own tour lies over everything, the first time.
        page.page.add_locator_handler(page.page.get_by_role("button", name="Skip"), lambda skip: skip.click())
        page.load({**workflow(picture=picture, blurs="0, 4, 8, 15, 22, 28"), "extra": app})
        expect(page.page.get_by_text("Click Run to get started")).to_be_visible()
        page.queue()
        expect(page.page.get_by_text("Click Run to get started")).to_have_count(0)
        shown = page.page.locator("img[src*='/view?']")
        expect(shown.nth(5)).to_be_attached()
        expect(shown.first).to_be_visible()
        page.rest(3000)
        expect(page.page.get_by_text("Click Run to get started")).to_have_count(0)
        view = View(page).ready()
        view.press("End")
        view.expect_value(28, "blur 28")
