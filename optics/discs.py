"""Discs of light spread by Fourier transforms: round, polygons, drawn ones, and squeezed towards the corners."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .check import check_finite
from .defocus import Aperture, cut_distance, cut_of, soft_disc

# Samples of a drawn aperture along a pixel.
SAMPLES = 4


class Discs:
    """The discs of a picture.

    With cat's eye they change over the picture: each tile mixes what the discs at its four corners make of its light,
    by how near a pixel is to each.
    """

    def __init__(
        self,
        aperture: Aperture | Tensor,
        cats_eye: float,
        size: tuple[int, int],
        tile: int,
        device: torch.device,
    ) -> None:
        """
        Args:
            aperture: its shape, or a drawn one of ``drawn_aperture``.
            cats_eye: 0..1, see `exact.render_exactly`.
            size: height and width of the picture in px.
            tile: side of a tile in px.
        """
        self.aperture, self.cats_eye, self.size, self.tile, self.device = aperture, cats_eye, size, tile, device
        self._spectra: dict[tuple[float, int, int], Tensor] = {}

    def reach(self, radius: float) -> int:
        """Whole px beyond which a disc of ``radius`` px has no light."""
        return self.aperture.reach(radius) if isinstance(self.aperture, Aperture) else math.ceil(radius + 0.5)

    def spread(
        self, spectrum: Tensor, side: int, signed: float, octave: int, top: int, left: int, margin: int
    ) -> Tensor:
        """Light [C, side, side] on a grid of 2 ** ``octave`` px, spread over the discs of a signed radius in px;
        periodic. ``spectrum`` is the light's, by `torch.fft.rfft2`, and may be overwritten.

        ``top`` and ``left`` are the tile's in the picture, in px; it begins ``margin`` cells inside the grid.
        """
        if not self.cats_eye:
            key = signed, side, octave
            if key not in self._spectra:
                self._spectra[key] = self._spectrum(signed, side, octave)
            return torch.fft.irfft2(spectrum.mul_(self._spectra[key]), s=(side, side))
        out = torch.zeros(len(spectrum), side, side, device=self.device)
        # The last tiles end where the picture does: beyond it no disc may be left.
        spans = [min(self.tile, whole - start) for whole, start in zip(self.size, (top, left), strict=True)]
        steps = (torch.arange(side, device=self.device) - margin + 0.5) * 2**octave
        down, right = ((steps / span).clamp_(0, 1) for span in spans)
        for y, rows in ((top, 1 - down), (top + spans[0], down)):
            for x, columns in ((left, 1 - right), (left + spans[1], right)):
                disc = self._spectrum(signed, side, octave, (y, x))
                out.addcmul_(rows[:, None] * columns, torch.fft.irfft2(spectrum * disc, s=(side, side)))
        return out

    def _spectrum(self, signed: float, side: int, octave: int, place: tuple[int, int] | None = None) -> Tensor:
        steps = torch.fft.fftfreq(side, 1 / side, device=self.device)
        radius = abs(signed) / 2**octave
        if octave:
            # Averaging into cells and interpolating between them widens a disc as one cell of radius does.
            radius = math.sqrt(radius**2 - 1)
        size = torch.tensor(radius, device=self.device)
        y, x = steps[:, None], steps
        if isinstance(self.aperture, Aperture):
            disc = soft_disc(self.aperture.distance(y, x), size)
        else:
            disc = self._drawn(radius, side, upright=signed < 0)
        if place is not None:
            cut = cut_of(size, self.cats_eye, place[0], place[1], *self.size)
            disc = torch.minimum(disc, soft_disc(cut_distance(cut, 0.0, y, x), size))
        return torch.fft.rfft2(disc / disc.sum())

    def _drawn(self, radius: float, side: int, upright: bool) -> Tensor:
        """A drawn aperture [side, side] with its middle at (0, 0), periodic."""
        reach = math.ceil(radius + 0.5)
        count = 2 * reach + 1
        along = (torch.arange(count * SAMPLES, device=self.device) + 0.5) / SAMPLES - count / 2
        y, x = torch.meshgrid(along / radius, along / radius, indexing="ij")
        # No more detail than the samples can see.
        length = max(2, min(self.aperture.shape[-1], round(2 * radius * SAMPLES)))
        shape = F.interpolate(self.aperture[None, None], size=(length, length), mode="area")
        patch = F.grid_sample(shape, torch.stack([x, y], -1)[None], align_corners=False)
        patch = F.avg_pool2d(patch, SAMPLES)[0, 0]
        # A lens turns what lies before the plane of focus upside down against what lies behind it.
        patch = patch if upright else patch.flip(0, 1)
        disc = torch.zeros(side, side, device=self.device)
        disc[:count, :count] = patch
        # A picture smaller than a pixel leaves nothing: then the pixel itself is the disc.
        disc[reach, reach] += 1e-6
        return disc.roll((-reach, -reach), (0, 1))


def drawn_aperture(mask: Tensor) -> Tensor:
    """The aperture that a mask [h, w] shows, white where light passes, as a square [n, n] around what is drawn: the
    longer side of that is the diameter.

    Raises:
        ValueError: for NaN or infinite values, and for a mask without any light.
    """
    check_finite(mask, "values of the aperture")
    lit = mask.float().clamp(0, 1)
    rows, columns = (lit.amax(axis) > 0.5 for axis in (1, 0))
    if not rows.any():
        raise ValueError("The aperture is empty: no pixel is above 0.5. Paint the shape of a disc of light in white.")
    edges = [line.nonzero().flatten()[[0, -1]].tolist() for line in (rows, columns)]
    (top, bottom), (left, right) = edges
    lit = lit[top : bottom + 1, left : right + 1]
    height, width = lit.shape
    spare = max(height, width) - height, max(height, width) - width
    return F.pad(lit, (spare[1] // 2, spare[1] - spare[1] // 2, spare[0] // 2, spare[0] - spare[0] // 2))


def good_size(side: int) -> int:
    """The next multiple of 16 without a prime factor above 5, for which the transform is fast."""
    side = math.ceil(side / 16) * 16
    while True:
        rest = side
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return side
        side += 16
