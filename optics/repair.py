"""Depth maps as people have them: soft edges, where there is no third surface between two, smaller than the picture."""

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
# Of the values around a pixel of an enlarged map: the part of their range by which two surfaces are apart, how far in
# cells one counts, and how far in colour.
APART, SPREAD, ALIKE = 0.7, 0.8, 0.05


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


def enlarged(disparity: Tensor, picture: Tensor, on_band: Callable[[], None] | None = None) -> Tensor:
    """A disparity map [h, w], repaired, in the size of a larger picture [H, W, 3], which says where its edges are: near
    an edge a pixel belongs to the surface whose colours around it are more like its own (after joint bilateral
    upsampling, Kopf et al. 2007, which mixes the surfaces). Elsewhere bilinear. ``on_band`` as in ``repaired``."""
    small = repaired(disparity, on_band)[None, None]
    light = picture.movedim(-1, 0).float()
    (height, width), cells = light.shape[1:], small.shape[2:]
    colours = F.interpolate(light[None], size=cells, mode="area")[0]
    made = F.interpolate(small, size=(height, width), mode="bilinear")[0, 0]
    least = STEP * (small.max() - small.min())
    # Of four times four cells around the middle of four.
    around = F.pad(small, (2, 2, 2, 2), mode="replicate")
    ends = F.max_pool2d(torch.cat([around, -around]), 4, 1)[:, 0]
    is_edge = ends.sum(0) > least
    x = (torch.arange(width, device=small.device) + 0.5) * cells[1] / width - 0.5
    for top in range(0, height, BAND):
        if on_band is not None:
            on_band()
        y = (torch.arange(top, min(top + BAND, height), device=small.device) + 0.5) * cells[0] / height - 0.5
        rows, columns = is_edge[(y.floor() + 1).long()[:, None], (x.floor() + 1).long()].nonzero(as_tuple=True)
        if len(rows):
            own = made[top + rows, columns]
            made[top + rows, columns] = _by_colour(
                small[0, 0], colours, light[:, top + rows, columns], y[rows], x[columns], own
            )
    return made


def _by_colour(small: Tensor, colours: Tensor, light: Tensor, y: Tensor, x: Tensor, own: Tensor) -> Tensor:
    """Disparities of pixels [n] of a colour [3, n] and a place in cells, or ``own`` where there are no two surfaces."""
    (height, width), values, weights = small.shape, [], []
    for down in range(-1, 3):
        for right in range(-1, 3):
            row, column = y.floor() + down, x.floor() + right
            far = ((y - row).square() + (x - column).square()) / SPREAD**2
            at = row.clamp_(0, height - 1).long(), column.clamp_(0, width - 1).long()
            unlike = (light - colours[(slice(None), *at)]).square().sum(0) / ALIKE**2
            values.append(small[at])
            # Something is left where no colour is alike.
            weights.append((-far / 2).exp_() * ((-unlike / 2).exp_() + 1e-3))
    value, weight = torch.stack(values), torch.stack(weights)
    high, low = value.amax(0), value.amin(0)
    near = value > (high + low) / 2
    means = [(value * side).sum(0) / side.sum(0).clamp(min=1) for side in (near, ~near)]
    chosen = torch.where((weight * near).sum(0) > (weight * ~near).sum(0), near, ~near) * weight
    return torch.where(means[0] - means[1] > APART * (high - low), (value * chosen).sum(0) / chosen.sum(0), own)
