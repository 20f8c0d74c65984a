"""The host's real page in real Chromium, driven through playwright.

``with chromium() as browser, HostPage(browser, server) as page: page.load(workflow); page.queue()``.
A page that is left without an error must have written none to its console.
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
SETTINGS = {"Comfy.TutorialCompleted": True, "Comfy.EnableTooltips": False, "Comfy.Minimap.Visible": False}

# The page draws nodes in two ways, and an extension must work in both.
RENDERERS = {"canvas": {"Comfy.VueNodes.Enabled": False}, "vue": {"Comfy.VueNodes.Enabled": True}}

# What the host's own page writes on a fresh start, whatever packs there are: a pattern and why it is let pass.
UNRELATED = (
    (r"404 .*/userdata", "a new user has no stored workflows, subgraphs and templates yet"),
    (r"404 .*/user\.css", "the page asks for a style sheet that few users have"),
    (r"404 .*/favicon\.ico", "Chromium asks for it by itself"),
    (r"api\.comfy\.org.* Content Security Policy", "the server runs without API nodes and keeps the page local"),
    (r"huggingface\.co.* Content Security Policy", "the page's first graph asks how large its models are"),
    (r"\b40[04]\b.*/api/jobs|Jobs API", "newer pages ask older servers for lists of runs that these do not keep"),
    (r"graph accessed before initialization", "newer pages ask for their graph once while they start"),
    (r"reading 'id'\)\s+at onChange ", "page 1.32 stores a render setting of its own before it has registered it"),
)

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
        """Fail when the page wrote an error to its console."""
        assert not self.errors, "errors in the browser's console:\n" + "\n".join(self.errors)

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self._add(f"{message.text} ({message.location.get('url', '')})")

    def _add(self, error: str) -> None:
        if not any(re.search(pattern, error) for pattern, _ in UNRELATED):
            self.errors.append(error)
