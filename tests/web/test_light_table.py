"""What can be done with the levels of a sweep in the real page: compare, enlarge, take, save; and the report."""

from __future__ import annotations

from typing import Any

import pytest
from page import both_renderers
from playwright.sync_api import expect
from sweep_view import View, grey, workflow

pytestmark = [pytest.mark.server, pytest.mark.browser]


def with_report(picture: str = "wide6") -> dict[str, Any]:
    """The workflow of the view with a report beside it."""
    graph = workflow(picture=picture)
    view = graph["nodes"][2]
    inputs = [{**entry, "link": entry["link"] + 2} for entry in view["inputs"]]
    graph["nodes"].append({**view, "id": 4, "type": "BokehReport", "pos": [820, 0], "inputs": inputs})
    graph["nodes"][0]["outputs"][0]["links"].append(3)
    graph["nodes"][1]["outputs"][0]["links"].append(4)
    graph["links"] += [[3, 1, 0, 4, 0, "IMAGE"], [4, 2, 0, 4, 1, "BOKEH_SWEEP"]]
    return graph


def menu(view: View, entry: str) -> None:
    view.picture.click(button="right", position={"x": 20, "y": 20})
    view.element.get_by_role("menuitem", name=entry).click()


@both_renderers
def test_any_two_levels_and_the_loupe_by_keys(view):
    view.run()
    view.press("5")
    view.expect_value(22, "blur 22")
    view.press("a", "1")
    view.expect_value(0, "blur 0")
    view.expect_grey(grey(4, 6), at=0.2)
    view.expect_grey(grey(0, 6), at=0.8)
    expect(view.element.locator(".left .tag")).to_have_text("blur 22")
    view.press("Shift+2")
    expect(view.element.locator(".left .tag")).to_have_text("blur 4")
    loupe = view.element.locator(".magnifier")
    expect(loupe).to_be_hidden()
    view.press("l")
    expect(loupe).to_contain_text("%")
    box = view.picture.bounding_box()
    view.page.mouse.move(box["x"] + 0.8 * box["width"], box["y"] + box["height"] / 2)
    drawn = loupe.locator("canvas").evaluate(
        "(canvas) => canvas.getContext('2d').getImageData(canvas.width / 2, canvas.height / 2, 1, 1).data[0]"
    )
    assert abs(drawn - grey(0, 6)) <= 2
    view.press("f")
    view.page.wait_for_function("document.fullscreenElement?.className.includes('bokeh-sweep-view')")
    expect(view.element.locator(".buttons")).to_be_visible()
    view.press("f")
    view.page.wait_for_function("!document.fullscreenElement")
    view.press("Escape")
    expect(loupe).to_be_hidden()
    expect(view.divider).to_be_visible()
    view.press("Escape")
    expect(view.divider).to_be_hidden()


@both_renderers
def test_a_level_is_taken_by_the_menu_and_that_is_one_step_to_undo(view):
    view.run()
    view.press("5")
    view.page.evaluate("window.app.extensionManager.workflow.activeWorkflow.changeTracker.checkState()")
    before = view.host.undoable()
    menu(view, "Use blur 22")
    expect(view.element.get_by_role("button", name="Use blur")).to_have_attribute("aria-pressed", "true")
    view.press("Home")
    expect(view.element.get_by_role("button", name="Use blur")).to_have_attribute("aria-pressed", "false")
    view.page.mouse.click(5, 500)
    assert view.host.undoable() == before + 1
    assert view.host.prompt()["3"]["inputs"]["level"] == 22


def test_the_menu_by_keys(view):
    view.run()
    view.picture.click(button="right", position={"x": 20, "y": 20})
    entries = view.element.get_by_role("menuitem")
    expect(entries.first).to_be_focused()
    view.page.keyboard.press("ArrowUp")
    expect(entries.last).to_be_focused()
    view.page.keyboard.press("Escape")
    expect(entries.first).to_be_hidden()
    expect(view.slider).to_be_focused()


def test_the_picture_goes_to_the_disk_the_clipboard_and_a_new_node(view, sweep_server):
    view.run()
    view.press("End")
    with view.page.expect_download() as saved:
        view.element.get_by_role("button", name="Save the picture of blur 30").click()
    assert saved.value.suggested_filename == "blur_30.png"
    menu(view, "Copy the picture")
    expect(view.element.locator(".said")).to_have_text("Copied blur 30")
    kinds = "async () => (await navigator.clipboard.read()).flatMap((item) => item.types)"
    assert view.page.evaluate(kinds) == ["image/png"]
    menu(view, "Load it in a new node")
    expect(view.element.locator(".said")).to_have_text("Load Image has blur 30")
    loader = "window.app.graph.nodes.filter((node) => node.type === 'LoadImage').at(-1).widgets[0].value"
    name = view.page.evaluate(loader)
    assert (sweep_server.base / "input" / name).read_bytes() == saved.value.path().read_bytes()


def test_the_last_run_is_compared_with(view):
    view.run(blurs="0, 4, 8, 15, 22, 29")
    view.press("End")
    view.page.evaluate("window.app.graph.getNodeById(2).widgets[0].value = '0, 1, 2, 15, 16, 17'")
    view.host.queue()
    expect(view.slider).to_have_attribute("aria-valuemax", "17")
    view.ready()
    menu(view, "Compare with the last run")
    expect(view.element.locator(".left .tag")).to_have_text("last run, blur 15")
    view.expect_grey(grey(3, 6), at=0.2)
    view.expect_grey(grey(5, 6), at=0.8)


