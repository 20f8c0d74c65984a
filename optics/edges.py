"""Pixels at the edges of things, where the picture mixes the light of two, parted into both.

The pixel beside a near thing holds a part of that thing's light, though its depth says what lies behind. Left as it is,
the part would stay behind as a ghost outline of a blurred thing, or be spread with the background and leave a sharp
thing's edge jagged. It goes to the radius of the near thing, as its coverage.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

# By how much of a disc's radius, but at least by how many px, the radius beyond an edge has to differ.
STEP_SHARE, STEP = 0.2, 1.5
# What lies behind is made for ranges of radii: the first begins at this radius in px, each is as much wider than the
# last, and gives way to it over this part of its width. Smaller discs see only the pixels beside them, and these know
# more than anything that is filled in.
SMALLEST, GROWTH, SOFT = 4.0, 2**0.5, 0.5
# How far pure light of either side is looked for, in px, and what a mixed pixel counts beside a pure one.
REACH, MIXED = 3, 0.02
# A pixel on the far side is covered this much by the near thing, as long as its light says nothing else, with this
# variance; what the light says is as good as the textures of both sides vary little, at least with this variance.
COVERED, SPREAD, TEXTURE = 0.15, 0.06, 1e-4
# Coverage that is left as it is.
LEAST = 0.03
# Weight that is left to a pixel where its light is a guess.
GUESSED = 0.02
# Rows of a picture that are parted at once.
STRIP = 256


class Parted(NamedTuple):
    """A picture without what covers its mixed pixels, light and weight [4, h, w], and that coverage: its light and
    weight [4, h, w], and its signed radius [h, w]."""

    light: Tensor
    coverage: Tensor
    signed: Tensor


def step_of(signed: Tensor | float) -> Tensor | float:
    """By how many px a radius has to differ from what lies beyond an edge."""
    if isinstance(signed, Tensor):
        return (STEP_SHARE * signed.abs()).clamp_(min=STEP)
    return max(STEP, STEP_SHARE * abs(signed))


def reach_of(low: float) -> tuple[float, float]:
    """Of the range of signed radii from ``low`` on in px: where it begins with what it gives way over, and from where
    things count as what lies behind it."""
    start = low * GROWTH ** -math.copysign(SOFT / 2, low)
    return start, start - step_of(start)


def beyond(signed: float) -> float:
    """Which signed radii in px lie behind pixels of one: all below, as far as it has an edge there."""
    number = math.floor(math.log(max(abs(signed), SMALLEST) / SMALLEST, GROWTH) + 1e-9)
    low = SMALLEST * GROWTH**number
    return reach_of(low if signed > 0 else -low * GROWTH)[1]


def parted(light: Tensor, signed: Tensor, tell: Callable[[], None]) -> Parted:
    """
    Args:
        light: linear, [3, h, w].
        signed: radius in px of each pixel's disc, above 0 before the plane of focus, [h, w].
        tell: called several times a second.
    """
    height = len(signed)
    out = Parted(torch.empty_like(light[:1]).repeat(4, 1, 1), light.new_zeros(4, *signed.shape), signed.clone())
    for top in range(0, height, STRIP):
        first, end = max(0, top - REACH - 1), min(height, top + STRIP)
        rows = slice(first, min(height, end + REACH + 1))
        inner = slice(top - first, end - first)
        for whole, part in zip(out, _strip(light[:, rows], signed[rows]), strict=True):
            whole[..., top:end, :] = part[..., inner, :]
        tell()
    return out


def _strip(light: Tensor, signed: Tensor) -> Parted:
    whole = torch.cat([light, torch.ones_like(light[:1])])
    coverage, radius = torch.zeros_like(whole), signed.clone()
    high = F.max_pool2d(signed[None], 3, 1, 1)[0]
    low = -F.max_pool2d(-signed[None], 3, 1, 1)[0]
    # Light between two discs of the same size is spread alike wherever it belongs.
    edge = (high - low >= step_of(torch.maximum(high.abs(), low.abs()))) & ((high.abs() - low.abs()).abs() >= STEP)
    mixed = edge & (signed <= (high + low) / 2)
    if not mixed.any():
        return Parted(whole, coverage, radius)
    high, low, own = high[mixed], low[mixed], light[:, mixed]
    near, far = _beside(light, signed, edge, mixed, high, low)
    way = near[:3] - far[:3]
    length = way.square().sum(0)
    texture = ((near[4:] + far[4:]) / 2 * way.square()).sum(0) / length.clamp(min=1e-12) + TEXTURE
    said = ((own - far[:3]) * way).sum(0) / length.clamp(min=1e-12)
    trust = length / texture
    covered = ((said * trust + COVERED / SPREAD) / (trust + 1 / SPREAD)).clamp_(0, 1)
    covered = torch.where((near[3] > 0) & (far[3] > 0) & (covered > LEAST), covered, 0)
    taken = near[:3] * covered
    # The more of the near thing there is, the less the rest says, and the more of it is the light beside.
    rest = torch.lerp((own - taken).clamp_(min=0), far[:3] * (1 - covered), covered)
    left = torch.cat([rest, 1 - covered[None]])
    left += GUESSED * torch.cat([far[:3], torch.ones_like(covered[None])])
    whole[:, mixed] = torch.where(covered > 0, left, whole[:, mixed])
    coverage[:, mixed] = torch.cat([taken, covered[None]])
    radius[mixed] = high
    return Parted(whole, coverage, radius)


def _beside(
    light: Tensor, signed: Tensor, edge: Tensor, mixed: Tensor, high: Tensor, low: Tensor
) -> tuple[Tensor, Tensor]:
    """Of the light near and far of each mixed pixel: its mean, whether there is any, and its variance, [7, n]."""
    width = signed.shape[1] + 2 * REACH
    known = torch.where(edge, MIXED, 1.0)
    around = F.pad(torch.cat([light, signed[None], known[None]]), [REACH] * 4).flatten(1).T.contiguous()
    rows, columns = mixed.nonzero().T
    place = (rows + REACH) * width + columns + REACH
    middle = (high + low) / 2
    sums = light.new_zeros(2, 7, len(place))
    for down in range(-REACH, REACH + 1):
        for right in range(-REACH, REACH + 1):
            if not (down or right):
                continue
            red, green, blue, radius, weight = around[place + down * width + right].T
            colour = torch.stack([red, green, blue])
            weight = weight / (1 + down * down + right * right)
            is_near = radius > middle
            # A third surface beside the two is neither.
            for side, here in zip(
                sums, (is_near & (radius < 2 * high - middle), ~is_near & (radius > 2 * low - middle)), strict=True
            ):
                share = weight * here
                side[:3] += colour * share
                side[3] += share
                side[4:] += colour.square() * share
    for side in sums:
        side[:3] /= side[3].clamp(min=1e-9)
        side[4:] = (side[4:] / side[3].clamp(min=1e-9) - side[:3].square()).clamp_(min=0)
    return sums[0], sums[1]
