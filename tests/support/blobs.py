"""A tiny FLUX, and latents of scenes with a blur that can be seen in them, for training in seconds."""

from __future__ import annotations

import torch
from flux import build_flux

from bokeh.training.pictures import Draw, Text
from bokeh.training.recipe import Recipe

TINY = {
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "num_layers": 2,
    "num_single_layers": 3,
    "in_channels": 64,
    "joint_attention_dim": 24,
    "pooled_projection_dim": 20,
    "guidance_embeds": True,
    "axes_dims_rope": [4, 6, 6],
}
SMALL = {"context_dim": 12, "hidden_dim": 8, "rank": 4, "warmup": 1, "per_scene": 2, "held_out_units": 2}


def tiny_flux(dtype: torch.dtype = torch.float32, seed: int = 0):
    """A FLUX of 2 double and 3 single blocks of width 32."""
    return build_flux(TINY, dtype=dtype, seed=seed)


def recipe(**settings) -> Recipe:
    """The default recipe in a small size."""
    return Recipe(**{"batch": 4, **SMALL, **settings})


class Blobs:
    """A source whose scenes are random latents that fade as the blur grows; no VAE and no text encoder."""

    def __init__(self, groups: bool = True, singles: bool = True, side: int = 8, tokens: int = 5, sizes=TINY):
        self.groups, self.singles, self.side, self.tokens = groups, singles, side, tokens
        self.channels, self.width = sizes["in_channels"] // 4, sizes["joint_attention_dim"]
        self.pooled = sizes["pooled_projection_dim"]

    def draw(self, generator, scenes, per_scene, held_out=False) -> Draw:
        latents = torch.randn((scenes, self.channels, self.side, self.side), generator=generator)
        blurs = 30 * torch.rand(scenes * per_scene, generator=generator)
        context = torch.randn((scenes, self.tokens, self.width), generator=generator)
        pooled = torch.randn((scenes, self.pooled), generator=generator)
        faded = latents.repeat_interleave(per_scene, 0) * (1 - blurs / 40)[:, None, None, None]
        return Draw(faded, list(map(Text, context, pooled)), blurs)

    def identity(self):
        return {}

    def empty(self):
        return Text(torch.zeros(self.tokens, self.width), torch.zeros(self.pooled))


def weights_of(model) -> dict[str, torch.Tensor]:
    return {name: weight.to("cpu", copy=True) for name, weight in model.model.state_dict().items()}


def tensors_of(model) -> dict[str, torch.Tensor]:
    return {**dict(model.model.named_parameters()), **dict(model.model.named_buffers())}


def assert_same_tensors(model, own: dict[str, torch.Tensor]) -> None:
    assert tensors_of(model).keys() == own.keys()
    assert all(tensor is own[name] for name, tensor in tensors_of(model).items())
