"""What lies behind the edges of near things.

A picture does not say what a near thing hides, but its blurred edge lets it through. For the pixels of a range of
signed radii, a layer continues what lies beyond their edges: the picture with everything as near as they are, or
nearer, replaced by light and signed radius of what is farther, by pull and push (`light.fill`). What is seen of it only
through large discs is rendered from cells of several pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from .edges import GROWTH, SMALLEST, SOFT, Parted, reach_of
from .light import fill
from .sent import Scene, window_of
from .tiles import STRIP, TILE, Lens, Tiles, laid_over, placed

# Weight of what was filled in beside what is seen: that counts wherever a disc reaches it, as on the other side of the
# edge.
FILLED = 0.02
# How far a layer reaches behind a thing, in its discs: one that a pixel sees, and more that nothing spills into that.
REACH = 4.0
# Side of a layer's cells, as a part of the largest disc's radius, but not more than about so many along the short side.
CELL, CELLS = 1 / 2.5, 1024
# Parts of all radii in which is looked whether there are any.
BINS = 512


class _Cells:
    """Sums over the cells of a picture: light, weight, and signed radius in px by weight, [5, h, w]."""

    def __init__(self, picture: Parted, signed: Tensor, tell: Callable[[], None]) -> None:
        """
        Args:
            picture: its light without the coverage of mixed pixels, and that.
            signed: radius in px of each pixel's disc, [H, W].
            tell: called several times a second.
        """
        self.light, self.signed, self.tell = picture.light, signed, tell
        # Few pixels are covered.
        self.places = picture.coverage[3].nonzero().T
        rows, columns = self.places
        coverage, self.radii = picture.coverage[:, rows, columns], picture.signed[rows, columns]
        self.coverage = torch.cat([coverage, (coverage[3] * self.radii)[None]])
        self.last: tuple[int, Tensor] | None = None

    def whole(self, cell: int) -> Tensor:
        """Of all pixels, kept until another size of the cells in px is asked for."""
        if self.last is None or self.last[0] != cell:
            self.last = cell, self.seen(cell, -math.inf, math.inf)
        return self.last[1]

    def seen(self, cell: int, low: float, high: float) -> Tensor:
        """Of the pixels of a range of radii."""
        parts = []
        rows = max(STRIP, cell)
        for light, signed in zip(self.light.split(rows, 1), self.signed.split(rows), strict=True):
            here = (low <= signed) & (signed < high)
            if here.any():
                own = light * here
                parts.append(torch.cat([_summed(own, cell), _summed(own[3:] * signed, cell)]))
            else:
                height, width = (math.ceil(side / cell) for side in signed.shape)
                parts.append(light.new_zeros(5, height, width))
            self.tell()
        return torch.cat(parts, 1)

    def covered(self, cell: int, high: float) -> Tensor:
        """Of what covers mixed pixels, below a radius."""
        height, width = (math.ceil(side / cell) for side in self.signed.shape)
        rows, columns = self.places // cell
        chosen = self.radii < high
        sums = self.coverage.new_zeros(5, height * width)
        sums.index_add_(1, (rows * width + columns)[chosen], self.coverage[:, chosen])
        return sums.view(5, height, width)


class Layer:
    """What lies behind the pixels of a range of signed radii, on cells."""

    def __init__(self, cells: _Cells, ends: tuple[float, float]) -> None:
        """``ends``: lowest and highest radius of the range in px."""
        self.signed, self.ends, self.radius = cells.signed, ends, max(abs(end) for end in ends)
        self.low, self.beyond = reach_of(ends[0])
        self.step = self.low - self.beyond
        self.cell = 2 ** math.floor(math.log2(max(1, self.radius * CELL, min(self.signed.shape) / CELLS)))
        farther = cells.seen(self.cell, -math.inf, self.beyond)
        weight, filled = farther[3:4], []
        # One map at a time: its steps need several times the memory of a map.
        for maps in farther[[0, 1, 2, 4]] / weight.clamp(min=1e-6):
            part, known = fill(maps[None, None], weight[None], REACH * self.radius / self.cell)
            filled.append(part[0])
            cells.tell()
        behind, known = filled[3], known[0].clamp_(max=1)
        self.behind = torch.cat([behind * known, known])
        self.light = farther.add_(cells.seen(self.cell, self.beyond, self.low))
        whole = cells.whole(self.cell)
        weight, radius = whole[3:] - self.light[3:]
        replaced = (known > 0) & (behind * weight < radius - self.step * weight)
        for own, every, hidden in zip(self.light, whole, (*filled[:3], torch.ones_like(known), behind), strict=True):
            own += torch.where(replaced, FILLED * weight * hidden, every - own)[0]
            cells.tell()
        self.coverage = cells.covered(self.cell, self.beyond)

    def add_to(self, hidden: Tensor, lens: Lens, tell: Callable[[float], None]) -> None:
        """Add the layer's light to [4, H, W], as much of it as counts, and how much that is."""
        height, width = self.signed.shape
        counts = torch.zeros_like(self.signed)
        squares = [(top, left) for top in range(0, height, TILE) for left in range(0, width, TILE)]
        for top, left in squares:
            here = counts[top : top + TILE, left : left + TILE]
            here.copy_(self._before(top, left)[: len(here), : here.shape[1]])
            tell(0.0)
        if not counts.any():
            return
        spare = -height % self.cell, -width % self.cell
        asked = F.max_pool2d(F.pad(counts, (0, spare[1], 0, spare[0]))[None], self.cell)
        tell(0.0)
        # One cell more on each side, to interpolate to.
        asked = F.max_pool2d(asked, 3, 1, 1)
        tell(0.0)
        cells = self._light(asked[0], lens, tell)
        for top, left in squares:
            here = slice(top, top + TILE), slice(left, left + TILE)
            own = counts[here]
            if own.any():
                light = _pixels_of(cells, self.cell, top, left)[:, : own.shape[0], : own.shape[1]]
                hidden[(slice(3), *here)].addcmul_(light, own)
                hidden[(3, *here)].add_(own)
                tell(1.0)

    def _light(self, asked: Tensor, lens: Lens, tell: Callable[[float], None]) -> Tensor:
        """Light [3, h, w] of the cells that are asked for."""
        both = self.light, self.coverage
        radii = [sums[4] / sums[3].clamp(min=1e-9) / self.cell for sums in both]
        light, coverage = (sums[:4].div_(self.cell**2) for sums in both)
        tell(0.0)
        tiles = Tiles(lens, radii[0], rough=True)
        scene, more = (
            Scene(maps, signed, *placed(signed, tiles.levels, lambda: tell(0.0)))
            for maps, signed in zip((light, coverage), radii, strict=True)
        )
        out = torch.zeros_like(light[:3])
        places = [place for place in tiles.places() if tiles.of(asked, place).any()]
        for index, place in enumerate(places):

            def told(done: float, index: int = index) -> None:
                tell((index + done) / len(places))

            sums = tiles.sums(scene, more, place, told, asked, steps=False)
            here = tiles.of(out, place)
            here.copy_(laid_over(sums)[0][:, : here.shape[1], : here.shape[2]])
        return out

    def _before(self, top: int, left: int) -> Tensor:
        """How much the layer counts as what lies behind each pixel of a square, 0..1: with soft ends, for all that
        changes at once would be seen as a line."""
        signed = window_of(self.signed, top, left, TILE)
        # In octaves; on the other side of the plane of focus nothing.
        size = (signed * math.copysign(1, self.low)).clamp_(min=1e-6).log2_()
        width = SOFT * math.log2(GROWTH)
        over = [((size - math.log2(abs(end))) / width + 0.5).clamp_(0, 1) for end in self.ends]
        here = (over[1] - over[0]).abs()
        if not here.any():
            return here
        behind, known = _pixels_of(self.behind, self.cell, top, left)
        # Where the fill is hardly farther it is the same surface, a slope.
        apart = ((signed - behind / known.clamp(min=1e-6)) / self.step - 1).mul_(2).clamp_(0, 1)
        return here * known * apart * self._near_farther(top, left)

    def _near_farther(self, top: int, left: int) -> Tensor:
        """1 for at least every pixel within a disc's radius of what is farther, soon falling to 0."""
        cell = math.ceil(self.radius / 4)
        start = (top // cell - 7) * cell, (left // cell - 7) * cell
        count = max(top + TILE - start[0], left + TILE - start[1]) // cell + 8
        window = window_of(self.signed, *start, count * cell)
        inside = window_of(torch.ones((), device=window.device).expand(self.signed.shape), *start, count * cell) > 0
        farther = ((window < self.beyond) & inside).float()
        cells = F.max_pool2d(F.max_pool2d(farther[None], cell), 11, 1, 5)
        near = F.interpolate(cells[None], scale_factor=cell, mode="bilinear", align_corners=False)[0, 0]
        return near[top - start[0] :, left - start[1] :][:TILE, :TILE]


def light_behind(picture: Parted, signed: Tensor, lens: Lens, tell: Callable[[float], None]) -> Tensor:
    """Light of what lies behind the near things of a picture, times how well it is known, and that, [4, H, W].

    ``tell`` is called several times a second with the part of the work that is done.
    """
    hidden = torch.zeros_like(picture.light)
    ranges = _ranges(signed)
    cells = _Cells(picture, signed, partial(tell, 0.0))
    for index, ends in enumerate(ranges):

        def told(done: float, index: int = index) -> None:
            tell((index + done) / len(ranges))

        cells.tell = partial(told, 0.0)
        Layer(cells, ends).add_to(hidden, lens, told)
    return hidden


def _summed(maps: Tensor, cell: int) -> Tensor:
    """Sums over cells [C, h, w] of maps [C, H, W]."""
    spare = -maps.shape[1] % cell, -maps.shape[2] % cell
    if any(spare):
        maps = F.pad(maps, (0, spare[1], 0, spare[0]))
    return F.avg_pool2d(maps, cell) * cell**2 if cell > 1 else maps


def _pixels_of(cells: Tensor, cell: int, top: int, left: int) -> Tensor:
    """Cells [C, h, w] interpolated to the pixels of a square."""
    if cell == 1:
        return window_of(cells, top, left, TILE)
    # One cell more on each side, to interpolate to.
    start = top // cell - 1, left // cell - 1
    skipped = top - start[0] * cell, left - start[1] * cell
    count = (max(skipped) + TILE) // cell + 2
    rows, columns = (
        torch.arange(first, first + count, device=cells.device).clamp_(0, last - 1)
        for first, last in zip(start, cells.shape[1:], strict=True)
    )
    part = cells[:, rows[:, None], columns][None]
    pixels = F.interpolate(part, scale_factor=cell, mode="bilinear", align_corners=False)[0]
    return pixels[:, skipped[0] : skipped[0] + TILE, skipped[1] : skipped[1] + TILE]


def _ranges(signed: Tensor) -> list[tuple[float, float]]:
    """Ranges of signed radii, from ``SMALLEST`` on either side, that pixels with something behind them may lie in."""
    lowest, highest = (extreme.item() for extreme in signed.aminmax())
    if lowest == highest:
        return []
    counts = torch.histc(signed, BINS, lowest, highest)
    edges = [SMALLEST]
    while edges[-1] <= max(-lowest, highest) * GROWTH:
        edges.append(edges[-1] * GROWTH)
    found = []
    # Cells of one size after the other.
    for low, high in [ends for one, other in pairwise(edges) for ends in ((-other, -one), (one, other))]:
        start, beyond = reach_of(low)
        ends = start, high * GROWTH ** math.copysign(SOFT / 2, high)
        first, last = (math.floor((end - lowest) / (highest - lowest) * BINS) for end in ends)
        if lowest < beyond and counts[max(0, first) : max(0, last + 1)].any():
            found.append((low, high))
    return found
