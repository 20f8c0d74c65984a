"""The page as most of its tests visit it."""

from __future__ import annotations

from typing import Any

import pytest
from page import RENDERERS, HostPage, chromium, forget
from sweep_view import View


def pytest_exception_interact() -> None:
    """What a failed test has left in the page is nobody else's."""
    forget()


@pytest.fixture(scope="package")
def browser():
    """One for all of these tests, so that they share pages."""
    with chromium() as browser:
        yield browser


@pytest.fixture
def settings(request) -> dict[str, Any]:
    """The canvas's rendering unless the test is marked for both (``page.both_renderers``)."""
    return RENDERERS[getattr(request, "param", "canvas")]


@pytest.fixture
def page(browser, sweep_server, settings):
    with HostPage(browser, sweep_server, settings) as page:
        yield page


@pytest.fixture
def view(page) -> View:
    return View(page)
