"""Rows of a manifest from folders of pictures, with the blur of photos from their EXIF.

    FOLDER/sharp/NAME.jpg   pictures sharp all over, NAME.txt beside them with the caption
    FOLDER/depth/NAME.png   their depth maps: a picture, .npy or .npz
    FOLDER/masks/NAME.png   where their subjects are; may be missing
    FOLDER/wild/NAME.jpg    photos with EXIF, NAME.txt beside them with the caption

Names may have folders; a depth map or mask may also be called NAME_00001_.png, as Save Image does.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from ..optics.exif import read_exif
from ..optics.lens import blur_of, sensor_width_from_35mm
from ..sweep.values import BLUR_MAX
from .depth_files import ARRAY_ENDINGS
from .entries import within

MANIFEST_NAME = "manifest.jsonl"
SHARP, DEPTH, MASKS, WILD = "sharp", "depth", "masks", "wild"
PICTURE_ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp")
# What a photo's EXIF may lack -> what it is called, with its unit.
LENS_VALUES = {
    "focal_length": "focal length in mm",
    "f_number": "f-number",
    "focus_distance": "subject distance in m",
    "sensor_width": "sensor width in mm",
}
LONGEST_CAPTION = 16_384
# How many pictures a line about skipped ones names.
NAMED = 3
# Folders that systems and programs keep beside a person's own: thumbnails, previews, what was deleted.
_FOREIGN = {
    "@eadir",
    "@recycle",
    "@tmp",
    "#recycle",
    "#snapshot",
    "$recycle.bin",
    "__macosx",
    "_thumbs",
    "thumbs",
    "thumbnails",
    "lost+found",
    "system volume information",
}
_COUNTER = re.compile(r"_\d{5}_?$")

# Photo and the LENS_VALUES it lacks -> those that are known now.
Ask = Callable[[Path, list[str]], Mapping[str, float]]


@dataclass(frozen=True, kw_only=True)
class ScanOptions:
    """What pictures get that do not bring it themselves.

    Attributes:
        caption: for pictures without a .txt; None skips them.
        focus: disparity 0..1 for sharp pictures without a mask; None skips them.
        near_is_bright, metric: of all depth maps, see `manifest.py`.
        lens: LENS_VALUES for photos whose EXIF lacks them.
    """

    caption: str | None = None
    focus: float | None = None
    near_is_bright: bool = True
    metric: bool = False
    lens: Mapping[str, float] = field(default_factory=dict)


class Skips(Counter[str]):
    """Why how many pictures were skipped."""

    def __init__(self) -> None:
        super().__init__()
        self._names: dict[str, list[str]] = {}

    def add(self, reason: str, name: str) -> None:
        self[reason] += 1
        # A name that is not UTF-8 could not be written out.
        self._names.setdefault(reason, []).append(os.fsencode(name).decode(errors="replace"))

    def lines(self) -> list[str]:
        """One for each reason, the most frequent first, with the first pictures."""
        return [
            f"Skipped: {count}, {reason}: {', '.join(self._names[reason][:NAMED])}{', ...' if count > NAMED else ''}"
            for reason, count in self.most_common()
        ]


class Scan(NamedTuple):
    """Rows for a manifest in the scanned folder, and what was skipped."""

    rows: list[dict[str, object]]
    skipped: Skips


class _Skip(Exception):
    """Why a picture is skipped."""


def scan_folder(
    folder: Path,
    options: ScanOptions,
    ask: Ask | None = None,
    roots: Sequence[Path] | None = None,
    name: str | None = None,
) -> Scan:
    """Find the pictures of a folder; what they contain is checked later, with the rows.

    Args:
        roots: folders in one of which every file must really lie; None lets links lead anywhere.
        name: what sentences call the folder; default: its path.

    Raises:
        ValueError: when there is neither a sharp nor a wild picture.
    """
    found = {part: files_of(folder, part, roots) for part in (SHARP, DEPTH, MASKS, WILD)}
    sharp, wild = found[SHARP], found[WILD]
    if not sharp and not wild:
        raise ValueError(
            f"{name or folder} has no pictures to train on: expected some in {SHARP} (sharp all over, with depth maps "
            f"of the same names in {DEPTH}) or in {WILD} (photos with EXIF)."
        )
    depths, masks = (_by_name(folder / part, found[part]) for part in (DEPTH, MASKS))
    rows, skipped = [], Skips()
    for paths, describe in (
        (sharp, lambda path: _sharp_row(path, folder, depths, masks, options)),
        (wild, lambda path: {"blur": _blur(path, options.lens, ask)}),
    ):
        for path in paths:
            try:
                _check_name(path)
                row = {"picture": path.relative_to(folder).as_posix(), "caption": _caption(path, options, roots)}
                rows.append(row | describe(path))
            except _Skip as reason:
                skipped.add(str(reason), path.relative_to(folder).as_posix())
    return Scan(rows, skipped)


def photo_blur(path: Path, given: Mapping[str, float]) -> tuple[float | None, list[str]]:
    """The blur K of a photo from its EXIF, completed by ``given``; else None and the LENS_VALUES that are missing.

    Raises:
        ValueError: for a file that is no photo, and for values that no lens can have.
    """
    exif = read_exif(path)
    values = {key: getattr(exif, key, None) or given.get(key) for key in LENS_VALUES}
    if values["focal_length"] and exif.focal_length_35mm:
        values["sensor_width"] = sensor_width_from_35mm(
            values["focal_length"], exif.focal_length_35mm, exif.width, exif.height
        )
    missing = [key for key, value in values.items() if not value]
    if missing:
        return None, missing
    return blur_of(**values, width=exif.width, height=exif.height), []


def _check_name(path: Path) -> None:
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise _Skip("a name that is not UTF-8, which no manifest can hold") from error


def _blur(path: Path, given: Mapping[str, float], ask: Ask | None) -> float:
    try:
        blur, missing = photo_blur(path, given)
        if missing and ask:
            blur, missing = photo_blur(path, {**given, **ask(path, missing)})
    except ValueError as error:
        # Its path differs from photo to photo, and reasons are counted.
        raise _Skip("EXIF that cannot be used: " + str(error).replace(str(path), "the photo")) from error
    if missing:
        raise _Skip(f"no {', no '.join(LENS_VALUES[key] for key in missing)} in the EXIF")
    if blur > BLUR_MAX:
        raise _Skip(f"a blur above {BLUR_MAX:g}, the strongest there is")
    return round(blur, 3)


def _sharp_row(
    path: Path, folder: Path, depths: Mapping[Path, Path], masks: Mapping[Path, Path], options: ScanOptions
) -> dict[str, object]:
    name = path.relative_to(folder / SHARP).with_suffix("")
    if name not in depths:
        raise _Skip(f"no depth map of the same name in {DEPTH}")
    row: dict[str, object] = {"depth": depths[name].relative_to(folder).as_posix()}
    if options.metric:
        row["metric"] = True
    elif not options.near_is_bright:
        row["near_is_bright"] = False
    if name in masks:
        row["mask"] = masks[name].relative_to(folder).as_posix()
    elif options.focus is not None:
        row["focus"] = options.focus
    else:
        raise _Skip(f"no mask of the same name in {MASKS}, and no focus given")
    return row


def _caption(path: Path, options: ScanOptions, roots: Sequence[Path] | None) -> str:
    text = path.with_suffix(".txt")
    if not text.is_file() or not within(text, roots):
        if options.caption is None:
            raise _Skip("no caption: no .txt of the same name")
        return options.caption
    with text.open("rb") as file:
        content = file.read(LONGEST_CAPTION + 1)
    if len(content) > LONGEST_CAPTION:
        raise _Skip(f"a caption of more than {LONGEST_CAPTION} bytes")
    try:
        return " ".join(content.decode("utf-8-sig").split())
    except UnicodeDecodeError as error:
        raise _Skip("a caption that is not UTF-8") from error


def files_of(folder: Path, part: str, roots: Sequence[Path] | None = None) -> list[Path]:
    """Files of one of the folders SHARP, DEPTH, MASKS and WILD, sorted so that every machine finds the same rows; none
    where there is no folder. What is hidden, or lies in a hidden folder or one that is not a person's own, is left out.
    """
    endings = PICTURE_ENDINGS + (ARRAY_ENDINGS if part == DEPTH else ())
    found = []
    for parent, folders, names in os.walk(folder / part):
        folders[:] = [name for name in folders if not name.startswith(".") and name.lower() not in _FOREIGN]
        paths = (Path(parent, name) for name in names if not name.startswith("."))
        found += [path for path in paths if path.suffix.lower() in endings and path.is_file() and within(path, roots)]
    return sorted(found)


def _by_name(folder: Path, files: Iterable[Path]) -> dict[Path, Path]:
    """Files by their name without ending; without Save Image's counter too, the latest one, where that is free."""
    exact = {path.relative_to(folder).with_suffix(""): path for path in files}
    counted = {name.with_name(_COUNTER.sub("", name.name) or name.name): path for name, path in exact.items()}
    return counted | exact
