"""The demonstration model's networks by the host's own classes: a small FLUX, and a small UNet of Stable Diffusion's
topology."""

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
UNET_SIZES = {
    "image_size": 32,
    "in_channels": CHANNELS,
    "out_channels": CHANNELS,
    "model_channels": 64,
    "num_res_blocks": [1, 1],
    "channel_mult": [1, 2],
    "transformer_depth": [1, 1],
    "transformer_depth_output": [1, 1, 1, 1],
    "transformer_depth_middle": 1,
    "use_spatial_transformer": True,
    "use_linear_in_transformer": False,
    "context_dim": WIDTH,
    "legacy": False,
    "use_temporal_attention": False,
}
# Patterns repeat over the picture, so a little of each shows through strong noise: scene and blur are settled in
# the noisiest steps, which this shift makes many.
SHIFT = 1.5
# Where the UNet's answer turns from the noise to the picture, as a share of the picture's deviation: weaker noise than
# in a sampler's last steps.
SIGMA_DATA = 0.1


class DemoLatents(comfy.latent_formats.LatentFormat):
    """Latents of ``PatchCodec``, used as they are."""

    latent_channels = CHANNELS


class DemoFlux(comfy.supported_models.Flux):
    """The host's settings for FLUX with this model's latents and schedule."""

    latent_format = DemoLatents
    sampling_settings = {"shift": SHIFT}


class DemoUnetLatents(DemoLatents):
    """The same, made as large as the noise: their standard deviation over the procedural scenes is 0.82."""

    scale_factor = 1.22


class DemoUnet(comfy.supported_models.SD15):
    """The host's settings for Stable Diffusion with this model's latents, heads of 32 channels, v-prediction, and a
    schedule that ends in noise alone.

    64 channels do not carry the noise of 32 well enough to give it back: errors of predicted noise count sigma times in
    the picture, and what an answer leaves of the noise stays in it as grain. So the network is to give the noise only
    where that is weaker than ``SIGMA_DATA`` of the picture, else the picture (Karras et al., arXiv 2206.00364, table 1;
    with the latents' own deviation, 1, that is v).

    Stable Diffusion's schedule ends at a sigma of 14.6, through which the mean of a picture still shows: that of the
    noise of 256 patches is 0.9. A sampler starts with noise alone, whose mean then has the say over how bright a
    picture is, and how bright lights are tells how blurred they are (Lin et al., arXiv 2305.08891, section 3).
    """

    latent_format = DemoUnetLatents
    sampling_settings = {"zsnr": True}
    unet_extra_config = {"num_heads": -1, "num_head_channels": 32}

    def model_type(self, state_dict: dict, prefix: str = "") -> comfy.model_base.ModelType:
        return comfy.model_base.ModelType.V_PREDICTION

    def get_model(self, *args, **kwargs) -> comfy.model_base.BaseModel:
        model = super().get_model(*args, **kwargs)
        model.model_sampling.sigma_data = SIGMA_DATA
        return model

    def inpaint_model(self) -> bool:
        """Never: the host knows one by more channels than a latent of Stable Diffusion has."""
        return False


class Kind(NamedTuple):
    """A network that `build` makes.

    Attributes:
        config: the host's settings.
        sizes: of the network, as the host names them.
        file: name of the file of its weights.
        adapter: its adapter for blur, a name in ``ADAPTERS``.
    """

    config: type[comfy.supported_models_base.BASE]
    sizes: dict[str, Any]
    file: str
    adapter: str


FLUX = Kind(DemoFlux, FLUX_SIZES, "model.safetensors", "demo")
UNET = Kind(DemoUnet, UNET_SIZES, "unet.safetensors", "demo: unet")
# By the names that node and commands take; saved in workflow files, so they are never changed.
KINDS = {"flux": FLUX, "unet": UNET}


def build(kind: Kind, dtype: torch.dtype, device: torch.device | str) -> comfy.model_base.BaseModel:
    """The network with the host's initial weights."""
    config = kind.config({**kind.sizes, "dtype": dtype})
    config.set_inference_dtype(dtype, None)
    return config.get_model({}, device=device)
