"""The demonstration model's image codec: a fixed linear map of 8 x 8 patches to 32 numbers and back.

The principal components of the procedural scenes' patches (Pearson 1901), so there is nothing to train. Each
component is divided by the root of its standard deviation: half way to white, so that fine detail counts in a
squared error without drowning coarse shape.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

PATCH = 8
CHANNELS = 32


class PatchCodec(nn.Module):
    """Pictures [n, 3, H, W] in -1..1 <-> latents [n, 32, H / 8, W / 8]; H and W are multiples of 8.

    Attributes:
        mean: [192], the mean patch.
        encoder: [32, 192], patch less mean -> latent.
        decoder: [192, 32], latent -> patch less mean.
    """

    def __init__(self) -> None:
        super().__init__()
        size = 3 * PATCH * PATCH
        self.mean = nn.Parameter(torch.zeros(size), requires_grad=False)
        self.encoder = nn.Parameter(torch.zeros(CHANNELS, size), requires_grad=False)
        self.decoder = nn.Parameter(torch.zeros(size, CHANNELS), requires_grad=False)

    def fit(self, pictures: Tensor) -> None:
        """Set the map from example pictures [n, 3, H, W] in -1..1."""
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
        patches = torch.einsum("pc,nchw->nphw", self.decoder, latents) + self.mean[:, None, None]
        return nn.functional.pixel_shuffle(patches, PATCH)


def _patches(pictures: Tensor) -> Tensor:
    return nn.functional.pixel_unshuffle(pictures, PATCH)
