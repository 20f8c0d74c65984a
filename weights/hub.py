"""Download of the public adapters from the Hugging Face hub, through huggingface_hub alone.

The revision is resolved to its commit first and every byte is read from that commit. The file grows in a folder
`.download` beside its final place, under an ending that no model list shows and with its version in its name, so
that a later call goes on where this one stopped. It gets its final name once size, checksum and content are right.
HF_ENDPOINT, HF_HUB_OFFLINE, HF_TOKEN and a stored login are honoured by the library.

Only `hf_hub_url`, `get_hf_file_metadata`, `build_hf_headers`, `get_session` and `hf_raise_for_status` are used:
documented, the same from 0.25 to 2.x, and all that a mirror has to serve is the file itself. `hf_hub_download` would
put a file of a listed ending into the model folder before it is checked, and takes no callback before 1.0.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..files import flush_to_disk
from .files import DISK_FULL, read_adapter, write_failure
from .folder import DOWNLOAD, PUBLIC_ADAPTERS, PublicAdapter, adapter_folders, find_adapter
from .settings import AdapterError

if TYPE_CHECKING:
    from huggingface_hub.file_download import HfFileMetadata

Progress = Callable[[int, int], None]

_SMALLEST_BLOCK, _LARGEST_BLOCK = 2**20, 2**25
_SECONDS_A_BLOCK = 1.0
_PAUSES = (0.0, 1.0, 3.0)  # seconds before trying again


def is_download(choice: str) -> bool:
    """Whether a choice of the loader's list stands for a public adapter rather than for a file."""
    return choice.startswith(DOWNLOAD)


def _public_adapter(choice: str) -> PublicAdapter:
    """The public adapter behind a "download: ..." choice. Raises AdapterError for one that is not known."""
    for entry in PUBLIC_ADAPTERS:
        if entry.label == choice:
            return entry
    known = ", ".join(f'"{entry.label}"' for entry in PUBLIC_ADAPTERS)
    raise AdapterError(f'"{choice}" is not a known download. Expected one of {known}: choose one, or update the pack.')


def download(choice: str, progress: Progress | None = None) -> Path:
    """Fetch the public adapter behind a "download: ..." choice and return the path of its weights.

    Nothing is fetched when it is on disk already. progress(bytes done, bytes in all) is called about once a
    second; what it raises stops the download and passes through, and the next call resumes. Raises AdapterError
    with one sentence that says what to do: no network, refused or vanished repository, too little disk space, a
    folder that cannot be written, a file that is not what the hub announced.
    """
    adapter = _public_adapter(choice)
    present = find_adapter(adapter.name)
    if present is not None:
        return present
    place = _Place(adapter, Path(adapter_folders()[0], adapter.folder))
    with _hub_errors(place):
        files = _look_up(adapter)
    place.prepare(files)
    report = progress or (lambda done, total: None)
    total = sum(file.size for file in files)
    done = 0
    for file in files:
        _fetch(place, file, lambda now, before=done: report(before + now, total))
        done += file.size
    place.check_content(files)
    place.finish(files)
    return place.target / adapter.files[0]


@dataclass(frozen=True)
class _RemoteFile:
    """A file of one commit. etag: SHA-256 of a large file, git's blob hash (SHA-1) of a small one."""

    name: str
    url: str
    size: int
    etag: str

    def hasher(self) -> hashlib._Hash | None:
        """What must end in `etag`; None for a mirror whose etags are no hashes, where size and content must do."""
        if re.fullmatch("[0-9a-f]{64}", self.etag):
            return hashlib.sha256()
        if re.fullmatch("[0-9a-f]{40}", self.etag):
            return hashlib.sha1(b"blob %d\0" % self.size, usedforsecurity=False)
        return None


def _look_up(adapter: PublicAdapter) -> list[_RemoteFile]:
    """The adapter's files, the weights last, at the commit that its revision stands for now."""
    # Not at the top: the import takes a noticeable part of the host's start, and few starts download.
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    def describe(name: str, revision: str) -> HfFileMetadata:
        return get_hf_file_metadata(hf_hub_url(adapter.repository, name, revision=revision))

    commit = describe(adapter.files[0], adapter.revision).commit_hash or adapter.revision
    files = []
    for name in reversed(adapter.files):
        found = describe(name, commit)
        if found.size is None or not found.etag:
            raise ValueError(f"the hub announces no size or no etag for {name}")
        url = hf_hub_url(adapter.repository, name, revision=commit)
        files.append(_RemoteFile(name, url, found.size, found.etag))
    return files


def _fetch(place: _Place, file: _RemoteFile, report: Callable[[int], None]) -> None:
    """Complete the partial file from the byte it has reached, and check it. report(bytes done) may raise."""
    partial, hasher = place.partial(file), file.hasher()
    done = place.resume(file, hasher)
    report(done)
    block = _SMALLEST_BLOCK
    while done < file.size:
        started = time.monotonic()
        with _hub_errors(place):
            data = _read(file, done, min(block, file.size - done))
        with place.disk_errors(), partial.open("ab") as sink:
            sink.write(data)
        if hasher:
            hasher.update(data)
        done += len(data)
        seconds = max(time.monotonic() - started, 1e-3)
        block = int(min(max(len(data) / seconds * _SECONDS_A_BLOCK, _SMALLEST_BLOCK), _LARGEST_BLOCK))
        report(done)
    if hasher and hasher.hexdigest() != file.etag:
        partial.unlink()
        raise AdapterError(
            f"{place.adapter.repository}: {file.name} arrived damaged (its checksum is {hasher.hexdigest()}, expected "
            f"{file.etag}) and was removed. Try again. {place.by_hand()}"
        )


