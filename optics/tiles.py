"""Defocus of a picture by its depth map: the equations of `exact` by levels of signed radius.

A pixel's light is shared out to the two levels next to its signed radius (`levels`), and each level j is spread as
one, C_j = k_j * (w_j light). With s the signed radius of a pixel y, r = |s| and n_j = clamp(t_j - s, -1, 1), the sums
of `exact` over pixels become sums over levels,

    F = sum max(n_j, 0) C_j      S = sum (1 - |n_j|) C_j      H = sum over t_j with |t_j| >= r of max(-n_j, 0) C_j + D

with m and, before the plane of focus, D seen through y's own disc, mixed of those of y's two levels:

    m = k_y * sum max(-n_j, 0) w_j               D = k_y * sum over t_j with |t_j| < r of max(-n_j, 0) w_j light

The two levels of y itself are one surface, n = 0: else the background would leak over a dark subject near focus. Where
they lie further apart, n of the one fades in as y comes to the other, so that a slope has no seams.

Convolutions are made by FFT, tile by tile, so that time and memory grow with the number of pixels; what no pixel of a
tile needs is left out, and levels that none of its pixels lie among are added up before they are enlarged.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .defocus import Aperture
from .discs import Discs, good_size
from .edges import beyond
from .levels import Levels, enlarged

# Side of a tile in px, and the radius from which tiles are larger, because what reaches into them has to be read too.
TILE, LARGE_TILE, LARGE_RADIUS = 256, 512, 48.0
# With cat's eye a tile is an eighth of the picture, but not below this.
SMALL_TILE = 64
# What rounding in a Fourier transform may leave where there is no light.
NOTHING = 1e-5
# Rows of a picture that are placed at once.
STRIP = 512
# Two levels at least this far apart are one surface in the middle between them and two at either of them: the other
# level turns into what is before or behind with this power of the share. A lower power lets more of the background
# through a blurred subject's edge, a higher one shows seams on slopes.
APART = 0.7
POWER = 8


class Scene(NamedTuple):
    """Maps of a picture: light [3, H, W], or light and weight [4, H, W], signed radius, lower level and the upper one's
    share [H, W]."""

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


class Sums(NamedTuple):
    """F, S and H [4, h, w], light and weight, m and what of it lies beyond a step [h, w] at the pixels of a tile; light
    and weight [4, h, w] of what lies behind them but not beyond a step; their signed radii [h, w]."""

    front: Tensor
    level: Tensor
    behind: Tensor
    shows: Tensor
    beyond: Tensor
    beside: Tensor
    signed: Tensor


def laid_over(sums: Sums, hidden: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Light [3, h, w] of the sums, and where [h, w] a pixel got none but its own.

    ``hidden`` is what lies behind steps, light times how well it is known and that, [4, h, w]; elsewhere, and without
    it, the mean of the visible background stands for it.
    """
    front, level, behind, shows, beyond, beside, signed = sums
    covered = front[3]
    shows = torch.where(behind[3] > NOTHING / 10, shows, 0)
    back = behind[:3] * (shows / behind[3].clamp(min=NOTHING / 10))
    if hidden is not None:
        far = torch.minimum(beyond, shows)
        # What is not seen of it but through the pixels' own discs has the light of them.
        near = torch.lerp(level, beside, (beside[3] / NOTHING).clamp(max=1))
        both = far * hidden[:3] / hidden[3].clamp(min=1e-6) + (shows - far) * near[:3] / near[3].clamp(min=NOTHING)
        back = torch.lerp(back, both, hidden[3].clamp(max=1))
    rest = (1 - covered).clamp_(min=0) / (level[3] + shows).clamp_(min=NOTHING / 10)
    light = front[:3] / covered.clamp(min=1) + (level[:3] + back) * rest
    alone = (covered < NOTHING) & (shows < NOTHING) & ((level[3] - 1).abs() < NOTHING)
    return light, alone & (signed.abs() <= 0.5)


class Lens(NamedTuple):
    """An aperture, its shape or a drawn one of `discs.drawn_aperture`, and how strong cat's eye is, 0..1."""

    aperture: Aperture | Tensor
    cats_eye: float


