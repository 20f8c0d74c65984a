"""The demonstration model's network by the host's own classes: a small FLUX."""

from __future__ import annotations

from typing import Any, NamedTuple

import comfy.latent_formats
import comfy.ldm.flux.model
import comfy.model_base
import comfy.supported_models
import comfy.supported_models_base
import torch

from ..host import FLUX_FIELDS
from .codec import CHANNELS
from .words import WIDTH

FLUX_SIZES = {
    "image_model": "flux",
    "in_channels": CHANNELS,
    "out_channels": CHANNELS,
    "patch_size": 2,
    "vec_in_dim": WIDTH,
    "context_in_dim": WIDTH,
    "hidden_size": 256,
    "mlp_ratio": 4.0,
    "num_heads": 4,
    "depth": 2,
    "depth_single_blocks": 4,
    "axes_dim": [16, 24, 24],
    "theta": 10000,
    "qkv_bias": True,
    "guidance_embed": False,
    **FLUX_FIELDS,
}
# Patterns repeat over the picture, so a little of each shows through strong noise: scene and blur are settled in
# the noisiest steps, which this shift makes many.
SHIFT = 1.5


class DemoLatents(comfy.latent_formats.LatentFormat):
    """Latents of ``PatchCodec``, used as they are."""

    latent_channels = CHANNELS


class DemoFlux(comfy.supported_models.Flux):
    """The host's settings for FLUX with this model's latents and schedule."""

    latent_format = DemoLatents
    sampling_settings = {"shift": SHIFT}


class Kind(NamedTuple):
    """A network that `build` makes.

    Attributes:
        config: the host's settings.
        sizes: of the network, as the host names them.
        file: name of the file of its weights.
    """

    config: type[comfy.supported_models_base.BASE]
    sizes: dict[str, Any]
    file: str


FLUX = Kind(DemoFlux, FLUX_SIZES, "model.safetensors")


def build(kind: Kind, dtype: torch.dtype, device: torch.device | str) -> comfy.model_base.BaseModel:
    """The network with the host's initial weights."""
    config = kind.config({**kind.sizes, "dtype": dtype})
    config.set_inference_dtype(dtype, None)
    return config.get_model({}, device=device)
