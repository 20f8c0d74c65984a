"""The demonstration model's image codec, made from procedural scenes: its linear map, and its decoder's refiner."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...demo.codec import PatchCodec, Refiner
from ...training.recipe import rate_share
from ...training.scenes import Scenes


@dataclass(frozen=True)
class DecoderRecipe:
    """How the refiner is trained.

    Attributes:
        steps: optimiser steps. batch: pictures a step. seed: of the weights and of everything drawn.
        rate: learning rate of AdamW, reached after ``warmup`` steps, falling to zero over the second half.
        noise: lowest and highest standard deviation of the noise on the latents, spread evenly in its logarithm.
        clean: share of the pictures without noise.
    """

    steps: int = 2400
    batch: int = 32
    seed: int = 0
    rate: float = 1e-3
    warmup: int = 100
    noise: tuple[float, float] = (0.003, 0.15)
    clean: float = 0.1


# Added to a picture's noise where its error is weighed by it: what the decoder is about as good as without noise.
_FLOOR = 0.03


def fit_codec(seed: int, pictures: int = 4000) -> PatchCodec:
    """The linear codec of the procedural scenes, from a quarter of sharp and three quarters of blurred ones."""
    scenes, generator = Scenes(), torch.Generator().manual_seed(seed)
    images = scenes.draw(generator, pictures, 1).images
    sharp = scenes.draw(generator, pictures // 3, 1, sharp=True).images
    codec = PatchCodec()
    codec.fit(2 * torch.cat([images, sharp]).movedim(-1, 1) - 1)
    return codec


def train_decoder(codec: PatchCodec, recipe: DecoderRecipe, device: str, on_step: Callable[[int, float], None]) -> None:
    """Train the codec's refiner in place.

    The error is that of the pixels and, as faint seams show long before they count there, of the picture's Laplacian;
    each picture's is divided by its noise.

    Args:
        on_step: called with the steps done and the mean squared error of the pixels.
    """
    generator = torch.Generator().manual_seed(recipe.seed)
    scenes = Scenes()
    codec.to(device, memory_format=torch.channels_last)
    _initialise(codec.refiner, generator)
    codec.refiner.requires_grad_(True)
    optimizer = torch.optim.AdamW(codec.refiner.parameters(), recipe.rate, betas=(0.9, 0.98), weight_decay=0.0)
    for step in range(recipe.steps):
        optimizer.param_groups[0]["lr"] = recipe.rate * rate_share(step, recipe.steps, recipe.warmup, decay=0.5)
        images = 2 * scenes.draw(generator, recipe.batch, 1).images.movedim(-1, 1) - 1
        low, high = (math.log(level) for level in recipe.noise)
        levels = (low + (high - low) * torch.rand(recipe.batch, 1, 1, 1, generator=generator)).exp()
        levels[torch.rand(recipe.batch, generator=generator) < recipe.clean] = 0.0
        images, levels = images.to(device), levels.to(device)
        latents = codec.encode(images)
        latents = latents + levels * torch.randn(latents.shape, generator=generator).to(device)
        with torch.autocast(torch.device(device).type, torch.bfloat16):
            added = codec.refiner(latents.contiguous(memory_format=torch.channels_last))
        error = codec.decode_patches(latents) + added.float() - images
        weighed = 0.1 * error / (levels + _FLOOR)
        loss = weighed.square().mean() + 0.5 * _laplacian(weighed).square().mean()
        loss.backward()
        nn.utils.clip_grad_norm_(codec.refiner.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        on_step(step + 1, error.square().mean().item())
    codec.refiner.requires_grad_(False)
    codec.to("cpu", memory_format=torch.contiguous_format)


def _initialise(refiner: Refiner, generator: torch.Generator) -> None:
    """First weights: fan-in scaled, and zero in the layers after which something is added, so that the start adds
    nothing."""
    ends = [refiner.last[-1], *(block[-1] for block in refiner.blocks)]
    with torch.no_grad():
        for module in refiner.modules():
            if isinstance(module, nn.Conv2d) and not any(module is end for end in ends):
                draw = torch.randn(module.weight.shape, generator=generator)
                module.weight.copy_(draw * module.weight[0].numel() ** -0.5)


def _laplacian(maps: Tensor) -> Tensor:
    inner = maps[..., 1:-1, 1:-1]
    across = maps[..., 1:-1, :-2] + maps[..., 1:-1, 2:]
    return across + maps[..., :-2, 1:-1] + maps[..., 2:, 1:-1] - 4 * inner
