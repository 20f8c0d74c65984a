"""One row of a manifest: what it may say, and the check of it and of the files that it names."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath

import numpy as np
from PIL import Image

from ..optics.exif import upright
from ..sweep.values import BLUR_MAX, BLUR_MIN
from .depth_files import DepthError, open_itself, read_depth, read_mask, to_disparity, without_folder

# How far a disparity that counts as in focus may be from the focus: a disc of 1.5 px radius at most, at 512 px.
IN_FOCUS = 0.05
# Depth nodes work on multiples of 14 or 64 px, so that their maps are off by a little.
_ASPECT_TOLERANCE = 0.05
_SMALLEST_DEPTH = 1 / 8
_DEPTH_ONLY = ("near_is_bright", "metric", "focus")
_KINDS = {
    "picture": "text",
    "caption": "text",
    "blur": "number",
    "depth": "text",
    "near_is_bright": "true or false",
    "metric": "true or false",
    "mask": "text",
    "focus": "number",
}
FILES = ("picture", "depth", "mask")
_UNKNOWN_NAMED = 5
# Halves of characters, which JSON can spell and no text encoder or file system takes.
_HALVES = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, kw_only=True)
class DepthMap:
    """A depth map that was checked; ``focus`` is the disparity that is sharp, 0..1."""

    path: Path
    near_is_bright: bool
    metric: bool
    focus: float

    @property
    def settings(self) -> tuple[bool, bool, float]:
        """How the file is read."""
        return self.near_is_bright, self.metric, self.focus

    def disparity(self) -> np.ndarray:
        """[H, W] float32, 0 = farthest, 1 = nearest. Raises DepthError."""
        return to_disparity(read_depth(self.path), self.near_is_bright, self.metric)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A row of a manifest that was checked: with ``depth`` the picture is sharp all over, else it shows ``blur``.

    Attributes:
        number: its line in the manifest, from 1.
        name: the picture as the manifest writes it, with forward slashes.
        width, height: of the picture the right way up, in px.
        subject: left, top, right and bottom of what has to stay in a crop, as parts of the picture, 0..1.
        digest: of the contents of the row's files.
    """

    number: int
    name: str
    picture: Path
    caption: str
    width: int
    height: int
    subject: tuple[float, float, float, float]
    depth: DepthMap | None = None
    blur: float | None = None
    digest: str = ""


def file_of(folder: Path, text: str) -> Path | None:
    """The path that a manifest in ``folder`` means, without a look at the disk. None for one that leads out: a manifest
    from someone else must not read files elsewhere. Links that its owner laid may lead out."""
    inside = PureWindowsPath(text)
    return None if inside.anchor or ".." in inside.parts else folder.joinpath(*inside.parts)


def within(path: Path, roots: Sequence[Path] | None) -> bool:
    """Whether a file really lies in one of the folders, links followed; anywhere counts for None.

    roots: without links themselves.
    """
    return roots is None or any(path.resolve().is_relative_to(root) for root in roots)


def open_picture(path: Path) -> Image.Image:
    """A picture as RGB, the right way up.

    Raises ValueError, in words that follow the picture's name, when it cannot be read.
    """
    try:
        with open_itself(path) as picture:
            deep = picture.mode.startswith(("I", "F"))
            rgb = upright(picture).convert("RGB")
    # Pillow's decoders raise whatever their format's parser meets: SyntaxError, struct.error, EOFError, ...
    except Exception as error:
        raise ValueError(f"cannot be read as a picture ({without_folder(error, path)})") from error
    if deep:
        raise ValueError("has one channel of more than 8 bits: is it a depth map? Save it as 8-bit RGB")
    return rgb


