"""Manifests: the list of a data set's pictures, one JSON object a line, checked as a whole before training.

A manifest is a UTF-8 file with one row a line; empty lines are skipped. The files it names lie in its own folder
or below. There are two kinds of rows.

Pictures sharp all over, with depth; groups of one scene at many blurs are rendered from them:

    {"picture": "sharp/cat.jpg", "caption": "a cat on a wall", "depth": "depth/cat.png", "mask": "masks/cat.png"}

Photos as they are, that show one blur:

    {"picture": "wild/dog.jpg", "caption": "a dog in a park", "blur": 12.5}

Keys:

- ``picture``: 8-bit picture of any format Pillow reads.
- ``caption``: what it shows; may be "". Leave blur out of it.
- ``depth``: depth map, a picture (8 or 16 bit, grey) or an array (.npy, .npz), in the picture's aspect ratio. See
  `depth_files.py`.
- ``near_is_bright``: true (default) if larger values of the depth map are nearer.
- ``metric``: true if the values are distances (larger = farther, in any unit); default false.
- ``mask``: bright where the subject is, in the picture's aspect ratio. With ``blur`` optional: crops keep it.
- ``focus``: which disparity is sharp, 0 (farthest in the map) to 1 (nearest). Default: the median in ``mask``.
- ``blur``: what the photo shows, K of the thin lens (`optics/lens.py`) in 0..30.

``picture`` and ``caption`` are in every row, with either ``depth`` or ``blur``; the keys from ``near_is_bright`` to
``focus`` describe a ``depth`` (``mask`` either).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ..files import whole_file
from .rows import Row, RowCheck


class ManifestError(ValueError):
    """Everything that is wrong with a manifest.

    Attributes:
        problems: (row, what is wrong with it), in the order of the rows; rows count the lines from 1.
    """

    def __init__(self, source: str, problems: Sequence[tuple[int, str]]) -> None:
        self.problems = tuple(problems)
        rows = len({row for row, _ in problems})
        lines = "\n".join(f"  row {row}: {text}" for row, text in problems)
        super().__init__(
            f"{source}: {rows} bad {'row' if rows == 1 else 'rows'}. Mend or remove {'it' if rows == 1 else 'them'}."
            f"\n{lines}"
        )


def read_manifest(path: Path, size: int, on_progress: Callable[[int, int], None] | None = None) -> list[Row]:
    """Read a manifest and check every row and every file of it.

    Args:
        size: short side in px that training is to have; no picture may be smaller.
        on_progress: called with (rows done, rows in all); an exception from it ends the check.

    Raises:
        ManifestError: naming all bad rows, each with all that is wrong with it.
        ValueError: when the file cannot be read or has no rows.
    """
    try:
        lines = path.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n")
    except OSError as error:
        raise ValueError(
            f"The manifest {path} cannot be read ({error.strerror}). Give the path of a .jsonl file, or make one with "
            "tools/pairs.py."
        ) from error
    numbered = [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    if not numbered:
        raise ValueError(f"The manifest {path} has no rows. Write one JSON object a line, or use tools/pairs.py.")
    return _check(numbered, path.parent, str(path), size, on_progress)


def check_rows(
    rows: Iterable[Mapping[str, object]],
    folder: Path,
    size: int,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[Row]:
    """The same for rows that are not in a file yet, whose files lie in ``folder``; they count from 1, and as nobody has
    seen their numbers, problems name the picture as well."""
    return _check(list(enumerate(rows, start=1)), folder, str(folder), size, on_progress)


def write_manifest(path: Path, rows: Iterable[Mapping[str, object]]) -> None:
    """Write rows as a manifest, complete or not at all; an older one is replaced."""
    text = "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows)
    with whole_file(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8", newline="\n")


def _check(
    numbered: Sequence[tuple[int, bytes | Mapping[str, object]]],
    folder: Path,
    source: str,
    size: int,
    on_progress: Callable[[int, int], None] | None,
) -> list[Row]:
    checks = [RowCheck(number, row, folder, size) for number, row in numbered]
    # Decoding leaves Python's lock, so threads help.
    pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1))
    try:
        rows = []
        for row in pool.map(RowCheck.run, checks):
            rows.append(row)
            if on_progress:
                on_progress(len(rows), len(checks))
    finally:
        pool.shutdown(cancel_futures=True)
    problems = [(check.number, check.label + text) for check in checks for text in check.problems]
    if problems:
        raise ManifestError(source, problems)
    return rows
