"""From the depth pictures of depth nodes to the disparities that the renderer takes, and the focus in them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .repair import enlarged, repaired

# How far the channels of a grey picture may differ: a JPEG's are off by a few 255ths, a colour scale by far more.
GREY_TOLERANCE = 8 / 255
# Which values of relative maps become 0 and 1.
SHARED, EACH, AS_IS = "shared by the batch", "each picture its own", "as it is, 0 to 1"
# The outermost pixels of a map, this share of all at either end, do not count for its ends where they alone make up
# this share of its range; and how many are looked at.
OUTLIERS, OUTLYING, SAMPLES = 0.001, 0.1, 2**20
# A step of a picture of 8 bits.
ROUNDING = 1 / 255
# A map whose range is this small a part of its values shows rounding, no depth.
FLAT = 1e-6
# From how many times its sides on a map is much smaller than the picture.
SMALL = 1.5
# How every sentence about a map that came alone begins.
SUBJECT = "The depth map"


def disparity_of(
    depth: Tensor,
    near_is_bright: bool,
    count: int,
    size: tuple[int, int],
    span: str = SHARED,
    on_map: Callable[[], None] | None = None,
    pictures: Tensor | None = None,
    on_band: Callable[[], None] | None = None,
) -> tuple[Tensor, list[str]]:
    """Disparities from a grey depth picture, relative: 0 = farthest and 1 = nearest.

    Args:
        depth: [1 or count, h, w, C], one channel or equal ones; proportional to the inverse of the distance, up to
            an offset, as Depth Anything, MiDaS and most others give it.
        near_is_bright: brighter is nearer; False: brighter is farther.
        count: how many pictures it is for.
        size: their height and width; a map of another size is resized (bilinear, with antialiasing).
        span: which values become 0 and 1: the ends of all maps together, so that a clip's range stays the same; of
            each map; or 0 and 1 themselves. A few wrong pixels far beyond all others do not count, so that they do
            not squeeze the rest.
        on_map: called twice for each map.
        pictures: [count, H, W, 3 or more]; with them the maps are repaired (see `repair`), and ones that are much
            smaller take their edges from them.
        on_band: called several times a second.

    Returns:
        [count, H, W] in 0..1, and sentences that the user should read.

    Raises:
        ValueError: for another number of maps, NaN or infinite values, a coloured map, or one without any depth.
    """
    maps = _Maps(depth, count, on_map, on_band)
    ends = maps.ends(span == EACH)
    for row, (low, high) in enumerate(ends.tolist()):
        if span != AS_IS and high - low <= FLAT * max(abs(low), abs(high)):
            raise ValueError(
                f"{_name(row, len(ends))} has the same value, {low:.3g}, everywhere: there is no depth to render a "
                "blur from. Check that it comes from a depth node and belongs to this picture."
            )
    if span == AS_IS:
        low, high = maps.low, maps.high
        if low < -ROUNDING or high > 1 + ROUNDING:
            raise ValueError(
                f"The depth map goes from {low:.3g} to {high:.3g}, expected 0 to 1 to be taken as it is. Choose "
                "another range, or a unit."
            )
        ends = ends.new_tensor([[0.0, 1.0]])

    def disparity(row: int) -> Tensor:
        low, high = ends[row if len(ends) > 1 else 0]
        values = ((maps[row] - low) / (high - low)).clamp_(0, 1)
        return values if near_is_bright else 1 - values

    made, notes = maps.resized(disparity, size, pictures, on_band)
    return made.clamp_(0, 1).expand(count, *size), notes


def metric_disparity_of(
    depth: Tensor,
    is_distance: bool,
    count: int,
    size: tuple[int, int],
    on_map: Callable[[], None] | None = None,
    pictures: Tensor | None = None,
    on_band: Callable[[], None] | None = None,
) -> tuple[Tensor, list[str]]:
    """Disparities in 1/m from a picture of distances in metres, where infinity is the sky, or of 1/m.
    ``on_map``, ``pictures`` and ``on_band`` as in ``disparity_of``.

    Returns:
        [count, H, W] in 1/m, and sentences that the user should read.

    Raises:
        ValueError: for another number of maps, NaN, distances not above 0, 1/m below 0, or a coloured map.
    """
    if is_distance:
        wrong = 0
        for values in depth:
            if on_band is not None:
                on_band()
            wrong += (~(values > 0)).sum().item()  # also counts NaN
        if wrong:
            raise ValueError(
                f"{SUBJECT} has {wrong} of {depth.numel()} values that are not distances above 0. Give the distances "
                "as they are, not a picture of them, or choose what the map shows."
            )
    maps = _Maps(depth, count, on_map, on_band, inverse=is_distance)
    if maps.low < 0:
        raise ValueError(
            f"The depth map goes down to {maps.low:.3g}, expected 0 (infinity) and more in 1/m. Choose what it shows."
        )
    made, notes = maps.resized(maps.__getitem__, size, pictures, on_band)
    return made.clamp_(min=0).expand(count, *size), notes


class _Maps:
    """The grey values [h, w] of each map of a depth picture, or their inverse; no more than one at a time, because a
    clip has many. ``on_map`` is called for each map when all are gone through for their extremes and for the result,
    ``on_band`` whenever one is taken.

    Attributes:
        extremes: the lowest and the highest value of each, [n, 2]; ``low`` and ``high`` those of all.
    """

    def __init__(
        self,
        depth: Tensor,
        count: int,
        on_map: Callable[[], None] | None,
        on_band: Callable[[], None] | None,
        inverse: bool = False,
    ) -> None:
        if depth.ndim != 4:
            raise ValueError(f"The depth has the shape {list(depth.shape)}, expected [B, H, W, C]. Connect an IMAGE.")
        if len(depth) not in (1, count):
            raise ValueError(
                f"There are {len(depth)} depth maps for {_pictures(count)}. Give one map for each picture, or one for "
                "all."
            )
        self.depth, self.inverse = depth, inverse
        self.on_map, self.on_band = on_map or (lambda: None), on_band or (lambda: None)
        extremes = []
        for row in range(len(depth)):
            _check(self._colours(row), _name(row, len(depth)))
            extremes.append(torch.stack(self[row].aminmax()))
            self.on_map()
        self.extremes = torch.stack(extremes)
        self.low, self.high = self.extremes[:, 0].min().item(), self.extremes[:, 1].max().item()

    def __len__(self) -> int:
        return len(self.depth)

    def __getitem__(self, row: int) -> Tensor:
        self.on_band()
        return self._colours(row).mean(-1)

    def _colours(self, row: int) -> Tensor:
        colours = self.depth[row, ..., :3].float()
        return 1 / colours if self.inverse else colours

    def ends(self, each: bool) -> Tensor:
        """Lowest and highest value of all maps together, [1, 2], or of each, [n, 2]."""
        rows = range(len(self))
        return torch.stack([self._ends([row]) for row in rows] if each else [self._ends(rows)])

    def _ends(self, rows: Sequence[int]) -> Tensor:
        """Those of some maps [2], without outliers if there are."""
        step = max(1, self[0].numel() * len(rows) // SAMPLES)
        values = torch.cat([self[row].flatten()[::step] for row in rows]).sort().values
        left_out = round(OUTLIERS * (len(values) - 1))
        inner, extremes = values[[left_out, -1 - left_out]], self.extremes[list(rows)]
        ends = torch.stack([extremes[:, 0].min(), extremes[:, 1].max()])
        share = (inner[1] - inner[0]) / (ends[1] - ends[0])
        return inner if 0 < share < 1 - OUTLYING else ends

    def resized(
        self,
        disparity: Callable[[int], Tensor],
        size: tuple[int, int],
        pictures: Tensor | None,
        on_band: Callable[[], None] | None,
    ) -> tuple[Tensor, list[str]]:
        """``disparity(row)`` of every map in a size, [n, H, W], and sentences for the user."""
        made, notes = self.depth.new_empty(len(self), *size, dtype=torch.float32), []
        is_small = all(SMALL * came < side for came, side in zip(self.depth.shape[1:3], size, strict=True))
        for row in range(len(self)):
            values = disparity(row)
            if pictures is not None and is_small:
                made[row] = enlarged(values, pictures[row, ..., :3].to(values.device), on_band)
                notes = [_resizing(values.shape, size, "depth map")]
            else:
                (values,), notes = _resized(values[None], size, "depth map", "bilinear")
                made[row] = values if pictures is None else repaired(values, on_band)
            self.on_map()
        return made, notes


def grey_of(pictures: Tensor) -> Tensor:
    """The values [B, h, w] of grey pictures [B, h, w, C], C one channel or equal ones.

    Raises:
        ValueError: for NaN or infinite values, or colours; begins with SUBJECT when there is one picture.
    """
    channels = pictures[..., :3].float()
    for row, colours in enumerate(channels):
        _check(colours, _name(row, len(channels)))
    return channels.mean(-1)


def _check(colours: Tensor, name: str) -> None:
    wrong = (~colours.isfinite()).any(-1).sum().item()
    if wrong:
        raise ValueError(
            f"{name} has NaN or infinite values in {wrong} of its {colours[..., 0].numel()} pixels. Make it again, in "
            "full precision if need be."
        )
    if (colours.amax(-1) - colours.amin(-1)).max() > GREY_TOLERANCE * max(1.0, colours.abs().max().item()):
        raise ValueError(f"{name} is coloured. Set its node to grey output, without a colour scale.")


def _name(row: int, count: int) -> str:
    return SUBJECT if count == 1 else f"Depth map {row + 1} of {count}"


def focus_at(disparity: Tensor, x: float, y: float) -> Tensor:
    """Disparity [B] at a point of each picture: x from 0 (left edge) to 1 (right), y from 0 (top) to 1 (bottom).

    Raises:
        ValueError: for a point outside the picture.
    """
    if not (0 <= x <= 1 and 0 <= y <= 1):
        raise ValueError(
            f"The focus point ({x:g}, {y:g}) is outside the picture. x goes from 0 (left) to 1 (right), y from 0 (top) "
            "to 1 (bottom)."
        )
    height, width = disparity.shape[1:]
    return disparity[:, min(int(y * height), height - 1), min(int(x * width), width - 1)]


def focus_in(disparity: Tensor, mask: Tensor, on_map: Callable[[], None] | None = None) -> tuple[Tensor, list[str]]:
    """Disparity [B] of what a mask shows: the median (the lower of two) where it is above 0.5.

    Args:
        disparity: [B, H, W].
        mask: [h, w] or [1 or B, h, w], also with a channel as some packs have it; resized to the pictures if need be.
        on_map: called for each picture.

    Returns:
        The focus, and sentences that the user should read.

    Raises:
        ValueError: for another number of masks, or one without any pixel above 0.5.
    """
    masks = mask.reshape(-1, *mask.shape[-2:])
    count = len(disparity)
    if len(masks) not in (1, count):
        raise ValueError(
            f"There are {len(masks)} masks for {_pictures(count)}. Give one mask for each picture, or one for all."
        )
    focus, notes = [], []
    for row in range(count):
        if on_map is not None:
            on_map()
        shown = masks[row if len(masks) > 1 else 0][None].to(disparity)
        (values,), notes = _resized(shown, disparity.shape[1:], "mask", "nearest-exact")
        area = values > 0.5
        if not area.any():
            name = "The focus mask" if len(masks) == 1 else f"Focus mask {row + 1} of {count}"
            raise ValueError(f"{name} is empty: no pixel is above 0.5. Paint what is to be sharp, or disconnect it.")
        focus.append(disparity[row][area].median())
    return torch.stack(focus), notes


def _resized(maps: Tensor, size: tuple[int, int], name: str, mode: str) -> tuple[Tensor, list[str]]:
    if maps.shape[1:] == size:
        return maps, []
    resized = F.interpolate(maps[:, None], size=size, mode=mode, antialias=mode == "bilinear")[:, 0]
    return resized, [_resizing(maps.shape[1:], size, name)]


def _resizing(came: tuple[int, int], size: tuple[int, int], name: str) -> str:
    (came_height, came_width), (height, width) = came, size
    note = f"The {name} of {came_width} x {came_height} was resized to the picture's {width} x {height}."
    # A depth node may round its sides to a multiple of its patches.
    if abs(came_width * height / (came_height * width) - 1) > 0.05:
        note += f" Its shape is another: check that the {name} belongs to this picture."
    return note


def _pictures(count: int) -> str:
    return "1 picture" if count == 1 else f"{count} pictures"
