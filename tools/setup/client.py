"""Talks to a running host over its HTTP API. Standard library only."""

from __future__ import annotations

import http.client
import json
import time
import urllib.parse
from collections.abc import Callable
from typing import Any, NamedTuple

POLL_SECONDS = 0.2
Graph = dict[str, dict[str, Any]]
"""A workflow in API format: node id -> {"class_type": ..., "inputs": {...}}."""


class HostError(RuntimeError):
    """The host refused or failed something; the message is its own, made readable."""


class Picture(NamedTuple):
    """A picture that a run left on the host. ``kind`` is the host's folder: output or temp."""

    node: str
    filename: str
    subfolder: str
    kind: str


class HostClient:
    """A client of one running host on the loopback address."""

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        self.host = host
        self.port = port
        self.url = f"http://{host}:{port}"

    def request(self, method: str, path: str, body: Any = None, timeout: float = 60) -> tuple[int, bytes]:
        """Status and body of a request; a body to send goes as JSON.

        Raises:
            HostError: the host does not answer.
        """
        # http.client and not urllib: a proxy that is set for the web must not get local requests.
        connection = http.client.HTTPConnection(self.host, self.port, timeout=timeout)
        try:
            data = None if body is None else json.dumps(body).encode()
            connection.request(method, path, data, {"Content-Type": "application/json"})
            response = connection.getresponse()
            return response.status, response.read()
        except (OSError, http.client.HTTPException) as error:
            raise HostError(f"the server at {self.url} does not answer ({error})") from error
        finally:
            connection.close()

    def get(self, path: str, timeout: float = 60) -> Any:
        """The JSON that a GET answers with.

        Raises:
            HostError: another status than 200.
        """
        status, data = self.request("GET", path, timeout=timeout)
        if status != 200:
            raise HostError(f"GET {path} answered {status}: {data[:500].decode(errors='replace')}")
        return json.loads(data)

    def models(self, folder: str) -> list[str]:
        """The files that the host lists in one of its model folders; none for a folder it does not know."""
        status, data = self.request("GET", f"/models/{urllib.parse.quote(folder)}")
        return json.loads(data) if status == 200 else []

    def object_info(self) -> dict[str, Any]:
        """Every node of the host with its inputs, by class type."""
        return self.get("/object_info")

    def interrupt(self) -> None:
        """Stop the run that is at work."""
        self.request("POST", "/interrupt", {})

    def queue(self, graph: Graph) -> str:
        """Queue a workflow and return the run's id.

        Raises:
            HostError: the host refused it; the message names the nodes and what is wrong with them.
        """
        status, data = self.request("POST", "/prompt", {"prompt": graph})
        try:
            answer = json.loads(data)
        except ValueError:
            answer = {"error": data[:500].decode(errors="replace")}
        if status == 200 and not answer.get("node_errors"):
            return answer["prompt_id"]
        if status == 200:
            # The host runs the outputs that nothing is wrong with.
            self.request("POST", "/queue", {"delete": [answer["prompt_id"]]})
            answer["error"] = "a part of it"
        raise HostError(_refusal(answer, graph))

    def run(
        self, graph: Graph, on_wait: Callable[[], None] | None = None, timeout: float | None = None
    ) -> dict[str, Any]:
        """Queue a workflow, wait for its end and return its entry in the host's history.

        Args:
            graph: the workflow in API format.
            on_wait: called whenever the host was asked and the run goes on.
            timeout: seconds to wait at most; None waits as long as the host answers.

        Raises:
            HostError: the host refused the workflow, a node failed, the run was interrupted, or time ran out.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        run_id = self.queue(graph)
        while (entry := self.get(f"/history/{run_id}").get(run_id)) is None:
            if deadline is not None and time.monotonic() > deadline:
                raise HostError(f"the run did not end within {timeout:.0f} s")
            if on_wait is not None:
                on_wait()
            time.sleep(POLL_SECONDS)
        return _successful(entry)

    def pictures(self, entry: dict[str, Any]) -> list[Picture]:
        """The pictures that a run's history entry tells of, saved ones first."""
        found = [
            Picture(node, picture["filename"], picture.get("subfolder", ""), picture.get("type", "output"))
            for node, output in entry.get("outputs", {}).items()
            for picture in output.get("images", ())
        ]
        return sorted(found, key=lambda picture: picture.kind != "output")

    def download(self, picture: Picture) -> bytes:
        """A picture's file.

        Raises:
            HostError: the host does not have it.
        """
        names = {"filename": picture.filename, "subfolder": picture.subfolder, "type": picture.kind}
        status, data = self.request("GET", f"/view?{urllib.parse.urlencode(names)}")
        if status != 200:
            raise HostError(f"the server does not give out {picture.filename} (status {status})")
        return data


def _refusal(answer: dict[str, Any], graph: Graph) -> str:
    """What the host says against a workflow, one line a complaint."""
    error = answer.get("error")
    text = error.get("message") if isinstance(error, dict) else error
    details = error.get("details") if isinstance(error, dict) else None
    lines = [f"the server refused the workflow: {text}" + (f" ({details})" if details else "")]
    for node, errors in (answer.get("node_errors") or {}).items():
        name = graph.get(node, {}).get("class_type", "?")
        for error in errors.get("errors", ()):
            lines.append(f"  node {node} ({name}): {error.get('message')}: {error.get('details')}")
    return "\n".join(lines)


def _successful(entry: dict[str, Any]) -> dict[str, Any]:
    """A run's history entry, unless it tells of a failure."""
    for kind, data in (entry.get("status") or {}).get("messages", ()):
        if kind == "execution_interrupted":
            raise HostError("the run was interrupted")
        if kind == "execution_error":
            raise HostError(
                f"node {data.get('node_id')} ({data.get('node_type')}) failed: "
                f"{data.get('exception_type')}: {str(data.get('exception_message')).strip()}"
            )
    return entry
