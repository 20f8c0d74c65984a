"""Colour transfer between the pictures of a sweep."""

from __future__ import annotations

import torch
from kornia.color import lab_to_rgb, rgb_to_lab
from torch import Tensor

# Spread (in CIELAB units) under which a channel counts as flat; a just visible difference is about 1.
FLAT = 1e-3


def match_colors(images: Tensor, reference: int, match_contrast: bool = False) -> Tensor:
    """Give every picture the mean colour of one of them, in CIELAB (D65).

    Each channel c of picture i becomes ``c_i - mean(c_i) + mean(c_reference)``; with ``match_contrast`` the
    spread follows too, ``(c_i - mean(c_i)) * std(c_reference) / std(c_i) + mean(c_reference)``, except in
    a channel that is flat. All in float32; values outside sRGB are clipped once, at the end.
    Source: the colour transfer of Bokeh Diffusion (arXiv 2503.08434), after Reinhard et al. 2001.

    Args:
        images: [B, H, W, 3] sRGB in 0..1, or [B, H, W, 4], whose fourth channel is kept as it is.
        reference: row of the picture that gives the colours; it comes out bit for bit as it went in.
        match_contrast: match the standard deviation of every channel as well as its mean.

    Returns:
        Tensor like ``images``.

    Raises:
        ValueError: for another shape, a row that does not exist, or a picture with NaN or infinite values.
    """
    if images.ndim != 4 or images.shape[-1] not in (3, 4):
        raise ValueError(
            f"Colours can be matched in a batch of RGB pictures [B, H, W, 3 or 4]; what came has the shape "
            f"{list(images.shape)}. Connect an IMAGE output."
        )
    count = len(images)
    if not 0 <= reference < count:
        raise ValueError(
            f"Row {reference} is to give the colours, but there are {count} pictures (rows 0 to {count - 1}). "
            f"Connect the pictures and the sweep of the same run."
        )
    for row, image in enumerate(images):
        if not image.isfinite().all():
            raise ValueError(
                f"Picture {row + 1} of {count} has NaN or infinite values, so its colours cannot be matched. "
                f"Such a picture is usually black: decode it again in full precision (--fp32-vae)."
            )

    wanted_std, wanted_mean = _statistics(_to_lab(images[reference]))
    matched = images.clone()
    # One picture at a time: CIELAB of a whole sweep would take several times the memory of the sweep.
    for row in range(count):
        if row == reference:
            continue
        lab = _to_lab(images[row])
        std, mean = _statistics(lab)
        gain = torch.where(std > FLAT, wanted_std / std, 1.0) if match_contrast else 1.0
        rgb = lab_to_rgb((lab - mean) * gain + wanted_mean, clip=False).clamp(0, 1)
        matched[row, ..., :3] = rgb.movedim(0, -1)
    return matched


def _to_lab(image: Tensor) -> Tensor:
    return rgb_to_lab(image[..., :3].float().movedim(-1, 0))


def _statistics(lab: Tensor) -> tuple[Tensor, Tensor]:
    return torch.std_mean(lab, dim=(1, 2), correction=0, keepdim=True)
