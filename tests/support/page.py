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
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Error, Page, expect, sync_playwright

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
    "LiteGraph.Node.TooltipDelay": 0,
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
# The page that is open in each browser, and how it was opened.
_open: dict[Browser, tuple[Page, dict[str, Any]]] = {}

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

# The page as if it had just been opened, but for its own first workflow, in whose place an empty one is alone; nothing
# is looked at, stored or undoable.
_ANEW = """
async (settings) => {
  const { app } = window, { setting, workflow } = app.extensionManager;
  if (document.fullscreenElement) await document.exitFullscreen();
  document.activeElement?.blur();
  for (const [id, value] of Object.entries(settings)) if (setting.get(id) !== value) await setting.set(id, value);
  await app.loadGraphData({ version: 0.4, nodes: [], links: [], groups: [], last_node_id: 0, last_link_id: 0 });
  for (const { path } of [...workflow.openWorkflows])
    if (path !== workflow.activeWorkflow.path) await workflow.closeWorkflow(workflow.getWorkflowByPath(path));
  app.nodeOutputs = {};
  Object.assign(app.canvas.ds, { scale: 1, offset: [0, 0] });
  for (const key of Object.keys(sessionStorage)) if (key !== "clientId") sessionStorage.removeItem(key);
}
"""
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
            _open.pop(browser, None)
            browser.close()


def forget() -> None:
    """After a failure: no visit goes on in a page that is open."""
    _open.clear()


class HostPage:
    """One visit to the page, with an empty storage; a context manager.

    Loading the page takes longer than most of what is done in it. A visit of the same kind as the one before goes on
    in its page, made as empty as it was when it was opened.
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
        self.url = server.url
        self.errors: list[str] = []
        self._server, self._browser = server, browser
        self._settings = {**SETTINGS, **(settings or {})}
        viewport = context.pop("viewport", {"width": 1280, "height": 900})
        options = {"permissions": ["clipboard-read", "clipboard-write"], **context}
        self._kind = {"url": self.url, "settings": self._settings, **options}
        page, kind = _open.pop(browser, (None, None))
        self._goes_on = kind == self._kind
        if not self._goes_on:
            for context in browser.contexts:
                for page in context.pages:
                    page.close()
        self.context = _context(browser, options)
        self.page: Page = page if self._goes_on else self.context.new_page()
        self.page.set_viewport_size(viewport)
        self.page.emulate_media(reduced_motion="no-preference")
        self._heard = {"console": self._on_console, "pageerror": self._on_error}
        for event, listener in self._heard.items():
            self.page.on(event, listener)

    def __enter__(self) -> HostPage:
        status, answer = self._server.client.request("POST", "/settings", self._settings)
        assert status == 200, f"the server refused the settings: {answer[:500]!r}"
        if self._goes_on:
            self.page.mouse.move(0, 0)
            self.page.evaluate(_ANEW, self._settings)
        stored = {"origin": self._server.client.url, "storageTypes": "all"}
        self.context.new_cdp_session(self.page).send("Storage.clearDataForOrigin", stored)
        if not self._goes_on:
            self.open()
        _open[self._browser] = self.page, self._kind
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        for page in self.context.pages:
            if page is not self.page:
                page.close()
        for event, listener in self._heard.items():
            self.page.remove_listener(event, listener)
        if kind is not None:
            forget()
            return
        self.check()

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

    def _on_error(self, error: Error) -> None:
        self._add(f"{error}\n{error.stack}")

    def _add(self, error: str) -> None:
        if OURS.search(error):
            self.errors.append(error)
