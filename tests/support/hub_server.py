"""A stand-in for the Hugging Face hub on localhost: real HTTP, the hub's paths and headers, and its ways to fail."""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class HubServer:
    """Serves `repositories` (name -> file name -> content) at `url` while used as a context manager.

    How it misbehaves is set by attributes. cut_after: the connection is closed once, after that many bytes of file
    content in all. status: answer everything with it. damaged: names of files of which the last byte comes
    flipped. ignore_ranges: always send whole files. token: the one that must be sent. announced, etags: what to
    announce in place of the true ones. pace: bytes of content a second. endless: content goes on for ever after
    the file's end. lengths: what is said of the bytes that follow, and shorter or longer than they are. page: a
    web page in the place of each large file. loop: "hub" or "storage" redirects to itself. silent: connections
    are taken and nothing is said.
    It records `requests`, and in `ranges` each answer with content: file name, first byte, bytes sent.
    """

    def __init__(self, repositories: dict[str, dict[str, bytes]]) -> None:
        self.reset(repositories)

    def reset(self, repositories: dict[str, dict[str, bytes]]) -> None:
        """Behave well, serve `repositories`, forget what was recorded."""
        self.repositories = repositories
        self.cut_after: int | None = None
        self.status: int | None = None
        self.damaged: frozenset[str] = frozenset()
        self.ignore_ranges = False
        self.token: str | None = None
        self.announced: dict[str, int] = {}
        self.etags: dict[str, str] = {}
        self.pace: float | None = None
        self.endless = False
        self.lengths: dict[str, int] = {}
        self.page = False
        self.loop = ""
        self.silent = False
        self.ranges: list[tuple[str, int, int]] = []
        self.requests: list[str] = []

    def __enter__(self) -> HubServer:
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def bytes_sent(self) -> int:
        return sum(sent for _, _, sent in self.ranges)

    def announce(self, name: str, content: bytes) -> tuple[int, str]:
        """Size and etag of a file: SHA-256 of a large one, git's blob hash of a small one."""
        if name.endswith(".json"):
            etag = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        else:
            etag = hashlib.sha256(content).hexdigest()
        return self.announced.get(name, len(content)), self.etags.get(name, etag)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: HubServer

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def log_message(self, *_: object) -> None:
        """Silent: the tests read `requests`."""

    def _answer(self) -> None:
        path = unquote(self.path).split("?")[0]
        self.hub.requests.append(f"{self.command} {path}")
        if self.hub.silent:
            return time.sleep(60)
        if self.hub.status:
            return self._refuse(self.hub.status)
        if self.hub.loop and path.startswith("/storage/") == (self.hub.loop == "storage"):
            self.send_response(302)
            self.send_header("Location", self.path)
            self.send_header("Content-Length", "0")
            return self.end_headers()
        sent = self.headers.get("Authorization")
        if match := re.fullmatch(r"/storage/([^/]+/[^/]+)/(.+)", path):
            # Signed storage refuses a second kind of login, and has no business with the user's token.
            return self._refuse(400) if sent else self._content(*match.groups())
        if self.hub.token and sent != f"Bearer {self.hub.token}":
            return self._refuse(401)
        if match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            return self._resolve(*match.groups())
        return self._refuse(404)

    def _resolve(self, repository: str, revision: str, name: str) -> None:
        content = self.hub.repositories.get(repository, {}).get(name)
        # The branch moves: it may be asked which commit it stands for, never for content.
        known = (COMMIT, "main") if self.command == "HEAD" else (COMMIT,)
        if content is None or revision not in known:
            return self._refuse(404)
        size, etag = self.hub.announce(name, content)
        if name.endswith(".json"):
            return self._content(repository, name, {"X-Repo-Commit": COMMIT, "ETag": f'"{etag}"'})
        self.send_response(302)
        # Another host by name, as with the hub's storage.
        self.send_header("Location", f"http://localhost:{self.server.server_port}/storage/{repository}/{name}")
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("X-Linked-Size", str(size))
        self.send_header("X-Linked-Etag", f'"{etag}"')
        self.send_header("Content-Length", "0")
        return self.end_headers()

    def _content(self, repository: str, name: str, headers: dict[str, str] | None = None) -> None:
        hub, content = self.hub, self.hub.repositories[repository][name]
        if name in hub.damaged:
            content = content[:-1] + bytes([content[-1] ^ 1])
        first, last = 0, len(content) - 1
        asked = None if hub.ignore_ranges else re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked:
            first, last = int(asked[1]), min(int(asked[2] or last), last)
        body = content[first : last + 1]
        if hub.page and not headers:
            body = b"<!DOCTYPE html><html>maintenance</html>"
        self.send_response(206 if asked else 200)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Accept-Ranges", "bytes")
        if hub.endless and not headers:
            self.close_connection = True
        else:
            self.send_header("Content-Length", str(hub.lengths.get(name, len(body))))
        self.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
        self.end_headers()
        if self.command == "HEAD":
            return
        cut = hub.cut_after is not None and hub.bytes_sent + len(body) > hub.cut_after
        if cut:
            body = body[: hub.cut_after - hub.bytes_sent]
            hub.cut_after = None
            self.close_connection = True
        hub.ranges.append((name, first, len(body)))
        if name in hub.lengths:
            self.close_connection = True
        try:
            self._send(body, paced=not headers)
        except OSError:
            # Who asked has gone.
            self.close_connection = True
        return

    def _send(self, body: bytes, paced: bool) -> None:
        hub = self.hub
        if paced and hub.pace:
            step = max(1, int(hub.pace / 20))
            for start in range(0, len(body), step):
                if not hub.pace:
                    return
                self.wfile.write(body[start : start + step])
                time.sleep(step / hub.pace)
        else:
            self.wfile.write(body)
        while paced and hub.endless:
            self.wfile.write(bytes(2**16))

    def _refuse(self, status: int) -> None:
        # The hub answers 401 for a repository that does not exist as well.
        code = {401: "RepoNotFound", 403: "GatedRepo", 404: "RepoNotFound"}.get(status)
        body = json.dumps({"error": "refused"}).encode()
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
