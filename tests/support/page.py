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

from host_server import HostServer, find_chromium
from playwright.sync_api import Browser, ConsoleMessage, Page, sync_playwright

ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
# Otherwise the template gallery (on a first visit) and the map lie over the graph.
SETTINGS = {
    "Comfy.TutorialCompleted": True,
    "Comfy.EnableTooltips": False,
    "Comfy.Minimap.Visible": False,
    "Comfy.EnableWorkflowViewRestore": True,
}

# The page draws nodes in two ways, and an extension must work in both.
RENDERERS = {"canvas": {"Comfy.VueNodes.Enabled": False}, "vue": {"Comfy.VueNodes.Enabled": True}}

# An error is ours when its address or its stack names a script of the pack, or when it is about a picture that we show.
# The host's page writes errors of its own, others in every version, whatever packs there are.
OURS = re.compile(r"/extensions/comfyui-bokeh/|/view\?")

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
            browser.close()


class HostPage:
    """One visit to the page, with a browser storage of its own; a context manager."""

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
        self.context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **context})
        self.page: Page = self.context.new_page()
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
            self.context.close()

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
