"""From the depth pictures of depth nodes to the disparities that the renderer takes, and the focus in them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

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
# How every sentence about a map that came alone begins.
SUBJECT = "The depth map"


def disparity_of(
    depth: Tensor, near_is_bright: bool, count: int, size: tuple[int, int], span: str = SHARED
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

    Returns:
        [count, H, W] in 0..1, and sentences that the user should read.

    Raises:
        ValueError: for another number of maps, NaN or infinite values, a coloured map, or one without any depth.
    """
    maps = _checked(depth, count)
    for row, values in enumerate(maps):
        if span == EACH and values.min() == values.max():
            raise ValueError(
                f"{_name(row, len(maps))} has the same value, {values[0, 0]:.3g}, everywhere: there is no depth to "
                "render a blur from. Check that it comes from a depth node and belongs to this picture."
            )
    if span == AS_IS:
        low, high = (extreme.item() for extreme in maps.aminmax())
        if low < -ROUNDING or high > 1 + ROUNDING:
            raise ValueError(
                f"The depth map goes from {low:.3g} to {high:.3g}, expected 0 to 1 to be taken as it is. Choose "
                "another range, or a unit."
            )
        low, high = 0.0, 1.0
    else:
        ends = torch.stack([_ends(part) for part in (maps.split(1) if span == EACH else (maps,))])
        low, high = ends[:, 0, None, None], ends[:, 1, None, None]
        if ((high - low) <= FLAT * torch.maximum(low.abs(), high.abs())).any():
            raise ValueError(
                f"{SUBJECT} has the same value, {maps[0, 0, 0]:.3g}, everywhere: there is no depth to render a "
                "blur from. Check that it comes from a depth node and belongs to this picture."
            )
    disparity = ((maps - low) / (high - low)).clamp_(0, 1)
    if not near_is_bright:
        disparity = 1 - disparity
    disparity, notes = _resized(disparity, size, "depth map", "bilinear")
    return disparity.clamp(0, 1).expand(count, *size), notes


def metric_disparity_of(
    depth: Tensor, is_distance: bool, count: int, size: tuple[int, int]
) -> tuple[Tensor, list[str]]:
    """Disparities in 1/m from a picture of distances in metres, where infinity is the sky, or of 1/m.

    Returns:
        [count, H, W] in 1/m, and sentences that the user should read.

    Raises:
        ValueError: for another number of maps, NaN, distances not above 0, 1/m below 0, or a coloured map.
    """
    if is_distance:
        wrong = (~(depth > 0)).sum().item()  # also counts NaN
        if wrong:
            raise ValueError(
                f"{SUBJECT} has {wrong} of {depth.numel()} values that are not distances above 0. Give the distances "
                "as they are, not a picture of them, or choose what the map shows."
            )
        depth = 1 / depth.float()
    maps = _checked(depth, count)
    if maps.min() < 0:
        raise ValueError(
            f"The depth map goes down to {maps.min():.3g}, expected 0 (infinity) and more in 1/m. Choose what it shows."
        )
    disparity, notes = _resized(maps, size, "depth map", "bilinear")
    return disparity.clamp(min=0).expand(count, *size), notes


def _checked(depth: Tensor, count: int) -> Tensor:
    """The grey values [1 or count, h, w] of a depth picture."""
    if depth.ndim != 4:
        raise ValueError(f"The depth has the shape {list(depth.shape)}, expected [B, H, W, C]. Connect an IMAGE.")
    if len(depth) not in (1, count):
        raise ValueError(
            f"There are {len(depth)} depth maps for {_pictures(count)}. Give one map for each picture, or one for all."
        )
    return grey_of(depth)


def grey_of(pictures: Tensor) -> Tensor:
    """The values [B, h, w] of grey pictures [B, h, w, C], C one channel or equal ones.

    Raises:
        ValueError: for NaN or infinite values, or colours; begins with SUBJECT when there is one picture.
    """
    channels = pictures[..., :3].float()
    for row, colours in enumerate(channels):
        name = _name(row, len(channels))
        wrong = (~colours.isfinite()).any(-1).sum().item()
        if wrong:
            raise ValueError(
                f"{name} has NaN or infinite values in {wrong} of its {colours[..., 0].numel()} pixels. Make it again, "
                "in full precision if need be."
            )
        if (colours.amax(-1) - colours.amin(-1)).max() > GREY_TOLERANCE * max(1.0, colours.abs().max().item()):
            raise ValueError(f"{name} is coloured. Set its node to grey output, without a colour scale.")
    return channels.mean(-1)


def _name(row: int, count: int) -> str:
    return SUBJECT if count == 1 else f"Depth map {row + 1} of {count}"


def _ends(maps: Tensor) -> Tensor:
    """Lowest and highest value [2], without outliers if there are."""
    values = maps.flatten()
    values = values[:: max(1, len(values) // SAMPLES)].sort().values
    left_out = round(OUTLIERS * (len(values) - 1))
    inner, ends = values[[left_out, -1 - left_out]], torch.stack(maps.aminmax())
    share = (inner[1] - inner[0]) / (ends[1] - ends[0])
    return inner if 0 < share < 1 - OUTLYING else ends


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


def focus_in(disparity: Tensor, mask: Tensor) -> tuple[Tensor, list[str]]:
    """Disparity [B] of what a mask shows: the median (the lower of two) where it is above 0.5.

    Args:
        disparity: [B, H, W].
        mask: [h, w] or [1 or B, h, w]; resized to the pictures if need be.

    Returns:
        The focus, and sentences that the user should read.

    Raises:
        ValueError: for another number of masks, or one without any pixel above 0.5.
    """
    masks = mask[None] if mask.ndim == 2 else mask
    count = len(disparity)
    if len(masks) not in (1, count):
        raise ValueError(
            f"There are {len(masks)} masks for {_pictures(count)}. Give one mask for each picture, or one for all."
        )
    masks, notes = _resized(masks.to(disparity), disparity.shape[1:], "mask", "nearest-exact")
    focus = []
    for row, area in enumerate((masks > 0.5).expand(count, -1, -1)):
        if not area.any():
            name = "The focus mask" if len(masks) == 1 else f"Focus mask {row + 1} of {count}"
            raise ValueError(f"{name} is empty: no pixel is above 0.5. Paint what is to be sharp, or disconnect it.")
        focus.append(disparity[row][area].median())
    return torch.stack(focus), notes


def _resized(maps: Tensor, size: tuple[int, int], name: str, mode: str) -> tuple[Tensor, list[str]]:
    height, width = size
    came_height, came_width = maps.shape[1:]
    if (came_height, came_width) == (height, width):
        return maps, []
    smooth = mode == "bilinear"
    resized = F.interpolate(maps[:, None], size=(height, width), mode=mode, antialias=smooth)[:, 0]
    note = f"The {name} of {came_width} x {came_height} was resized to the picture's {width} x {height}."
    # A depth node may round its sides to a multiple of its patches.
    if abs(came_width * height / (came_height * width) - 1) > 0.05:
        note += f" Its shape is another: check that the {name} belongs to this picture."
    return resized, [note]


def _pictures(count: int) -> str:
    return "1 picture" if count == 1 else f"{count} pictures"
