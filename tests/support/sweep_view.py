"""The sweep view on the page, as tests use it: pictures and a workflow for it, and its parts by name."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from page import HostPage
from PIL import Image
from playwright.sync_api import Locator, expect

TEST_NODES = Path(__file__).resolve().parent / "test_nodes"
WIDE = (96, 64)
TALL = (48, 128)
SIX = "0, 4, 8, 15, 22, 30"


def grey(row: int, count: int) -> int:
    """The grey that stands for a row of a batch: every level is another."""
    return 20 + row * 200 // max(count - 1, 1)


def prepare(base: Path) -> None:
    """Put the test nodes and the batches into a server's base folder, before its start."""
    shutil.copytree(TEST_NODES, base / "custom_nodes" / "bokeh-test-nodes")
    (base / "input").mkdir()
    write_batches(base / "input")


def write_batches(folder: Path) -> None:
    """Files that the host's LoadImage reads as batches: wide1, wide2, wide6, wide30 and tall6."""
    for name, count, size in [*((f"wide{count}", count, WIDE) for count in (1, 2, 6, 30)), ("tall6", 6, TALL)]:
        frames = [Image.new("RGB", size, (grey(row, count),) * 3) for row in range(count)]
        path = folder / f"{name}.webp"
        frames[0].save(path, save_all=True, append_images=frames[1:], lossless=True, duration=60_000)


def workflow(
    picture: str = "wide6", blurs: str = SIX, pivot: float = 15, name: str = "blur", scenes: int = 1
) -> dict[str, Any]:
    """A batch of pictures and a sweep, both into the view. ``pivot`` -1: none."""

    def node(id: int, kind: str, pos: list, size: list, inputs: list, outputs: list, values: list) -> dict:
        fields = {"id": id, "type": kind, "pos": pos, "size": size, "inputs": inputs, "outputs": outputs}
        return {**fields, "flags": {}, "order": id, "mode": 0, "properties": {}, "widgets_values": values}

    image = {"name": "IMAGE", "type": "IMAGE", "links": [1]}
    sweep = {"name": "sweep", "type": "BOKEH_SWEEP", "links": [2]}
    into = [{"name": "images", "type": "IMAGE", "link": 1}, {"name": "sweep", "type": "BOKEH_SWEEP", "link": 2}]
    nodes = [
        node(1, "LoadImage", [0, 0], [280, 320], [], [image], [f"{picture}.webp", "image"]),
        node(2, "BokehTestSweep", [0, 400], [280, 130], [], [sweep], [blurs, pivot, name, scenes]),
        node(3, "BokehSweepView", [340, 0], [440, 480], into, [], []),
    ]
    links = [[1, 1, 0, 3, 0, "IMAGE"], [2, 2, 0, 3, 1, "BOKEH_SWEEP"]]
    return {"last_node_id": 3, "last_link_id": 2, "nodes": nodes, "links": links, "groups": [], "version": 0.4}


class View:
    """The widget on the page."""

    def __init__(self, page: HostPage) -> None:
        self.host = page
        self.page = page.page
        self.element = self.page.locator(".bokeh-sweep-view")

    @property
    def slider(self) -> Locator:
        return self.element.get_by_role("slider")

    @property
    def divider(self) -> Locator:
        return self.element.get_by_role("separator")

    @property
    def picture(self) -> Locator:
        return self.element.locator(".frame")

    def run(self, **sweep: Any) -> View:
        """Load the workflow, queue it and wait for its pictures."""
        self.host.load(workflow(**sweep))
        self.host.queue()
        return self.ready()

    def ready(self) -> View:
        expect(self.element).to_have_attribute("data-state", "ready")
        return self

    def expect_value(self, value: float, text: str) -> None:
        expect(self.slider).to_have_attribute("aria-valuenow", f"{value:g}")
        expect(self.slider).to_have_attribute("aria-valuetext", text)

    def expect_grey(self, expected: float, at: float = 0.5, tolerance: int = 2) -> None:
        """The drawn picture comes to this grey, ``at`` this share of its width."""
        for _ in range(200):
            found = self.element.evaluate(
                """(element, at) => {
                     const canvas = element.shadowRoot.querySelector("canvas");
                     const x = Math.round(at * (canvas.width - 1));
                     return canvas.getContext("2d").getImageData(x, canvas.height >> 1, 1, 1).data[0];
                   }""",
                at,
            )
            if abs(found - expected) <= tolerance:
                return
            self.host.rest(100)
        raise AssertionError(f"the picture shows grey {found}, expected {expected} within {tolerance}")

    def track_x(self, fraction: float) -> tuple[float, float]:
        """Where on screen the track has come this far."""
        box = self.element.locator(".track").bounding_box()
        return box["x"] + fraction * box["width"], box["y"] + box["height"] / 2

    def drag(self, *fractions: float) -> None:
        """Press on the first fraction of the track, move over the others, let go."""
        self.page.mouse.move(*self.track_x(fractions[0]))
        self.page.mouse.down()
        for fraction in fractions[1:]:
            self.page.mouse.move(*self.track_x(fraction), steps=4)
        self.page.mouse.up()

    def press(self, *keys: str) -> None:
        for key in keys:
            self.slider.press(key)

    def zoom_to(self, scale: float) -> None:
        """Zoom the graph, with the lower edge of the node near the middle of the window."""
        self.page.evaluate(
            """(scale) => {
                 const { canvas } = window.app, { pos, size } = canvas.graph.getNodeById(3);
                 canvas.ds.scale = scale;
                 canvas.ds.offset = [640 / scale - pos[0] - size[0] / 2, 500 / scale - pos[1] - size[1]];
                 canvas.setDirty(true, true);
               }""",
            scale,
        )
        expect(self.slider).to_be_in_viewport()
        # The page moves the node's content some frames later.
        self.host.rest(500)
