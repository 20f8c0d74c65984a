"""Defocus of a picture by its depth map, at any size: the equations of `exact` by levels of signed radius (`tiles`),
and layers of what near things hide (`behind`)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .behind import light_behind
from .check import check, check_finite, check_lens, check_radius, per_picture
from .defocus import DISPLAY_GAMMA, Aperture, disc_radius
from .edges import parted
from .light import light_by_strips, to_picture
from .sent import Scene, window_of
from .tiles import Lens, Tiles, laid_over, placed

# Parts that work is told in.
PARTS = 1000
# Share of the work that is told as done before the first tile, and the steps after which half of it is.
PREPARED, HALF_PREPARED = 0.1, 20
# And, of the rest, what lies behind near things.
BEHIND = 0.5
# What a picture's maps take at most, and a tile beside them.
BYTES_PER_PIXEL, TILE_BYTES = 120, 500 * 2**20


def bytes_for(height: int, width: int) -> int:
    """The memory that a picture of this size in px takes at most, in bytes."""
    return BYTES_PER_PIXEL * height * width + TILE_BYTES


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
    lowest, highest = (extreme.item() for extreme in signed.aminmax())
    check_radius(max(-lowest, highest), *signed.shape)
    out = picture.clone()
    if lowest < 0 or highest > 0:
        lens = Lens(Aperture(blades, rotation) if aperture is None else aperture.to(picture.device), cats_eye)
        told = _Told(on_part)
        told.prepared()
        light = light_by_strips(picture, gamma, highlight, told.prepared)
        tiles = Tiles(lens, signed)
        more = hidden = None
        start = 0.0
        if not behind:
            light = torch.cat([light, torch.ones_like(light[:1])])
        else:
            parts = parted(light, signed, told.prepared)
            hidden = light_behind(parts, signed, lens, lambda done: told.share(BEHIND * done))
            light, coverage, at = parts
            more = Scene(coverage, at, *placed(at, tiles.levels, told.again))
            start = BEHIND
        scene = Scene(light, signed, *placed(signed, tiles.levels, told.again))
        places = tiles.places()
        for index, place in enumerate(places):

            def tell(done: float, index: int = index) -> None:
                told.share(start + (1 - start) * (index + done) / len(places))

            sums = tiles.sums(scene, more, place, tell, steps=behind)
            light, untouched = laid_over(sums, None if hidden is None else window_of(hidden, *place, tiles.side))
            here = tiles.of(out.movedim(-1, 0), place)
            new = to_picture(light, gamma)[:, : here.shape[1], : here.shape[2]]
            here.copy_(torch.where(untouched[: here.shape[1], : here.shape[2]], here, new))
    if on_part is not None:
        on_part(1, 1)
    return out


class _Told:
    """What is told of the work on one picture."""

    def __init__(self, on_part: Callable[[int, int], None] | None) -> None:
        self.on_part, self.steps, self.done = on_part, 0, 0.0

    def prepared(self) -> None:
        """Tell of a step before the first tile. How many there are shows only at the end."""
        self._tell(PREPARED * self.steps / (self.steps + HALF_PREPARED))
        self.steps += 1

    def share(self, done: float) -> None:
        """Tell of how much of all layers and tiles is done."""
        self._tell(PREPARED + (1 - PREPARED) * done)

    def again(self) -> None:
        """Tell of a step between them."""
        self._tell(self.done)

    def _tell(self, done: float) -> None:
        self.done = done
        if self.on_part is not None:
            self.on_part(round(done * PARTS), PARTS)


def _part_of(on_part: Callable[[int, int], None], index: int, count: int) -> Callable[[int, int], None]:
    return lambda done, parts: on_part(index * parts + done, count * parts)
