"""What lies behind the edges of near things.

A picture does not say what a near thing hides, but its blurred edge lets it through. For the pixels of a range of
signed radii, a layer continues what lies beyond their edges: the picture with everything as near as they are, or
nearer, replaced by light and signed radius of what is farther, by pull and push (`light.fill`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .edges import GROWTH, SMALLEST, SOFT, Parted, reach_of
from .levels import Levels
from .light import fill
from .tiles import STRIP, Scene, window_of

# Weight of what was filled in beside what is seen: that counts wherever a disc reaches it, as on the other side of the
# edge.
FILLED = 0.02
# How far a layer reaches behind a thing, in its discs: one that a pixel sees, and more that nothing spills into that.
REACH = 4.0
# What is filled in has no detail: it is made on cells of this part of the largest disc's radius, but of not more than
# so many along the short side.
CELL, CELLS = 1 / 8, 1024
# Parts of all radii in which is looked whether there are any.
BINS = 512


class Farther(NamedTuple):
    """Of a scene, by windows, what lies beyond a signed radius in px."""

    scene: Scene
    limit: float

    def window(self, top: int, left: int, side: int) -> Scene:
        part = self.scene.window(top, left, side)
        return part._replace(light=part.light * (part.signed < self.limit))


class Layer:
    """What lies behind the pixels of a range of signed radii, of a picture by windows."""

    def __init__(
        self, picture: Parted, signed: Tensor, levels: Levels, ends: tuple[float, float], tell: Callable[[], None]
    ) -> None:
        """
        Args:
            picture: its light without the coverage of mixed pixels, and that.
            signed: radius in px of each pixel's disc, [h, w].
            ends: lowest and highest radius of the range.
            tell: called several times a second.
        """
        self.picture, self.signed, self.levels = picture, signed, levels
        self.ends, self.radius = ends, max(abs(end) for end in ends)
        self.low, self.beyond = reach_of(ends[0])
        self.step = self.low - self.beyond
        self.cell = 2 ** math.floor(math.log2(max(1, self.radius * CELL, min(signed.shape) / CELLS)))
        sums = self._farther(tell)
        values, weight = sums[:4] / sums[4:].clamp(min=1e-6), sums[4:]
        filled, known = [], weight
        # One map at a time: its steps need several times the memory of a map.
        for maps in values:
            part, known = fill(maps[None, None], weight[None], REACH * self.radius / self.cell)
            filled.append(part[0])
            tell()
        known = known[0].clamp(max=1)
        self.filled = torch.cat([torch.cat(filled) * known, known])

    def _farther(self, tell: Callable[[], None]) -> Tensor:
        """Sums over cells of light and radius of what is farther, by weight, and of the weight, [5, h, w]."""
        parts = []
        rows = max(STRIP, self.cell)
        for light, signed in zip(self.picture.light.split(rows, 1), self.signed.split(rows), strict=True):
            farther = (signed < self.beyond) * light[3].clamp(max=1)
            # The light is that of its weight already.
            light = light[:3] * (farther / light[3].clamp(min=1e-6))
            maps = torch.cat([light, (signed * farther)[None], farther[None]])
            if self.cell > 1:
                spare = -maps.shape[1] % self.cell, -maps.shape[2] % self.cell
                maps = F.avg_pool2d(F.pad(maps, (0, spare[1], 0, spare[0])), self.cell) * self.cell**2
            parts.append(maps)
            tell()
        return torch.cat(parts, 1)

    @property
    def shape(self) -> tuple[int, int]:
        return tuple(self.signed.shape)

    def window(self, top: int, left: int, side: int) -> Scene:
        """A square of the layer, with no light outside the picture."""
        signed, (*filled, behind), known = self._around(top, left, side)
        light = window_of(self.picture.light, top, left, side)
        replaced = (known > 0) & (signed >= self.low) & (behind < signed - self.step) & (light[3] > 0)
        weight = torch.where(replaced, FILLED, light[3])
        light = torch.where(replaced, torch.stack(filled) * FILLED, light[:3])
        signed = torch.where(replaced, behind, signed)
        return Scene(torch.cat([light, weight[None]]), signed, *self.levels.place(signed))

    def before(self, top: int, left: int, side: int) -> Tensor:
        """How much the layer counts as what lies behind each pixel, 0..1, [side, side]: with soft ends, for all that
        changes at once would be seen as a line."""
        signed = window_of(self.signed, top, left, side)
        size = torch.where((signed < 0) == (self.low < 0), signed.abs(), 0).clamp_(min=1e-6)
        width = SOFT * math.log2(GROWTH)
        over = [((size / abs(end)).log2_() / width + 0.5).clamp_(0, 1) for end in self.ends]
        here = (over[1] - over[0]).abs()
        if not here.any():
            return here
        _, maps, known = self._around(top, left, side)
        # Where the fill is hardly farther it is the same surface, a slope.
        apart = ((signed - maps[3]) / self.step - 1).mul(2).clamp(0, 1)
        return here * known * apart * self._near_farther(top, left, side)

    def _near_farther(self, top: int, left: int, side: int) -> Tensor:
        """1 for at least every pixel within a disc's radius of what is farther, soon falling to 0."""
        cell = math.ceil(self.radius / 4)
        start = (top // cell - 7) * cell, (left // cell - 7) * cell
        count = max(top + side - start[0], left + side - start[1]) // cell + 8
        window = window_of(self.signed, *start, count * cell)
        inside = window_of(torch.ones((), device=window.device).expand(self.shape), *start, count * cell) > 0
        farther = ((window < self.beyond) & inside).float()
        cells = F.max_pool2d(F.max_pool2d(farther[None], cell), 11, 1, 5)
        near = F.interpolate(cells[None], scale_factor=cell, mode="bilinear", align_corners=False)[0, 0]
        return near[top - start[0] :, left - start[1] :][:side, :side]

    def _around(self, top: int, left: int, side: int) -> tuple[Tensor, Tensor, Tensor]:
        """Of a window: the picture's signed radius, what is filled in [4, side, side], and how well it is known."""
        signed = window_of(self.signed, top, left, side)
        # One cell more on each side, to interpolate to.
        start = top // self.cell - 1, left // self.cell - 1
        skipped = top - start[0] * self.cell, left - start[1] * self.cell
        count = (max(skipped) + side) // self.cell + 2
        height, width = self.filled.shape[1:]
        rows, columns = (
            torch.arange(first, first + count, device=signed.device).clamp_(0, last - 1)
            for first, last in zip(start, (height, width), strict=True)
        )
        cells = self.filled[:, rows[:, None], columns]
        maps = F.interpolate(cells[None], scale_factor=self.cell, mode="bilinear", align_corners=False)[0]
        maps = maps[:, skipped[0] : skipped[0] + side, skipped[1] : skipped[1] + side]
        return signed, maps[:4] / maps[4].clamp(min=1e-6), maps[4]


def layers_behind(picture: Parted, signed: Tensor, levels: Levels, tell: Callable[[], None]) -> Iterator[Layer]:
    """The layers behind the near things of a picture, one for each range of radii that may have any."""
    lowest, highest = (extreme.item() for extreme in signed.aminmax())
    if lowest == highest:
        return
    counts = torch.histc(signed, BINS, lowest, highest)
    for low, high in _ranges(max(-lowest, highest)):
        start, beyond = reach_of(low)
        ends = start, high * GROWTH ** math.copysign(SOFT / 2, high)
        first, last = (math.floor((end - lowest) / (highest - lowest) * BINS) for end in ends)
        if lowest < beyond and counts[max(0, first) : max(0, last + 1)].any():
            yield Layer(picture, signed, levels, (low, high), tell)


def _ranges(largest: float) -> list[tuple[float, float]]:
    """Ranges of signed radii from ``SMALLEST`` to ``largest`` on either side, the farthest first."""
    edges = [SMALLEST]
    while edges[-1] <= largest * GROWTH:
        edges.append(edges[-1] * GROWTH)
    ranges = list(pairwise(edges))
    return [(-high, -low) for low, high in reversed(ranges)] + ranges
