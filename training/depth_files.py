"""Depth maps and subject masks on disk, in the formats that ComfyUI's depth nodes write.

- Pictures: 8 or 16 bit, grey, or RGB with three equal channels (what Save Image makes of a depth IMAGE);
  floating-point TIFF.
- ``.npy``: one array, [H, W] with or without axes of length 1, or with three equal channels.
- ``.npz``: the same under the key ``depth`` or ``disparity``, or as the only array.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ..optics.depth import SUBJECT, disparity_of, grey_of, metric_disparity_of
from ..optics.exif import upright

ARRAY_ENDINGS = (".npy", ".npz")
# Bytes of an array: 100 megapixels in double precision. A small archive may hold any number of zeros.
LARGEST = 800 << 20
_NPZ_KEYS = ("depth", "disparity")
# Pillow's modes of more than 8 bits; versions differ in the one that they give to 16-bit PNG.
_WHITE = {"I": 65535, "F": 1} | {f"I;16{order}": 65535 for order in ("", "L", "B", "N")}
_PLAIN_MODES = ("L", "LA", "RGB", "RGBA", *_WHITE)


class DepthError(ValueError):
    """What is wrong with a depth map or a mask, as a sentence that does not name the file."""


def without_folder(error: Exception, path: Path) -> str:
    """What a library says about a file, without the folder that only the owner of the machine should know."""
    return str(error).replace(str(path), path.name)


def read_depth(path: Path) -> np.ndarray:
    """The values of a depth map as the file has them: [H, W] float32, unscaled.

    Raises DepthError for a file that cannot be read, several maps in one, colours, and NaN or infinite values.
    """
    return _grey(_read_array(path) if path.suffix.lower() in ARRAY_ENDINGS else _read_picture(path)[0])


def to_disparity(depth: np.ndarray, near_is_bright: bool = True, metric: bool = False) -> np.ndarray:
    """Disparity normalised to the map's own range: [H, W] float32, 0 = farthest, 1 = nearest.

    Args:
        depth: from `read_depth`.
        near_is_bright: larger values are nearer, and the values are proportional to disparity (up to an offset),
            as Depth Anything and MiDaS give them. False: the same turned round, larger values are farther.
        metric: the values are distances, in any unit; disparity is then their inverse.

    Raises DepthError for a map without any depth, and for distances that are not above 0.
    """
    maps = torch.from_numpy(depth.astype(np.float32))[None, ..., None]
    with _as_depth_error():
        if metric:
            inverse, _ = metric_disparity_of(maps, True, 1, depth.shape)
            maps, near_is_bright = inverse[..., None], True
        disparity, _ = disparity_of(maps, near_is_bright, 1, depth.shape)
    return disparity[0].numpy()


def read_mask(path: Path) -> np.ndarray:
    """A subject mask: [H, W] float32 in 0..1, bright = subject.

    Raises DepthError for a file that cannot be read and for a mask without any subject (nothing at 0.5 or above).
    """
    values, white = _read_picture(path)
    values = _grey(values) / white
    if not (values >= 0.5).any():
        raise DepthError(
            f"is empty: its brightest value is {values.max():.2f} of 1, and the subject is where it is 0.5 or more"
        )
    return values


def open_itself(path: Path) -> Image.Image:
    """``Image.open`` without the one format for which Pillow starts another program: a file may come from a stranger,
    under any name."""
    Image.init()
    return Image.open(path, formats=[name for name in Image.OPEN if name != "EPS"])


def _read_picture(path: Path) -> tuple[np.ndarray, int]:
    """Values [H, W, C] float32, and the value that stands for white."""
    try:
        with open_itself(path) as opened:
            # As it is looked at: editors keep the photo's orientation.
            picture = upright(opened)
            grey = picture if picture.mode in _PLAIN_MODES else picture.convert("RGB")
            values = np.asarray(grey).astype(np.float32)
            white = _WHITE.get(grey.mode, 255)
    # Pillow's decoders raise whatever their format's parser meets: SyntaxError, struct.error, EOFError, ...
    except Exception as error:
        raise DepthError(f"cannot be read as a picture ({without_folder(error, path)})") from error
    channels = np.atleast_3d(values)
    # Two channels are grey and alpha.
    return channels[..., : 1 if channels.shape[2] == 2 else 3], white


def _read_array(path: Path) -> np.ndarray:
    """Values [H, W, C] float32."""
    try:
        _check_size(path.stat().st_size)
        # Never a pickle: it could run anything. Never mapped: a file that is cut off meanwhile would end the process.
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.lib.npyio.NpzFile):
            with loaded:
                key = _npz_key(loaded.files)
                _check_size(max(entry.file_size for entry in loaded.zip.infolist()))
                values = loaded[key]
        else:
            values = loaded
    except DepthError:
        raise
    # Damaged archives end in whatever their parser meets.
    except Exception as error:
        raise DepthError(f"cannot be read as a NumPy file of plain numbers ({without_folder(error, path)})") from error
    if values.dtype.kind not in "buif":
        raise DepthError(f"holds values of type {values.dtype}, expected numbers")
    plane = values.squeeze().astype(np.float32)
    if plane.ndim == 2:
        plane = plane[..., None]
    if plane.ndim != 3 or plane.shape[2] not in (1, 3, 4) or not plane.size:
        raise DepthError(
            f"has the shape {list(values.shape)}, expected one map [H, W]. Save the map of each picture by itself"
        )
    return plane


def _check_size(size: int) -> None:
    if size > LARGEST:
        raise DepthError(f"holds {size / 2**20:.0f} MB, expected at most {LARGEST >> 20}. Save it smaller")


def _npz_key(keys: list[str]) -> str:
    found = [key for key in _NPZ_KEYS if key in keys] or keys
    if len(found) != 1 and found is keys:
        raise DepthError(f'holds the arrays {", ".join(keys) or "(none)"}, expected one named "depth" or one in all')
    return found[0]


def _grey(channels: np.ndarray) -> np.ndarray:
    """[H, W] of [H, W, channels]."""
    with _as_depth_error():
        return grey_of(torch.from_numpy(channels)[None])[0].numpy()


@contextmanager
def _as_depth_error() -> Iterator[None]:
    """What is wrong with a map that came over a link is wrong with one on disk."""
    try:
        yield
    except ValueError as error:
        raise DepthError(str(error).removeprefix(SUBJECT).strip()) from None
