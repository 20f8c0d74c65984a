"""Bokeh Focus in the host's own page: clicks, the ring, keys, undo, reload, and which pixels the preview blurs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from page import RENDERERS, HostPage
from PIL import Image
from playwright.sync_api import Locator, expect

pytestmark = [pytest.mark.server, pytest.mark.browser]

SIZE = (192, 128)
NEAR, FAR = (0.25, 0.5), (0.8, 0.2)


@pytest.fixture(scope="module")
def scene(sweep_server) -> np.ndarray:
    """A chequered wall with a chequered square before it, and its grey depth, in the server's input folder."""
    y, x = np.mgrid[: SIZE[1], : SIZE[0]]
    photo = np.stack([((x // 4 + y // 4) % 2) * 200 + 30, x, 255 - y], -1).astype(np.uint8)
    depth = np.full(SIZE[::-1], 60, np.uint8)
    depth[40:88, 24:72] = 220
    for name, picture in (("focus_photo", photo), ("focus_depth", depth)):
        Image.fromarray(picture).save(sweep_server.base / "input" / f"{name}.png")
    return photo


@pytest.fixture(params=RENDERERS)
def page(request, browser, sweep_server, scene):
    with HostPage(browser, sweep_server, RENDERERS[request.param], viewport={"width": 1280, "height": 1100}) as page:
        yield page


@pytest.fixture
def canvas_page(browser, sweep_server, scene):
    with HostPage(browser, sweep_server, RENDERERS["canvas"], viewport={"width": 1280, "height": 1100}) as page:
        yield page


def workflow(between: bool = False) -> dict[str, Any]:
    """Photo and depth into the node; with a node ``between``, the photo is no Load Image's for the page."""

    def node(id: int, kind: str, pos: list, size: list, **more) -> dict:
        fields = {"id": id, "type": kind, "pos": pos, "size": size, "inputs": [], "outputs": [], "flags": {}}
        return {**fields, "order": id, "mode": 0, "properties": {}, **more}

    def load(id: int, file: str, y: int, link: int) -> dict:
        out = {"name": "IMAGE", "type": "IMAGE", "links": [link]}
        return node(id, "LoadImage", [0, y], [240, 300], outputs=[out], widgets_values=[file, "image"])

    into = [
        {"name": "image", "type": "IMAGE", "link": 4 if between else 1},
        {"name": "depth", "type": "IMAGE,MOGE_GEOMETRY", "link": 2},
    ]
    nodes = [load(1, "focus_photo.png", 0, 1), load(2, "focus_depth.png", 380, 2)]
    links = [[1, 1, 0, 4 if between else 3, 0, "IMAGE"], [2, 2, 0, 3, 1, "IMAGE"]]
    if between:
        ends = {"inputs": [{"name": "image", "type": "IMAGE", "link": 1}]}
        ends["outputs"] = [{"name": "IMAGE", "type": "IMAGE", "links": [4]}]
        nodes.append(node(4, "ImageInvert", [0, 720], [240, 60], **ends))
        links.append([4, 4, 0, 3, 0, "IMAGE"])
    nodes.append(node(3, "BokehFocus", [300, 0], [460, 860], inputs=into))
    return {"last_node_id": 4, "last_link_id": 4, "nodes": nodes, "links": links, "groups": [], "version": 0.4}


class Focus:
    """The node's picture on the page."""

    def __init__(self, page: HostPage, **options: Any) -> None:
        self.host, self.page = page, page.page
        page.load(workflow(**options))
        self.set(lens="85 mm f/1.4, 36 x 24 mm")
        self.element = self.page.locator(".bokeh-focus-view")

    @property
    def frame(self) -> Locator:
        return self.element.locator(".frame")

    @property
    def ring(self) -> Locator:
        return self.element.get_by_role("slider", name="Aperture")

    def set(self, **values: Any) -> None:
        self.page.evaluate(
            """(values) => {
                 for (const widget of window.app.graph.getNodeById(3).widgets)
                   if (widget.name in values) widget.value = values[widget.name];
               }""",
            values,
        )

    def value(self, name: str) -> Any:
        find = "(name) => window.app.graph.getNodeById(3).widgets.find((widget) => widget.name === name).value"
        return self.page.evaluate(find, name)

    def expect_value(self, name: str, expected: Any) -> None:
        for _ in range(50):
            if self.value(name) == (pytest.approx(expected, abs=0.01) if isinstance(expected, float) else expected):
                return
            self.page.wait_for_timeout(100)
        raise AssertionError(f"{name} is {self.value(name)}, expected {expected}")

    def ready(self) -> Focus:
        expect(self.element.get_by_text("preview", exact=True)).to_be_visible(timeout=20_000)
        return self

    def click(self, place: tuple[float, float], **options: Any) -> None:
        box = self.frame.bounding_box()
        at = {"x": place[0] * box["width"], "y": place[1] * box["height"]}
        self.frame.click(position=at, **options)

    def pixels(self) -> np.ndarray:
        """What the preview shows once it rests."""
        self.page.wait_for_timeout(600)
        flat = self.element.evaluate(
            """(element) => {
                 const drawn = element.shadowRoot.querySelector("canvas");
                 const copy = new OffscreenCanvas(drawn.width, drawn.height).getContext("2d");
                 copy.drawImage(drawn, 0, 0);
                 return [...copy.getImageData(0, 0, drawn.width, drawn.height).data];
               }"""
        )
        return np.array(flat, int).reshape(SIZE[1], SIZE[0], 4)[..., :3]

    def undo(self) -> None:
        self.page.evaluate("() => window.app.extensionManager.command.execute('Comfy.Undo')")


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


def test_keys_move_the_point_and_a_held_key_is_one_step_to_undo(canvas_page):
    focus = Focus(canvas_page).ready()
    focus.click(NEAR)
    place = "[...window.app.graph.getNodeById(3).pos]"
    before = focus.page.evaluate(place)
    for _ in range(5):
        focus.page.keyboard.down("ArrowRight")
    focus.page.keyboard.up("ArrowRight")
    focus.expect_value("focus_x", NEAR[0] + 0.05)
    assert focus.page.evaluate(place) == before
    focus.undo()
    focus.expect_value("focus_x", NEAR[0])


def test_alt_click_sets_where_a_pull_ends_and_takes_it_away(canvas_page):
    focus = Focus(canvas_page).ready()
    focus.click(FAR, modifiers=["Alt"])
    focus.expect_value("pull", "eased")
    focus.expect_value("pull_x", FAR[0])
    focus.expect_value("focus_x", 0.5)
    expect(focus.element.locator(".point.to")).to_be_visible()
    focus.click(FAR, modifiers=["Alt"])
    focus.expect_value("pull", "off")
    expect(focus.element.locator(".point.to")).to_be_hidden()
    focus.element.get_by_role("button", name="pull").click()
    focus.click(NEAR)
    focus.expect_value("pull_x", NEAR[0])


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
    focus.page.wait_for_timeout(1000)
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
