"""Levels of signed radius: every pixel's disc as a mixture of the discs of the two levels next to it.

Signed radii t_0 < t_1 < ... stand half a pixel apart near focus, and in proportion to the radius beyond. A pixel of
signed radius s between two levels a and b gives b the share

    f = (v(s) - v(a)) / (v(b) - v(a))

with v the mean square distance of a disc's light from its centre, so that the mixture is as wide as the disc itself.
Discs of large levels hold no fine detail: levels of radius 4 to 8 px and more are spread on a grid of 2, 4, ... px.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from .defocus import soft_disc

# A disc is one pixel up to 0.5, a cross up to 0.9142, where the corners of 3 x 3 pixels begin. Up to 4 px levels stand
# less than `tiles.APART` apart: a flat thing between two that do is another surface than either.
NEAR_FOCUS = (0.0, 0.5, 0.9142, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0)
GROWTH = 1.12
# Of what is only seen through larger discs fewer are enough.
ROUGH_NEAR_FOCUS = (0.0, 0.5, 0.9142, 1.5, 2.5, 3.5, 5.0)
ROUGH_GROWTH = 1.25
# Radius from which a grid of 2 px carries a disc, and the coarsest grid in powers of two.
COARSE = 4.0
COARSEST = 5
_FINE, _TABLE_END = 0.01, 8.0


class Levels:
    """The levels of a picture.

    Attributes:
        values: signed radii in px, ascending.
        octaves: the grid of each level in powers of two.
    """

    def __init__(self, lowest: float, highest: float, rough: bool = False) -> None:
        """For signed radii from ``lowest`` to ``highest``; ``rough``: fewer, for what lies behind near things."""
        far, near = (_steps(max(0.0, limit), rough) for limit in (-lowest, highest))
        self.values = [-value for value in reversed(far[1:])] + near
        self.octaves = [_octave(abs(value)) for value in self.values]

    def __len__(self) -> int:
        return len(self.values)

    def place(self, signed: Tensor) -> tuple[Tensor, Tensor]:
        """For pixels of signed radii: the lower one of their two levels (int16), and the upper one's share 0..1."""
        levels = torch.tensor(self.values, device=signed.device)
        lower = torch.searchsorted(levels, signed.contiguous()).sub_(1).clamp_(0, len(levels) - 2)
        spread = _width(levels)
        below, within = spread[lower], spread[lower + 1] - spread[lower]
        low, gap = levels[lower], levels[lower + 1] - levels[lower]
        share = torch.where(within > 1e-6, (_width(signed) - below) / within, (signed - low) / gap)
        return lower.to(torch.int16), share.clamp_(0, 1)


def interpolated(cells: Tensor, octave: int) -> Tensor:
    """Cells [C, n, n] interpolated to pixels; the outermost cells on each side are only what is interpolated to."""
    scale, pixels = 2**octave, cells
    if octave:
        pixels = F.interpolate(cells[None], scale_factor=scale, mode="bilinear", align_corners=False)[0]
    return pixels[..., scale:-scale, scale:-scale]


def _steps(limit: float, rough: bool) -> list[float]:
    first, growth = (ROUGH_NEAR_FOCUS, ROUGH_GROWTH) if rough else (NEAR_FOCUS, GROWTH)
    values = [0.0]
    for value in first[1:]:
        if values[-1] >= limit:
            return values
        values.append(value)
    while values[-1] < limit:
        values.append(values[-1] * growth)
    return values


def _octave(radius: float) -> int:
    return 0 if radius < COARSE else min(COARSEST, math.floor(math.log2(radius / COARSE)))


@lru_cache(1)
def _widths() -> Tensor:
    """v of round discs of radius 0, 0.01, ... in px^2."""
    radii = torch.arange(0, _TABLE_END + 2 * _FINE, _FINE)
    side = torch.arange(-10.0, 11.0)
    square = side[:, None].square() + side.square()
    cover = soft_disc(square.sqrt().flatten(), radii[:, None])
    return (cover * square.flatten()).sum(1) / cover.sum(1)


def _width(signed: Tensor) -> Tensor:
    """v with the sign of the radius, so that it ascends with it."""
    table = _widths().to(signed.device)
    radius = signed.abs()
    at = radius.clamp(max=_TABLE_END) / _FINE
    entry = at.long()
    small = torch.lerp(table[entry], table[entry + 1], at - entry)
    # Beyond the table v grows with the square of the radius; no step where it ends.
    large = radius.square() * (small / radius.clamp(max=_TABLE_END).square().clamp(min=1e-12))
    return torch.where(radius < _TABLE_END, small, large).copysign(signed)
