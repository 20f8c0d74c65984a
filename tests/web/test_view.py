"""The sweep view in the host's own page, in real Chromium."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from page import HostPage, both_renderers
from playwright.sync_api import expect
from sweep_view import TALL, WIDE, View, grey, workflow

pytestmark = [pytest.mark.server, pytest.mark.browser]

LOST = [(2, "ready", "2 of 6 pictures are missing"), (6, "gone", "Queue the graph again")]


@both_renderers
def test_starts_at_the_pivot_and_follows_the_mouse(view):
    view.run()
    view.expect_value(15, "blur 15, pivot")
    view.expect_grey(grey(3, 6))
    view.drag(0.5, 0.7, 1)
    view.expect_value(30, "blur 30")
    view.expect_grey(grey(5, 6))
    view.drag(1, 0)
    view.expect_value(0, "blur 0")
    view.expect_grey(grey(0, 6))


def test_fades_between_neighbouring_levels(view):
    view.run()
    view.drag(0.5, 26 / 30)
    # A pixel of the track is less than a tenth.
    expect(view.slider).to_have_attribute("aria-valuetext", re.compile(r"blur 2(5\.9|6|6\.1), between 22 and 30"))
    view.expect_grey((grey(4, 6) + grey(5, 6)) / 2, tolerance=4)


def test_a_level_attracts_the_pointer(view):
    view.run()
    x, y = view.track_x(22 / 30)
    view.page.mouse.click(x + 3, y)
    view.expect_value(22, "blur 22")
    view.expect_grey(grey(4, 6))


@both_renderers
def test_dragging_the_picture_turns_the_blur(view):
    view.run()
    box = view.picture.bounding_box()
    y = box["y"] + box["height"] / 2
    view.page.mouse.move(box["x"] + 0.3 * box["width"], y)
    view.page.mouse.down()
    view.page.mouse.move(box["x"] + 0.8 * box["width"], y, steps=5)
    view.page.mouse.up()
    view.expect_value(30, "blur 30")
    view.expect_grey(grey(5, 6))


@both_renderers
def test_keys(view):
    view.run()
    position = "[...window.app.graph.getNodeById(3).pos]"
    before = view.page.evaluate(position)
    view.press("ArrowRight")
    view.expect_value(22, "blur 22")
    view.press("ArrowLeft", "ArrowLeft")
    view.expect_value(8, "blur 8")
    view.expect_grey(grey(2, 6))
    view.press("Home", "ArrowLeft")
    view.expect_value(0, "blur 0")
    view.press("End", "ArrowRight")
    view.expect_value(30, "blur 30")
    view.press("Shift+ArrowLeft")
    view.expect_value(29.2, "blur 29.2, between 22 and 30")
    view.press("Shift+ArrowDown", "ArrowUp")
    view.expect_value(30, "blur 30")
    view.press("Home", *["Shift+ArrowRight"] * 10)
    view.expect_value(4, "blur 4")
    view.expect_grey(grey(1, 6))
    # The page moves selected nodes with the same keys.
    assert view.page.evaluate(position) == before


@both_renderers
def test_double_click_compares_with_the_pivot(view):
    view.run()
    view.drag(0.5, 1)
    view.picture.dblclick()
    expect(view.element.get_by_text("pivot, blur 15")).to_be_visible()
    view.expect_value(30, "blur 30")
    view.expect_grey(grey(3, 6), at=0.25)
    view.expect_grey(grey(5, 6), at=0.75)

    box = view.picture.bounding_box()
    view.divider.hover()
    view.page.mouse.down()
    view.page.mouse.move(box["x"] + 0.9 * box["width"], box["y"] + box["height"] / 2, steps=4)
    view.page.mouse.up()
    view.expect_grey(grey(3, 6), at=0.75)
    expect(view.divider).to_have_attribute("aria-valuenow", "90")

    view.divider.press("Home")
    view.expect_grey(grey(5, 6), at=0.05)
    view.divider.press("ArrowRight")
    expect(view.divider).to_have_attribute("aria-valuenow", "5")
    view.divider.press("Escape")
    expect(view.divider).to_be_hidden()
    view.expect_grey(grey(5, 6), at=0.01)


def test_compare_by_button_and_key(view):
    view.run()
    button = view.element.locator(".compare")
    button.click()
    expect(view.divider).to_be_visible()
    expect(button).to_have_attribute("aria-pressed", "true")
    view.press("Enter")
    expect(view.divider).to_be_hidden()
    expect(button).to_have_attribute("aria-pressed", "false")


@both_renderers
def test_keeps_its_place_over_a_reload_and_a_new_run(view):
    view.run()
    view.drag(0.5, 22 / 30)
    view.expect_value(22, "blur 22")
    view.press("Shift+ArrowRight")
    view.host.open()
    view.ready().expect_value(22.8, "blur 22.8, between 22 and 30")
    view.expect_grey(grey(4, 6) + 0.1 * (grey(5, 6) - grey(4, 6)))
    view.host.queue()
    view.ready().expect_value(22.8, "blur 22.8, between 22 and 30")


def test_keeps_its_place_when_the_levels_change(view):
    view.run()
    view.press("ArrowRight")
    view.page.evaluate(
        """() => { const [, sweep] = [1, 2].map((id) => window.app.graph.getNodeById(id));
                   sweep.widgets[0].value = "20 30 25 20 24 21"; }"""
    )
    view.host.queue()
    expect(view.slider).to_have_attribute("aria-valuemin", "20")
    view.ready().expect_value(22, "blur 22, between 21 and 24")
    view.page.evaluate("() => { window.app.graph.getNodeById(2).widgets[0].value = '0 2 4 6 8 10'; }")
    view.host.queue()
    expect(view.slider).to_have_attribute("aria-valuemax", "10")
    view.ready().expect_value(10, "blur 10")


@both_renderers
def test_a_run_alone_leaves_the_workflow_unchanged(view):
    view.host.load(workflow())
    before = view.page.evaluate("JSON.stringify(window.app.graph.serialize().nodes.map((node) => node.properties))")
    view.host.queue()
    view.ready()
    after = view.page.evaluate("JSON.stringify(window.app.graph.serialize().nodes.map((node) => node.properties))")
    assert after == before


def test_the_place_is_not_sent_to_the_server(view):
    view.run()
    view.press("End")
    assert view.host.prompt()["3"]["inputs"] == {"images": ["1", 0], "sweep": ["2", 0], "level": -1}


def test_values_out_of_order_and_repeated(view):
    view.run(blurs="30, 0, 8, 4, 15, 15")
    expect(view.element.locator(".tick")).to_have_count(5)
    # The first of the two pictures at 15 is the pivot.
    view.expect_grey(grey(4, 6))
    for key, value, row in (("Home", 0, 1), ("ArrowRight", 4, 3), ("ArrowRight", 8, 2), ("End", 30, 0)):
        view.press(key)
        view.expect_value(value, f"blur {value}")
        view.expect_grey(grey(row, 6))


@both_renderers
def test_one_level(view):
    view.run(picture="wide1", blurs="12", pivot=-1)
    view.press("ArrowRight", "Home", "Shift+ArrowLeft")
    view.drag(0.5, 1)
    view.picture.dblclick()
    view.expect_value(12, "blur 12")
    view.expect_grey(grey(0, 1))
    expect(view.divider).to_be_hidden()
    expect(view.element.get_by_role("button", name="Compare")).to_be_disabled()


def test_two_levels_without_a_pivot(view):
    view.run(picture="wide2", blurs="5, 25", pivot=-1)
    view.expect_value(5, "blur 5")
    expect(view.element.locator(".pivot-mark")).to_be_hidden()
    view.press("ArrowRight")
    view.expect_grey(grey(1, 2))


def test_thirty_levels(view):
    view.run(picture="wide30", blurs="0..30/30", name="alpha")
    expect(view.element.locator(".tick")).to_have_count(30)
    # 15 lies between two levels: the nearest stands for the pivot, the mark stays at 15.
    view.expect_value(14.48, "alpha 14.48")
    expect(view.element.locator(".pivot-mark")).to_have_attribute("title", "pivot 15")
    boxes = sorted(
        (box["x"], box["width"]) for box in (label.bounding_box() for label in view.element.locator(".label").all())
    )
    assert len(boxes) >= 6
    assert all(x + width < following for (x, width), (following, _) in pairwise(boxes))
    view.press("End", "ArrowLeft")
    view.expect_grey(grey(28, 30))


@both_renderers
@pytest.mark.parametrize(("picture", "size"), [("wide6", WIDE), ("tall6", TALL)])
def test_the_picture_keeps_its_shape_and_stays_in_the_node(view, picture, size):
    view.run(picture=picture)
    frame, screen = view.picture.bounding_box(), view.element.locator(".screen").bounding_box()
    assert frame["width"] / frame["height"] == pytest.approx(size[0] / size[1], rel=0.01)
    assert frame["width"] <= screen["width"] + 1
    assert frame["height"] <= screen["height"] + 1
    # It is as large as the node allows.
    assert max(frame["width"] / screen["width"], frame["height"] / screen["height"]) > 0.98


def test_says_when_the_clipboard_is_refused(view):
    view.run()
    devtools = view.host.context.new_cdp_session(view.page)
    visit = devtools.send("Target.getTargetInfo")["targetInfo"]["browserContextId"]
    permission = {"permission": {"name": "clipboard-write"}, "browserContextId": visit}
    devtools.send("Browser.setPermission", {"setting": "denied", **permission})
    try:
        view.element.get_by_role("button", name="Copy").click()
        expect(view.element.locator(".said")).to_contain_text("The browser does not allow copying here")
    finally:
        devtools.send("Browser.setPermission", {"setting": "granted", **permission})


@both_renderers
def test_opens_the_nearest_picture_at_full_size(view):
    view.run()
    view.press("End", "Shift+ArrowLeft")
    button = view.element.get_by_role("button", name="Open the picture of blur 30 at full size")
    with view.host.context.expect_page() as opened:
        button.click()
    picture = opened.value.locator("img")
    picture.wait_for()
    assert picture.evaluate("(image) => [image.naturalWidth, image.naturalHeight]") == list(WIDE)


@both_renderers
def test_touch(browser, sweep_server, settings):
    with HostPage(browser, sweep_server, settings, has_touch=True) as page:
        view = View(page).run()
        devtools = page.context.new_cdp_session(page.page)

        def touch(kind: str, fraction: float | None = None) -> None:
            x, y = view.track_x(fraction or 0)
            points = [] if fraction is None else [{"x": x, "y": y}]
            devtools.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

        touch("touchStart", 0.5)
        for fraction in (0.6, 0.65, 22 / 30):
            touch("touchMove", fraction)
        touch("touchEnd")
        view.expect_value(22, "blur 22")
        page.open()
        view.ready().expect_value(22, "blur 22")


@both_renderers
def test_the_wheel_over_the_view_zooms_the_graph(view):
    view.run()
    before = view.page.evaluate("window.app.canvas.ds.scale")
    view.picture.hover()
    view.page.mouse.wheel(0, -240)
    view.page.wait_for_function("(before) => window.app.canvas.ds.scale > before", arg=before)


# Further out the page's own rendering lets no node content take the mouse.
@pytest.mark.parametrize(
    ("settings", "scale"), [("canvas", 0.25), ("canvas", 2.5), ("vue", 0.6), ("vue", 2.5)], indirect=["settings"]
)
def test_follows_the_mouse_at_any_zoom(view, scale):
    view.run()
    view.zoom_to(scale)
    view.drag(0.5, 22 / 30)
    view.expect_value(22, "blur 22")


@both_renderers
def test_text_grows_when_the_graph_is_far_away(view):
    view.run()
    sizes = []
    for scale in (1, 0.5, 0.25):
        view.zoom_to(scale)
        sizes.append(view.element.locator(".number").evaluate("(text) => parseFloat(getComputedStyle(text).fontSize)"))
    assert sizes[0] < sizes[1] < sizes[2]
    screen, panel = (view.element.locator(part).bounding_box() for part in (".screen", ".panel"))
    assert screen["y"] + screen["height"] <= panel["y"] + 1


def test_a_new_node_takes_the_shape_of_its_pictures(view):
    view.host.load(workflow(picture="tall6"))
    view.page.evaluate(
        """() => {
             const { graph } = window.app, old = graph.getNodeById(3);
             const sources = [1, 2].map((id) => graph.getNodeById(id));
             graph.remove(old);
             const node = LiteGraph.createNode("BokehSweepView");
             node.pos = [340, 0];
             graph.add(node);
             sources.forEach((source, input) => source.connect(0, node, input));
           }"""
    )
    expect(view.element).to_be_visible()
    view.host.queue()
    view.ready()
    view.page.wait_for_function(
        """(element) => {
             const part = (name) => element.shadowRoot.querySelector(name).getBoundingClientRect();
             return part(".frame").height > 350 && part(".screen").height - part(".frame").height < 2;
           }""",
        arg=view.element.element_handle(),
    )


def test_an_older_run_from_the_history(view, sweep_server):
    view.run()
    runs = set(sweep_server.client.get("/history"))
    view.run(picture="wide2", blurs="5, 25", pivot=5)
    view.expect_value(5, "blur 5, pivot")
    newest = (set(sweep_server.client.get("/history")) - runs).pop()
    view.run()
    # What the page does with a run's outputs after it has loaded the run's workflow.
    outputs = sweep_server.client.get(f"/history/{newest}")[newest]["outputs"]
    view.page.evaluate("(outputs) => { window.app.nodeOutputs = outputs; }", outputs)
    view.ready().expect_value(5, "blur 5, pivot")
    view.press("End")
    view.expect_grey(grey(1, 2))


@pytest.mark.parametrize(("lost", "state", "text"), LOST)
def test_says_when_the_server_lost_pictures(view, sweep_server, lost, state, text):
    # Values of its own, because the server keeps results and other tests want their pictures.
    view.run(blurs=f"0, 4, 8, 15, 22, {30 - lost}")
    files = view.page.evaluate("window.app.nodeOutputs[3].bokeh_sweep[0].levels.map((level) => level.filename)")
    for name in files[:lost]:
        (sweep_server.base / "temp" / name).unlink()
    view.host.context.new_cdp_session(view.page).send("Network.clearBrowserCache")
    view.host.open()
    expect(view.element).to_have_attribute("data-state", state)
    expect(view.element.get_by_text(text)).to_be_visible()
    expected = [error for error in view.host.errors if "404" in error and "/view?" in error]
    assert len(expected) == lost
    view.host.errors = [error for error in view.host.errors if error not in expected]
