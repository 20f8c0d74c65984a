"""Manifests: the list of a data set's pictures, one JSON object a line, checked as a whole before training.

A manifest is a UTF-8 file with one row a line; empty lines are skipped. The files it names lie in its own folder
or below. There are two kinds of rows.

Pictures sharp all over, with depth; groups of one scene at many blurs are rendered from them:

    {"picture": "sharp/cat.jpg", "caption": "a cat on a wall", "depth": "depth/cat.png", "mask": "masks/cat.png"}

Photos as they are, that show one blur:

    {"picture": "wild/dog.jpg", "caption": "a dog in a park", "blur": 12.5}

Keys:

- ``picture``: 8-bit picture of any format Pillow reads by itself (EPS it does not).
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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import count, islice
from pathlib import Path

from ..files import whole_file
from .entries import FILES, Entry, EntryCheck, file_of

# Of a file that is to be a manifest: a row takes some 200 bytes.
LARGEST, LONGEST_LINE, MOST_ROWS = 64 << 20, 64 << 10, 200_000
PROBLEMS_SHOWN = 100


class ManifestError(ValueError):
    """Everything that is wrong with a manifest.

    Attributes:
        problems: (row, what is wrong with it), in the order of the rows; rows count the lines from 1.
    """

    def __init__(self, source: str, problems: Sequence[tuple[int, str]]) -> None:
        self.problems = tuple(problems)
        rows = len({row for row, _ in problems})
        lines = "\n".join(f"  row {row}: {text}" for row, text in problems[:PROBLEMS_SHOWN])
        if len(problems) > PROBLEMS_SHOWN:
            lines += f"\n  and {len(problems) - PROBLEMS_SHOWN} more."
        super().__init__(
            f"{source}: {rows} bad {'row' if rows == 1 else 'rows'}. Mend or remove {'it' if rows == 1 else 'them'}."
            f"\n{lines}"
        )


def read_manifest(
    path: Path,
    size: int,
    on_progress: Callable[[int, int], None] | None = None,
    roots: Sequence[Path] | None = None,
    name: str | None = None,
) -> list[Entry]:
    """Read a manifest and check every row and every file of it.

    Args:
        size: short side in px that training is to have; no picture may be smaller.
        on_progress: called with (rows done, rows in all); an exception from it ends the check.
        roots: folders in one of which every file must really lie; None lets links lead anywhere.
        name: what sentences call the manifest; default: its path.

    Raises:
        ManifestError: naming all bad rows, each with all that is wrong with it.
        ValueError: when the file cannot be read or has no rows.
    """
    name = name or str(path)
    try:
        numbered = list(_lines(path, name))
    except OSError as error:
        raise ValueError(
            f"The manifest {name} cannot be read ({error.strerror}). Give the path of a .jsonl file, or make one with "
            "tools/pairs.py."
        ) from error
    if not numbered:
        raise ValueError(f"The manifest {name} has no rows. Write one JSON object a line, or use tools/pairs.py.")
    return _check(numbered, path.parent, name, size, on_progress, roots)


def raw_rows(path: Path, name: str) -> list[dict[str, object]]:
    """The rows of a manifest as they stand, unchecked. Raises ValueError for one that is no list of JSON objects."""
    rows = []
    for number, line in _lines(path, name):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            raise ValueError(
                f"{name}: row {number} of its manifest is no JSON object. Mend it, or choose another name."
            )
        rows.append(row)
    return rows


def named_files(path: Path, rows: int) -> list[Path]:
    """The files that the first ``rows`` rows of a manifest name, whether they are there or not; for a file that is no
    manifest what there is till then. Raises OSError when it cannot be read."""
    files = []
    with suppress(ValueError, RecursionError):
        for _, line in islice(_lines(path, path.name), rows):
            row = json.loads(line)
            texts = [row[key] for key in FILES if isinstance(row.get(key), str)] if isinstance(row, dict) else []
            files += filter(None, (file_of(path.parent, text) for text in texts))
    return files


def _lines(path: Path, name: str) -> Iterator[tuple[int, bytes]]:
    """The lines of a manifest that are not empty, with their numbers from 1. A file that is none is not read to its
    end."""
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size > LARGEST:
            raise ValueError(f"{name} has more than {LARGEST >> 20} MB: no manifest. Give a .jsonl file, or split it.")
        rows = 0
        for number in count(1):
            line = file.readline(LONGEST_LINE + 1)
            if not line:
                return
            if len(line) > LONGEST_LINE:
                raise ValueError(
                    f"{name}: line {number} has more than {LONGEST_LINE} bytes: no manifest. Give a .jsonl file with "
                    "one JSON object a line."
                )
            line = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            if line.strip():
                rows += 1
                yield number, line.rstrip(b"\n")
            if rows > MOST_ROWS:
                raise ValueError(f"{name} has more than {MOST_ROWS} rows. Train on fewer, or split the manifest.")


def check_rows(
    rows: Iterable[Mapping[str, object]],
    folder: Path,
    size: int,
    on_progress: Callable[[int, int], None] | None = None,
    roots: Sequence[Path] | None = None,
    name: str | None = None,
) -> list[Entry]:
    """The same for rows that are not in a file yet, whose files lie in ``folder``; they count from 1, and as nobody has
    seen their numbers, problems name the picture as well."""
    return _check(list(enumerate(rows, start=1)), folder, name or str(folder), size, on_progress, roots)


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
    roots: Sequence[Path] | None,
) -> list[Entry]:
    checks = [EntryCheck(number, row, folder, size, roots) for number, row in numbered]
    # Decoding leaves Python's lock, so threads help.
    pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1))
    try:
        rows = []
        for row in pool.map(EntryCheck.run, checks):
            rows.append(row)
            if on_progress:
                on_progress(len(rows), len(checks))
    finally:
        pool.shutdown(cancel_futures=True)
    problems = [(check.number, check.label + text) for check in checks for text in check.problems]
    if problems:
        raise ManifestError(source, problems)
    return rows
