"""The image codec as the host's VAE, so that VAEEncode, VAEDecode and their tiled forms work unchanged."""

from __future__ import annotations

from collections.abc import Callable

import comfy.model_management
import comfy.sd
import torch
from torch import Tensor

from .codec import CHANNELS, PATCH, PatchCodec

# Floating-point numbers that exist at once for every number of a picture, rounded up.
_COPIES = 8


class DemoVAE(comfy.sd.VAE):
    """``codec`` in the host's VAE: pictures [n, H, W, 3] in 0..1 <-> latents [n, 32, H / 8, W / 8].

    Sides that are no multiple of 8 are cropped at both ends, as the host does.
    """

    def __init__(self, codec: PatchCodec) -> None:
        # The host's smallest VAE: its constructor sets all that hosts of other versions look for. float32, because
        # 8 bits of mantissa would show as bands, and the codec is too small for the dtype to cost anything.
        super().__init__(sd={"pixel_space_vae": torch.tensor(1.0)}, dtype=torch.float32)
        place = {"load_device": self.patcher.load_device, "offload_device": self.patcher.offload_device}
        self.first_stage_model = codec.eval().to(self.patcher.offload_device, self.vae_dtype)
        self.patcher = type(self.patcher)(self.first_stage_model, **place)
        self.size = comfy.model_management.module_size(codec)
        self.latent_channels = CHANNELS
        self.downscale_ratio = self.upscale_ratio = PATCH
        self.memory_used_encode = _memory(3)
        self.memory_used_decode = _memory(3 * PATCH * PATCH)

    def decode(self, samples_in: Tensor, *args, **options) -> Tensor:
        """Latents -> pictures. Raises ValueError for another model's latents."""
        return super().decode(_checked(samples_in), *args, **options)

    def decode_tiled(self, samples: Tensor, *args, **options) -> Tensor:
        """The same, a tile at a time."""
        return super().decode_tiled(_checked(samples), *args, **options)


def _memory(numbers: int) -> Callable[[tuple[int, ...], torch.dtype], int]:
    """Bytes for one picture of `numbers` for each place, by the shape [n, C, H, W]."""
    return lambda shape, dtype: _COPIES * numbers * shape[2] * shape[3] * comfy.model_management.dtype_size(dtype)


def _checked(latents: Tensor) -> Tensor:
    if latents.ndim != 4 or latents.shape[1] != CHANNELS:
        raise ValueError(
            f"This latent has the shape {list(latents.shape)}, but the demo VAE decodes [pictures, {CHANNELS}, height, "
            "width]. Sample with the demo model first, or decode with the VAE that belongs to the latent's model."
        )
    return latents