def _read(file: _RemoteFile, start: int, length: int) -> bytes:
    """`length` bytes from `start` on, or all of the rest; a connection that is cut is opened again."""
    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

    # Any compression on the way would make the range one of compressed bytes.
    wanted = {"Range": f"bytes={start}-{start + length - 1}", "Accept-Encoding": "identity"}

    def attempt() -> bytes:
        headers = build_hf_headers(headers=wanted)
        response = get_session().get(file.url, headers=headers, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT)
        hf_raise_for_status(response)
        # A server may ignore the range and send everything, with 200 in place of 206.
        data = response.content if response.status_code == 206 else response.content[start:]
        if len(data) < length or start + len(data) > file.size:
            raise ConnectionError(f"{len(data)} bytes came, {length} were asked for")
        return data

    for pause in _PAUSES:
        try:
            return attempt()
        except _transport_errors() as error:
            if isinstance(error, HfHubHTTPError) and error.response.status_code < 500:
                raise
            time.sleep(pause)
    return attempt()


class _Place:
    """Where one adapter lands: its final folder, and in it the hidden folder of unfinished files."""

    def __init__(self, adapter: PublicAdapter, target: Path) -> None:
        self.adapter = adapter
        self.target = target
        self.staging = target / ".download"

    def partial(self, file: _RemoteFile) -> Path:
        # Hashed: the etag of a mirror may hold anything, a path among it.
        version = hashlib.sha256(file.etag.encode()).hexdigest()[:16]
        return self.staging / f"{file.name}-{version}.partial"

    def prepare(self, files: list[_RemoteFile]) -> None:
        """Make the folders, drop what belongs to other versions, and refuse where the disk has too little room."""
        partials = {self.partial(file) for file in files}
        with self.disk_errors():
            held = sum(path.stat().st_size for path in partials if path.exists())
            needed = sum(file.size for file in files) - held
            existing = next(folder for folder in (self.target, *self.target.parents) if folder.exists())
            free = shutil.disk_usage(existing).free
            if free < needed:
                raise AdapterError(
                    f"{self.target}: {_megabytes(needed)} are needed for {self.adapter.files[0]}, but only "
                    f"{_megabytes(free)} are free on this disk. Free some space and try again."
                )
            self.staging.mkdir(parents=True, exist_ok=True)
            for leftover in set(self.staging.glob("*.partial")) - partials:
                leftover.unlink()

    def resume(self, file: _RemoteFile, hasher: hashlib._Hash | None) -> int:
        """Feed what an earlier call left behind into `hasher`; returns its size in bytes."""
        partial = self.partial(file)
        with self.disk_errors():
            held = partial.stat().st_size if partial.exists() else 0
            if held > file.size:
                partial.unlink()
                return 0
            if held and hasher:
                with partial.open("rb") as existing:
                    while data := existing.read(_LARGEST_BLOCK):
                        hasher.update(data)
            return held

    def check_content(self, files: list[_RemoteFile]) -> None:
        """Read the adapter as it will be read later, with its config.json beside it."""
        *others, weights = files
        with self.disk_errors():
            for file in others:
                shutil.copyfile(self.partial(file), self.staging / file.name)
        try:
            read_adapter(self.partial(weights))
        except AdapterError as error:
            shutil.rmtree(self.staging, ignore_errors=True)
            raise AdapterError(
                f"{self.adapter.repository}: what it holds now is not an adapter that this version can read, and was "
                f"removed. Update the pack. The reason: {error}"
            ) from error

    def finish(self, files: list[_RemoteFile]) -> None:
        """Give the files their names; the weights last, so that they are listed only when all is in place."""
        with self.disk_errors():
            for file in files:
                flush_to_disk(self.partial(file))
                os.replace(self.partial(file), self.target / file.name)
        shutil.rmtree(self.staging, ignore_errors=True)

    def by_hand(self) -> str:
        return (
            f"Or get it by hand: download {' and '.join(self.adapter.files)} from the Hugging Face repository "
            f'"{self.adapter.repository}" and put {"them" if len(self.adapter.files) > 1 else "it"} into {self.target}.'
        )

    @contextmanager
    def disk_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno in DISK_FULL:
                # A full disk is not the place to keep half a file for later.
                shutil.rmtree(self.staging, ignore_errors=True)
            raise AdapterError(f"{self.target}: {write_failure(error)} {self.by_hand()}") from error


def _transport_errors() -> tuple[type[Exception], ...]:
    from huggingface_hub.errors import HfHubHTTPError

    # Its first base is the root error of whichever HTTP library this version of huggingface_hub is built on.
    return (HfHubHTTPError.__bases__[0], OSError, ValueError)


@contextmanager
def _hub_errors(place: _Place) -> Iterator[None]:
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    name = place.adapter.repository
    try:
        yield
    except OfflineModeIsEnabled as error:
        raise AdapterError(
            f"{name}: cannot be downloaded because HF_HUB_OFFLINE is set. Unset it. {place.by_hand()}"
        ) from error
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else "no status"
        if status in (401, 403):
            what = (
                f"the hub refuses access ({status}). If HF_TOKEN is set or you are logged in, check that the token is "
                "valid; if the repository asks for it, accept its conditions on its page and set HF_TOKEN."
            )
        elif status == 404:
            what = "the hub does not have it (404): it was moved or withdrawn, or HF_ENDPOINT names a hub without it."
        else:
            what = f"the hub answered with an error ({status}). Try again later."
        raise AdapterError(f"{name}: {what} {place.by_hand()}") from error
    except _transport_errors() as error:
        raise AdapterError(
            f"{name}: the download failed ({type(error).__name__}: {error}). Check the network connection and try "
            f"again; it goes on where it stopped. {place.by_hand()}"
        ) from error


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.0f} MB"
