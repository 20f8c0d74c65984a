"""Defocus of a picture by its depth map, at any size: the equations of `exact` by levels of signed radius (`tiles`),
and layers of what near things hide (`behind`)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .behind import Farther, Layer, layers_behind
from .check import check, check_finite, check_lens, check_radius, per_picture
from .defocus import DISPLAY_GAMMA, Aperture, disc_radius
from .discs import Discs
from .edges import parted
from .levels import Levels
from .light import light_by_strips, to_picture
from .tiles import Scene, Sums, laid_over, placed, tile_sums

# Side of a tile in px, and the radius from which tiles are larger, because what reaches into them has to be read too.
TILE, LARGE_TILE, LARGE_RADIUS = 256, 512, 48.0
# With cat's eye a tile is an eighth of the picture, but not below this.
SMALL_TILE = 64
# Parts that work is told in.
PARTS = 1000
# Share of the work that is told as done before the first tile, and the steps after which half of it is.
PREPARED, HALF_PREPARED = 0.1, 20
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
        work.prepared()
        light = light_by_strips(picture, gamma, highlight, work.prepared)
        more, layers = None, []
        if behind:
            parts = parted(light, signed, work.prepared)
            light, coverage, at = parts
            more = Scene(coverage, at, *placed(at, levels, work.prepared))
            layers = list(layers_behind(parts, signed, levels, work.prepared))
        scene = Scene(light, signed, *placed(signed, levels, work.prepared))
        tiles = [(top, left) for top in range(0, height, side) for left in range(0, width, side)]
        for index, (top, left) in enumerate(tiles):
            light, untouched = work.tile(scene, more, layers, (top, left), index / len(tiles), 1 / len(tiles))
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
        self.steps = 0

    def tile(
        self,
        scene: Scene,
        more: Scene | None,
        layers: list[Layer],
        place: tuple[int, int],
        done: float,
        share: float,
    ) -> tuple[Tensor, Tensor]:
        """Light [3, h, w] of a tile, and where [h, w] it is only its own.

        ``done`` and ``share``: how much of all tiles was done before, and this one is.
        """
        hidden = None
        for layer in layers:
            before = layer.before(*place, self.side)
            self.tell(done)
            if before.any():
                sums = self._sums(layer, Farther(more, layer.beyond), place, done, 0.0, before > 0)
                light, _ = laid_over(sums)
                light = torch.cat([light * before, before[None]])
                hidden = light if hidden is None else hidden.add_(light)
        sums = self._sums(scene, more, place, done, share)
        light, untouched = laid_over(sums, hidden)
        height, width = scene.shape
        here = slice(0, height - place[0]), slice(0, width - place[1])
        return light[(..., *here)], untouched[here]

    def _sums(
        self,
        scene: Scene | Layer,
        more: Scene | Farther | None,
        place: tuple[int, int],
        done: float,
        share: float,
        asked: Tensor | None = None,
    ) -> Sums:
        def on_level(level: int, levels: int) -> None:
            self.tell(done + share * level / levels)

        return tile_sums(scene, more, self.levels, self.discs, *place, self.side, asked, on_level)

    def prepared(self) -> None:
        """Tell of a step before the first tile. How many there are shows only at the end."""
        self._tell(PREPARED * self.steps / (self.steps + HALF_PREPARED))
        self.steps += 1

    def tell(self, share: float) -> None:
        """Of how much of all tiles is done."""
        self._tell(PREPARED + (1 - PREPARED) * share)

    def _tell(self, share: float) -> None:
        if self.on_part is not None:
            self.on_part(round(share * PARTS), PARTS)


def _part_of(on_part: Callable[[int, int], None], index: int, count: int) -> Callable[[int, int], None]:
    return lambda done, parts: on_part(index * parts + done, count * parts)
