"""Download of the public adapters from the Hugging Face hub.

huggingface_hub does it, with its resuming and its settings (HF_ENDPOINT, HF_HUB_OFFLINE, HF_TOKEN, a stored login,
...), in a process of its own (`fetch.py`) that is ended on an interrupt and when hardly anything comes. The files
grow in a folder `.download` in their final place, which no model list shows, and a later call goes on where one was
stopped. They get their names once size, checksum and content are right.
"""

from __future__ import annotations

import hashlib
import json
import os
import queue
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from ..files import LONGEST_NAME, flush_to_disk
from .fetch import unfinished
from .files import DISK_FULL, read_adapter, write_failure
from .folder import DOWNLOAD, PUBLIC_ADAPTERS, STAGING, PublicAdapter, adapter_folders, called, find_adapter
from .settings import AdapterError

Progress = Callable[[int, int], None]

SLOWEST = 10_000  # bytes a second, on the average of
PATIENCE = 60.0  # seconds
_LOOK = 0.2  # seconds between two looks at a download
_BLOCK = 2**23
_LOCK = "lock"
_LARGEST_OTHER = 1_000_000  # bytes; of a config.json
# The second keeps nothing for a later call.
_SETTINGS = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_ENABLE_HF_TRANSFER": "0"}


def is_download(choice: str) -> bool:
    """Whether a choice of the loader's list stands for a public adapter rather than for a file."""
    return choice.startswith(DOWNLOAD)


def public_adapter(choice: str) -> PublicAdapter:
    """The public adapter behind a "download: ..." choice. Raises AdapterError for one that is not known."""
    for entry in PUBLIC_ADAPTERS:
        if entry.label == choice:
            return entry
    known = ", ".join(f'"{entry.label}"' for entry in PUBLIC_ADAPTERS)
    shown = choice[:LONGEST_NAME]
    raise AdapterError(f'"{shown}" is not a known download. Expected one of {known}: choose one, or update the pack.')


def download(choice: str, progress: Progress | None = None) -> Path:
    """Fetch the public adapter behind a "download: ..." choice and return the path of its weights.

    Nothing is fetched when it is on disk already; where another process fetches it, this one waits. progress(bytes
    done, bytes in all) is called several times a second; what it raises stops the download and passes through, and the
    next call resumes. Raises AdapterError with one sentence that says what to do: no network, hardly any, refused or
    vanished repository, too little disk space, a folder that cannot be written, a file that is not what was announced.
    """
    adapter = public_adapter(choice)
    present = find_adapter(adapter.name)
    if present is not None:
        return present
    place = _Place(adapter, Path(adapter_folders()[0], adapter.folder))
    report = progress or (lambda done, total: None)
    with place.locked(report):
        present = find_adapter(adapter.name)
        if present is None:
            files = _fetch(place, report)
            place.check(files, report)
            place.finish(files)
    return present or place.target / adapter.files[0]


@dataclass(frozen=True)
class _RemoteFile:
    """A file of one commit. etag: SHA-256 of a large file, git's blob hash (SHA-1) of a small one."""

    name: str
    size: int
    etag: str

    def hasher(self) -> hashlib._Hash | None:
        """What must end in `etag`; None for a mirror whose etags are no hashes, where size and content must do."""
        if re.fullmatch("[0-9a-f]{64}", self.etag):
            return hashlib.sha256()
        if re.fullmatch("[0-9a-f]{40}", self.etag):
            return hashlib.sha1(b"blob %d\0" % self.size, usedforsecurity=False)
        return None


def _fetch(place: _Place, report: Progress) -> list[_RemoteFile]:
    """Get the files into the staging folder; returns what the hub says of them."""
    adapter = place.adapter
    job = {
        "path": sys.path,
        "repository": adapter.repository,
        "revision": adapter.revision,
        "files": adapter.files,
        "folder": str(place.staging),
    }
    files: list[_RemoteFile] = []
    counted, since = 0, None
    with _process(place, job) as process:
        while True:
            answer = process.answer()
            total = sum(file.size for file in files)
            held = place.held()
            report(min(held, total), max(total, 1))
            if "failed" in answer:
                raise place.failure(answer["failed"], answer.get("detail"))
            if "done" in answer:
                return files
            if "files" in answer:
                files = place.announced(answer["files"])
                process.say("go")
            if answer:
                counted, since = place.held(), time.monotonic()
            elif since is None:
                # It is still loading its libraries.
                continue
            elif files and held > total + _BLOCK:
                raise place.failure("wrong", f"more than the {total:,} bytes that were announced came")
            elif held - counted >= SLOWEST * PATIENCE or held < counted:
                counted, since = held, time.monotonic()
            elif time.monotonic() - since > PATIENCE:
                raise place.failure("slow", None)


