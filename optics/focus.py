"""Where a picture is in focus and how fast it leaves it: the plane, the lens, what is sharp, in metres if known.

Disparity is the inverse of the distance: in 1/m where the depth is known in metres, else 0 (farthest) to 1 (nearest).
A pixel of disparity d is drawn as a disc of the signed radius, positive before the plane of focus p,

    r = K sign(d - p) max(|d - p| - h, 0) * short side / 512        [px]

with K in px per unit of disparity in a picture of 512 px on its short side, and h half the range around the plane
that is drawn sharp as well. In 1/m this is the thin lens, r = K |1/s - 1/S| (``optics.lens``).

Sharp is what has a disc of at most 0.03 mm on full frame, or the same part of the diagonal of any picture, 1/1442.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..sweep.values import Scale, Sweep, format_value, parse_values
from .defocus import REFERENCE_SIZE
from .lens import FULL_FRAME_DIAGONAL, SENSORS, blur_of, f_number_labels, sensor_width_of

# As far as a distance is told apart from infinity, in m.
FARTHEST = 10_000.0
# Largest disc that looks sharp, as a part of the diagonal.
SHARP_DISC = 0.03 / FULL_FRAME_DIAGONAL

_METRES = Scale(
    "focus distance", 0.01, FARTHEST, ("1.2, 2, 4", "1..4/7"), "It is the distance from the camera in metres."
)
_RELATIVE = Scale("focus", 0.0, 1.0, ("0, 0.5, 1", "1..0/7"), "0 is the farthest thing, 1 the nearest one.")


class Lens(NamedTuple):
    """Focal length in mm, smallest f-number, and the longer and shorter side of the sensor in mm."""

    focal_length: float
    f_number: float
    sensor: tuple[float, float]


# The page reads the numbers out of the names.
_FULL_FRAME = SENSORS["full frame, 36 x 24 mm"]
LENSES = {
    "50 mm f/1.8, 36 x 24 mm": Lens(50, 1.8, _FULL_FRAME),
    "35 mm f/1.4, 36 x 24 mm": Lens(35, 1.4, _FULL_FRAME),
    "85 mm f/1.4, 36 x 24 mm": Lens(85, 1.4, _FULL_FRAME),
    "135 mm f/2, 36 x 24 mm": Lens(135, 2, _FULL_FRAME),
    "medium format 80 mm f/1.7, 43.8 x 32.9 mm": Lens(80, 1.7, (43.8, 32.9)),
    "phone 5.7 mm f/1.5, 7.6 x 5.7 mm": Lens(5.7, 1.5, (7.6, 5.7)),
}


@dataclass(frozen=True)
class Focus:
    """Everything about focus and blur of N pictures, or of one picture focused N times.

    Attributes:
        disparity: [1 or N, H, W], 1/m or relative.
        metric: whether it is in 1/m.
        plane: disparity of the plane of focus, [N].
        blur: K in px per unit of disparity at 512 px, [N].
        sharp: h, half the range of disparity around the plane that is drawn sharp.
        f_number: of the lens, None where only a blur is known.
        swept: whether the N planes are a sweep of one picture.
    """

    disparity: Tensor
    metric: bool
    plane: Tensor
    blur: Tensor
    sharp: float = 0.0
    f_number: float | None = None
    swept: bool = False

    def __len__(self) -> int:
        return len(self.plane)

    def map_of(self, row: int) -> Tensor:
        """Disparity [H, W] of a picture."""
        return self.disparity[row if len(self.disparity) > 1 else 0]

    def defocus(self, row: int) -> Tensor:
        """Signed radius r in px of the disc of each pixel of a picture, [H, W]."""
        apart = self.map_of(row) - self.plane[row]
        scale = self.blur[row] * min(apart.shape) / REFERENCE_SIZE
        return (apart.abs() - self.sharp).clamp(min=0).mul(scale).copysign(apart)

    def in_focus(self, row: int) -> Tensor:
        """1 where the disc of a picture's pixel looks sharp, else 0, [H, W]."""
        radius = self.defocus(row).abs()
        return (radius <= sharp_disc(*radius.shape) / 2).to(radius)

    def largest_disc(self) -> float:
        """Diameter in px of the largest disc of all pictures."""
        largest = 0.0
        for row in range(len(self)):
            low, high = self.map_of(row).aminmax()
            apart = max(abs(low - self.plane[row]), abs(high - self.plane[row])) - self.sharp
            largest = max(largest, (2 * self.blur[row] * apart).item())
        return largest * min(self.disparity.shape[1:]) / REFERENCE_SIZE

    def sharp_from_to(self, row: int) -> tuple[float, float]:
        """Disparity of the farthest and of the nearest thing that looks sharp; infinite at blur 0."""
        height, width = self.disparity.shape[1:]
        blur, plane = self.blur[row].item(), self.plane[row].item()
        at_512 = sharp_disc(height, width) * REFERENCE_SIZE / min(height, width)
        reach = self.sharp + (at_512 / 2 / blur if blur else math.inf)
        return plane - reach, plane + reach

    @property
    def sweep(self) -> Sweep:
        """The planes as the values of a sweep: metres, or 0 = far to 1 = near."""
        if not self.metric:
            values = tuple(self.plane.tolist())
            ends = {0.0: "far", 1.0: "near"}
            return Sweep(values, name="focus", captions=tuple(ends.get(v, format_value(v)) for v in values))
        values = tuple(metres(plane) for plane in self.plane.tolist())
        return Sweep(values, name="focus", captions=distance_labels(values))


