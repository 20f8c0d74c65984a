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
tile needs is left out, and levels that none of its pixels lie among are added up before they are interpolated.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .defocus import Aperture
from .discs import Discs, good_size
from .edges import beyond
from .levels import Levels, interpolated
from .sent import Scene, Sent, window_of

# Side of a tile in px, and the radius from which tiles are larger, because what reaches into them has to be read too.
TILE, LARGE_TILE, LARGE_RADIUS = 256, 512, 48.0
# With cat's eye a tile is an eighth of the picture, but not below this.
SMALL_TILE = 64
# What rounding in a Fourier transform may leave where there is no light.
NOTHING = 1e-5
# Rows of a picture that are placed at once.
STRIP = 512
# Two levels at least this far apart are one surface in the middle between them and two at either of them: the other
# level turns into what is before or behind with the share squared so many times. Fewer let more of the background
# through a blurred subject's edge, more show seams on slopes.
APART = 0.7
SQUARED = 3


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
        steps: bool = True,
    ) -> Sums:
        """What the pixels of a tile get from a scene, and from ``more`` light in it that no pixel stands for.

        ``asked``: above 0 at pixels [H, W] where the sums are needed, all without it; others are undefined. ``steps``:
        whether what lies beyond a step and what does not are told apart. ``tell`` is called several times a second with
        the part that is done.
        """
        top, left = place
        if asked is None:
            height, width = self.shape
            here = slice(height - top), slice(width - left)
        else:
            here = window_of(asked, top, left, self.side) > 0
        return _tile_sums(scene, more, self, top, left, here, steps, tell)


def _tile_sums(
    scene: Scene,
    more: Scene | None,
    tiles: Tiles,
    top: int,
    left: int,
    here: Tensor | tuple[slice, slice],
    steps: bool,
    tell: Callable[[float], None],
) -> Sums:
    """`Tiles.sums` of a tile, ``here`` where they are needed."""
    levels, discs, side = tiles.levels, tiles.discs, tiles.side
    seen = _Seen(scene.window(top, left, side), levels, here, steps)
    done = 0
    for octave in sorted(set(levels.octaves)):
        cell = 2**octave
        mine = [j for j, own in enumerate(levels.octaves) if own == octave]
        reach = discs.reach(max(abs(levels.values[j]) for j in mine))
        # Two cells more: one to interpolate to, one for what averaging into cells moves.
        margin = math.ceil(reach / cell) + 2
        cells = good_size(side // cell + 2 * margin)
        scenes = [
            maps.window(top - margin * cell, left - margin * cell, cells * cell)
            for maps in (scene, more)
            if maps is not None
        ]
        sent = Sent(scenes, levels, mine, [j for j in mine if seen.lies_at(j)], cell, steps)
        before, past = None, None
        for j in mine:
            parts = sent.parts(j)
            if parts:
                light = torch.cat(list(parts.values()))
                # Up to half a pixel a disc is one pixel.
                if abs(levels.values[j]) > 0.5:
                    light = discs.spread(light, cells, levels.values[j], octave, top, left, margin)
                light = _cropped(light, margin, side // cell)
                spread = dict(zip(parts, light.split([len(part) for part in parts.values()]), strict=True))
                own = spread.pop("own", None)
                if own is not None and seen.is_before_all(j):
                    before = own if before is None else before + own
                elif own is not None and seen.is_behind_all(j):
                    past = own if past is None else past + own
                elif own is not None:
                    seen.add(j, interpolated(own, octave))
                seen.add_own_disc(j, {name: interpolated(part, octave) for name, part in spread.items()})
            done += 1
            tell(done / len(levels))
        if before is not None:
            seen.sums.front.add_(interpolated(before, octave))
        if past is not None:
            seen.sums.behind.add_(interpolated(past, octave))
    return seen.sums


class _Seen:
    """What the pixels y of a tile get."""

    def __init__(self, y: Scene, levels: Levels, here: Tensor | tuple[slice, slice], steps: bool) -> None:
        """``here``: the pixels of the tile that count; ``steps`` as for `Tiles.sums`."""
        self.signed, self.levels = y.signed, levels
        self.radius, self.place = y.signed.abs(), y.lower + y.share
        self.lowest, self.highest = (extreme.item() for extreme in y.signed[here].aminmax())
        self.largest = max(abs(self.lowest), abs(self.highest))
        self.present = set(y.lower[here].unique().tolist())
        nothing = torch.zeros_like(y.signed)
        self.sums = Sums(*nothing.repeat(3, 4, 1, 1), *nothing.repeat(2, 1, 1), nothing.repeat(4, 1, 1), y.signed)
        self.limits = [beyond(value) for value in levels.values] if steps else []

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
        at = self.levels.values[j]
        front, level, behind, shows, _, beside, _ = self.sums
        nearer = (at - self.signed).clamp_(-1, 1)
        through = None
        if self._concerns(j):
            # By how many levels the pixels lie above this one; from -1 to 1 it is one of their two.
            above = self.place - j
            far = _turned(above.clamp(0, 1)) if self._apart(j) else (above > 1).to(above)
            near = _turned((-above).clamp_(0, 1)) if self._apart(j - 1) else (above <= -1).to(above)
            nearer *= near.add_(far)
            # The lower one of the two as what lies behind the upper one: its own disc stands for theirs.
            upper = self.levels.values[j + 1] if j + 1 < len(self.levels) else 0.0
            if abs(upper) > 0.5:
                through = far.mul_(above.clamp(0, 1)).mul_((2 - above).clamp_(0, 1)).mul_(min(1.0, upper - at))
                shows.addcmul_(through, light[3])
                if abs(at) >= upper:
                    through = None
        front.addcmul_(nearer.clamp(min=0), light)
        level.addcmul_(1 - nearer.abs(), light)
        further = nearer.neg_().clamp_(min=0)
        smaller = further * (self.radius <= abs(at))
        behind.addcmul_(smaller if through is None else smaller.add_(through), light)
        # Beyond a step for how many levels, from the first.
        count = bisect_right(self.limits, at)
        if count > min(self.present) and at < self.highest:
            beside.addcmul_(further.mul_((count - self.place).clamp_(0, 1)), light)

    def add_own_disc(self, j: int, spread: dict[str, Tensor]) -> None:
        """What lies behind, seen through discs of level j."""
        if spread:
            weight = (self.place - j).abs_().neg_().add_(1).clamp_(min=0)
            for name, part in spread.items():
                getattr(self.sums, name).addcmul_(weight, part.squeeze(0))

    def _apart(self, j: int) -> bool:
        return 0 <= j < len(self.levels) - 1 and self.levels.values[j + 1] - self.levels.values[j] >= APART


def _turned(share: Tensor) -> Tensor:
    """How much the other of two levels that are far apart is before or behind, in place."""
    for _ in range(SQUARED):
        share.square_()
    return share


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