class EntryCheck:
    """The check of one row, which goes on as far as it can so that all is found at once."""

    def __init__(
        self,
        number: int,
        given: bytes | Mapping[str, object],
        folder: Path,
        size: int,
        roots: Sequence[Path] | None = None,
    ) -> None:
        self.number, self.given, self.folder, self.size, self.roots = number, given, folder, size, roots
        self.problems: list[str] = []
        self.label = f"{given.get('picture')}: " if isinstance(given, Mapping) else ""

    def run(self) -> Entry | None:
        """The row, or None with ``problems`` filled."""
        values = self._parsed()
        if values is None:
            return None
        self._check_keys(values)
        values = {key: value for key, value in values.items() if self._check_value(key, value)}
        paths = {key: self._path(key, values[key]) for key in FILES if key in values}
        picture = self._picture(values, paths.get("picture"))
        mask = self._mask(values, paths.get("mask"), picture)
        depth, subject = self._depth(values, paths.get("depth"), picture, mask)
        if self.problems:
            return None
        if mask is not None:
            subject = _box(mask >= 0.5)
        return Entry(
            number=self.number,
            name=PureWindowsPath(values["picture"]).as_posix(),
            picture=paths["picture"],
            caption=values["caption"],
            width=picture[0],
            height=picture[1],
            subject=subject or (0.0, 0.0, 1.0, 1.0),
            depth=depth,
            blur=None if depth else float(values["blur"]),
            digest=_digest(paths.values()),
        )

    def _parsed(self) -> Mapping[str, object] | None:
        row = self.given
        if isinstance(row, bytes):
            try:
                row = json.loads(row.decode("utf-8"))
            except UnicodeDecodeError as error:
                self.problems.append(f"not UTF-8 (byte {error.start + 1}). Save the manifest as UTF-8")
                return None
            except json.JSONDecodeError as error:
                self.problems.append(f"not JSON ({error.msg} at column {error.colno}). A row is one object on one line")
                return None
            # Nested too deeply, or a number of thousands of digits.
            except (RecursionError, ValueError) as error:
                self.problems.append(f"not JSON of any use ({error}). A row is one object on one line")
                return None
        if not isinstance(row, Mapping):
            self.problems.append(f"{_shown(row)}, expected an object with keys such as picture and caption")
            return None
        return row

    def _check_keys(self, values: Mapping[str, object]) -> None:
        unknown = values.keys() - _KINDS.keys()
        for key in sorted(unknown)[:_UNKNOWN_NAMED]:
            self.problems.append(f'unknown key "{key:.40}", expected {", ".join(_KINDS)}')
        if "picture" not in values:
            self.problems.append('no "picture", expected the path of a file')
        if "caption" not in values:
            self.problems.append('no "caption", expected a text ("" for none)')
        if "blur" in values and "depth" in values:
            self.problems.append('both "blur" and "depth", expected one: a photo shows its blur, or is sharp all over')
        if "blur" not in values and "depth" not in values:
            self.problems.append('neither "blur" nor "depth", expected one of them')
        if "depth" in values:
            if values.get("metric") is True and values.get("near_is_bright") is True:
                self.problems.append('both "metric" and "near_is_bright", but distances grow away from the camera')
            if "focus" not in values and "mask" not in values:
                self.problems.append('"depth" with neither "focus" nor a "mask", which tell what is sharp')
        elif extra := [f'"{key}"' for key in _DEPTH_ONLY if key in values]:
            self.problems.append(f'{", ".join(extra)} without a "depth"')

    def _check_value(self, key: str, value: object) -> bool:
        """Whether a value is of its key's type and in its range; keys that are unknown are dropped too."""
        kind = _KINDS.get(key)
        if kind == "number":
            low, high = (BLUR_MIN, BLUR_MAX) if key == "blur" else (0.0, 1.0)
            # bool is an int in Python; nan is in no range.
            fits = isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high
            kind = f"a number from {low:g} to {high:g}"
        elif kind == "text":
            fits = isinstance(value, str) and not _HALVES.search(value)
            if key != "caption":
                fits, kind = fits and bool(value.strip()), "the path of a file"
        else:
            fits = isinstance(value, bool)
        if not fits and kind:
            self.problems.append(f'"{key}" is {_shown(value)}, expected {kind}')
        return fits and key in _KINDS

    def _path(self, key: str, text: str) -> Path | None:
        path = file_of(self.folder, text)
        if path is None:
            self.problems.append(f'"{key}" is {_shown(text)}, expected a path inside the folder of the manifest')
            return None
        if not os.path.isfile(path) or not within(path, self.roots):
            self.problems.append(f'"{key}": there is no file {_shown(text)} in the folder of the manifest')
            return None
        return path if self.roots is None else path.resolve()

    def _picture(self, values: Mapping[str, object], path: Path | None) -> tuple[int, int] | None:
        if path is None:
            return None
        try:
            width, height = open_picture(path).size
        except ValueError as error:
            self.problems.append(f'"picture" {values["picture"]} {error}')
            return None
        if min(width, height) < self.size:
            self.problems.append(
                f'"picture" {values["picture"]} is {width} x {height} px, expected a short side of at least '
                f"{self.size} px. Use a larger one or train at a smaller size"
            )
        return width, height

    def _mask(
        self, values: Mapping[str, object], path: Path | None, picture: tuple[int, int] | None
    ) -> np.ndarray | None:
        if path is None:
            return None
        try:
            mask = read_mask(path)
        except DepthError as error:
            self.problems.append(f'"mask" {values["mask"]} {error}')
            return None
        self._check_aspect("mask", values, mask, picture)
        return mask

    def _depth(
        self,
        values: Mapping[str, object],
        path: Path | None,
        picture: tuple[int, int] | None,
        mask: np.ndarray | None,
    ) -> tuple[DepthMap | None, tuple[float, float, float, float] | None]:
        """The depth map, and the box round what is in focus."""
        if path is None:
            return None, None
        metric = values.get("metric", False)
        near_is_bright = values.get("near_is_bright", not metric)
        try:
            disparity = to_disparity(read_depth(path), near_is_bright, metric)
        except DepthError as error:
            self.problems.append(f'"depth" {values["depth"]} {error}')
            return None, None
        self._check_aspect("depth", values, disparity, picture)
        if min(disparity.shape) < self.size * _SMALLEST_DEPTH:
            self.problems.append(
                f'"depth" {values["depth"]} is {disparity.shape[1]} x {disparity.shape[0]} px, expected a short side '
                f"of at least {self.size * _SMALLEST_DEPTH:g} px to train at {self.size}. Make it at a larger size"
            )
        if "focus" in values:
            focus = float(values["focus"])
        elif mask is not None:
            focus = median_in(disparity, mask)
        else:
            return None, None
        sharp = np.abs(disparity - focus) <= IN_FOCUS
        if not sharp.any():
            self.problems.append(
                f'"focus" is {focus:g}, but nothing in {values["depth"]} is within {IN_FOCUS} of it. Use the disparity '
                "of the subject, 0 = farthest in the map, 1 = nearest, or a mask"
            )
            return None, None
        depth = DepthMap(path=path, near_is_bright=near_is_bright, metric=metric, focus=focus)
        return depth, _box(sharp, trim=0.05)

    def _check_aspect(
        self, key: str, values: Mapping[str, object], found: np.ndarray, picture: tuple[int, int] | None
    ) -> None:
        if picture is None:
            return
        height, width = found.shape
        if abs(width * picture[1] / (height * picture[0]) - 1) > _ASPECT_TOLERANCE:
            self.problems.append(
                f'"{key}" {values[key]} is {width} x {height} px, another shape than the picture of {picture[0]} x '
                f"{picture[1]} px (the right way up). Make it from this very picture"
            )


def _digest(paths: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        digest.update(b"file")
        with path.open("rb") as file:
            while block := file.read(2**20):
                digest.update(block)
    return digest.hexdigest()[:16]


def median_in(disparity: np.ndarray, mask: np.ndarray) -> float:
    """Median disparity of the subject, [H, W] each, of any sizes; always one of the map's own values."""
    height, width = disparity.shape
    weights = np.asarray(Image.fromarray(mask).resize((width, height), Image.Resampling.BOX))
    # The largest share of a pixel counts, so that a subject smaller than a pixel of the map has a depth too.
    return float(np.quantile(disparity[weights >= min(0.5, weights.max())], 0.5, method="lower"))


def _box(inside: np.ndarray, trim: float = 0.0) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of the true pixels as parts of the map, less the share ``trim`` of them a side."""
    edges = []
    for axis in (0, 1):
        counts = inside.sum(axis=axis)
        share = np.cumsum(counts) / counts.sum()
        first = int(np.searchsorted(share, trim, side="right"))
        last = min(int(np.searchsorted(share, 1 - trim - 1e-9)), len(counts) - 1)
        edges.append((first / len(counts), (last + 1) / len(counts)))
    (left, right), (top, bottom) = edges
    return left, top, right, bottom


def _shown(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."