@both_renderers
def test_the_report_says_it_in_words_and_turns_the_view(view):
    view.host.load(with_report())
    view.host.queue()
    view.ready()
    report = view.page.locator(".bokeh-report")
    expect(report.get_by_role("status").first).to_have_text("The scene stays; 0 is the least alike.")
    level = report.get_by_role("button", name="blur 22: sharpness")
    level.click()
    view.expect_value(22, "blur 22")
    level.press("Home")
    report.get_by_role("button", name="blur 4: sharpness").press("Enter")
    view.expect_value(4, "blur 4")
    # Its own node holds all of it, and the page draws no second figure below.
    box, svg = report.bounding_box(), report.locator("svg").bounding_box()
    assert svg["height"] > 100
    assert svg["y"] + svg["height"] <= box["y"] + box["height"]
    view.host.open()
    expect(report.get_by_role("status").first).to_have_text("The scene stays; 0 is the least alike.")


@both_renderers
def test_scenes_are_switched_by_keys_and_buttons(view):
    view.run(blurs="0, 15, 30", scenes=2)
    view.expect_grey(grey(1, 6))
    scene = view.element.locator(".scenes")
    expect(scene).to_have_text("scene 1 of 2")
    view.press("PageDown")
    expect(scene).to_have_text("scene 2 of 2")
    view.expect_grey(grey(4, 6))
    view.element.get_by_role("button", name="Next scene").click()
    expect(scene).to_have_text("scene 1 of 2")
    view.press("End", "PageUp")
    view.expect_value(30, "blur 30")
    view.expect_grey(grey(5, 6))
    with view.page.expect_download() as saved:
        view.press("s")
    assert saved.value.suggested_filename == "scene_2_blur_30.png"
    view.host.open()
    view.ready().expect_value(30, "blur 30")
    view.expect_grey(grey(5, 6))
    # By keys alone, and for those who do not see it: every control in its order, and each with a name.
    view.slider.focus()
    order = []
    for _ in range(6):
        view.page.keyboard.press("Tab")
        order.append(view.element.evaluate("(element) => element.shadowRoot.activeElement?.className.split(' ')[0]"))
    assert order == ["compare", "loupe", "use", "save", "open", "copy"]
    nameless = """(element) => [...element.shadowRoot.querySelectorAll("button, a, [tabindex]")]
                    .filter((part) => !part.ariaLabel && !part.textContent).map((part) => part.className)"""
    assert view.element.evaluate(nameless) == []


def test_identical_pictures_are_questioned_in_the_view_and_in_the_report(view):
    graph = with_report("wide1")
    repeat = {**graph["nodes"][2], "id": 5, "type": "RepeatImageBatch", "pos": [0, 600], "size": [280, 60]}
    repeat |= {"inputs": [{"name": "image", "type": "IMAGE", "link": 5}], "widgets_values": [6]}
    repeat["outputs"] = [{"name": "IMAGE", "type": "IMAGE", "links": [1, 3]}]
    graph["nodes"].append(repeat)
    graph["nodes"][0]["outputs"][0]["links"] = [5]
    graph["links"] = [
        [5, 1, 0, 5, 0, "IMAGE"],
        *([n, 5, 0, *rest] for n, _, _, *rest in graph["links"] if rest[2] == "IMAGE"),
    ] + [link for link in graph["links"] if link[5] != "IMAGE"]
    view.host.load(graph)
    view.host.queue()
    view.ready()
    question = "These pictures are identical: is the model output of Bokeh Sweep connected?"
    expect(view.element.locator(".remark")).to_contain_text(question)
    expect(view.page.locator(".bokeh-report .verdict")).to_contain_text(question)


@pytest.mark.parametrize("settings", ["vue"], indirect=True)
def test_a_view_is_wide_and_flat_where_the_page_draws_the_nodes(view):
    graph = workflow()
    graph["nodes"][2]["size"] = [900, 420]
    view.host.load(graph)
    view.host.queue()
    view.ready()
    width, height = view.page.evaluate("[...window.app.graph.getNodeById(3).size]")
    # Pages may scale what was laid out for the canvas.
    assert width / height > 2


def test_at_the_width_of_a_phone_what_has_no_room_is_in_the_menu(view):
    view.page.set_viewport_size({"width": 390, "height": 844})
    graph = workflow()
    graph["nodes"][2]["size"] = [300, 420]
    view.host.load(graph)
    view.host.queue()
    view.ready()
    view.page.evaluate(
        """() => {
             const { canvas } = window.app;
             [canvas.ds.scale, canvas.ds.offset] = [1, [-280, 120]];
             canvas.setDirty(true, true);
           }"""
    )
    expect(view.slider).to_be_in_viewport()
    row = view.element.locator(".row").bounding_box()
    for button in view.element.locator(".buttons > :visible").all():
        box = button.bounding_box()
        assert box["x"] + box["width"] <= row["x"] + row["width"] + 1
    expect(view.element.locator("button.save")).to_be_hidden()


def test_motion_is_reduced_where_it_is_asked_for(view):
    view.page.emulate_media(reduced_motion="reduce")
    view.run()
    frames = view.element.evaluate(
        """async (element) => {
             const root = element.shadowRoot, thumb = root.querySelector(".thumb"), places = new Set();
             root.querySelector(".slider").dispatchEvent(
               new KeyboardEvent("keydown", { key: "End", bubbles: true, composed: true }));
             for (let i = 0; i < 8; i++) {
               await new Promise(requestAnimationFrame);
               places.add(thumb.style.left);
             }
             return [...places];
           }"""
    )
    assert frames[-1] == "100%"
    assert len(frames) <= 2
