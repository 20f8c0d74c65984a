"""Bokeh Focus on the page, as tests use it: a scene, a workflow for it, and its parts by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from page import HostPage
from PIL import Image
from playwright.sync_api import Locator, expect

SIZE = (192, 128)
NEAR, FAR = (0.25, 0.5), (0.8, 0.2)


def write_scene(folder: Path) -> np.ndarray:
    """A chequered wall with a chequered square before it, [H, W, 3], and its grey depth, as files in a folder."""
    y, x = np.mgrid[: SIZE[1], : SIZE[0]]
    photo = np.stack([((x // 4 + y // 4) % 2) * 200 + 30, x, 255 - y], -1).astype(np.uint8)
    depth = np.full(SIZE[::-1], 60, np.uint8)
    depth[40:88, 24:72] = 220
    for name, picture in (("focus_photo", photo), ("focus_depth", depth)):
        Image.fromarray(picture).save(folder / f"{name}.png")
    return photo


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


NODE = "window.app.canvas.graph.nodes.find((node) => node.comfyClass === 'BokehFocus')"


class Focus:
    """The node's picture on the page, in the graph that is open."""

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

    @property
    def pull(self) -> Locator:
        return self.element.get_by_role("button", name="pull")

    def set(self, **values: Any) -> None:
        self.page.evaluate(
            f"""(values) => {{
                 for (const widget of {NODE}.widgets)
                   if (widget.name in values) widget.value = values[widget.name];
               }}""",
            values,
        )

    def value(self, name: str) -> Any:
        find = f"(name) => {NODE}.widgets.find((widget) => widget.name === name).value"
        return self.page.evaluate(find, name)

    def expect_value(self, name: str, expected: Any) -> None:
        for _ in range(200):
            if self.value(name) == (pytest.approx(expected, abs=0.01) if isinstance(expected, float) else expected):
                return
            self.host.rest(100)
        raise AssertionError(f"{name} is {self.value(name)}, expected {expected}")

    def ready(self) -> Focus:
        expect(self.element.get_by_text("preview", exact=True)).to_be_visible(timeout=20_000)
        return self

    def box(self, target: Locator) -> dict[str, float]:
        """Where an element lies, once it rests: widgets that come or go move everything below them."""
        before, rested = None, 0
        for _ in range(200):
            box = target.bounding_box()
            rested = rested + 1 if box and box == before else 0
            if rested == 3:
                return box
            before = box
            self.host.rest(100)
        raise AssertionError(f"{target} does not come to rest: {before}")

    def click(self, place: tuple[float, float], **options: Any) -> None:
        box = self.box(self.frame)
        at = {"x": place[0] * box["width"], "y": place[1] * box["height"]}
        self.frame.click(position=at, **options)

    def drag(self, *places: tuple[float, float]) -> None:
        """Press on a place of the picture, move over the others, let go."""
        box = self.box(self.frame)
        for number, (x, y) in enumerate(places):
            self.page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"], steps=4)
            if not number:
                self.page.mouse.down()
        self.page.mouse.up()

    def touch(self, target: Locator, *places: tuple[float, float]) -> None:
        """Put a finger on a place of an element, move it over the others, lift it."""
        box, devtools = self.box(target), self.host.context.new_cdp_session(self.page)
        for number, (x, y) in enumerate(places):
            kind = "touchMove" if number else "touchStart"
            point = {"x": box["x"] + x * box["width"], "y": box["y"] + y * box["height"]}
            devtools.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [point]})
        devtools.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})

    def tap_pull(self) -> None:
        """Tap the pull's button until it is pressed: on a slow machine a short tap becomes a long one, no click."""
        for _ in range(5):
            self.pull.tap()
            self.host.rest(700)
            if self.pull.get_attribute("aria-pressed") == "true":
                return
        raise AssertionError("The pull's button cannot be tapped.")

    def move_into_subgraph(self) -> None:
        """Make one node of the whole graph, and open it."""
        self.page.evaluate(
            """() => {
                 const { graph, canvas } = window.app;
                 const { node } = graph.convertToSubgraph(new Set(graph.nodes));
                 canvas.openSubgraph(node.subgraph, node);
                 canvas.ds.scale = 1;
                 canvas.ds.offset = [80, 60];
                 canvas.setDirty(true, true);
               }"""
        )

    def pixels(self) -> np.ndarray:
        """What the preview shows once it rests."""
        self.host.rest(600)
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
