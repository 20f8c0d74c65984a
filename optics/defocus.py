"""Defocus of layered scenes: discs of light, in linear light, exactly.

A lens images a point at another distance than the focused one as a disc whose radius grows with the
difference of their disparities (inverse distances):

    r = K (d - d_focus) * size / 512        [px]

with the blur K in pixels of a picture of 512 px on its short side, and disparities normalised to [0, 1]
(Bokeh Diffusion, arXiv 2503.08434; BokehMe, arXiv 2206.12614).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from .lens import REFERENCE_SIZE

DISPLAY_GAMMA = 2.2


def disc_radius(blur: Tensor, defocus: Tensor, size: int) -> Tensor:
    """Radius in px of the disc of light of a point.

    Args:
        blur: K, the radius in a picture of 512 px for a disparity difference of 1.
        defocus: disparity minus the focused disparity, positive before the plane of focus.
        size: short side of the picture in px.
    """
    return (blur * defocus).abs() * size / REFERENCE_SIZE


def soft_disc(distance: Tensor | float, radius: Tensor) -> Tensor:
    """Coverage of a pixel at ``distance`` px from the centre of a disc of ``radius`` px: 1 inside, 0 outside, a
    linear edge one pixel wide between. Not normalised; up to a radius of half a pixel only the centre is covered."""
    return (radius + (0.5 - distance)).clamp_(0, 1)


@dataclass(frozen=True)
class Aperture:
    """The shape of a disc of light: round, or a polygon of the same area.

    Attributes:
        blades: straight sides, 5 to 9; 0 = round.
        rotation: of a polygon, degrees; at 0 a corner points to the right.
    """

    blades: int = 0
    rotation: float = 0.0

    def distance(self, y: Tensor, x: Tensor) -> Tensor:
        """Distance from the centre for ``soft_disc``: the radius in px of the aperture with (y, x) on its rim."""
        distance = (y.square() + x.square()).sqrt()
        if not self.blades:
            return distance
        sector = 2 * math.pi / self.blades
        from_side = torch.remainder(torch.atan2(y, x) - math.radians(self.rotation), sector) - sector / 2
        return distance * from_side.cos() / self._apothem

    def reach(self, radius: float) -> int:
        """Whole px on each side of its centre beyond which an aperture of ``radius`` px covers nothing."""
        corner = self._apothem / math.cos(math.pi / self.blades) if self.blades else 1.0
        return math.ceil((radius + 0.5) * corner) - 1

    def offsets(self, radius: float) -> Iterator[tuple[float, list[tuple[int, int]]]]:
        """Whole offsets (y, x) that an aperture of ``radius`` px covers, the centre first, grouped by ``distance``."""
        reach = self.reach(radius)
        side = torch.arange(-reach, reach + 1, dtype=torch.float64)
        distances = self.distance(side[:, None], side)
        covered = (distances < radius + 0.5).nonzero().tolist()
        entries = sorted((distances[i, j].item(), i - reach, j - reach) for i, j in covered)
        for distance, group in groupby(entries, key=lambda entry: entry[0]):
            yield distance, [(y, x) for _, y, x in group]

    @property
    def _apothem(self) -> float:
        """Distance of a side from the centre, for the area of the disc of radius 1."""
        return math.sqrt(math.pi / (self.blades * math.tan(math.pi / self.blades)))


def cut_of(
    radius: Tensor, cats_eye: float, top: Tensor | float, left: Tensor | float, height: int, width: int
) -> Tensor:
    """Half the way (y, x) in px between the centres of the two circles of cat's eye at a place of the picture."""
    y, x = (torch.as_tensor(at, dtype=radius.dtype, device=radius.device) for at in (top, left))
    from_centre = torch.stack(torch.broadcast_tensors(y - (height - 1) / 2, x - (width - 1) / 2))
    corner = max(1.0, (height - 1) ** 2 + (width - 1) ** 2) / 4
    # By the square, because a kink in the middle of the picture would show, and change the light of points there.
    return (cats_eye / 2 / corner) * radius * (from_centre * from_centre.square().sum(0).sqrt())


def cut_distance(cut: Tensor, distance: float, y: Tensor | float, x: Tensor | float) -> Tensor:
    """Distance for ``soft_disc`` of (y, x) in an aperture that two circles, shifted by ``cut`` and -``cut``, limit."""
    along = (cut[0] * y + cut[1] * x).abs()
    return (cut.square().sum(0) + 2 * along + (y**2 + x**2)).sqrt().clamp(min=distance)


def render_layers(colours: Tensor, alphas: Tensor, radii: Tensor, margin: int) -> Tensor:
    """Picture of a scene of flat layers through a lens.

    Back to front, each layer is spread over its disc, light and coverage alike, and laid over what lies
    behind it: out <- out * (1 - D * alpha) + D * (alpha * colour). What a layer hides is known, so nothing is
    invented at its edges.

    Args:
        colours: linear light, [B, N, 3, H + 2 margin, W + 2 margin], the rearmost layer first.
        alphas: coverage 0..1, [B, N, 1, H + 2 margin, W + 2 margin]; the rearmost should be 1 everywhere.
        radii: radius of each layer's disc in px, [B, N].
        margin: how far the layers reach beyond the picture, at least the largest radius + 1.

    Returns:
        Linear light, [B, 3, H, W].

    Raises:
        ValueError: when the margin is too small for the discs.
    """
    if radii.numel() and margin < radii.max() + 1:
        raise ValueError(
            f"The layers reach {margin} px beyond the picture, but a disc has a radius of {radii.max():.1f} px. "
            "Give them a margin of the largest radius + 1."
        )
    lights = torch.cat([colours * alphas, alphas], dim=2)
    spread = spread_periodic(lights.flatten(0, 1), radii.flatten()).unflatten(0, radii.shape)
    spread = spread[..., margin : spread.shape[-2] - margin, margin : spread.shape[-1] - margin]
    out = torch.zeros_like(spread[:, 0, :3])
    for layer in spread.unbind(1):
        out = out * (1 - layer[:, 3:]) + layer[:, :3]
    return out


def spread_periodic(maps: Tensor, radii: Tensor) -> Tensor:
    """Each picture [n, C, h, w] in linear light convolved with its disc, ``radii`` [n] in px; what leaves it on one
    side comes back on the other. A picture whose disc is a single pixel comes back as it is."""
    blurred = (radii > 0.5).nonzero().flatten()
    if not len(blurred):
        return maps
    height, width = maps.shape[-2:]
    y, x = (torch.fft.fftfreq(side, 1 / side, device=maps.device) for side in (height, width))
    discs = soft_disc(Aperture().distance(y[:, None], x), radii[blurred, None, None])
    discs = discs / discs.sum((1, 2), keepdim=True)
    spectrum = torch.fft.rfft2(maps[blurred]) * torch.fft.rfft2(discs)[:, None]
    out = maps.clone()
    out[blurred] = torch.fft.irfft2(spectrum, s=(height, width))
    return out
