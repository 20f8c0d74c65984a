"""The portrait of a phone: the full picture, the depth that the phone measured, and its lens.

Where the depth stands:
    HEIC            an auxiliary image with its range (ISO/IEC 23008-12, depth representation information)
    JPEG, Google    XMP "GDepth": a picture in base64 with Format, Near and Far in m
    JPEG, Android   XMP "Container" with an item "Depth" behind the picture, XMP "DepthMap" with Format, Near and Far
    JPEG, Apple     a further picture of the file (MPO) with XMP "AuxiliaryImageType" disparity or depth
"""

from __future__ import annotations

import base64
import io
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from ..files import open_regular
from .exif import FORMATS, TURNS, UNREADABLE, Exif, read_exif, turn_of, upright

HEIF_ENDINGS = (".heic", ".heif", ".hif")
ENDINGS = (*HEIF_ENDINGS, ".jpg", ".jpeg", ".mpo")
# Bytes. The largest phones write a tenth.
_LARGEST = 200_000_000
_EXTENDED = b"http://ns.adobe.com/xmp/extension/\0"


@dataclass(frozen=True, kw_only=True)
class Portrait:
    """A photo with its depth.

    Attributes:
        image: RGB, full size, upright.
        disparity: [h, w] as the phone stored it, upright: 1/m where ``metric``, else from 0 (far) to 1 (near).
        metric: whether the file says the distances.
        exif: the lens.
    """

    image: Image.Image
    disparity: np.ndarray
    metric: bool
    exif: Exif


def read_portrait(path: Path) -> Portrait:
    """Read a HEIC, or a JPEG with depth in it.

    Raises:
        ValueError: when the file is not there, cannot be read, needs pillow-heif, or carries no depth.
    """
    try:
        with open_regular(path) as file:
            data = file.read(_LARGEST + 1)
        if len(data) > _LARGEST:
            raise OSError(f"it has more than {_LARGEST:,} bytes")
        if path.suffix.lower() in HEIF_ENDINGS:
            portrait = _read_heif(path.name, _opened_heif(path.name, data))
        else:
            portrait = _read_jpeg(path.name, data)
        if not (portrait.disparity.size and np.isfinite(portrait.disparity).all()):
            raise OSError("its depth holds values that are no numbers")
        return portrait
    except _NoPortrait:
        raise
    except FileNotFoundError:
        raise ValueError(f"There is no photo {path.name}. Choose a file that exists.") from None
    except UnidentifiedImageError:
        raise ValueError(f"{path.name} is not a photo. Use a HEIC or a JPEG of a phone.") from None
    except (*UNREADABLE, EOFError, RuntimeError, ArithmeticError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"{path.name} cannot be read ({reason}). Copy it from the phone again.") from None


class _NoPortrait(ValueError):
    """A sentence about a file that can be read."""


def _opened_heif(name: str, data: bytes):
    try:
        # Its own functions: registered with Pillow, it would change how every other node opens files.
        import pillow_heif
    except ImportError:
        raise _NoPortrait(
            f"{name} is a HEIC, which needs the package pillow-heif. Install it into ComfyUI's Python "
            "(pip install pillow-heif) and start ComfyUI again, or export the photo as a JPEG with its depth."
        ) from None
    return pillow_heif.open_heif(io.BytesIO(data))[0]


def _read_heif(name: str, photo) -> Portrait:
    image = photo.to_pillow()
    found = photo.info.get("depth_images") or [_missing(name)]
    stored = found[0].to_pillow()
    about = found[0].info.get("metadata") or {}
    values = _values(stored)
    kind = about.get("representation_type")
    # 0 and 2 are even in 1/z and in z between the nearest and the farthest z; 1 and 3 tell the disparities.
    if kind in (0, 2) and about.get("z_near") and about.get("z_far"):
        far, near = 1 / about["z_far"], 1 / about["z_near"]
        disparity = far + values * (near - far) if kind == 0 else 1 / _mix(about["z_far"], about["z_near"], values)
        metric = True
    elif about.get("d_max") is not None and about.get("d_min") is not None:
        disparity, metric = _mix(about["d_min"], about["d_max"], values), True
    else:
        disparity, metric = values, False
    # The package turns either by its own entry in the file. Depth that has none is stored as the sensor saw it, and how
    # that was turned stands with the decoded picture alone.
    turn = TURNS.get(image.info.get("original_orientation"))
    if turn is not None and (stored.width > stored.height) != (image.width > image.height):
        disparity = np.asarray(Image.fromarray(disparity).transpose(turn))
    return Portrait(image=image.convert("RGB"), disparity=disparity, metric=metric, exif=read_exif(image))


