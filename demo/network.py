"""The demonstration models' networks by the host's own classes: a small FLUX, and a small UNet of Stable Diffusion's
topology."""

from __future__ import annotations

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


UNET_SIZES = {
    "image_size": 32,
    "in_channels": CHANNELS,
    "out_channels": CHANNELS,
    "model_channels": 64,
    "num_res_blocks": [1, 1],
    "channel_mult": [1, 1],
    "transformer_depth": [1, 1],
    "transformer_depth_output": [1, 1, 1, 1],
    "transformer_depth_middle": 1,
    "use_spatial_transformer": True,
    "use_linear_in_transformer": False,
    "context_dim": WIDTH,
    "legacy": False,
    "use_temporal_attention": False,
}


class DemoUnetLatents(DemoLatents):
    """The same, made as large as the noise: their standard deviation over the procedural scenes is 0.82."""

    scale_factor = 1.22


class DemoUnet(comfy.supported_models.SD15):
    """The host's settings for Stable Diffusion with this model's latents, heads of 32 channels, and v-prediction.

    Errors of predicted noise count sigma times in the picture, and 64 channels do not carry the noise of 32 well enough
    for that; those of v never count more than once.
    """

    latent_format = DemoUnetLatents
    unet_extra_config = {"num_heads": -1, "num_head_channels": 32}

    def model_type(self, state_dict: dict, prefix: str = "") -> comfy.model_base.ModelType:
        return comfy.model_base.ModelType.V_PREDICTION

    def inpaint_model(self) -> bool:
        """Never: the host knows one by more channels than a latent of Stable Diffusion has."""
        return False


FLUX, UNET = "flux", "unet"
# The host's settings of each demonstration model, and the sizes of its network.
_KINDS: dict[str, tuple[type[comfy.supported_models_base.BASE], dict]] = {
    FLUX: (DemoFlux, FLUX_SIZES),
    UNET: (DemoUnet, UNET_SIZES),
}


def build(family: str, dtype: torch.dtype, device: torch.device | str) -> comfy.model_base.BaseModel:
    """The network of a family with the host's initial weights."""
    kind, sizes = _KINDS[family]
    config = kind({**sizes, "dtype": dtype})
    config.set_inference_dtype(dtype, None)
    return config.get_model({}, device=device)


def dtypes(family: str) -> list[torch.dtype]:
    """Those that a family computes in, best first."""
    return _KINDS[family][0].supported_inference_dtypes
