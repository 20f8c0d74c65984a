"""Talks to a running host: its HTTP API, and its WebSocket for progress. Standard library only."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import socket
import time
import urllib.parse
import uuid
from collections.abc import Callable
from typing import Any, NamedTuple

TEXT, CLOSE, PING, PONG = 1, 8, 9, 10
Graph = dict[str, dict[str, Any]]
"""A workflow in API format: node id -> {"class_type": ..., "inputs": {...}}."""


class HostError(RuntimeError):
    """The host refused or failed something; the message is its own, made readable."""


class Progress(NamedTuple):
    """Where a run is: the node at work and its step of ``steps`` (both 0 when it counts none)."""

    node: str
    step: int
    steps: int


class Picture(NamedTuple):
    """A picture that a run left on the host. ``kind`` is the host's folder: output or temp."""

    node: str
    filename: str
    subfolder: str
    kind: str


class _WebSocket:
    """The receiving half of RFC 6455, as much as the host's text messages need."""

    def __init__(self, host: str, port: int, path: str) -> None:
        self._socket = socket.create_connection((host, port), timeout=10)
        key = base64.b64encode(os.urandom(16)).decode()
        lines = [f"GET {path} HTTP/1.1", f"Host: {host}:{port}", "Upgrade: websocket", "Connection: Upgrade"]
        lines += [f"Sec-WebSocket-Key: {key}", "Sec-WebSocket-Version: 13", "", ""]
        self._socket.sendall("\r\n".join(lines).encode())
        self._bytes = b""
        self._message = b""
        self._opcode = TEXT
        while b"\r\n\r\n" not in self._bytes:
            self._read()
        head, self._bytes = self._bytes.split(b"\r\n\r\n", 1)
        if b" 101 " not in head.split(b"\r\n")[0]:
            raise ConnectionError(f"no WebSocket at {path}: {head[:80]!r}")

    def close(self) -> None:
        self._socket.close()

    def receive(self, timeout: float) -> str | None:
        """The next text message, or None when none came in ``timeout`` seconds.

        Raises:
            OSError: the connection is gone.
        """
        deadline = time.monotonic() + timeout
        while True:
            frame = self._next_frame()
            if frame is None:
                self._socket.settimeout(max(deadline - time.monotonic(), 0.001))
                try:
                    self._read()
                except TimeoutError:
                    return None
                continue
            final, opcode, payload = frame
            if opcode == CLOSE:
                raise ConnectionError("the host closed the WebSocket")
            if opcode == PING:
                self._pong(payload)
            if opcode >= CLOSE:
                continue
            # Opcode 0 continues the message before it.
            self._opcode = opcode or self._opcode
            self._message += payload
            if final:
                message, self._message = self._message, b""
                # The binary ones are preview pictures.
                if self._opcode == TEXT:
                    return message.decode()

    def _read(self) -> None:
        received = self._socket.recv(65536)
        if not received:
            raise ConnectionError("the host closed the connection")
        self._bytes += received

    def _next_frame(self) -> tuple[bool, int, bytes] | None:
        data = self._bytes
        if len(data) < 2:
            return None
        size, start = data[1] & 127, 2
        if size >= 126:
            start = 4 if size == 126 else 10
            size = int.from_bytes(data[2:start], "big")
        if len(data) < start or len(data) < start + size:
            return None
        self._bytes = data[start + size :]
        return bool(data[0] & 128), data[0] & 15, data[start : start + size]

    def _pong(self, payload: bytes) -> None:
        # A client must mask what it sends; a mask of zeros leaves the bytes as they are.
        self._socket.sendall(bytes([128 | PONG, 128 | len(payload)]) + bytes(4) + payload)


class HostClient:
    """A client of one running host on the loopback address."""

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        self.host = host
        self.port = port
        self.url = f"http://{host}:{port}"
        self.client_id = uuid.uuid4().hex

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
        status, data = self.request("POST", "/prompt", {"prompt": graph, "client_id": self.client_id})
        if status == 200:
            return json.loads(data)["prompt_id"]
        try:
            answer = json.loads(data)
        except ValueError:
            answer = {"error": data[:500].decode(errors="replace")}
        raise HostError(_refusal(answer, graph))

    def run(
        self, graph: Graph, on_progress: Callable[[Progress], None] | None = None, timeout: float | None = None
    ) -> dict[str, Any]:
        """Queue a workflow, wait for its end and return its entry in the host's history.

        Args:
            graph: the workflow in API format.
            on_progress: called with every sign of progress.
            timeout: seconds to wait at most; None waits as long as the host answers.

        Raises:
            HostError: the host refused the workflow, a node failed, the run was interrupted, or time ran out.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        # Opened before the run is queued, so that the first messages are not missed.
        events = self._events()
        try:
            run_id = self.queue(graph)
            while True:
                if deadline is not None and time.monotonic() > deadline:
                    raise HostError(f"the run did not end within {timeout:.0f} s")
                message = None
                if events is not None:
                    try:
                        message = events.receive(1.0)
                    except OSError:
                        events = None
                else:
                    time.sleep(0.5)
                if message is None:
                    # Silence is not the end, and a lost connection not a failure: the history knows.
                    entry = self.get(f"/history/{run_id}").get(run_id)
                    if entry is not None:
                        return _successful(entry)
                elif self._heed(message, run_id, graph, on_progress):
                    events.close()
                    events = None
        finally:
            if events is not None:
                events.close()

    def _events(self) -> _WebSocket | None:
        with contextlib.suppress(OSError):
            return _WebSocket(self.host, self.port, f"/ws?clientId={self.client_id}")
        return None

    def _heed(self, message: str, run_id: str, graph: Graph, on_progress: Callable[[Progress], None] | None) -> bool:
        """Report what a message tells about the run; True when it tells of the run's end."""
        event = json.loads(message)
        data = event.get("data") or {}
        if data.get("prompt_id") != run_id:
            return False
        node = data.get("node")
        if event["type"] == "executing" and node is None:
            return True
        if event["type"] in ("executing", "progress") and node is not None and on_progress is not None:
            name = graph.get(node, {}).get("class_type", node)
            on_progress(Progress(name, data.get("value", 0), data.get("max", 0)))
        return event["type"] in ("execution_error", "execution_interrupted")

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