def sharp_disc(height: int, width: int) -> float:
    """Diameter in px of the largest disc that looks sharp in a picture of this size."""
    return SHARP_DISC * math.hypot(height, width)


def metres(disparity: float) -> float:
    """Distance in m for a disparity in 1/m, at most ``FARTHEST``."""
    return min(1 / disparity, FARTHEST) if disparity > 0 else FARTHEST


def distance_labels(distances: tuple[float, ...]) -> tuple[str, ...]:
    """``2.1 m``: two digits, more only where two different distances would read the same."""
    for digits in range(2, 8):
        labels = tuple(_distance(value, digits) for value in distances)
        if len(set(labels)) == len(set(distances)):
            break
    return labels


def _distance(value: float, digits: int) -> str:
    if value >= FARTHEST:
        return "infinity"
    decimals = max(0, digits - 1 - math.floor(math.log10(value)))
    return f"{value:.{decimals}f} m"


def scaled(disparity: Tensor, nearest: float, farthest: float) -> Tensor:
    """Turns a relative disparity into 1/m, in place: 1 lies at ``nearest`` and 0 at ``farthest``, in m.

    Raises:
        ValueError: unless 0 < nearest < farthest.
    """
    if not 0 < nearest < farthest:
        raise ValueError(
            f"The nearest thing is at {nearest:g} m and the farthest at {farthest:g} m. Give distances above 0, the "
            "nearest first."
        )
    return disparity.mul_(1 / nearest - 1 / farthest).add_(1 / farthest)


def parse_planes(text: str, metric: bool) -> tuple[float, ...]:
    """Disparities of the planes in a list as a sweep's: in metres ("2.1, 3 m, 1..4/7"), or 0 = far to 1 = near.

    Raises:
        ValueError: naming the entry that is wrong and what would be right.
    """
    if not metric:
        return parse_values(text, _RELATIVE)
    return tuple(1 / value for value in parse_values(re.sub(r"(?<=\d)\s*m\b", "", text), _METRES))


def pulled(first: Tensor, last: Tensor, count: int, eased: bool) -> Tensor:
    """Planes [count] from one disparity to another: evenly, as a focus ring turns, or with a slow start and end,
    3 t^2 - 2 t^3."""
    t = torch.linspace(0, 1, count, device=first.device) if count > 1 else torch.zeros(1, device=first.device)
    t = t * t * (3 - 2 * t) if eased else t
    return first * (1 - t) + last * t


def smoothed(plane: Tensor, frames: float) -> Tensor:
    """Planes [N] of a clip without jitter: a Gaussian mean over time with a deviation of ``frames``; the ends
    go on as they are."""
    reach = min(math.ceil(3 * frames), len(plane) - 1)
    if reach < 1:
        return plane
    at = torch.arange(-reach, reach + 1, device=plane.device)
    weights = torch.exp(-0.5 * (at / frames) ** 2)
    padded = torch.cat([plane[:1].expand(reach), plane, plane[-1:].expand(reach)])
    return padded.unfold(0, 2 * reach + 1, 1) @ (weights / weights.sum())


def blurs_of(lens: Lens, f_number: float, planes: Tensor, height: int, width: int) -> Tensor:
    """K of a lens focused at each of the planes [N] in 1/m, for a picture of this size.

    Raises:
        ValueError: as ``lens.blur_of``: a value that is not above 0, or a plane inside the focal length.
    """
    sensor_width = sensor_width_of(lens.sensor, width, height)
    values = [
        blur_of(lens.focal_length, f_number, metres(plane), sensor_width, width, height) for plane in planes.tolist()
    ]
    return planes.new_tensor(values)


def in_words(focus: Focus) -> str:
    """What a photographer wants to know: "focus 2.11 m, sharp from 1.98 to 2.26 m, largest disc 31 px at f/1.8"."""
    last = len(focus) - 1
    at = "" if focus.f_number is None else f" at {f_number_labels([focus.f_number])[0]}"
    disc = f"largest disc {focus.largest_disc():.3g} px{at}"
    if focus.plane.min() < focus.plane.max():
        kind = "planes" if focus.swept else "frames"
        return f"focus from {_place(focus, 0)} to {_place(focus, last)} in {last + 1} {kind}, {disc}"
    low, high = focus.sharp_from_to(0)
    if focus.metric:
        far = "infinity" if metres(low) >= FARTHEST else f"{metres(low):.3g} m"
        near = f"{metres(high):.3g}" if far != "infinity" else f"{metres(high):.3g} m"
        return f"focus {_place(focus, 0)}, sharp from {near} to {far}, {disc}"
    sharp = f"sharp from {format_value(max(low, 0))} to {format_value(min(high, 1))}"
    return f"focus {_place(focus, 0)} (0 = far, 1 = near), {sharp}, {disc}"


def _place(focus: Focus, row: int) -> str:
    plane = focus.plane[row].item()
    if not focus.metric:
        return format_value(plane)
    return "infinity" if metres(plane) >= FARTHEST else f"{metres(plane):.3g} m"
