"""The example workflows: they load in the real page without a word of complaint, and the server takes them."""

from __future__ import annotations

import json
import re
import uuid
from pathlib import Path

import nodes as host_nodes
import pytest
from layout import boxes_at_rest, faults
from page import RENDERERS, HostPage
from PIL import Image
from places import WORKFLOWS

EXAMPLES = sorted(WORKFLOWS.glob("*.json"))
# Nodes that are the page's alone.
NOTES = {"MarkdownNote"}
# What the name of an example ends with that needs a newer host than the oldest.
NEWER = re.compile(r"ComfyUI (\d+\.\d+)\)$")


def nodes_of(path: Path) -> list[dict]:
    return json.loads(path.read_text(encoding="utf-8"))["nodes"]


def lacking(path: Path) -> set[str]:
    """The nodes of an example that this host does not have."""
    return {node["type"] for node in nodes_of(path)} - NOTES - host_nodes.NODE_CLASS_MAPPINGS.keys()


RUNNABLE = [path for path in EXAMPLES if not lacking(path)]


@pytest.fixture(scope="module")
def model_files(server):
    """Empty models and a black photo under the names that the examples ask for, so that the page misses none."""
    for path in EXAMPLES:
        for node in nodes_of(path):
            if node["type"] in ("LoadImage", "BokehPortrait"):
                Image.new("RGB", (64, 64)).save(server.base / "input" / node["widgets_values"][0])
            elif node["type"] == "BokehLora":
                loras = server.models / "loras"
                loras.mkdir(parents=True, exist_ok=True)
                (loras / node["widgets_values"][0]).touch()
            for model in node["properties"].get("models", ()):
                file = server.models / model["directory"] / model["name"]
                file.parent.mkdir(parents=True, exist_ok=True)
                file.touch()


@pytest.fixture(scope="module", params=RENDERERS)
def visit(request, browser, server, model_files):
    """One visit for all examples, as people try one after the other; and whether the page draws nodes by Vue."""
    vue = request.param == "vue"
    # Older pages scatter the nodes that they draw themselves while they fit a graph to the window.
    settings = {**RENDERERS[request.param], "Comfy.EnableWorkflowViewRestore": not vue}
    with HostPage(browser, server, settings, viewport={"width": 1280, "height": 720}) as page:
        yield page, vue


@pytest.fixture(scope="module")
def info(server):
    return server.client.object_info()


@pytest.mark.server
@pytest.mark.browser
@pytest.mark.parametrize("path", RUNNABLE, ids=lambda path: path.stem)
def test_loads_in_the_page_lies_well_and_passes_the_servers_validation(path, visit, server, info):
    page, vue = visit
    page.load(path)
    assert faults(*boxes_at_rest(page, vue)) == []
    assert page.page.locator("[role=dialog], .p-toast-message").all_inner_texts() == []
    page.check()
    prompt = page.prompt()
    active = {str(node["id"]): node for node in nodes_of(path) if node["type"] not in NOTES}
    assert prompt.keys() == active.keys()
    for key, node in active.items():
        assert prompt[key]["class_type"] == node["type"]
        required = info[node["type"]]["input"]["required"]
        assert required.keys() <= prompt[key]["inputs"].keys()
    if vue:
        return
    # All of it is in a small window, and words can be read: the page leaves them out below 8 px, and they have 14.
    assert page.page.evaluate("window.app.canvas.ds.scale") > 8 / 14
    # Refused graphs raise here, with the server's own words.
    server.client.queue(prompt)
    server.client.request("POST", "/queue", {"clear": True})
    server.client.interrupt()


def test_an_example_that_needs_a_newer_host_says_so_in_its_name_and_in_its_note():
    for path in EXAMPLES:
        newer = NEWER.search(path.stem)
        assert newer or not lacking(path), path.stem
        if newer:
            (note,) = (node["widgets_values"][0] for node in nodes_of(path) if node["type"] in NOTES)
            assert note.startswith(f"Needs **ComfyUI {newer[1]}**"), path.stem


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_is_arranged_for_people(path):
    workflow = json.loads(path.read_text(encoding="utf-8"))
    with Image.open(path.with_suffix(".jpg")) as thumbnail:
        assert thumbnail.format == "JPEG"
        assert thumbnail.width == thumbnail.height > 500
    assert [node["type"] for node in workflow["nodes"]].count("MarkdownNote") == 1
    assert workflow["groups"]
    # The page itself fits the graph to the window then.
    assert "ds" not in workflow["extra"]
    boxes = [(*node["pos"], *node["size"]) for node in workflow["nodes"]]
    for x, y, width, height in boxes:
        overlapping = [other for other in boxes if x < other[0] < x + width and y < other[1] < y + height]
        assert not overlapping
    loaders = [node for node in workflow["nodes"] if node["type"] in ("UNETLoader", "DualCLIPLoader", "VAELoader")]
    for node in loaders:
        hinted = {model["name"] for model in node["properties"]["models"]}
        named = {value for value in node["widgets_values"] if str(value).endswith((".safetensors", ".bin"))}
        assert hinted == named
        assert all(model["url"].startswith("https://") for model in node["properties"]["models"])


@pytest.mark.server
def test_the_hosts_template_browser_lists_the_examples(server):
    listed = server.client.get("/workflow_templates")
    assert sorted(listed["comfyui-bokeh"]) == [path.stem for path in EXAMPLES]


def test_every_example_is_a_workflow_of_its_own():
    ids = [uuid.UUID(json.loads(path.read_text(encoding="utf-8"))["id"]) for path in EXAMPLES]
    assert all(id.int for id in ids)
    assert len(set(ids)) == len(ids)
