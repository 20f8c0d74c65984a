"""Bokeh Focus in the host's own page: clicks, the ring, keys, undo, reload, and which pixels the preview blurs."""

from __future__ import annotations

import re

import numpy as np
import pytest
from focus_view import FAR, NEAR, NODE, Focus, write_scene
from page import RENDERERS, HostPage
from playwright.sync_api import expect

pytestmark = [pytest.mark.server, pytest.mark.browser]


@pytest.fixture(scope="module")
def scene(sweep_server) -> np.ndarray:
    return write_scene(sweep_server.base / "input")


@pytest.fixture(params=RENDERERS)
def renderer(request) -> str:
    return request.param


@pytest.fixture
def page(renderer, browser, sweep_server, scene):
    with HostPage(browser, sweep_server, RENDERERS[renderer], viewport={"width": 1280, "height": 1100}) as page:
        yield page


@pytest.fixture
def canvas_page(browser, sweep_server, scene):
    with HostPage(browser, sweep_server, RENDERERS["canvas"], viewport={"width": 1280, "height": 1100}) as page:
        yield page


def test_a_click_focuses_before_any_run_and_only_what_is_out_of_focus_is_blurred(page, scene):
    focus = Focus(page).ready()
    focus.click(NEAR)
    focus.expect_value("focus_x", NEAR[0])
    focus.expect_value("focus_y", NEAR[1])
    near = focus.pixels()
    square = np.s_[40:88, 24:72]
    np.testing.assert_array_equal(near[square], scene[square])
    # The wall, away from its edges: its chequers of 170 are gone.
    assert np.ptp(near[8:30, 100:180, 0]) < 70

    focus.click(FAR)
    focus.expect_value("focus_x", FAR[0])
    far = focus.pixels()
    # The square's disc reaches less than 20 px over the wall.
    np.testing.assert_array_equal(far[:, 100:], scene[:, 100:])
    assert np.ptp(far[56:72, 40:56, 0]) < 70
    focus.undo()
    focus.expect_value("focus_x", NEAR[0])
    focus.expect_value("focus_y", NEAR[1])


def test_the_ring_turns_the_aperture_by_mouse_and_keys(page, scene):
    focus = Focus(page).ready()
    focus.click(NEAR)
    expect(focus.ring).to_have_attribute("aria-valuetext", "f/1.4")
    focus.ring.press("ArrowRight")
    focus.expect_value("f_number", 1.6)
    expect(focus.ring).to_have_attribute("aria-valuetext", "f/1.6")
    focus.ring.press("End")
    focus.expect_value("f_number", 32)
    closed = focus.pixels()
    assert np.ptp(closed[8:30, 100:180, 0]) > 150
    focus.undo()
    focus.expect_value("f_number", 1.6)
    # Vue nodes go on showing the element of the node that undo has replaced.
    expect(focus.ring).to_have_attribute("aria-valuetext", "f/1.6")
    box = focus.ring.bounding_box()
    focus.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    focus.page.mouse.down()
    focus.page.mouse.move(box["x"] + box["width"] / 4, box["y"] + box["height"] / 2, steps=5)
    focus.page.mouse.up()
    expect(focus.ring).not_to_have_attribute("aria-valuetext", "f/1.6")
    turned = float(focus.ring.get_attribute("aria-valuenow"))
    assert turned > 2
    focus.expect_value("f_number", turned)
    focus.undo()
    focus.expect_value("f_number", 1.6)


def test_keys_move_the_point_and_a_held_key_is_one_step_to_undo(page):
    focus = Focus(page).ready()
    focus.click(NEAR)
    place = f"[...{NODE}.pos]"
    before = focus.page.evaluate(place)
    for _ in range(5):
        focus.page.keyboard.down("ArrowRight")
    focus.page.keyboard.up("ArrowRight")
    focus.expect_value("focus_x", NEAR[0] + 0.05)
    assert focus.page.evaluate(place) == before
    focus.undo()
    focus.expect_value("focus_x", NEAR[0])


def test_alt_click_sets_where_a_pull_ends_and_takes_it_away(page):
    focus = Focus(page).ready()
    focus.click(FAR, modifiers=["Alt"])
    focus.expect_value("pull", "eased")
    focus.expect_value("pull_x", FAR[0])
    focus.expect_value("focus_x", 0.5)
    expect(focus.element.locator(".point.to")).to_be_visible()
    focus.click(FAR, modifiers=["Alt"])
    focus.expect_value("pull", "off")
    expect(focus.element.locator(".point.to")).to_be_hidden()
    focus.pull.click()
    expect(focus.pull).to_have_attribute("aria-pressed", "true")
    focus.click(NEAR)
    focus.expect_value("pull_x", NEAR[0])


