"""From the depth pictures of depth nodes to the disparities that the renderer takes, and the focus in them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# How far the channels of a grey picture may differ: a JPEG's are off by a few 255ths, a colour scale by far more.
GREY_TOLERANCE = 8 / 255


def disparity_of(depth: Tensor, near_is_bright: bool, count: int, size: tuple[int, int]) -> tuple[Tensor, list[str]]:
    """Disparities from a depth picture, each map brought to its own full range.

    Args:
        depth: [1 or count, h, w, C], one channel or equal ones; proportional to the inverse of the distance, up to
            an offset, as Depth Anything, MiDaS and most others give it.
        near_is_bright: brighter is nearer; False: brighter is farther.
        count: how many pictures it is for.
        size: their height and width; a map of another size is resized (bilinear, with antialiasing).

    Returns:
        [count, H, W] in 0..1, 0 = farthest and 1 = nearest, and sentences that the user should read.

    Raises:
        ValueError: for another number of maps, NaN or infinite values, a coloured map, or one without any depth.
    """
    if depth.ndim != 4:
        raise ValueError(f"The depth has the shape {list(depth.shape)}, expected [B, H, W, C]. Connect an IMAGE.")
    if len(depth) not in (1, count):
        raise ValueError(
            f"There are {len(depth)} depth maps for {_pictures(count)}. Give one map for each picture, or one for all."
        )
    channels = depth[..., :3].float()
    maps = channels.mean(-1)
    for row, (colours, values) in enumerate(zip(channels, maps, strict=True)):
        name = "The depth map" if len(depth) == 1 else f"Depth map {row + 1} of {len(depth)}"
        wrong = (~colours.isfinite()).any(-1).sum().item()
        if wrong:
            raise ValueError(
                f"{name} has NaN or infinite values in {wrong} of its {values.numel()} pixels. Make it again, in full "
                "precision if need be."
            )
        if (colours.amax(-1) - colours.amin(-1)).max() > GREY_TOLERANCE * max(1.0, colours.abs().max().item()):
            raise ValueError(f"{name} is coloured. Set its node to grey output, without a colour scale.")
        if values.min() == values.max():
            raise ValueError(
                f"{name} has the same value, {values[0, 0]:.3g}, everywhere: there is no depth to render a blur from. "
                "Check that it comes from a depth node and belongs to this picture."
            )
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    disparity = (maps - low) / (high - low)
    if not near_is_bright:
        disparity = 1 - disparity
    disparity, notes = _resized(disparity, size, "depth map", "bilinear")
    return disparity.expand(count, *size), notes


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
    return (resized.clamp(0, 1) if smooth else resized), [note]


def _pictures(count: int) -> str:
    return "1 picture" if count == 1 else f"{count} pictures"