def _read_jpeg(name: str, data: bytes) -> Portrait:
    with Image.open(io.BytesIO(data), formats=("JPEG",)) as photo:
        xmp = photo.info.get("xmp", b"").decode("utf-8", "replace") + _extended_xmp(data)
        exif = read_exif(photo)
        turn = turn_of(photo)
        image = upright(photo).convert("RGB")
        disparity, metric = _google(xmp) or _android(xmp, data) or _apple(photo) or _missing(name)
    if turn is not None:
        disparity = np.asarray(Image.fromarray(disparity).transpose(turn))
    return Portrait(image=image, disparity=disparity, metric=metric, exif=exif)


def _missing(name: str):
    raise _NoPortrait(
        f"{name} carries no depth. Take it in the phone's portrait mode, and copy the original: messengers and "
        "most exports leave the depth out. Or use Load Image and a depth node."
    )


def _google(xmp: str) -> tuple[np.ndarray, bool] | None:
    data = _field(xmp, "GDepth:Data") or _field(xmp, "GDepth:Image")
    if data is None:
        return None
    return _in_range(Image.open(io.BytesIO(base64.b64decode(data)), formats=FORMATS), xmp, "GDepth")


def _android(xmp: str, data: bytes) -> tuple[np.ndarray, bool] | None:
    """The items of a container lie one behind the other at the end of the file, in the order of the list."""
    items = [
        (_field(item, "Item:Semantic"), int(_field(item, "Item:Length") or 0))
        for item in re.findall(r"<Container:Item\b[^<>]*>", xmp)
    ]
    end = len(data)
    for meaning, length in reversed(items):
        if meaning in ("Depth", "DepthMap"):
            return _in_range(Image.open(io.BytesIO(data[end - length : end]), formats=FORMATS), xmp, "DepthMap")
        end -= length
    return None


def _apple(photo: Image.Image) -> tuple[np.ndarray, bool] | None:
    for number in range(1, getattr(photo, "n_frames", 1)):
        photo.seek(number)
        xmp = photo.info.get("xmp", b"").decode("utf-8", "replace")
        kind = _field(xmp, "AuxiliaryImageType")
        if kind not in ("disparity", "depth"):
            continue
        low, high = _field(xmp, "FloatMinValue"), _field(xmp, "FloatMaxValue")
        values = _values(photo)
        if low is None or high is None:
            return (values if kind == "disparity" else 1 - values), False
        stored = _mix(float(low), float(high), values)
        return (stored if kind == "disparity" else 1 / stored.clip(1e-4)), True
    return None


def _in_range(picture: Image.Image, xmp: str, name: str) -> tuple[np.ndarray, bool]:
    """Disparity of a map from Near, 0, to Far, 1: even in the inverse of the distance, or in the distance."""
    values = _values(picture)
    near, far = _field(xmp, f"{name}:Near"), _field(xmp, f"{name}:Far")
    linear = (_field(xmp, f"{name}:Format") or "").lower().endswith("linear")
    metric = (_field(xmp, f"{name}:Units") or "m").lower() in ("m", "meters")
    if near is None or far is None or not 0 < float(near) < float(far):
        return 1 - values, False
    near, far = float(near), float(far)
    disparity = 1 / _mix(near, far, values) if linear else _mix(1 / near, 1 / far, values)
    if metric:
        return disparity, True
    return (disparity - 1 / far) / (1 / near - 1 / far), False


def _values(picture: Image.Image) -> np.ndarray:
    """Grey of eight or sixteen bits as 0..1, [h, w] in float32."""
    if picture.mode.startswith("I"):
        return np.asarray(picture, dtype=np.float32) / 65535
    return np.asarray(picture.convert("L"), dtype=np.float32) / 255


def _mix(first: float, last: float, values: np.ndarray) -> np.ndarray:
    return (first + values * (last - first)).astype(np.float32)


def _field(xmp: str, name: str) -> str | None:
    """A value of XMP, written as an attribute or as an element, in whatever namespace where ``name`` has none."""
    # No pattern goes on over the start of the next match, or a file could keep it busy for hours.
    found = re.search(rf'{name}\s*=\s*["\']([^"\']*)["\']|{name}>([^<>]*)<', xmp)
    return None if found is None else (found[1] if found[1] is not None else found[2]).strip()


def _extended_xmp(data: bytes) -> str:
    """What did not fit into the first XMP of a JPEG: pieces with their place in the whole (XMP part 3, 1.1.3.1)."""
    pieces, at = {}, 2
    while data[at : at + 1] == b"\xff" and data[at + 1 : at + 2] != b"\xda":
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        segment = data[at + 4 : at + 2 + length]
        if data[at + 1] == 0xE1 and segment.startswith(_EXTENDED):
            head = len(_EXTENDED) + 32
            pieces[int.from_bytes(segment[head + 4 : head + 8], "big")] = segment[head + 8 :]
        at += 2 + length
    return b"".join(pieces[place] for place in sorted(pieces)).decode("utf-8", "replace")
