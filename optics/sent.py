"""What the pixels of a window send to the levels of signed radius: their own light, and what lies behind.

Everything is a sum over pixels by level, so each pixel is added up once, to the sums of its two levels; what lies
behind a level is then a sum over the levels below it, made of their Fourier transforms. Levels that no sum tells apart
are added up before that.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .edges import beyond
from .levels import Levels


class Scene(NamedTuple):
    """Maps of a picture: light and weight [4, H, W], signed radius, lower level and the upper one's share [H, W]."""

    light: Tensor
    signed: Tensor
    lower: Tensor
    share: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        return tuple(self.signed.shape)

    def window(self, top: int, left: int, side: int) -> Scene:
        """A square of the picture, with no light outside it."""
        return Scene(*(window_of(maps, top, left, side) for maps in self))


class _Below(NamedTuple):
    """Of the levels below one, all but the next: the first with a smaller disc, the first that does not lie beyond a
    step, the first that lies less than a pixel behind, and where they end."""

    smaller: int
    step: int
    close: int
    end: int


class _Range:
    """Sum of the transforms [C, n, m] of a range of groups, which only grows."""

    def __init__(self, spectra: Tensor) -> None:
        self.spectra, self.low, self.high = spectra, 0, 0

    def sum(self, low: int, high: int) -> Tensor | None:
        """From ``low`` to before ``high``, valid until the next call; None without any."""
        if low >= high:
            return None
        if self.low == self.high:
            self.low = self.high = low
            self.total = torch.zeros_like(self.spectra[0])
        for group in (*range(low, self.low), *range(self.high, high)):
            self.total += self.spectra[group]
        self.low, self.high = low, high
        return self.total


class Sent:
    """What the pixels x of a window send to some levels, to be asked for in ascending order."""

    def __init__(
        self,
        scenes: list[Scene],
        levels: Levels,
        mine: list[int],
        seen_through: list[int],
        cell: int,
        steps: bool,
    ) -> None:
        """
        Args:
            scenes: windows that are added up, with light and weight.
            mine: the levels that are sent to.
            seen_through: those of them through whose discs pixels look.
            cell: side in px of the cells of light.
            steps: whether what lies beyond a step is asked for.
        """
        self.values, self.steps = levels.values, steps
        self.below = {j: self._below(j) for j in seen_through if j >= 2 and abs(self.values[j]) > 0.5}
        cuts = {0, *mine, *(j + 1 for j in mine)}
        for below in self.below.values():
            cuts.update(below, range(below.close, below.end))
        last = max((below.end for below in self.below.values()), default=0)
        # Few windows have mixed pixels.
        scenes = [maps for maps in scenes if maps.light[3].any()]
        lower = [maps.lower.long().flatten() for maps in scenes]
        weights = [
            torch.bincount(index, maps.light[3].flatten(), len(levels)).tolist()
            for index, maps in zip(lower, scenes, strict=True)
        ]
        pixels = [any(column) for column in zip(*weights, strict=True)] or [False] * len(levels)
        cuts, groups = sorted(cuts), {}
        for j in range(len(levels)):
            if (pixels[j] or (j and pixels[j - 1])) and (j < last or j in mine):
                groups[j] = cuts[bisect_right(cuts, j) - 1]
        # The first level of each group.
        self.starts = sorted(set(groups.values()))
        self.group = {j: bisect_left(self.starts, start) for j, start in groups.items()}
        if self.starts:
            self._add_up(scenes, lower, [self.group.get(j, len(self.starts)) for j in range(len(levels))], cell)

    def _below(self, j: int) -> _Below:
        at, end = self.values[j], j - 1
        # No level below one behind the plane of focus has a smaller disc.
        smaller = bisect_right(self.values, -at) if at > 0 else end
        return _Below(
            smaller, min(end, bisect_left(self.values, beyond(at))), min(end, bisect_right(self.values, at - 1)), end
        )

    def _add_up(self, scenes: list[Scene], lower: list[Tensor], group: list[int], cell: int) -> None:
        """Transforms [groups, 4, n, m] of the light on cells [n, n], and the light itself where a disc is one pixel."""
        side = len(scenes[0].signed) // cell
        size = side**2
        row = torch.arange(side * cell, device=scenes[0].light.device) // cell
        place = (row[:, None] * side + row).flatten()
        # What is of no group goes to one that is left out.
        start = torch.tensor(group, device=place.device) * 4 * size
        sums = scenes[0].light.new_zeros((len(self.starts) + 1) * 4 * size)
        for maps, index in zip(scenes, lower, strict=True):
            light, share = maps.light.flatten(1), maps.share.flatten()
            for first, part in ((index, 1 - share), (index + 1, share)):
                at = start[first] + place
                for channel, values in enumerate(light * part):
                    sums[channel * size :].index_add_(0, at, values)
        light = sums.view(-1, 4, side, side)[:-1]
        if cell > 1:
            light /= cell**2
        self.light = {j: light[number].clone() for j, number in self.group.items() if abs(self.values[j]) <= 0.5}
        self.spectra = torch.fft.rfft2(light)
        weight = self.spectra[:, 3:]
        self.all, self.beyond, self.smaller = _Range(weight), _Range(weight), _Range(self.spectra)

    def parts(self, j: int) -> dict[str, Tensor]:
        """What has to be spread over the discs of level j, Fourier transforms but of discs that are one pixel: its own
        light, and what `tiles.Sums` calls shows, beyond and behind if pixels look past an edge through such discs."""
        parts = {}
        at = self.values[j]
        if j in self.group:
            parts["own"] = self.light[j] if j in self.light else self.spectra[self.group[j]]
        if j in self.below and self.starts:
            below = self.below[j]
            parts["shows"] = self._behind(self.all, at, 0, below)
            parts["beyond"] = self.beyond.sum(*self._groups(0, below.step)) if self.steps else None
            parts["behind"] = self._behind(self.smaller, at, below.smaller, below)
        return {name: part for name, part in parts.items() if part is not None}

    def _behind(self, whole: _Range, at: float, first: int, below: _Below) -> Tensor | None:
        """What lies behind a level, of levels from ``first`` on; None without any."""
        close = max(first, below.close)
        total = whole.sum(*self._groups(first, close))
        for i in range(close, below.end):
            if i in self.group:
                part = whole.spectra[self.group[i]] * (at - self.values[i])
                total = part if total is None else total + part
        return total

    def _groups(self, first: int, end: int) -> tuple[int, int]:
        """The groups of the levels from ``first`` to before ``end``."""
        return bisect_left(self.starts, first), bisect_left(self.starts, end)


def window_of(maps: Tensor, top: int, left: int, side: int) -> Tensor:
    """A square of [..., H, W], 0 outside of it."""
    height, width = maps.shape[-2:]
    first = max(0, top), max(0, left)
    last = min(height, top + side), min(width, left + side)
    inside = maps[..., first[0] : last[0], first[1] : last[1]]
    pad = (first[1] - left, left + side - last[1], first[0] - top, top + side - last[0])
    return F.pad(inside, pad) if any(pad) else inside