@contextmanager
def _process(place: _Place, job: dict) -> Iterator[_Process]:
    try:
        process = _Process(job)
    except (OSError, TypeError) as error:
        reason = getattr(error, "strerror", None) or "there is no Python"
        raise place.failure("network", f"no process for it can be started: {reason}") from error
    try:
        yield process
    finally:
        process.end()


class _Process:
    """`fetch.py` at work, and its answers."""

    def __init__(self, job: dict) -> None:
        self._answers: queue.SimpleQueue[dict] = queue.SimpleQueue()
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("fetch.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | _SETTINGS,
            text=True,
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )
        threading.Thread(target=self._listen, daemon=True).start()
        self.say(json.dumps(job))

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        with suppress(OSError):
            self._process.stdin.close()

    def say(self, line: str) -> None:
        # If it has died, its answers tell.
        with suppress(OSError):
            print(line, file=self._process.stdin, flush=True)

    def answer(self) -> dict:
        """What it says within a moment, else nothing."""
        try:
            return self._answers.get(timeout=_LOOK)
        except queue.Empty:
            return {}

    def _listen(self) -> None:
        with self._process.stdout as lines:
            for line in lines:
                # A library may write here too.
                with suppress(ValueError):
                    self._answers.put(json.loads(line))
        status = self._process.wait()
        self._answers.put({"failed": "network", "detail": f"the process that downloads ended with status {status}"})


