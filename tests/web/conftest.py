"""The page as most of its tests visit it."""

from __future__ import annotations

from typing import Any

import pytest
from page import RENDERERS, HostPage
from sweep_view import View


@pytest.fixture
def settings(request) -> dict[str, Any]:
    """The canvas's rendering unless the test is marked for both (``page.both_renderers``)."""
    return RENDERERS[getattr(request, "param", "canvas")]


@pytest.fixture
def page(browser, sweep_server, settings):
    with HostPage(browser, sweep_server, settings, permissions=["clipboard-read", "clipboard-write"]) as page:
        yield page


@pytest.fixture
def view(page) -> View:
    return View(page)
