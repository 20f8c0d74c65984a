"""Defocus of a picture by its depth map, at any size: the equations of `exact` by levels of signed radius (`tiles`),
and layers of what near things hide (`behind`)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .behind import Outlines, layers_behind
from .check import check, check_finite, check_lens, check_radius, per_picture
from .defocus import DISPLAY_GAMMA, Aperture, disc_radius
from .discs import Discs
from .levels import Levels
from .light import to_light, to_picture
from .tiles import Scene, laid_over, placed, tile_sums, window_of

# Side of a tile in px, and the radius from which tiles are larger, because what reaches into them has to be read too.
TILE, LARGE_TILE, LARGE_RADIUS = 256, 512, 48.0
# With cat's eye a tile is an eighth of the picture, but not below this.
SMALL_TILE = 64
# Parts that work is told in.
PARTS = 1000
# Share of the work that what lies behind near things may take.
HIDDEN = 0.5
# What a picture's maps take at most, and the tiles with them.
BYTES_PER_PIXEL = 160


def render_depth(
    image: Tensor,
    disparity: Tensor,
    focus: Tensor | float,
    blur: Tensor | float,
    *,
    on_part: Callable[[int, int], None] | None = None,
    **lens: float,
) -> Tensor:
    """The pictures as a lens focused at ``focus`` shows them. Args, ``lens``, returns and errors as
    `exact.render_exactly`; ``on_part`` is called several times a second."""
    focus, blur = (per_picture(value, image, name) for value, name in ((focus, "focus"), (blur, "blur")))
    check(image, disparity, blur)
    out = torch.empty_like(image)
    for row in range(len(image)):
        defocus = disparity[row].to(focus) - focus[row]
        signed = disc_radius(blur[row], defocus, min(defocus.shape)).copysign_(defocus)
        on_share = None if on_part is None else _part_of(on_part, row, len(image))
        out[row] = render_defocus(image[row], signed, on_part=on_share, **lens)
    return out


def render_defocus(
    picture: Tensor,
    signed: Tensor,
    *,
    gamma: float = DISPLAY_GAMMA,
    blades: int = 0,
    rotation: float = 0.0,
    aperture: Tensor | None = None,
    cats_eye: float = 0.0,
    highlight: float = 0.0,
    behind: bool = False,
    on_part: Callable[[int, int], None] | None = None,
) -> Tensor:
    """A picture with discs of known radii.

    Time and memory grow with the number of pixels, hardly with the radii. Runs in float32 on the picture's device.

    Args:
        picture: [H, W, 3] sRGB in 0..1, everything sharp.
        signed: radius in px of each pixel's disc, [H, W], above 0 before the plane of focus.
        gamma, blades, rotation, cats_eye, highlight, on_part: as for `exact.render_exactly`.
        behind: fill in what near things hide, and take their mixed edge pixels out of what lies behind them.
        aperture: a drawn one (`discs.drawn_aperture`) in place of blades and rotation. What lies behind the plane of
            focus shows it upright.

    Returns:
        [H, W, 3] like ``picture``. A pixel that gets no light but its own is equal to it bit for bit.

    Raises:
        ValueError: for NaN or infinite values, a disc wider than the picture, and settings outside their range.
    """
    check_lens(gamma, blades, rotation, cats_eye, highlight)
    check_finite(picture, "pictures")
    check_finite(signed, "radii")
    height, width = signed.shape
    lowest, highest = (extreme.item() for extreme in signed.aminmax())
    largest = max(-lowest, highest)
    check_radius(largest, height, width)
    out = picture.clone()
    levels = Levels(lowest, highest)
    if len(levels) > 1:
        side = TILE if largest < LARGE_RADIUS else LARGE_TILE
        if cats_eye:
            side = min(side, max(SMALL_TILE, 2 ** round(math.log2(max(height, width) / 8))))
        shape = Aperture(blades, rotation) if aperture is None else aperture.to(picture.device)
        work = _Work(levels, Discs(shape, cats_eye, (height, width), side, picture.device), side, on_part)
        work.tell(0)
        scene = Scene(to_light(picture[None], gamma, highlight)[:, 0], signed, *placed(signed, levels))
        work.tell(0)
        more, hidden, start = None, None, 0.0
        if behind:
            start = HIDDEN
            scene, more, hidden = work.hidden(scene, start)
        tiles = work.tiles(height, width)
        for index, (top, left) in enumerate(tiles):
            share = [start + (1 - start) * part / len(tiles) for part in (index, index + 1)]
            light, untouched = work.tile(scene, (top, left), share, more, hidden)
            here = slice(top, top + side), slice(left, left + side)
            new = to_picture(light, gamma).movedim(0, -1)
            out[here] = torch.where(untouched[..., None], out[here], new.to(out.dtype))
    if on_part is not None:
        on_part(1, 1)
    return out


class _Work:
    """Tiles of one picture, with what is told of them."""

    def __init__(self, levels: Levels, discs: Discs, side: int, on_part: Callable[[int, int], None] | None) -> None:
        self.levels, self.discs, self.side, self.on_part = levels, discs, side, on_part

    def tiles(self, height: int, width: int) -> list[tuple[int, int]]:
        """Top and left of each."""
        return [(top, left) for top in range(0, height, self.side) for left in range(0, width, self.side)]

    def tile(
        self,
        scene: Scene,
        place: tuple[int, int],
        share: tuple[float, float],
        more: Scene | None = None,
        hidden: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Light [3, h, w] of a tile, and where [h, w] it is only its own. ``share``: of the work, before and after."""
        height, width = scene.signed.shape
        here = slice(0, min(self.side, height - place[0])), slice(0, min(self.side, width - place[1]))

        def on_level(done: int, levels: int) -> None:
            self.tell(share[0] + (share[1] - share[0]) * done / levels)

        sums = tile_sums(scene, more, self.levels, self.discs, *place, self.side, on_level)
        if hidden is not None:
            hidden = window_of(hidden, *place, self.side)
        light, untouched = laid_over(sums, window_of(scene.signed, *place, self.side), hidden)
        return light[(..., *here)], untouched[here]

    def hidden(self, scene: Scene, until: float) -> tuple[Scene, Scene, Tensor]:
        """The scene without outlines of near things, these outlines, and what shows past the edges of things: light,
        and whether it is known, [4, H, W]."""
        hidden = torch.zeros_like(scene.light[:1]).repeat(4, 1, 1)
        values = torch.cat([scene.light, scene.signed[None]])
        # Maps of a large picture are not kept twice.
        scene = scene._replace(light=values[:3], signed=values[3])
        outlines = Outlines.none(scene.light)
        tiles = self.tiles(*scene.signed.shape)
        for number, layer in enumerate(layers_behind(values, outlines)):
            behind = Scene(layer.light, layer.signed, *placed(layer.signed, self.levels))
            for index, (top, left) in enumerate(tiles):
                here = slice(top, top + self.side), slice(left, left + self.side)
                before = layer.before[here]
                # How many layers there are shows only at the end: each takes half of what is left.
                done = until * (1 - 0.5 ** (number + index / len(tiles)))
                if before.any():
                    light, _ = self.tile(behind, (top, left), (done, done))
                    hidden[(slice(3), *here)] = torch.where(before, light, hidden[(slice(3), *here)])
                    hidden[(3, *here)] = torch.where(before, 1, hidden[(3, *here)])
                self.tell(done)
        more = Scene(outlines.light, outlines.signed, *placed(outlines.signed, self.levels))
        return scene._replace(light=outlines.without), more, hidden

    def tell(self, share: float) -> None:
        if self.on_part is not None:
            self.on_part(round(share * PARTS), PARTS)


def _part_of(on_part: Callable[[int, int], None], index: int, count: int) -> Callable[[int, int], None]:
    return lambda done, parts: on_part(index * parts + done, count * parts)
