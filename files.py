"""Files that are there whole or not at all."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Where to write what shall become ``path``: a file beside it, which takes its place when the block ends well and
    is gone when it does not. Missing folders are made, and everybody may read it who may read other new files, though
    some libraries write for the owner alone.

    Raises:
        OSError: when the disk refuses.
    """
    # The ending keeps a half-written file out of every list of models.
    unfinished = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        unfinished.touch()
        mode = unfinished.stat().st_mode
        yield unfinished
        unfinished.chmod(mode)
        flush_to_disk(unfinished)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def flush_to_disk(path: Path) -> None:
    """Return once the file's content has reached the disk, so that a rename after it never names an empty file."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())