class _Place:
    """Where one adapter lands: its final folder, and in it the hidden folder of unfinished files."""

    def __init__(self, adapter: PublicAdapter, target: Path) -> None:
        self.adapter = adapter
        self.target = target
        self.staging = target / STAGING

    @contextmanager
    def locked(self, report: Progress) -> Iterator[None]:
        """While this process alone is at it."""
        # Not at the top: the host's start is long enough.
        from filelock import FileLock, Timeout

        lock = FileLock(self.staging / _LOCK)
        while True:
            with self.disk_errors():
                self.staging.mkdir(parents=True, exist_ok=True)
                try:
                    lock.acquire(timeout=_LOOK)
                    break
                except Timeout:
                    report(0, 1)
                except FileNotFoundError:
                    # Whoever had it has just taken the folder away.
                    continue
                except NotImplementedError:
                    # A file system without locks.
                    break
        try:
            with self.disk_errors():
                self.staging.mkdir(parents=True, exist_ok=True)
            yield
        finally:
            self._tidy()
            lock.release()

    def held(self) -> int:
        """Bytes that have come so far."""
        return sum(path.stat().st_size for path in self._files())

    def _files(self) -> list[Path]:
        return [path for path in self.staging.iterdir() if path.name != _LOCK] if self.staging.is_dir() else []

    def _partial(self, file: _RemoteFile) -> Path:
        return self.staging / unfinished(file.name, file.etag)

    def announced(self, answer: list[dict]) -> list[_RemoteFile]:
        """The files as the hub describes them, if they can be had; what belongs to other versions goes."""
        for file in answer:
            # It becomes part of a file name.
            if not (file["size"] or 0) > 0 or not re.fullmatch(r"[\w.+=-]{1,100}", file["etag"] or ""):
                raise self.failure("wrong", f"the hub announces no size or no etag for {file['name']}")
        files = [_RemoteFile(**file) for file in answer]
        for file in files[1:]:
            if file.size > _LARGEST_OTHER:
                raise self.failure("wrong", f"{file.name} has {file.size:,} bytes")
        with self.disk_errors():
            for path in set(self._files()) - {self._partial(file) for file in files}:
                path.unlink()
            needed = sum(file.size for file in files) - self.held()
            free = shutil.disk_usage(self.staging).free
        if free < needed:
            raise AdapterError(
                f"{self.words}: {_megabytes(needed)} are needed for {self.adapter.files[0]}, but only "
                f"{_megabytes(free)} are free on this disk. Free some space and try again."
            )
        return files

    def check(self, files: list[_RemoteFile], report: Progress) -> None:
        """Compare what came with what was announced, and read it as it will be read later."""
        total = sum(file.size for file in files)
        for file in files:
            path, hasher = self._partial(file), file.hasher()
            with self.disk_errors():
                if path.stat().st_size != file.size:
                    raise self.failure("wrong", f"{file.name} has {path.stat().st_size:,} bytes, not {file.size:,}")
                with path.open("rb") as content:
                    while hasher and (block := content.read(_BLOCK)):
                        hasher.update(block)
                        report(total, total)
            if hasher and hasher.hexdigest() != file.etag:
                self._clear()
                raise AdapterError(
                    f"{self.adapter.repository}: {file.name} arrived damaged (its checksum is {hasher.hexdigest()}, "
                    f"expected {file.etag}) and was removed. Try again. {self.by_hand()}"
                )
        with self.disk_errors():
            for file in files:
                os.replace(self._partial(file), self.staging / file.name)
        try:
            read_adapter(self.staging / self.adapter.files[0], self.adapter.files[0])
        except AdapterError as error:
            self._clear()
            raise AdapterError(
                f"{self.adapter.repository}: what it holds now is not an adapter that this version can read, and was "
                f"removed. Update the pack. The reason: {error}"
            ) from error

    def finish(self, files: list[_RemoteFile]) -> None:
        """Give the files their names; the weights last, so that they are listed only when all is in place."""
        with self.disk_errors():
            for file in reversed(files):
                flush_to_disk(self.staging / file.name)
                os.replace(self.staging / file.name, self.target / file.name)

    def _tidy(self) -> None:
        """Remove the staging folder unless it holds what a later call can go on with."""
        if not any(path.stat().st_size for path in self._files()):
            shutil.rmtree(self.staging, ignore_errors=True)
            # Where it is not empty there is something in it.
            with suppress(OSError):
                self.target.rmdir()

    def _clear(self) -> None:
        for path in self._files():
            path.unlink(missing_ok=True)

    @property
    def words(self) -> str:
        """The final folder as sentences name it."""
        return called(self.target)

    def by_hand(self) -> str:
        return (
            f"Or get it by hand: download {' and '.join(self.adapter.files)} from the Hugging Face repository "
            f'"{self.adapter.repository}" and put {"them" if len(self.adapter.files) > 1 else "it"} into the model '
            f"folder {self.words}."
        )

    @contextmanager
    def disk_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise self.failure("disk", error.errno) from error

    def failure(self, kind: str, detail: object) -> AdapterError:
        """The sentence for what `fetch.py` says, or what is seen from here; what is of no more use is removed."""
        name, resumed = self.adapter.repository, "it goes on where it stopped"
        if isinstance(detail, str):
            detail = detail.replace(str(self.target), self.words)
        if kind == "disk":
            if detail in DISK_FULL:
                # A full disk is not the place to keep half a file for later.
                self._clear()
            text = f"{self.words}: {write_failure(OSError(detail, ''))}"
        elif kind == "offline":
            text = f"{name}: cannot be downloaded because HF_HUB_OFFLINE is set. Unset it."
        elif kind == "slow":
            text = (
                f"{name}: hardly anything comes: less than {SLOWEST / 1000:g} kB a second for {PATIENCE:g} seconds. "
                f"Check the network connection and HF_ENDPOINT, and try again; {resumed}."
            )
        elif kind == "wrong":
            self._clear()
            text = f"{name}: what came is not what the hub announced ({detail}), and was removed. Try again."
        elif kind == "network":
            text = f"{name}: the download failed ({detail}). Check the network connection and try again; {resumed}."
        elif detail in (401, 403):
            text = (
                f"{name}: the hub refuses access ({detail}). If HF_TOKEN is set or you are logged in, check that the "
                "token is valid; if the repository asks for it, accept its conditions on its page and set HF_TOKEN."
            )
        elif detail == 404:
            text = (
                f"{name}: the hub does not have it (404): it was moved or withdrawn, or HF_ENDPOINT names a hub "
                "without it."
            )
        else:
            text = f"{name}: the hub answered with an error ({detail}). Try again later."
        return AdapterError(f"{text} {self.by_hand()}")


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.0f} MB"
