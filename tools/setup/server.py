"""Starts and stops a host's server with this pack in it. Standard library only.

The server gets a base folder of its own: models, results, settings and database of an existing ComfyUI are read
at most, never written.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from setup.client import HostClient, HostError
from setup.environment import LOG_TAIL_LINES, SetupError, clean_environment, tail, write_atomically

PACK = Path(__file__).resolve().parents[2]
PACK_NAME = "comfyui-bokeh"
START_SECONDS = 300.0
STOP_SECONDS = 10.0
# What a copy of the checkout leaves out, where the platform allows neither link nor junction.
NOT_COPIED = (".git", ".venv", "output", "__pycache__", ".pytest_cache", ".ruff_cache")

_ASK_TORCH = """
import torch
kinds = [("cuda", torch.cuda), ("xpu", getattr(torch, "xpu", None)), ("mps", torch.backends.mps)]
print(next((name for name, kind in kinds if kind is not None and kind.is_available()), "cpu"))
"""


@functools.cache
def accelerator(python: Path) -> str:
    """What the torch of an interpreter computes on: cuda, xpu, mps or cpu.

    Raises:
        SetupError: torch does not load there.
    """
    asked = subprocess.run([str(python), "-c", _ASK_TORCH], capture_output=True, text=True, env=clean_environment())
    if asked.returncode:
        raise SetupError(f"PyTorch does not load in {python}:\n{asked.stderr.strip()[-2000:]}")
    return asked.stdout.split()[-1]


def free_port(wanted: int = 0) -> int:
    """``wanted`` if nothing listens there, else a free port of the loopback address."""
    for port in (wanted, 0):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            if os.name != "nt":
                # The server binds this way too; without it a port counts as taken for a minute after its use.
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return probe.getsockname()[1]
    raise SetupError("no port of 127.0.0.1 is free")


def link_pack(custom_nodes: Path, pack: Path = PACK) -> Path:
    """Put the pack into a custom_nodes folder as a link, a junction, or at last a copy; return where."""
    custom_nodes.mkdir(parents=True, exist_ok=True)
    place = custom_nodes / PACK_NAME
    if place.exists() and place.samefile(pack):
        return place
    _remove(place)
    try:
        place.symlink_to(pack, target_is_directory=True)
    except OSError:
        try:
            import _winapi

            _winapi.CreateJunction(str(pack), str(place))
        except (ImportError, AttributeError, OSError):
            shutil.copytree(pack, place, ignore=shutil.ignore_patterns(*NOT_COPIED))
    return place


def _remove(place: Path) -> None:
    if place.is_symlink():
        place.unlink()
        return
    try:
        # Takes a junction away without touching what it leads to.
        os.rmdir(place)
    except FileNotFoundError:
        return
    except OSError:
        if place.is_dir():
            shutil.rmtree(place)
        else:
            place.unlink()


def write_model_paths(file: Path, folders: Iterable[Path]) -> None:
    """Write an extra_model_paths file that shows the host other models folders, the first before the others."""
    # JSON is YAML too, and needs no thought about quoting.
    entries = {}
    for number, folder in enumerate(folders):
        kinds = sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else ()
        entries[f"folder_{number}"] = {path.name: str(path) for path in kinds}
    write_atomically(file, json.dumps(entries, indent=2))


class HostProcess:
    """A server, from `start` to `stop`; a context manager."""

    def __init__(
        self,
        code: Path,
        python: Path,
        base: Path,
        *,
        port: int = 0,
        cpu: bool | None = None,
        model_paths: Path | None = None,
        arguments: Iterable[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """
        Args:
            code: the host's folder.
            python: the interpreter to run it with.
            base: folder for models, results and settings; made if missing.
            port: port to listen on; 0 takes a free one.
            cpu: whether to compute on the CPU; None asks torch.
            model_paths: an extra_model_paths file.
            arguments: more of the host's own command-line arguments.
            environment: variables to add to the server's.
        """
        self.base = base
        self.port = port or free_port()
        self.client = HostClient(self.port)
        # One a port, so that two servers on one base do not write over each other.
        self.log = base / f"server-{self.port}.log"
        self._code = code
        self._python = python
        self._cpu = cpu
        self._model_paths = model_paths
        self._arguments = list(arguments)
        self._environment = dict(environment or {})
        self._process: subprocess.Popen | None = None

    def __enter__(self) -> HostProcess:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """The page's address."""
        return f"{self.client.url}/"

    def command(self) -> list[str]:
        """The command line of the server."""
        # Absolute: the server runs in its base folder.
        base = self.base.resolve()
        command = [str(self._python), str(self._code / "main.py"), "--base-directory", str(base)]
        command += ["--listen", "127.0.0.1", "--port", str(self.port)]
        command += ["--disable-auto-launch", "--disable-api-nodes"]
        # By default the database lies in the host's own folder, whatever the base folder is.
        command += ["--database-url", f"sqlite:///{(base / 'user' / 'comfyui.db').as_posix()}"]
        if self._model_paths is not None:
            command += ["--extra-model-paths-config", str(self._model_paths)]
        cpu = accelerator(self._python) == "cpu" if self._cpu is None else self._cpu
        return command + (["--cpu"] if cpu else []) + self._arguments

    def start(self, timeout: float = START_SECONDS) -> HostClient:
        """Start the server and wait until it answers.

        Raises:
            SetupError: its port is taken, it ended, or it did not answer in time; with the log's tail.
        """
        if free_port(self.port) != self.port:
            # Else the program that listens there would be taken for ours.
            raise SetupError(f"Port {self.port} is in use by another program. Choose another one.")
        for name in ("custom_nodes", "models", "input", "output", "user"):
            (self.base / name).mkdir(parents=True, exist_ok=True)
        link_pack(self.base / "custom_nodes")
        command = self.command()
        with self.log.open("w", encoding="utf-8") as stream:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                cwd=self.base,
                env={**clean_environment(), **self._environment},
            )
        deadline = time.monotonic() + timeout
        try:
            while not self._answers():
                if not self.alive():
                    raise SetupError(self._failure(f"ended with exit code {self._process.returncode}"))
                if time.monotonic() > deadline:
                    raise SetupError(self._failure(f"did not answer within {timeout:.0f} s"))
                time.sleep(0.2)
        except BaseException:
            self.stop()
            raise
        return self.client

    def alive(self) -> bool:
        """Whether the server runs."""
        return self._process is not None and self._process.poll() is None

    def wait(self) -> int:
        """Wait until the server ends by itself and return its exit code."""
        assert self._process is not None, "start() first"
        return self._process.wait()

    def stop(self) -> None:
        """Stop the server; kill it when it does not go."""
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._process = None

    def log_tail(self, lines: int = LOG_TAIL_LINES) -> str:
        """The last lines that the server wrote."""
        return tail(self.log, lines)

    def _answers(self) -> bool:
        try:
            self.client.get("/system_stats", timeout=5)
        except HostError:
            return False
        return True

    def _failure(self, what: str) -> str:
        return f"The server {what}. Last lines of {self.log}:\n{self.log_tail()}"
