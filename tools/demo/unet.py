"""A small UNet of Stable Diffusion's topology by the host's own classes, for the demonstration model's codec and words.

It is not shipped: docs/measurements.md says why.
"""

from __future__ import annotations

import comfy.model_base
import comfy.supported_models

from ...demo.codec import CHANNELS
from ...demo.network import FLUX, DemoLatents, Kind
from ...demo.words import WIDTH

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
SIGMA_DATA = 0.1


class DemoUnetLatents(DemoLatents):
    """The same, made as large as the noise: their standard deviation over the procedural scenes is 0.82."""

    scale_factor = 1.22


class DemoUnet(comfy.supported_models.SD15):
    """The host's settings for Stable Diffusion with this model's latents, heads of 32 channels, and v-prediction.

    64 channels do not carry the noise of 32 well enough to give it back: errors of predicted noise count sigma times in
    the picture, and what an answer leaves of the noise stays in it as grain. So the network is to give the noise only
    where it is weaker than ``SIGMA_DATA`` of the picture, weaker than in a sampler's last step, and else the picture
    (Karras et al., arXiv 2206.00364, table 1; with the latents' own deviation, 1, that is v).
    """

    latent_format = DemoUnetLatents
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


UNET = Kind(DemoUnet, UNET_SIZES, "unet.safetensors")
# By the names that the command takes.
KINDS = {"flux": FLUX, "unet": UNET}