class Tiles:
    """The tiles of a picture, with levels and discs of its radii."""

    def __init__(self, lens: Lens, signed: Tensor, rough: bool = False) -> None:
        """``signed``: radius in px of each pixel's disc, [H, W]; ``rough`` as for `Levels`."""
        lowest, highest = (extreme.item() for extreme in signed.aminmax())
        self.shape = height, width = tuple(signed.shape)
        # At least two, where all is in focus too.
        self.levels = Levels(lowest, highest if lowest or highest else 0.25, rough)
        self.side = TILE if max(-lowest, highest) < LARGE_RADIUS else LARGE_TILE
        if lens.cats_eye:
            self.side = min(self.side, max(SMALL_TILE, 2 ** round(math.log2(max(height, width) / 8))))
        self.discs = Discs(lens.aperture, lens.cats_eye, self.shape, self.side, signed.device)

    def places(self) -> list[tuple[int, int]]:
        """Top and left of each tile."""
        height, width = self.shape
        return [(top, left) for top in range(0, height, self.side) for left in range(0, width, self.side)]

    def of(self, maps: Tensor, place: tuple[int, int]) -> Tensor:
        """What of [..., H, W] lies in the picture, of the tile at a place."""
        top, left = place
        return maps[..., top : top + self.side, left : left + self.side]

    def sums(
        self,
        scene: Scene,
        more: Scene | None,
        place: tuple[int, int],
        tell: Callable[[float], None],
        asked: Tensor | None = None,
    ) -> Sums:
        """What the pixels of a tile get from a scene, and from ``more`` light in it that no pixel stands for.

        ``asked``: above 0 at pixels [H, W] where the sums are needed, all without it; others are undefined. ``tell``
        is called several times a second with the part that is done.
        """
        top, left = place
        if asked is None:
            height, width = self.shape
            here = slice(height - top), slice(width - left)
        else:
            here = window_of(asked, top, left, self.side) > 0
        return _tile_sums(scene, more, self, top, left, here, tell)


