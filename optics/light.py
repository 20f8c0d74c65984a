"""Between a picture and the light that a lens spreads: display gamma, and lamps that the picture cuts off at white."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

# Values of the picture's largest channel from which a pixel counts as cut off at white: not at all, and wholly.
CLIPPED = 0.95, 0.99
# Rims of lamps are looked for as far as this part of the short side.
RIM = 1 / 48
# Rows of a picture that are taken at once.
STRIP = 256


def to_light(image: Tensor, gamma: float, highlight: float, reach: float | None = None) -> Tensor:
    """Linear light [3, B, H, W] of pictures [B, H, W, 3] in 0..1, light = value ** gamma.

    A pixel that the picture cuts off at white is taken to have been 1 + ``highlight`` times as bright, and to have the
    colour of the brightest pixels round it, within ``reach`` px, that are not cut off: a lamp is white in its middle
    only because the sensor could not tell more. Everything darker stays as it is.
    """
    light = image.float().clamp(0, 1).movedim(-1, 0).contiguous()
    if highlight <= 0:
        return light.pow_(gamma)
    value = light.amax(0)
    clipped = ((value - CLIPPED[0]) / (CLIPPED[1] - CLIPPED[0])).clamp_(0, 1)
    light.pow_(gamma)
    if not clipped.any():
        return light
    # Bright pixels tell the colour of a rim, dark ones that of what is beside it.
    weight = (1 - clipped) * value.pow(4 * gamma).mul_(value > 0.5)
    hue = light / light.amax(0, keepdim=True).clamp(min=1e-6)
    reach = reach or _reach(*value.shape[-2:])
    rim, known = fill(hue.movedim(0, 1), weight[:, None], reach)
    rim = rim / rim.amax(1, keepdim=True).clamp(min=1e-6)
    lamp = torch.lerp(hue, rim.movedim(1, 0), known.movedim(1, 0).clamp(max=1)) * light.amax(0, keepdim=True)
    return torch.lerp(light, (1 + highlight) * lamp, clipped)


def light_by_strips(picture: Tensor, gamma: float, highlight: float, tell: Callable[[], None]) -> Tensor:
    """`to_light` of one picture [H, W, 3], the same [3, H, W], with ``tell`` called between strips of it."""
    height, width = picture.shape[:2]
    out = picture.new_empty(3, height, width, dtype=torch.float32)
    # Strips begin on cells of the coarsest size, and what reaches into them is read too.
    reach = _reach(height, width)
    cell = 2 ** math.ceil(math.log2(reach))
    rows = math.ceil(STRIP / cell) * cell
    around = 3 * cell if highlight > 0 else 0
    for top in range(0, height, rows):
        first = max(0, top - around)
        strip = picture[first : top + rows + around]
        out[:, top : top + rows] = to_light(strip[None], gamma, highlight, reach)[:, 0, top - first :][:, :rows]
        tell()
    return out


def _reach(height: int, width: int) -> float:
    return max(2.0, min(height, width) * RIM)


def to_picture(light: Tensor, gamma: float) -> Tensor:
    """Values of a picture of linear light, cut off at 0 and 1."""
    return light.clamp(0, 1).pow_(1 / gamma)


def fill(values: Tensor, weight: Tensor, reach: float) -> tuple[Tensor, Tensor]:
    """Values where there are none, from those round them: averages over ever larger cells, the finest that knows.

    Pull and push over a pyramid, after Gortler et al., The Lumigraph (SIGGRAPH 1996), section 3.3.

    Args:
        values: [B, C, H, W].
        weight: [B, 1, H, W], 0 where a value does not count; 1 and more is full confidence.
        reach: how far in px from a value that counts.

    Returns:
        Filled values [B, C, H, W], and their confidence [B, 1, H, W] in 0..1.
    """
    height, width = values.shape[-2:]
    # Sums may be as large as the weights: only ratios are used below.
    if reach < 1 or min(height, width) < 2:
        known = weight.clamp(max=1)
        return values, known
    odd = (0, width % 2, 0, height % 2)
    # Zero weight outside the picture: averages over fewer pixels there.
    light = F.avg_pool2d(F.pad(values * weight, odd), 2) * 4
    sums = F.avg_pool2d(F.pad(weight, odd), 2) * 4
    coarse, known = fill(light / sums.clamp(min=1e-12), sums, reach / 2)
    size = (height + height % 2, width + width % 2)
    coarse = F.interpolate(coarse * known, size, mode="bilinear")[..., :height, :width]
    known = F.interpolate(known, size, mode="bilinear")[..., :height, :width]
    coarse /= known.clamp(min=1e-12)
    own = weight.clamp(max=1)
    return torch.lerp(coarse, values, own), torch.maximum(own, known)
