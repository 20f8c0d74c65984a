"""What a photo's EXIF says about its lens."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from pathlib import Path

from PIL import ExifTags, Image, UnidentifiedImageError

from ..files import open_regular

# Field -> (EXIF tag, how it is called, unit, largest value that a camera can mean).
_FIELDS = {
    "focal_length": (ExifTags.Base.FocalLength, "focal length", " mm", 10_000),
    "focal_length_35mm": (ExifTags.Base.FocalLengthIn35mmFilm, "focal length for full frame", " mm", 10_000),
    "f_number": (ExifTags.Base.FNumber, "f-number", "", 1_000),
    "focus_distance": (ExifTags.Base.SubjectDistance, "focus distance", " m", 100_000),
}
# What carries EXIF. Pillow starts other programs for some of the rest.
FORMATS = ("JPEG", "TIFF", "PNG", "WEBP")
# EXIF writes infinity and, for some cameras, "unknown" as the largest whole number.
_UNKNOWN = 0xFFFFFFFF
# What Pillow raises for damaged files and for ones of more pixels than it takes.
UNREADABLE = (
    *(OSError, SyntaxError, ValueError, KeyError, TypeError, IndexError, AttributeError, OverflowError, MemoryError),
    struct.error,
    Image.DecompressionBombError,
)
# What makes pictures upright that carry an orientation of EXIF; selfies may be mirrored.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Orientations that show the picture with its sides exchanged.
_TURNED = (5, 6, 7, 8)


@dataclass(frozen=True, kw_only=True)
class Exif:
    """The lens of a photo as its EXIF tells it; None where it says nothing that a camera can mean.

    Attributes:
        width, height: size in px as the photo is looked at, its orientation applied.
        focal_length: in mm, the lens's own.
        focal_length_35mm: its equivalent for full frame, in mm.
        f_number: the aperture.
        focus_distance: in m.
        notes: one sentence for each value that was there but could not be used.
    """

    width: int
    height: int
    focal_length: float | None = None
    focal_length_35mm: float | None = None
    f_number: float | None = None
    focus_distance: float | None = None
    notes: tuple[str, ...] = ()


def read_exif(photo: Image.Image | str | Path, called: str | None = None) -> Exif:
    """Read the lens out of a JPEG, TIFF, PNG or WebP file, or of a picture that Pillow has opened.

    Args:
        called: what sentences call the file, its path by default.

    Values that no camera can mean (0, negative, infinite, a fraction by zero, not a number at all) count as
    missing, each with a note. Source: EXIF 2.32 (CIPA DC-008), section 4.6.5.

    Raises:
        ValueError: when the file is not there or is not a picture that can be read.
    """
    if isinstance(photo, Image.Image):
        return _read(photo)
    called = called or str(photo)
    try:
        with open_regular(photo) as file, Image.open(file, formats=FORMATS) as image:
            return _read(image)
    except FileNotFoundError:
        raise ValueError(f"There is no photo {called}. Choose a file that exists.") from None
    except UnidentifiedImageError:
        raise ValueError(f"{called} is not a picture. Use a JPEG, TIFF, PNG or WebP file.") from None
    except UNREADABLE as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"{called} cannot be read ({reason}). Use a JPEG, TIFF, PNG or WebP file.") from None


def turn_of(picture: Image.Image) -> Image.Transpose | None:
    """What makes a picture upright; None where its EXIF says nothing of the kind, or is damaged."""
    try:
        return TURNS.get(picture.getexif().get(ExifTags.Base.Orientation))
    except UNREADABLE:
        return None


def upright(picture: Image.Image) -> Image.Image:
    """A picture as it is looked at.

    Pillow's own function writes the picture's EXIF once more, and so refuses pictures for one damaged value in it.
    """
    # TIFF files turn themselves, and then no longer say that they are turned.
    picture.load()
    turn = turn_of(picture)
    return picture if turn is None else picture.transpose(turn)


def _read(image: Image.Image) -> Exif:
    width, height = image.size
    try:
        exif = image.getexif()
        # TIFF files may carry the camera's values beside the picture's own instead of in a folder of their own.
        tags = {**exif, **exif.get_ifd(ExifTags.IFD.Exif)}
    except UNREADABLE as error:
        note = f"The photo's EXIF is damaged ({error}), so it counts as missing."
        return Exif(width=width, height=height, notes=(note,))
    if tags.get(ExifTags.Base.Orientation) in _TURNED:
        # Whether the size is already that of the turned picture depends on the format; turned pixels leave no doubt.
        width, height = upright(image).size
    values, notes = {}, []
    for field, (tag, name, unit, largest) in _FIELDS.items():
        if tag not in tags:
            continue
        value = _number(tags[tag])
        if 0 < value <= largest:
            values[field] = value
        else:
            notes.append(f"The photo's {name} is {_said(tags[tag], value, unit)}, so it counts as missing.")
    return Exif(width=width, height=height, notes=tuple(notes), **values)


def _number(value: object) -> float:
    """A number or a fraction as EXIF stores it; nan for anything else, a fraction by zero among them."""
    try:
        return float(value)
    except (TypeError, ValueError, ZeroDivisionError, OverflowError):
        return math.nan


def _said(stored: object, value: float, unit: str) -> str:
    if value in (math.inf, _UNKNOWN):
        return "infinity"
    if not math.isnan(value):
        return f"{value:g}{unit}"
    return "a fraction by 0" if getattr(stored, "denominator", 1) == 0 else "not a number"