def test_a_drag_is_one_step_to_undo_the_frame_follows_it_and_the_wheel_zooms_the_graph(page):
    focus = Focus(page).ready()
    focus.click(FAR)
    focus.expect_value("focus_x", FAR[0])
    focus.drag(FAR, (0.5, 0.4), (0.3, 0.45), NEAR)
    focus.expect_value("focus_x", NEAR[0])
    marked, box = focus.element.locator(".point.from").bounding_box(), focus.frame.bounding_box()
    middle = (marked["x"] + marked["width"] / 2 - box["x"]) / box["width"]
    assert middle == pytest.approx(NEAR[0], abs=0.01)
    focus.undo()
    focus.expect_value("focus_x", FAR[0])
    expect(focus.element.locator(".point.from")).to_have_attribute("style", re.compile("left: 80"))
    # Beside the picture is its edge.
    focus.drag((0.5, 0.5), (0.9, 0.6), (1.1, 0.6))
    focus.expect_value("focus_x", 1)
    focus.expect_value("focus_y", 0.6)
    scale = "window.app.canvas.ds.scale"
    before = focus.page.evaluate(scale)
    focus.frame.hover()
    focus.page.mouse.wheel(0, -240)
    focus.page.wait_for_function(f"(before) => {scale} > before", arg=before)


def test_by_touch(browser, sweep_server, scene, renderer):
    viewport = {"width": 1280, "height": 1100}
    with HostPage(browser, sweep_server, RENDERERS[renderer], viewport=viewport, has_touch=True) as page:
        focus = Focus(page).ready()
        focus.touch(focus.frame, FAR)
        focus.expect_value("focus_x", FAR[0])
        focus.touch(focus.frame, FAR, (0.6, 0.3), (0.4, 0.4), NEAR)
        focus.expect_value("focus_x", NEAR[0])
        np.testing.assert_array_equal(focus.pixels()[40:88, 24:72], scene[40:88, 24:72])
        focus.touch(focus.ring, (0.6, 0.5), (0.5, 0.5), (0.4, 0.5))
        expect(focus.ring).not_to_have_attribute("aria-valuetext", "f/1.4")
        focus.tap_pull()
        focus.touch(focus.frame, FAR)
        focus.expect_value("pull_x", FAR[0])
        focus.expect_value("focus_x", NEAR[0])
        focus.undo()
        focus.expect_value("pull", "off")


def test_inside_a_subgraph(page, scene):
    focus = Focus(page)
    focus.move_into_subgraph()
    focus.ready().click(NEAR)
    focus.expect_value("focus_x", NEAR[0])
    near = focus.pixels()
    np.testing.assert_array_equal(near[40:88, 24:72], scene[40:88, 24:72])
    assert np.ptp(near[8:30, 100:180, 0]) < 70
    focus.ring.press("End")
    focus.expect_value("f_number", 32)
    (inputs,) = (node["inputs"] for node in page.prompt().values() if node["class_type"] == "BokehFocus")
    assert inputs["f_number"] == 32
    page.queue()
    focus.undo()
    focus.expect_value("f_number", 0)
    focus.ready().click(FAR)
    focus.expect_value("focus_x", FAR[0])


def test_what_is_in_focus_is_coloured_and_the_blur_can_be_hidden(canvas_page, scene):
    focus = Focus(canvas_page).ready()
    focus.click(NEAR)
    focus.element.get_by_role("button", name="in focus").click()
    focus.element.get_by_role("button", name="sharp").click()
    shown = focus.pixels()
    differs = (shown != scene).any(-1)
    assert differs[40:88, 24:72].all()
    assert not differs[:, 72:].any()


def test_behind_another_node_the_picture_comes_with_a_run_and_stays_over_a_reload(canvas_page, scene):
    focus = Focus(canvas_page, between=True)
    expect(focus.element.get_by_text("queue the graph once")).to_be_visible()
    canvas_page.queue()
    focus.ready()
    focus.click(FAR)
    focus.expect_value("focus_x", FAR[0])
    # The host rounds down when it writes pictures.
    np.testing.assert_allclose(focus.pixels()[:, 100:], 255 - scene[:, 100:], atol=1)
    focus.host.rest(1000)
    canvas_page.open()
    focus.ready()
    focus.expect_value("focus_x", FAR[0])
    np.testing.assert_allclose(focus.pixels()[:, 100:], 255 - scene[:, 100:], atol=1)


def test_what_is_chosen_goes_to_the_server_and_a_widget_set_by_another_node_is_left_alone(canvas_page):
    focus = Focus(canvas_page).ready()
    focus.click(NEAR)
    focus.expect_value("focus_x", NEAR[0])
    inputs = canvas_page.prompt()["3"]["inputs"]
    assert inputs["focus_x"] == pytest.approx(NEAR[0], abs=0.01)
    assert not [name for name in inputs if " " in name]
    focus.page.evaluate(
        """() => {
             const { graph } = window.app, made = window.LiteGraph.createNode("PrimitiveFloat");
             graph.add(made);
             const node = graph.getNodeById(3);
             made.connect(0, node, node.inputs.findIndex((input) => input.name === "focus_x"));
           }"""
    )
    focus.click(FAR)
    expect(focus.element.get_by_text("focus_x: set by another node")).to_be_visible()
    focus.expect_value("focus_y", FAR[1])