def _tile_sums(
    scene: Scene,
    more: Scene | None,
    tiles: Tiles,
    top: int,
    left: int,
    here: Tensor | tuple[slice, slice],
    tell: Callable[[float], None],
) -> Sums:
    """`Tiles.sums` of a tile, ``here`` where they are needed."""
    levels, discs, side = tiles.levels, tiles.discs, tiles.side
    seen = _Seen(scene.window(top, left, side), levels, here)
    done = 0
    for octave in sorted(set(levels.octaves)):
        cell = 2**octave
        mine = [j for j, own in enumerate(levels.octaves) if own == octave]
        reach = discs.reach(max(abs(levels.values[j]) for j in mine))
        # Two cells more: one to interpolate to, one for what averaging into cells moves.
        margin = cell * (math.ceil(reach / cell) + 2)
        window = cell * good_size((side + 2 * margin) // cell)
        sent = _Sent(scene, more, levels, top - margin, left - margin, window)
        before, past = None, None
        for j in mine:
            parts = sent.parts(j, seen)
            if parts:
                light = torch.cat(list(parts.values()))
                # Up to half a pixel a disc is one pixel.
                if abs(levels.values[j]) > 0.5:
                    if octave:
                        light = F.avg_pool2d(light[None], cell)[0]
                    light = discs.spread(light, levels.values[j], octave, top, left, margin // cell)
                light = _cropped(light, margin // cell, side // cell)
                spread = dict(zip(parts, light.split([len(part) for part in parts.values()]), strict=True))
                own = spread.pop("own", None)
                if own is not None and seen.is_before_all(j):
                    before = own if before is None else before + own
                elif own is not None and seen.is_behind_all(j):
                    past = own if past is None else past + own
                elif own is not None:
                    seen.add(j, enlarged(own, octave))
                seen.add_own_disc(j, {name: enlarged(part, octave) for name, part in spread.items()})
            done += 1
            tell(done / len(levels))
        if before is not None:
            seen.sums.front.add_(enlarged(before, octave))
        if past is not None:
            seen.sums.behind.add_(enlarged(past, octave))
    return seen.sums


class _Sent:
    """What the pixels x of a window send to each level."""

    def __init__(self, scene: Scene, more: Scene | None, levels: Levels, top: int, left: int, side: int) -> None:
        window = scene.window(top, left, side)
        inside = window_of(torch.ones((), device=window.light.device).expand(scene.shape), top, left, side)
        self.light = window.light if len(window.light) > 3 else torch.cat([window.light, inside[None]])
        self.lower, self.share, self.levels = window.lower, window.share, levels
        self.index: Tensor | None = None
        self.present = set(self.lower[inside > 0].unique().tolist())
        self.more = None if more is None else more.window(top, left, side)
        self.more_present = set() if more is None else set(self.more.lower[self.more.light[3] > 0].unique().tolist())

    def parts(self, j: int, seen: _Seen) -> dict[str, Tensor]:
        """What has to be spread over the discs of level j: its own light, and if the pixels ``seen`` look past an
        edge through such discs, weight and light behind them."""
        parts = {}
        if j in self.present or j - 1 in self.present:
            parts["own"] = self.light * _weight(self.lower, self.share, j)
        if j in self.more_present or j - 1 in self.more_present:
            light = self.more.light * _weight(self.more.lower, self.more.share, j)
            parts["own"] = parts["own"] + light if "own" in parts else light
        if abs(self.levels.values[j]) > 0.5 and j >= 2 and seen.lies_at(j):
            weight = self._behind(j, math.inf)
            if weight is not None:
                farther = self._behind(j, math.inf, beyond(self.levels.values[j]))
                both = torch.stack([weight, weight if farther is None else farther])
                if farther is None:
                    both[1] = 0
                parts["shows"] = both * self.light[3]
                inner = self._behind(j, self.levels.values[j])
                if inner is not None:
                    parts["behind"] = self.light * inner
        return parts

    def _behind(self, j: int, radius: float, limit: float = math.inf) -> Tensor | None:
        """Share of each pixel that lies behind level j, of levels with a smaller radius and below a signed one; None
        without any. The next level below is left out: `_Seen.add` sees to it."""
        at = self.levels.values[j]
        table = [
            min(1.0, at - t) if i < j - 1 and abs(t) < radius and t < limit else 0.0
            for i, t in enumerate(self.levels.values)
        ]
        if not any(table[i] or table[i + 1] for i in self.present):
            return None
        if self.index is None:
            self.index = self.lower.long()
        entries = torch.tensor(table, device=self.light.device)
        return torch.lerp(entries[self.index], entries[self.index + 1], self.share)


class _Seen:
    """What the pixels y of a tile get."""

    def __init__(self, y: Scene, levels: Levels, here: Tensor | tuple[slice, slice]) -> None:
        """``here``: the pixels of the tile that count."""
        self.signed, self.lower, self.share, self.levels = y.signed, y.lower, y.share, levels
        self.radius = y.signed.abs()
        self.lowest, self.highest = (extreme.item() for extreme in y.signed[here].aminmax())
        self.largest = max(abs(self.lowest), abs(self.highest))
        self.present = set(y.lower[here].unique().tolist())
        nothing = torch.zeros_like(y.signed)
        self.sums = Sums(*nothing.repeat(3, 4, 1, 1), *nothing.repeat(2, 1, 1), nothing.repeat(4, 1, 1), y.signed)
        limits = torch.tensor([beyond(value) for value in levels.values], device=nothing.device)
        index = y.lower.long()
        self.limits = limits[index], limits[index + 1]
        self.nearest_limit = min(limit[here].min().item() for limit in self.limits)

    def lies_at(self, j: int) -> bool:
        """Whether level j is one of a pixel's two."""
        return j in self.present or j - 1 in self.present

    def is_before_all(self, j: int) -> bool:
        return self.levels.values[j] >= self.highest + 1 and not self._concerns(j)

    def is_behind_all(self, j: int) -> bool:
        at = self.levels.values[j]
        return at <= self.lowest - 1 and abs(at) >= self.largest and not self._concerns(j)

    def _concerns(self, j: int) -> bool:
        return self.lies_at(j) or j + 1 in self.present

    def add(self, j: int, light: Tensor) -> None:
        """Light and weight [4, h, w] that level j sends here."""
        values = self.levels.values
        front, level, behind = self.sums[:3]
        nearer = (values[j] - self.signed).clamp_(-1, 1)
        if self.lies_at(j):
            is_lower, is_upper = self.lower == j, self.lower == j - 1
            to_upper = self.share.pow(POWER) if self._apart(j) else 0.0
            to_lower = (1 - self.share).pow(POWER) if self._apart(j - 1) else 0.0
            nearer = torch.where(is_lower, nearer * to_upper, torch.where(is_upper, nearer * to_lower, nearer))
            if j in self.present and self._apart(j):
                self._show(j, j + 1, torch.where(is_lower, self.share.pow(POWER + 1), 0), light)
        if j + 1 in self.present:
            self._show(j, j + 1, torch.where(self.lower == j + 1, 1 - self.share, 0), light)
        front.addcmul_(nearer.clamp(min=0), light)
        level.addcmul_(1 - nearer.abs(), light)
        further = (-nearer).clamp_(min=0)
        behind.addcmul_(torch.where(self.radius <= abs(values[j]), further, 0), light)
        if self.nearest_limit <= values[j] < self.highest:
            lower, upper = ((limit <= values[j]).to(further) for limit in self.limits)
            self.sums.beside.addcmul_(torch.lerp(lower, upper, self.share) * further, light)

    def add_own_disc(self, j: int, spread: dict[str, Tensor]) -> None:
        """What lies behind, seen through discs of level j."""
        if spread:
            weight = _weight(self.lower, self.share, j)
            self.sums.shows.addcmul_(weight, spread["shows"][0])
            self.sums.beyond.addcmul_(weight, spread["shows"][1])
            if "behind" in spread:
                self.sums.behind.addcmul_(weight, spread["behind"])

    def _show(self, j: int, upper: int, weight: Tensor, light: Tensor) -> None:
        """Level j as what lies behind pixels at the level next above it: its own disc stands for theirs."""
        values = self.levels.values
        if abs(values[upper]) > 0.5:
            weight = weight * min(1.0, values[upper] - values[j])
            self.sums.shows.addcmul_(weight, light[3])
            if abs(values[j]) < values[upper]:
                self.sums.behind.addcmul_(weight, light)

    def _apart(self, j: int) -> bool:
        return 0 <= j < len(self.levels) - 1 and self.levels.values[j + 1] - self.levels.values[j] >= APART


def _weight(lower: Tensor, share: Tensor, j: int) -> Tensor:
    """Share of pixels that belongs to level j."""
    return torch.where(lower == j, 1 - share, torch.where(lower == j - 1, share, 0))


def _cropped(light: Tensor, margin: int, side: int) -> Tensor:
    """The cells of a tile with one more on each side."""
    inner = slice(margin - 1, margin + side + 1)
    return light[..., inner, inner]


def placed(signed: Tensor, levels: Levels, tell: Callable[[], None]) -> tuple[Tensor, Tensor]:
    """`Levels.place` by strips, each told of: its steps need several times the memory of the maps."""
    lower, share = torch.empty_like(signed, dtype=torch.int16), torch.empty_like(signed)
    for strip, *maps in zip(*(values.split(STRIP) for values in (signed, lower, share)), strict=True):
        for whole, part in zip(maps, levels.place(strip), strict=True):
            whole.copy_(part)
        tell()
    return lower, share


def window_of(maps: Tensor, top: int, left: int, side: int) -> Tensor:
    """A square of [..., H, W], 0 outside of it."""
    height, width = maps.shape[-2:]
    first = max(0, top), max(0, left)
    last = min(height, top + side), min(width, left + side)
    inside = maps[..., first[0] : last[0], first[1] : last[1]]
    pad = (first[1] - left, left + side - last[1], first[0] - top, top + side - last[0])
    return F.pad(inside, pad) if any(pad) else inside
