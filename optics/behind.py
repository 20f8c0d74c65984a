"""What lies behind the edges of near things, and edges without the mixed colours of their pixels.

A picture does not say what a near thing hides, but its blurred edge lets it through. For the pixels of a range of
signed radii, a layer continues what lies beyond their edges: the picture with everything as near as they are, or
nearer, replaced by light and signed radius of what is farther, by pull and push (`light.fill`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .light import fill

# By how much of a disc's radius, but at least by how many px, the radius beyond an edge has to differ.
STEP_SHARE, STEP = 0.2, 1.5
# Radius in px of the first range of radii; each other is twice as wide as the last. Smaller discs see only the pixels
# beside them, and these know more than anything that is filled in.
SMALLEST = 4.0
# Weight of what was filled in beside what is seen: that counts wherever a disc reaches it, as on the other side of the
# edge.
FILLED = 0.02
# How far a layer reaches behind a thing, in its discs: one that a pixel sees, and more that nothing spills into that.
REACH = 4.0


class Layer(NamedTuple):
    """What lies behind some pixels: where these are [h, w], and the layer's light and weight [4, h, w] and signed radii
    [h, w]."""

    before: Tensor
    light: Tensor
    signed: Tensor


class Outlines(NamedTuple):
    """What is at the edges of blurred things, where a pixel holds a part of their light, whichever of the two its depth
    says: the picture's light and weight [4, h, w] without that part, and the part, light and coverage [4, h, w], at the
    signed radius [h, w] of the things."""

    without: Tensor
    light: Tensor
    signed: Tensor

    @classmethod
    def none(cls, light: Tensor) -> Outlines:
        """Of a picture, before any is found."""
        whole = torch.cat([light, torch.ones_like(light[:1])])
        return cls(whole, light.new_zeros(4, *light.shape[1:]), light.new_zeros(light.shape[1:]))


def layers_behind(values: Tensor, outlines: Outlines) -> Iterator[Layer]:
    """The layers behind the near things of a picture, one for each range of radii that has any.

    Args:
        values: linear light, and radius in px of each pixel's disc, above 0 before the plane of focus, [4, h, w].
        outlines: is filled in on the way.
    """
    light, signed = values[:3], values[3]
    lowest, highest = (extreme.item() for extreme in signed.aminmax())
    for low, high in _ranges(max(-lowest, highest)):
        step = step_of(low)
        if low > highest or high <= lowest or lowest >= low - step:
            continue
        near, farther = signed >= low, signed < low - step
        here = near & (signed < high)
        if not here.any() or not farther.any():
            continue
        at_edge = F.max_pool2d(near.to(light)[None, None], 3, 1, 1)[0, 0] > 0
        radius = max(abs(low), abs(high))
        weight = (farther & ~at_edge).to(light)[None, None]
        filled = torch.empty_like(values)
        # One map at a time: its steps need several times the memory of a map.
        for channel, maps in enumerate(values):
            part, known = fill(maps[None, None], weight, REACH * radius)
            filled[channel] = part[0, 0]
        known = known[0, 0] > 0
        outline = farther & at_edge & known
        _take_out(outlines, outline, values, filled, near)
        # Where the fill is hardly farther it is the same surface, a slope.
        before = here & _near(farther, radius) & known & (filled[3] < signed - step)
        if before.any():
            replaced = known & (near & (filled[3] < signed - step) | outline)
            weight = torch.where(replaced, FILLED, 1.0)
            behind = torch.where(replaced & near, filled[3], signed)
            layer = torch.cat([torch.where(replaced, filled[:3], light).mul_(weight), weight[None]])
            del filled, part, known, weight, replaced, outline
            yield Layer(before, layer, behind)


def _take_out(outlines: Outlines, outline: Tensor, values: Tensor, farther: Tensor, near: Tensor) -> None:
    """Part the pixels of an outline by how far their light is on the way from what is farther to the thing beside."""
    thing, _ = fill(values[None], near.to(values)[None, None], 2)
    own, thing, farther = values[:3], thing[0], farther[:3]
    way = thing[:3] - farther
    part = ((own - farther) * way).sum(0) / way.square().sum(0).clamp(min=1e-6)
    part = torch.where(outline, part.clamp(0, 1), 0)
    taken = torch.cat([thing[:3] * part, part[None]])
    # The more of the thing there is, the less the rest says, and the more of it is filled in.
    rest = torch.lerp((own - taken[:3]).clamp_(min=0), farther * (1 - part), part)
    left = torch.cat([rest, 1 - part[None]]) + FILLED * torch.cat([farther, torch.ones_like(own[:1])])
    outlines.without.copy_(torch.where(outline, left, outlines.without))
    outlines.light.copy_(torch.where(outline, taken, outlines.light))
    outlines.signed.copy_(torch.where(outline, thing[3], outlines.signed))


def step_of(signed: float) -> float:
    """By how many px a radius has to differ from what lies beyond an edge."""
    return max(STEP, STEP_SHARE * abs(signed))


def _near(mask: Tensor, radius: float) -> Tensor:
    """At least every pixel within ``radius`` px of the mask, and none beyond three times that."""
    height, width = mask.shape
    cell = max(1, math.ceil(radius))
    cells = F.max_pool2d(mask.float()[None, None], cell, ceil_mode=True)
    cells = F.max_pool2d(cells, 3, 1, 1)
    return cells[0, 0].repeat_interleave(cell, 0).repeat_interleave(cell, 1)[:height, :width] > 0


def _ranges(largest: float) -> list[tuple[float, float]]:
    """Ranges of signed radii from ``SMALLEST`` to ``largest`` on either side, the farthest first."""
    edges = [SMALLEST]
    while edges[-1] <= largest:
        edges.append(edges[-1] * 2)
    ranges = list(pairwise(edges))
    return [(-high, -low) for low, high in reversed(ranges)] + ranges
