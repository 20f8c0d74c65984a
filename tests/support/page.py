"""The host's real page in real Chromium, driven through playwright.

``with chromium() as browser, HostPage(browser, server) as page: page.load(workflow); page.queue()``.
A page that is left without an error must have written none of ours to its console.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from host_server import HostServer, find_chromium
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, expect, sync_playwright

# Two workers on two cores: what the page does in a second takes it ten at times.
expect.set_options(timeout=20_000)

ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
# What another visit has set stays in the server. The template gallery (on a first visit) and the map would lie over the
# graph.
SETTINGS = {
    "Comfy.Locale": "en",
    "Comfy.TutorialCompleted": True,
    "Comfy.EnableTooltips": False,
    "Comfy.Minimap.Visible": False,
    "Comfy.EnableWorkflowViewRestore": True,
}

# The page draws nodes in two ways, and an extension must work in both.
RENDERERS = {"canvas": {"Comfy.VueNodes.Enabled": False}, "vue": {"Comfy.VueNodes.Enabled": True}}
both_renderers = pytest.mark.parametrize("settings", RENDERERS, indirect=True)

# An error is ours when its address or its stack names a script of the pack, or when it is about a picture that we show.
# The host's page writes errors of its own, others in every version, whatever packs there are.
OURS = re.compile(r"/extensions/comfyui-bokeh/|/view\?")

# The contexts of each browser, with the options that they were opened with.
_contexts: dict[Browser, list[tuple[BrowserContext, dict[str, Any]]]] = {}

_BUILD = """
() => {
  const { graph } = window.app;
  const add = (type, x, size, values) => {
    const node = window.LiteGraph.createNode(type);
    graph.add(node);
    node.pos = [x, 100];
    node.setSize(size);
    for (const widget of node.widgets ?? []) if (widget.name in values) widget.value = values[widget.name];
    return node;
  };
  graph.clear();
  %s
}
"""
_UNDOABLE = "window.app.extensionManager.workflow.activeWorkflow.changeTracker.undoQueue.length"

_REST = """
(milliseconds) => new Promise((done) => setTimeout(() => requestAnimationFrame(() => setTimeout(done)), milliseconds))
"""
_QUEUE = """
(seconds) => new Promise((resolve, reject) => {
  const { app } = window.comfyAPI.app, { api } = window.comfyAPI.api;
  const stop = new AbortController();
  const end = (settle) => { stop.abort(); settle(); };
  const on = (name, handler) => api.addEventListener(name, handler, { signal: stop.signal });
  const fail = (text) => end(() => reject(new Error(text)));
  on("execution_success", () => end(resolve));
  on("execution_error", ({ detail }) => fail(`${detail.node_type}: ${detail.exception_message}`));
  setTimeout(() => fail(`the run did not end within ${seconds} s`), 1000 * seconds);
  app.queuePrompt(0).then(() => {
    const errors = app.lastNodeErrors ?? {};
    if (Object.keys(errors).length) fail(`the server refused the workflow: ${JSON.stringify(errors)}`);
  });
})
"""


def _context(browser: Browser, options: dict[str, Any]) -> BrowserContext:
    for context, opened_with in _contexts.setdefault(browser, []):
        if opened_with == options:
            return context
    _contexts[browser].append((browser.new_context(**options), options))
    return _contexts[browser][-1][0]


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """The system's Chromium without a window.

    Raises:
        FileNotFoundError: there is none; with how to install one.
    """
    program = find_chromium()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(program), args=list(ARGUMENTS))
        try:
            yield browser
        finally:
            _contexts.pop(browser, None)
            browser.close()


class HostPage:
    """One visit to the page, with an empty storage; a context manager.

    Visits with the same options follow one another in one browser context, whose cache spares them most of the time
    that it takes to load the page.
    """

    def __init__(
        self,
        browser: Browser,
        server: HostServer,
        settings: dict[str, Any] | None = None,
        **context: Any,
    ) -> None:
        """
        Args:
            browser: from `chromium`.
            server: a started server.
            settings: the page's own settings, by their ids.
            context: more of playwright's ``new_context`` options (viewport, has_touch, permissions, ...).
        """
        status, answer = server.client.request("POST", "/settings", {**SETTINGS, **(settings or {})})
        assert status == 200, f"the server refused the settings: {answer[:500]!r}"
        self.url = server.url
        self.errors: list[str] = []
        self.context = _context(browser, {"viewport": {"width": 1280, "height": 900}, **context})
        self.page: Page = self.context.new_page()
        stored = {"origin": server.client.url, "storageTypes": "all"}
        self.context.new_cdp_session(self.page).send("Storage.clearDataForOrigin", stored)
        self.page.on("console", self._on_console)
        self.page.on("pageerror", lambda error: self._add(f"{error}\n{error.stack}"))

    def __enter__(self) -> HostPage:
        self.open()
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        try:
            if kind is None:
                self.check()
        finally:
            for page in self.context.pages:
                page.close()

    def open(self) -> None:
        """Go to the page, or reload it, and wait until it can be used."""
        self.page.goto(self.url)
        self.page.wait_for_function("window.app?.vueAppReady && window.app.graph && window.app.canvas", timeout=120_000)
        self.page.wait_for_function("window.app.extensionManager && !document.querySelector('#splash-loader')")

    def load(self, workflow: dict[str, Any] | Path) -> None:
        """Load a workflow, a file or its contents, and look at all of it."""
        if isinstance(workflow, Path):
            workflow = json.loads(workflow.read_text(encoding="utf-8"))
        self.page.evaluate("async (workflow) => { await window.app.loadGraphData(workflow); }", workflow)

    def build(self, script: str) -> None:
        """Empty the graph and run ``script``, which makes nodes by ``add(type, x, size, values)``."""
        self.page.evaluate(_BUILD % script)

    def rest(self, milliseconds: int) -> None:
        """Wait so long by the page's own clock: what the page had to do by then is done, however slow it is."""
        self.page.evaluate(_REST, milliseconds)

    def undoable(self) -> int:
        """How many steps there are to undo."""
        return self.page.evaluate(_UNDOABLE)

    def queue(self, timeout: float = 120) -> None:
        """Queue the graph and wait for its end, ``timeout`` seconds at most.

        Raises:
            playwright.sync_api.Error: the server refused it, a node failed or time ran out.
        """
        self.page.evaluate(_QUEUE, timeout)

    def prompt(self) -> dict[str, Any]:
        """The graph in API format, as the page itself converts it."""
        return self.page.evaluate("async () => (await window.app.graphToPrompt()).output")

    def screenshot(self, path: Path) -> Path:
        """A picture of the window, written to ``path``."""
        self.page.screenshot(path=path)
        return path

    def check(self) -> None:
        """Fail when the page wrote an error of ours to its console."""
        assert not self.errors, "errors in the browser's console:\n" + "\n".join(self.errors)

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self._add(f"{message.text} ({message.location.get('url', '')})")

    def _add(self, error: str) -> None:
        if OURS.search(error):
            self.errors.append(error)
