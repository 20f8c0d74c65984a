"""The light table while a sweep is being sampled, by the pack's blueprints of subgraphs, and in a subgraph itself."""

from __future__ import annotations

import json
from typing import Any

import pytest
from page import HostPage
from places import CHECKOUT
from playwright.sync_api import expect
from sweep_view import View

pytestmark = [pytest.mark.server, pytest.mark.browser]

BLUEPRINT = json.loads((CHECKOUT / "subgraphs" / "Bokeh sweep.json").read_text(encoding="utf-8"))
# Builds the graph around the blueprint, as a person does: by types and names.
BUILD = """
(seed) => {
  const { graph } = window.app;
  const sweep = graph.nodes[0];
  const add = (type, x, y) => {
    const node = window.LiteGraph.createNode(type);
    node.pos = [x, y];
    graph.add(node);
    return node;
  };
  const into = (from, output, to, input) =>
    from.connect(output, to, to.inputs.findIndex(({ name }) => name === input));
  sweep.pos = [400, 0];
  const demo = add("BokehDemoModel", 0, 0), adapter = add("BokehLoadAdapter", 0, 140);
  adapter.widgets[0].value = "demo";
  const size = add("EmptyLatentImage", 0, 260), view = add("BokehSweepView", 800, 0);
  for (const side of [0, 1]) size.widgets[side].value = 128;
  const prompts = ["a red heart before teal lights", ""].map((text, row) => {
    const prompt = add("CLIPTextEncode", 0, 420 + 120 * row);
    prompt.widgets[0].value = text;
    into(demo, 1, prompt, "clip");
    return prompt;
  });
  into(demo, 0, sweep, "model");
  into(demo, 2, sweep, "vae");
  into(adapter, 0, sweep, "adapter");
  into(size, 0, sweep, "latent");
  into(prompts[0], 0, sweep, "positive");
  into(prompts[1], 0, sweep, "negative");
  into(sweep, 0, view, "images");
  into(sweep, 1, view, "sweep");
  sweep.widgets.find(({ name }) => name === "seed").value = seed;
  sweep.widgets.find(({ name }) => name === "steps").value = 60;
  Object.assign(window.app.canvas.ds, { scale: 1, offset: [-500, 150] });
}
"""
QUEUE = "() => { window.app.queuePrompt(0); }"
STEPS = "(steps) => { window.app.graph.nodes[0].widgets.find(({ name }) => name === 'steps').value = steps; }"
INTO_SUBGRAPH = """
() => {
  const { graph, canvas } = window.app;
  const view = graph.nodes.find(({ type }) => type === "BokehSweepView");
  const { subgraph, node } = graph.convertToSubgraph(new Set([view]));
  canvas.openSubgraph(subgraph, node);
  const [x, y] = subgraph.nodes.find(({ type }) => type === "BokehSweepView").pos;
  Object.assign(canvas.ds, { scale: 1, offset: [400 - x, 150 - y] });
}
"""


def test_levels_are_seen_while_they_are_sampled(page: HostPage, sweep_server: Any):
    names = [entry["name"] for entry in sweep_server.client.get("/global_subgraphs").values()]
    assert {"Bokeh sweep", "Bokeh photo"} <= set(names)
    page.load(BLUEPRINT)
    page.page.evaluate(BUILD, 1)
    view = View(page)
    expect(view.element).to_have_attribute("data-state", "empty")
    # So many that it is interrupted in the middle, however fast the machine.
    page.page.evaluate(STEPS, 1000)
    page.page.evaluate(QUEUE)
    expect(view.element).to_have_attribute("data-preview", "", timeout=60_000)
    expect(view.element.locator(".progress")).to_contain_text("of 1000")
    # It can be looked through, but is not yet what can be saved or taken.
    view.press("End")
    view.expect_value(30, "blur 30")
    assert view.element.locator(".buttons").evaluate("(buttons) => buttons.inert")
    page.page.evaluate("() => window.comfyAPI.api.api.interrupt()")
    expect(view.element).to_have_attribute("data-state", "empty")
    page.page.evaluate(STEPS, 10)
    page.queue()
    view.ready()
    expect(view.element).not_to_have_attribute("data-preview", "")
    shown = view.element.evaluate("(element) => element.shadowRoot.querySelector('canvas').width")
    assert shown == 128
    # What was there comes back when another run is stopped.
    page.page.evaluate(STEPS, 1000)
    page.page.evaluate(QUEUE)
    expect(view.element).to_have_attribute("data-preview", "", timeout=60_000)
    page.page.evaluate("() => window.comfyAPI.api.api.interrupt()")
    view.ready()
    expect(view.element).not_to_have_attribute("data-preview", "")


def test_a_view_in_a_subgraph_follows_what_is_sampled_outside(page: HostPage):
    page.load(BLUEPRINT)
    page.page.evaluate(BUILD, 3)
    page.page.evaluate(INTO_SUBGRAPH)
    view = View(page)
    expect(view.element).to_have_attribute("data-state", "empty")
    page.page.evaluate(QUEUE)
    expect(view.element).to_have_attribute("data-preview", "", timeout=60_000)
    expect(view.element).not_to_have_attribute("data-preview", "", timeout=60_000)
    view.ready().expect_value(15, "blur 15, pivot")
