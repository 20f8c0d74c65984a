"""Depth maps as people have them: soft edges, where there is no third surface between two."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

# How far in px a pixel of a soft edge may be from the two surfaces.
REACH = 2
# Smallest step of an edge, as a part of the map's range, and from where between its two sides a pixel counts as near.
STEP, NEAR = 0.04, 0.4
# A pixel with this many equal ones of its eight neighbours lies on a surface; along a straight edge two are equal.
SURFACE = 4
# Rows that are looked at together.
BAND = 256


def repaired(disparity: Tensor, on_band: Callable[[], None] | None = None) -> Tensor:
    """A disparity map [H, W] with the pixels between two surfaces put on the nearer of the two in value, rather the
    near one: a ramp that crosses the plane of focus would draw a sharp contour. Slopes and hard edges stay.

    Band by band; ``on_band`` is called for each, several times a second."""
    least = STEP * (disparity.max() - disparity.min())
    made = torch.empty_like(disparity)
    for top in range(0, len(disparity), BAND):
        if on_band is not None:
            on_band()
        first = max(top - REACH, 0)
        band = _band(disparity[first : top + BAND + REACH], least)
        made[top : top + BAND] = band[top - first : top - first + BAND]
    return made


def _band(disparity: Tensor, least: Tensor) -> Tensor:
    maps = disparity[None, None]
    side = 2 * REACH + 1
    high = F.max_pool2d(maps, side, 1, REACH)[0, 0]
    low = -F.max_pool2d(-maps, side, 1, REACH)[0, 0]
    step = high - low
    height, width = disparity.shape
    around = F.pad(maps, (1, 1, 1, 1), mode="replicate")[0, 0]
    equal = torch.zeros_like(disparity)
    for down in range(3):
        for right in range(3):
            equal += (around[down : down + height, right : right + width] - disparity).abs() < 0.1 * step
    # The pixel itself is among them.
    between = (step > least) & (equal < SURFACE + 1)
    return torch.where(between, torch.where(disparity > low + NEAR * step, high, low), disparity)
