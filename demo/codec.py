"""The demonstration model's image codec: 8 x 8 patches to 32 numbers and back.

There is a fixed linear map, the principal components of the procedural scenes' patches (Pearson 1901). Each component
is divided by the root of its standard deviation: half way to white, so that fine detail counts in a squared error
without drowning coarse shape. On the way back a small convolutional network adds what patches on their own cannot say:
detail that the 32 numbers leave out, and no seams. It is trained on noisy latents (``training.decoder``), as the
transformer's are never exact.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

PATCH = 8
CHANNELS = 32
WIDTH = 96
DEPTH = 3


class Refiner(nn.Module):
    """What the linear map leaves out: latents [n, 32, h, w] -> [n, 3, 8 h, 8 w]; nothing before it is trained."""

    def __init__(self) -> None:
        super().__init__()
        self.first = _convolution(CHANNELS, WIDTH)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.GELU(), _convolution(WIDTH, WIDTH), nn.GELU(), _convolution(WIDTH, WIDTH))
            for _ in range(DEPTH)
        )
        self.last = nn.Sequential(nn.GELU(), _convolution(WIDTH, 3 * PATCH * PATCH))

    def forward(self, latents: Tensor) -> Tensor:
        maps = self.first(latents)
        for block in self.blocks:
            maps = maps + block(maps)
        return nn.functional.pixel_shuffle(self.last(maps), PATCH)


class PatchCodec(nn.Module):
    """Pictures [n, 3, H, W] in -1..1 <-> latents [n, 32, H / 8, W / 8]; H and W are multiples of 8.

    Attributes:
        mean: [192], the mean patch.
        encoder: [32, 192], patch less mean -> latent.
        decoder: [192, 32], latent -> patch less mean.
        refiner: what the decoder leaves out.
    """

    def __init__(self) -> None:
        super().__init__()
        size = 3 * PATCH * PATCH
        self.mean = nn.Parameter(torch.zeros(size))
        self.encoder = nn.Parameter(torch.zeros(CHANNELS, size))
        self.decoder = nn.Parameter(torch.zeros(size, CHANNELS))
        self.refiner = Refiner()
        self.requires_grad_(False)

    def fit(self, pictures: Tensor) -> None:
        """Set the linear map from example pictures [n, 3, H, W] in -1..1."""
        patches = _patches(pictures).movedim(1, -1).flatten(0, -2).double()
        mean = patches.mean(0)
        variances, axes = torch.linalg.eigh((patches - mean).T @ (patches - mean) / len(patches))
        axes, deviations = axes[:, -CHANNELS:].flip(1), variances[-CHANNELS:].flip(0).sqrt()
        # An axis has no sign of its own; this one makes the map the same on every machine.
        axes = axes * axes.gather(0, axes.abs().argmax(0, keepdim=True)).sign()
        self.mean.copy_(mean)
        self.encoder.copy_((axes / deviations.sqrt()).T)
        self.decoder.copy_(axes * deviations.sqrt())

    def encode(self, pictures: Tensor) -> Tensor:
        patches = _patches(pictures) - self.mean[:, None, None]
        return torch.einsum("cp,nphw->nchw", self.encoder, patches)

    def decode(self, latents: Tensor) -> Tensor:
        return self.decode_patches(latents) + self.refiner(latents)

    def decode_patches(self, latents: Tensor) -> Tensor:
        """The linear part of ``decode``: every patch on its own."""
        patches = torch.einsum("pc,nchw->nphw", self.decoder, latents) + self.mean[:, None, None]
        return nn.functional.pixel_shuffle(patches, PATCH)


def _convolution(inputs: int, outputs: int) -> nn.Conv2d:
    layer = nn.Conv2d(inputs, outputs, 3, padding=1)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def _patches(pictures: Tensor) -> Tensor:
    return nn.functional.pixel_unshuffle(pictures, PATCH)
