"""Defocus of a picture by its depth map, exactly: one disc of light for every pixel.

The statement that `optics.render`, which people use, is held against: its time grows with the square of the radii.

With x a pixel that sends light, y a pixel that gets it, s = K (d - d_focus) * short side / 512 the signed radius
of a pixel's disc in px (positive before the plane of focus), r = |s|, D the soft edged aperture and A its sum
over a picture:

    k(x -> y; r) = D(y - x; r) / A(r)                                                     a disc of light
    out(y)       = F + (1 - a) * (S + m * H / h) / (s0 + m)                               laid over each other

F, S and H are sums of k * light over all x, and a, s0 and h the same sums of k alone, shared out by how much nearer
than y a pixel is, n = clamp(s_x - s_y, -1, 1):

    F  in front of y    max(n, 0) * k(r_x)                blur that spills over y
    S  level with y     (1 - |n|) * k(r_x)                the surface that y lies on
    H  behind y         max(-n, 0) * k(max(r_x, r_y))     what shows past the blurred edge of that surface
    m  behind y         max(-n, 0) * k(r_y)               how much of y's own disc looks past that edge

where a > 1, F and a are divided by it. Between -1 and 1 the three shares change gradually, so that a slope or the
noise of a depth map has no seams. On one plane all this is the convolution with the disc, and a point keeps its
light; where r = 0 and nothing spills, it is the picture. A sharp pixel has m = 0: nothing behind it leaks over it.

Discs scattered in linear light, each with the weight of its area, and weights brought to 1, after the classical
renderer of BokehMe (Peng et al., arXiv 2206.12614); who hides whom is settled here for each pair of pixels.

What it cannot do: a picture does not say what lies behind its near objects. What shows through their blurred edges
is the mean of the visible background there, weights brought to 1; a thing seen at no pixel stays unseen. Several
things in front of one pixel are mixed, not sorted. What lies outside the picture sends no light.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .check import check, check_lens, check_radius, per_picture
from .defocus import DISPLAY_GAMMA, Aperture, cut_distance, cut_of, disc_radius, soft_disc
from .light import to_light, to_picture

# Pixels of a tile: on a CPU those that a thread works on should stay in its cache, on a GPU every kernel should have
# enough to do.
CPU_TILE, GPU_TILE = 2**15, 2**22
# Nearer than anything, so that nothing outside the picture counts as background.
OUTSIDE = 1e9


class _Points(NamedTuple):
    """Maps of pixels, [channels, n, h, w] or [n, h, w]."""

    light: Tensor  # RGB and 1, four channels; 0 outside the picture
    signed: Tensor
    radius: Tensor
    inverse_area: Tensor
    # Half the way between the two circles of cat's eye, (y, x) in px; None without.
    cut: Tensor | None

    def window(self, tile: _Tile) -> _Points:
        return _Points(*(None if maps is None else maps[tile.index] for maps in self))

    def around(self, tile: _Tile, reach: int) -> _Points:
        """The tile with ``reach`` px on each side, beyond the picture's border as well."""
        height, width = self.signed.shape[-2:]
        bottom, right = tile.top + tile.height, tile.left + tile.width
        inside = tile.grown(reach, height, width)
        missing = [
            max(0, reach - tile.left),
            max(0, right + reach - width),
            max(0, reach - tile.top),
            max(0, bottom + reach - height),
        ]
        near = self.window(inside)
        return _Points(
            *(
                None if maps is None else F.pad(maps, missing, value=OUTSIDE if maps is near.signed else 0.0)
                for maps in near
            )
        )


class _Tile(NamedTuple):
    pictures: slice
    top: int
    left: int
    height: int
    width: int

    @property
    def index(self) -> tuple:
        rows = slice(self.top, self.top + self.height)
        return (..., self.pictures, rows, slice(self.left, self.left + self.width))

    def grown(self, reach: int, height: int, width: int) -> _Tile:
        """With ``reach`` px more on each side, within a picture of this size."""
        top, left = max(0, self.top - reach), max(0, self.left - reach)
        bottom = min(height, self.top + self.height + reach)
        right = min(width, self.left + self.width + reach)
        return _Tile(self.pictures, top, left, bottom - top, right - left)


