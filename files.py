"""Files that are there whole or not at all, names that stay in their folder, and opening what strangers left there."""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

# The ending keeps what is half written out of every list of models.
_PARTIAL = ".partial"
_STALE = 86_400  # seconds
# Bytes. File systems take 255 a part, and an ending and a number come behind.
LONGEST_NAME, LONGEST_PATH = 200, 1000
# Control characters, and halves of characters that cannot be written as bytes.
_UNNAMEABLE = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")


class BadName(ValueError):
    """A name that no file of the folder can have. ``why`` goes on a sentence that begins with the name; it is empty for
    a name of nothing and one that leads out of the folder."""

    def __init__(self, name: str, why: str = "") -> None:
        self.name, self.why = name if len(name) <= LONGEST_NAME else name[:40] + "...", why
        super().__init__(f'"{self.name}" {why or "is no name inside the folder"}.')


def inside(folder: str | os.PathLike[str], name: str) -> Path:
    """``name`` as a plain path relative to ``folder``, without a look at the disk; "/" and "\\" part folders.

    Raises:
        BadName: for a name that is empty, leads out of the folder or that no file system takes.
    """
    root, text = os.path.abspath(folder), name.strip().replace("\\", "/")
    if _UNNAMEABLE.search(text):
        raise BadName(ascii(name)[1:-1], "holds characters that a file name cannot have")
    sizes = [len(part.encode()) for part in text.split("/")]
    if max(sizes) > LONGEST_NAME or sum(sizes) > LONGEST_PATH:
        raise BadName(name, f"is too long: at most {LONGEST_NAME} bytes a part and {LONGEST_PATH} in all fit")
    target = os.path.abspath(os.path.join(root, text))
    relative = Path(os.path.relpath(target, root)) if Path(target).is_relative_to(root) else Path(os.pardir)
    # Names of dots alone, and drives, are folders elsewhere on some systems.
    if any(part.strip(" .") == "" or ":" in part for part in relative.parts or (".",)):
        raise BadName(name)
    return relative


def plain_name(folder: str | os.PathLike[str], name: str, what: str, example: str) -> Path:
    """``name`` as the path of ``what`` ("a run") below ``folder``, taken as it stands: no "..", no "//".

    Raises:
        ValueError: with a sentence that ends in the ``example``.
    """
    shown, why = name, ""
    try:
        relative = inside(folder, name)
        if relative.as_posix() == name.strip().replace("\\", "/"):
            return relative
    except BadName as error:
        shown, why = error.name, error.why and f": it {error.why}"
    raise ValueError(f'"{shown}" cannot be the name of {what}{why}. Expected a name such as {example}.')


def real_inside(folder: str | os.PathLike[str], name: str) -> Path:
    """Where the file ``name`` of ``folder`` really lies.

    Raises:
        BadName: also where a link leads out of the folder.
    """
    root, relative = os.path.realpath(folder), inside(folder, name)
    found = Path(os.path.realpath(os.path.join(root, relative)))
    if not found.is_relative_to(root):
        raise BadName(name)
    return found


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a file for reading; a pipe or a device, where that may never return, is refused.

    Raises:
        OSError: when it cannot be read.
    """
    # Before it is opened: opening some devices does something.
    _check_regular(os.stat(path))
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        _check_regular(os.fstat(descriptor))
    except OSError:
        os.close(descriptor)
        raise
    return os.fdopen(descriptor, "rb")


def _check_regular(status: os.stat_result) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "it is a pipe or a device")


def state(path: str | os.PathLike[str]) -> tuple[int, int] | None:
    """What changes when a file is replaced: its time and its size; None where there is none."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_mtime_ns, status.st_size


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Where to write what shall become ``path``: a file beside it, which takes its place when the block ends well and
    is gone when it does not. Missing folders are made, and everybody may read it who may read other new files, though
    some libraries write for the owner alone.

    Raises:
        OSError: when the disk refuses.
    """
    with _unfinished(path.parent, lambda unfinished: os.replace(unfinished, path)) as unfinished:
        yield unfinished


def new_file(path: Path, write: Callable[[Path], object]) -> Path:
    """The same for a file that takes no other's place: where ``path`` is taken, a number is added.

    Args:
        write: gets the path to write to.

    Returns:
        The path that it got; no other process gets the same.

    Raises:
        OSError: when the disk refuses.
    """
    free, number = path, 1

    def claim(unfinished: Path) -> None:
        nonlocal free, number
        while True:
            try:
                free.touch(exist_ok=False)
                break
            except FileExistsError:
                number += 1
                free = path.with_name(f"{path.stem}_{number}{path.suffix}")
        os.replace(unfinished, free)

    with _unfinished(path.parent, claim) as unfinished:
        write(unfinished)
    return free


@contextmanager
def _unfinished(folder: Path, settle: Callable[[Path], None]) -> Iterator[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = partial(folder)
    try:
        unfinished.touch()
        mode = unfinished.stat().st_mode
        yield unfinished
        unfinished.chmod(mode)
        flush_to_disk(unfinished)
        settle(unfinished)
    finally:
        unfinished.unlink(missing_ok=True)


def partial(folder: Path) -> Path:
    """A name in ``folder`` for what is not finished, which no list of models or pictures shows. What has lain there
    under such a name for a day, because its process died, is removed."""
    try:
        for entry in os.scandir(folder):
            if not (entry.name.startswith(".") and entry.name.endswith(_PARTIAL)):
                continue
            if entry.stat(follow_symlinks=False).st_mtime < time.time() - _STALE:
                shutil.rmtree(entry) if entry.is_dir(follow_symlinks=False) else os.unlink(entry)
    except OSError:
        # Another process may be tidying up too, and it is not what was asked for.
        pass
    return folder / f".{uuid.uuid4().hex}{_PARTIAL}"


def flush_to_disk(path: Path) -> None:
    """Return once the file's content has reached the disk, so that a rename after it never names an empty file."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())
