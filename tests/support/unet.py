"""A small real UNet of the shape of Stable Diffusion 1.5, on the host's own classes."""

from __future__ import annotations

import inspect

import comfy.cldm.cldm
import comfy.controlnet
import comfy.model_management
import comfy.ops
import comfy.supported_models
import torch
from flux import patcher_of

CONTEXT = 24
CONFIG = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 32,
    "num_res_blocks": [1, 1],
    "channel_mult": [1, 2],
    "transformer_depth": [1, 1],
    "transformer_depth_output": [1, 1, 1, 1],
    "transformer_depth_middle": 1,
    "use_spatial_transformer": True,
    "use_linear_in_transformer": False,
    "context_dim": CONTEXT,
    "legacy": False,
    "use_temporal_attention": False,
    "dtype": torch.float32,
}


def build_unet(seed: int = 0, dtype: torch.dtype = torch.float32, kind=comfy.supported_models.SD15, **sizes):
    """A MODEL with random weights; noise prediction, 4 latent channels, prompts of width ``CONTEXT``."""
    config = kind(CONFIG | {"dtype": dtype} | sizes)
    config.set_inference_dtype(dtype, None)
    model = config.get_model({}, device=comfy.model_management.unet_offload_device())
    generator = torch.Generator().manual_seed(seed)
    for name, weight in model.diffusion_model.state_dict().items():
        noise = torch.randn(weight.shape, generator=generator)
        if weight.ndim > 1:
            weight.copy_(noise / weight[0].numel() ** 0.5)
        else:
            # Vectors are the scales of norms, about 1, and biases.
            weight.copy_(0.1 * noise + name.endswith("weight"))
    return patcher_of(model)


def build_control(model) -> comfy.controlnet.ControlNet:
    """A ControlNet of a UNet's shape with random weights, still without its picture."""
    kind, config = comfy.cldm.cldm.ControlNet, model.model.model_config.unet_config
    known = inspect.signature(kind).parameters
    sizes = {name: value for name, value in config.items() if name in known and name != "transformer_depth_output"}
    network = kind(**sizes, hint_channels=3, operations=comfy.ops.manual_cast)
    generator = torch.Generator().manual_seed(2)
    for weight in network.parameters():
        weight.copy_(torch.randn(weight.shape, generator=generator) * 0.1)
    return comfy.controlnet.ControlNet(
        network, load_device=comfy.model_management.get_torch_device(), manual_cast_dtype=None
    )