def render_exactly(
    image: Tensor,
    disparity: Tensor,
    focus: Tensor | float,
    blur: Tensor | float,
    *,
    gamma: float = DISPLAY_GAMMA,
    blades: int = 0,
    rotation: float = 0.0,
    cats_eye: float = 0.0,
    highlight: float = 0.0,
    on_part: Callable[[int, int], None] | None = None,
) -> Tensor:
    """The picture as a lens focused at ``focus`` shows it; the module's text has the equations.

    Time grows with the number of pixels and with the square of the radii near them; sharp parts cost nothing.
    Runs in float32 on the device of ``image``.

    Args:
        image: [B, H, W, 3] sRGB in 0..1, everything sharp.
        disparity: [B, H, W], larger is nearer, linear in the inverse of the distance: 0..1 of a relative map, or 1/m.
        focus: disparity of the plane of focus, one for all or [B].
        blur: K, one for all or [B]: radius in px of the disc of a point one unit of disparity out of
            focus, in a picture of 512 px on its short side; in others in proportion.
        gamma: light = value ** gamma; 1 blurs the values as they are.
        blades: straight sides of the aperture, 5 to 9, or 0 for a round one of the same area.
        rotation: of a polygon, degrees.
        cats_eye: 0..1, how much the barrel cuts the discs towards the corners: to what two circles of the disc's
            radius have in common, their centres this fraction of it apart at a corner, and less in proportion to
            the square of the distance from the centre of the picture. The light itself is kept.
        highlight: how much brighter than white, in times of white, a pixel that is cut off at white is taken to
            have been (see `light.to_light`).
        on_part: called with (done, total) after each part of the work; it may raise to stop.

    Returns:
        [B, H, W, 3] like ``image``. A pixel that gets no light but its own is equal to it bit for bit.

    Raises:
        ValueError: for shapes that do not fit, NaN or infinite values, and settings outside their range.
    """
    focus, blur = (per_picture(value, image, name) for value, name in ((focus, "focus"), (blur, "blur")))
    check(image, disparity, blur)
    check_lens(gamma, blades, rotation, cats_eye, highlight)
    defocus = disparity.to(focus) - focus[:, None, None]
    radius = disc_radius(blur[:, None, None], defocus, min(defocus.shape[1:]))
    check_radius(radius.max().item(), *radius.shape[1:])
    light = to_light(image, gamma, highlight)
    points = _Points(
        torch.cat([light, torch.ones_like(light[:1])]),
        radius.copysign(defocus),
        radius,
        torch.empty_like(radius),
        _cuts(radius, cats_eye) if cats_eye else None,
    )
    aperture = Aperture(blades, rotation)
    tiles = list(_tiles(radius))
    for tile in tiles:
        part = points.window(tile)
        part.inverse_area.copy_(1 / _area(part, aperture))

    out = image.clone()
    for done, tile in enumerate(tiles, 1):
        light, untouched = _render_tile(points, tile, aperture)
        picture = to_picture(light, gamma).movedim(0, -1).to(out.dtype)
        old = out.movedim(-1, 0)[tile.index].movedim(0, -1)
        old.copy_(torch.where(untouched[..., None], old, picture))
        if on_part is not None:
            on_part(done, len(tiles))
    return out


