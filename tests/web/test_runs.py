"""Whose output a node shows: that of its own workflow, and looking at it changes nothing."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import expect
from sweep_view import View, grey, workflow

pytestmark = [pytest.mark.server, pytest.mark.browser]

NO_ID = "00000000-0000-0000-0000-000000000000"
SOME_ID = "4f3a1c52-6d0e-4a55-9a3e-0d6a4f4c9b11"


def of_another_class(id: str) -> dict[str, Any]:
    """The workflow of the sweep, with a report where that has the view."""
    other = workflow(blurs="5, 25, 1, 2, 3, 4", pivot=5)
    other["nodes"][2]["type"] = "BokehReport"
    return {**other, "id": id}


def with_one_more_node(id: str) -> dict[str, Any]:
    other = workflow(blurs="5, 25, 1, 2, 3, 4", pivot=5)
    other["nodes"].append({**other["nodes"][1], "id": 4, "pos": [0, 700], "outputs": []})
    return {**other, "id": id}


@pytest.mark.parametrize("id", [NO_ID, SOME_ID])
def test_a_node_of_another_class_shows_nothing_of_an_earlier_run(page, id):
    page.load({**workflow(), "id": id})
    page.queue()
    View(page).ready()
    page.load(of_another_class(id))
    page.rest(1000)
    verdict = page.page.locator(".bokeh-report .verdict")
    expect(verdict).to_be_hidden()
    page.queue()
    expect(verdict).to_be_visible()
    page.load({**workflow(), "id": id})
    page.rest(1000)
    expect(View(page).element).to_have_attribute("data-state", "empty")


def test_workflows_without_an_id_of_their_own_are_told_apart(page):
    page.load({**workflow(), "id": NO_ID})
    page.queue()
    View(page).ready()
    page.load(with_one_more_node(NO_ID))
    page.rest(1000)
    expect(View(page).element).to_have_attribute("data-state", "empty")


def test_a_result_that_comes_while_another_workflow_is_open_is_not_shown_there(page, sweep_server):
    page.load({**workflow(blurs="0, 1, 2, 3, 4, 5.5", pivot=2), "id": SOME_ID})
    # The page opens the other workflow before the server has begun.
    page.page.evaluate(
        """async (other) => {
             const { app } = window;
             const done = new Promise((resolve) => app.api.addEventListener("execution_success", resolve));
             await app.queuePrompt(0);
             await app.loadGraphData(other);
             await done;
           }""",
        {**workflow(), "id": "b54ea12b-2f86-4a3f-bb6c-1b6a5f5e5d02"},
    )
    page.rest(1000)
    expect(View(page).element).to_have_attribute("data-state", "empty")


def test_looking_is_not_undoable(page):
    view = View(page).run()
    page.page.evaluate("window.app.extensionManager.workflow.activeWorkflow.changeTracker.checkState()")
    before = page.undoable()
    view.drag(0.5, 0.7, 1)
    view.press("ArrowLeft", "ArrowLeft", "Shift+ArrowLeft", "Home", "Enter", "Escape")
    view.picture.dblclick()
    page.page.mouse.click(5, 500)
    page.rest(500)
    assert page.undoable() == before
    # And what was looked at is there again.
    page.open()
    view.ready().expect_value(0, "blur 0")
    view.expect_grey(grey(0, 6), at=0.9)
