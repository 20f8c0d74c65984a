"""The thin lens: how strong a camera's defocus is as a blur, and which f-number a blur stands for.

Units: focal length f in mm, f-number N, distances from the lens in m, sensor width w in mm, picture W x H in px.

A lens of focal length f at f-number N, focused at S, draws a point at distance s as a disc of the radius

    r = K |1/s - 1/S|,    K = 1000 f^2 S / (2 N (S - f)) * W / w    (f in m here)

in pixels: K is the radius in pixels per unit of disparity (1/m). The blur of an adapter is this K in a picture whose
shorter side has 512 px, the size of the training pictures (Bokeh Diffusion, arXiv 2503.08434, section 3.1). So W is
scaled to that size first, and a blur is the same at every resolution of the same picture.

K does not depend on how far away the background is. What a background at s shows of it is r: all of K only if its
disparity is 1/m away from the subject's, a subject at 1 m before the sky for example. Synthetic training pairs know
no metres: their disparity runs from 0 to 1, and K is the radius of the farthest point when the nearest is sharp. Both
readings meet in that example.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

REFERENCE_SIZE = 512
FULL_FRAME_DIAGONAL = 43.27

# Width and height in mm. A phone's sensor is sold by a type in inches that is not its size.
SENSORS = {
    "full frame, 36 x 24 mm": (36.0, 24.0),
    "APS-C, 23.5 x 15.6 mm": (23.5, 15.6),
    "APS-C Canon, 22.3 x 14.9 mm": (22.3, 14.9),
    "Micro Four Thirds, 17.3 x 13 mm": (17.3, 13.0),
    "1 inch, 13.2 x 8.8 mm": (13.2, 8.8),
    "phone 1/1.3 inch, 9.8 x 7.3 mm": (9.8, 7.3),
    "phone 1/1.7 inch, 7.6 x 5.7 mm": (7.6, 5.7),
    "phone 1/2.55 inch, 5.6 x 4.2 mm": (5.6, 4.2),
}


class DepthOfField(NamedTuple):
    """What looks sharp lies between ``near`` and ``far``; focused at ``hyperfocal``, ``far`` is infinity. In m."""

    near: float
    far: float
    hyperfocal: float


def blur_of(
    focal_length: float, f_number: float, focus_distance: float, sensor_width: float, width: int, height: int
) -> float:
    """The blur K of a lens (equation above), not limited to 0..30.

    Args:
        focal_length: f in mm, the lens's own and not its equivalent for full frame.
        f_number: N; infinity stands for a closed aperture and gives 0.
        focus_distance: S in m.
        sensor_width: w in mm, as much of the sensor as the width of the picture shows.
        width, height: size of the picture in px; only its shape matters.

    Raises:
        ValueError: naming the value that is not above 0, or a focus distance inside the focal length.
    """
    if f_number != math.inf:
        _check_positive("F-number", f_number, "", "Use the number behind the f/ of the aperture, for example 1.8.")
    return _wide_open(focal_length, focus_distance, sensor_width, width, height) / f_number


def f_number_of(
    blur: float, focal_length: float, focus_distance: float, sensor_width: float, width: int, height: int
) -> float:
    """The f-number N that gives a blur: the inverse of ``blur_of``, infinity for blur 0.

    Raises:
        ValueError: as ``blur_of``, and for a blur below 0.
    """
    if not 0 <= blur < math.inf:
        raise ValueError(f"Blur is {blur:g}, expected 0 or more. Use the value of a blur slider, 0 to 30.")
    opened = _wide_open(focal_length, focus_distance, sensor_width, width, height)
    return opened / blur if blur > 0 else math.inf


def _wide_open(focal_length: float, focus_distance: float, sensor_width: float, width: int, height: int) -> float:
    """K at f-number 1."""
    _check_positive("Focal length", focal_length, " mm", "Use the number on the lens, for example 50 mm.")
    _check_positive("Focus distance", focus_distance, " m", "Use the distance of what is sharp, for example 2 m.")
    _check_positive("Sensor width", sensor_width, " mm", "Use the camera's sensor width, for example 36 mm.")
    _check_size(width, height)
    f = focal_length / 1000
    if focus_distance <= f:
        raise ValueError(
            f"Focus distance is {focus_distance:g} m, inside the focal length of {focal_length:g} mm, where no lens "
            f"can focus; expected more than {f:g} m. Use the distance in metres from the camera to what is sharp."
        )
    pixels = width * REFERENCE_SIZE / min(width, height)
    return 1000 * f**2 * focus_distance / (2 * (focus_distance - f)) * pixels / sensor_width


def sensor_width_of(sensor: tuple[float, float], width: int, height: int) -> float:
    """How many mm of a sensor the width of a picture shows.

    A picture of another shape counts as cut out of the middle, as large as it fits; an upright one is taken with
    the camera turned.

    Args:
        sensor: its longer and its shorter side in mm.
        width, height: size of the picture in px; only its shape matters.

    Raises:
        ValueError: for a size below 1 x 1.
    """
    _check_size(width, height)
    along, across = sensor if width >= height else (sensor[1], sensor[0])
    return min(along, across * width / height)


def sensor_width_from_35mm(focal_length: float, focal_length_35mm: float, width: int, height: int) -> float:
    """How many mm of the sensor the width of a photo shows, w = f / f_35mm * 43.27 mm / sqrt(1 + (H/W)^2).

    43.27 mm is the diagonal of full frame: the two focal lengths show the same angle over the diagonal.

    Args:
        focal_length: the lens's own, in mm.
        focal_length_35mm: its equivalent for full frame, in mm (EXIF ``FocalLengthIn35mmFilm``).
        width, height: size of the uncut photo in px; only its shape matters.

    Raises:
        ValueError: naming the value that is not above 0.
    """
    _check_positive("Focal length", focal_length, " mm", "Use the number on the lens, for example 50 mm.")
    _check_positive("Focal length for full frame", focal_length_35mm, " mm", "Choose the camera's sensor instead.")
    _check_size(width, height)
    return focal_length / focal_length_35mm * FULL_FRAME_DIAGONAL / math.hypot(1, height / width)


def coc_of(blur: float, focus_distance: float, behind: float, width: int, height: int) -> float:
    """Circle of confusion of a background: the diameter 2 r in px of the picture's own size, at its blur K.

    Args:
        blur: K, at 512 px on the shorter side.
        focus_distance: S in m.
        behind: how far behind the subject the background is, in m; may be infinity.
        width, height: size of the picture in px.

    Raises:
        ValueError: for a focus distance not above 0, a background before the subject, or a size below 1 x 1.
    """
    _check_positive("Focus distance", focus_distance, " m", "Use the distance of what is sharp, for example 2 m.")
    _check_size(width, height)
    if not behind >= 0:
        raise ValueError(f"The background is {behind:g} m behind the subject, expected 0 m or more. Mend the distance.")
    disparity = 1 / focus_distance - 1 / (focus_distance + behind)
    return 2 * blur * disparity * min(width, height) / REFERENCE_SIZE


def depth_of_field(
    focal_length: float, f_number: float, focus_distance: float, sensor_width: float, width: int, height: int
) -> DepthOfField:
    """The range that looks sharp: a disc of at most 0.03 mm on full frame, as large a part of other sensors.

    With c the largest disc, hyperfocal H = f^2 / (N c) + f, near = S (H - f) / (H + S - 2 f),
    far = S (H - f) / (H - S), and infinity from S = H on. c is the diagonal of the used part of the sensor by 1442,
    as in most tables. Arguments and errors as ``blur_of``.
    """
    blur_of(focal_length, f_number, focus_distance, sensor_width, width, height)
    coc = sensor_width * math.hypot(1, height / width) * 0.03 / FULL_FRAME_DIAGONAL / 1000
    f = focal_length / 1000
    reach = f**2 / (f_number * coc)
    hyperfocal = reach + f
    near = focus_distance * reach / (reach + focus_distance - f)
    far = focus_distance * reach / (hyperfocal - focus_distance) if focus_distance < hyperfocal else math.inf
    return DepthOfField(near, far, hyperfocal)


def f_number_labels(f_numbers: Sequence[float]) -> tuple[str, ...]:
    """``f/1.4``, ``f/16``: two digits as on a lens, more only where two different numbers would read the same.

    Infinity, the aperture that draws everything sharp, is a ``pinhole``.
    """
    for digits in range(2, 8):
        labels = tuple(_label(number, digits) for number in f_numbers)
        if len(set(labels)) == len(set(f_numbers)):
            break
    return labels


def _label(f_number: float, digits: int) -> str:
    if math.isinf(f_number):
        return "pinhole"
    decimals = max(0, digits - 1 - math.floor(math.log10(f_number)))
    text = f"{f_number:.{decimals}f}"
    return f"f/{text.rstrip('0').rstrip('.') if decimals else text}"


def _check_positive(name: str, value: float, unit: str, advice: str) -> None:
    if not 0 < value < math.inf:  # also false for nan
        raise ValueError(f"{name} is {value:g}{unit}, expected a number above 0. {advice}")


def _check_size(width: int, height: int) -> None:
    if min(width, height) < 1:
        raise ValueError(
            f"The picture is {width} x {height} px, expected at least 1 x 1 px. Mend its width and height."
        )