def _render_tile(points: _Points, tile: _Tile, aperture: Aperture) -> tuple[Tensor, Tensor]:
    """Light [3, n, h, w] of a tile, and where [n, h, w] a pixel got none but its own."""
    largest = _largest_radius(points, tile, aperture)
    reach = aperture.reach(largest)
    around, y = points.around(tile, reach), points.window(tile)
    # Light and weight of the pixels in front of y, level with it and behind it; -m.
    front, level, behind = (torch.zeros_like(y.light) for _ in range(3))
    shows = torch.zeros_like(y.signed)
    own = None
    for distance, offsets in aperture.offsets(largest):
        to_y = _disc(y, distance, None) if y.cut is None else None
        for offset in offsets:
            x = around.window(_Tile(slice(None), reach - offset[0], reach - offset[1], tile.height, tile.width))
            from_x = _disc(x, distance, offset)
            to_y_now = _disc(y, distance, offset) if to_y is None else to_y
            if own is None:
                own = from_x
            nearer = x.signed - y.signed
            before = nearer.clamp(0, 1).mul_(from_x)
            further = nearer.clamp_(-1, 0)
            beside = (from_x - before).addcmul_(from_x, further)
            front.addcmul_(x.light, before)
            level.addcmul_(x.light, beside)
            shows.addcmul_(to_y_now, further)
            behind.addcmul_(x.light, torch.where(x.radius > y.radius, from_x, to_y_now).mul_(further))
    covered = front[3]
    # A background that only the discs of y reach, and those of no x, has no colour to show.
    shows = torch.where(behind[3] < 0, -shows, 0)
    back = behind[:3] * (shows / behind[3].clamp(max=-torch.finfo(torch.float32).tiny))
    rest = (1 - covered).clamp(min=0) / (level[3] + shows)
    light = front[:3] / covered.clamp(min=1) + (level[:3] + back) * rest
    return light, (covered == 0) & (shows == 0) & (level[3] == own)


def _disc(points: _Points, distance: float, offset: tuple[int, int] | None) -> Tensor:
    """k of the pixels' discs at one offset (y, x) from their centres, ``distance`` for the aperture."""
    return soft_disc(_cut_distance(points.cut, distance, offset), points.radius).mul_(points.inverse_area)


def _cut_distance(cut: Tensor | None, distance: float, offset: tuple[int, int] | None) -> Tensor | float:
    return distance if cut is None else cut_distance(cut, distance, *offset)


def _area(points: _Points, aperture: Aperture) -> Tensor:
    """A: what the discs of the pixels cover in all, [n, h, w] in px."""
    total = torch.zeros_like(points.radius)
    for distance, offsets in aperture.offsets(points.radius.max().item()):
        if points.cut is None:
            total += len(offsets) * soft_disc(distance, points.radius)
            continue
        for offset in offsets:
            total += soft_disc(_cut_distance(points.cut, distance, offset), points.radius)
    return total


def _largest_radius(points: _Points, tile: _Tile, aperture: Aperture) -> float:
    """Radius that no disc of the tile and no disc that reaches into it exceeds."""
    height, width = points.radius.shape[-2:]
    largest = points.radius[tile.pictures].max().item()
    while True:
        near = points.radius[tile.grown(aperture.reach(largest), height, width).index].max().item()
        if near == largest:
            return near
        largest = near


def _tiles(maps: Tensor) -> Iterator[_Tile]:
    count, height, width = maps.shape
    pixels = CPU_TILE * torch.get_num_threads() if maps.device.type == "cpu" else GPU_TILE
    side = math.isqrt(pixels)
    # Small pictures go together.
    pictures = max(1, pixels // (height * width))
    for first in range(0, count, pictures):
        rows = slice(first, first + pictures)
        for top in range(0, height, side):
            for left in range(0, width, side):
                yield _Tile(rows, top, left, min(side, height - top), min(side, width - left))


def _cuts(radius: Tensor, cats_eye: float) -> Tensor:
    height, width = radius.shape[-2:]
    y, x = (torch.arange(side, device=radius.device) for side in (height, width))
    from_centre = cut_of(radius.new_ones(()), cats_eye, y[:, None], x, height, width)
    return from_centre[:, None] * radius
