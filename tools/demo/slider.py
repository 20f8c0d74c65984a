"""A slider LoRA for a demonstration model, trained in minutes: from sharp at strength -1 to blurred at 1.

The model's own words teach it (as in Concept Sliders, Gandikota et al., arXiv 2311.12092): with the LoRA and a caption
that says nothing about blur it is to predict what it predicts without the LoRA when the caption says it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ...demo import words
from ...demo.codec import PatchCodec
from ...demo.load import demo_files, load_weights
from ...demo.network import KINDS
from ...training.recipe import rate_share
from ...training.scenes import BLUR_WORDS, tell_blur
from .base import BaseRecipe, BaseTrainer, encode_captions, noise_levels

# Parts of the names of layers that see no picture: of text, of the timestep.
_OTHERS = ("txt_", "_mod.", "modulation", "emb_layers", "attn2.to_k", "attn2.to_v")


@dataclass(frozen=True)
class SliderRecipe:
    """How the LoRA is trained.

    Attributes:
        steps: optimiser steps. batch: pictures a step. seed: of the weights and of everything drawn.
        rank: of every product.
        rate: learning rate of AdamW, falling to zero over the last share ``decay`` of the steps.
    """

    steps: int = 400
    batch: int = 24
    seed: int = 0
    rank: int = 8
    rate: float = 2e-3
    decay: float = 0.4


class _Product(nn.Module):
    """up(down(x)), times the strength of each row; on a linear layer's output."""

    def __init__(self, layer: nn.Linear, rank: int, generator: torch.Generator):
        super().__init__()
        size = layer.in_features
        self.down = nn.Parameter(torch.randn(rank, size, generator=generator) * size**-0.5)
        self.up = nn.Parameter(torch.zeros(layer.out_features, rank))
        self.strengths: Tensor | None = None
        layer.register_forward_hook(self._add)

    def _add(self, layer: nn.Module, inputs: tuple[Tensor, ...], out: Tensor) -> Tensor | None:
        if self.strengths is None:
            return None
        low = nn.functional.linear(inputs[0], self.down)
        return out + nn.functional.linear(low * self.strengths.view(-1, *[1] * (low.ndim - 1)), self.up)


def finished(folder: Path, family: str) -> BaseTrainer:
    """The model of a family in a folder, as its trainer. Raises DemoError for files that are not right."""
    model, kept = demo_files(folder, KINDS[family])
    codec = PatchCodec()
    load_weights(codec, kept)
    base = BaseTrainer(codec, BaseRecipe(family=family))
    base.start_from(model)
    return base


def train_slider(base: BaseTrainer, recipe: SliderRecipe, on_step: Callable[[int, float], None]) -> dict[str, Tensor]:
    """Train a LoRA on the network of ``base``, whose weights stay as they are.

    Args:
        base: with the weights of a finished model.
        on_step: called with the steps done and the loss.

    Returns:
        The file's tensors, under the names that the host's loader reads for any model.
    """
    generator = torch.Generator().manual_seed(recipe.seed)
    base.network.requires_grad_(False)
    products = {
        name: _Product(layer, recipe.rank, generator)
        for name, layer in base.network.named_modules()
        if isinstance(layer, nn.Linear) and "_block" in name and not any(part in name for part in _OTHERS)
    }
    weights = [weight for product in products.values() for weight in product.parameters()]
    optimizer = torch.optim.AdamW(weights, recipe.rate, weight_decay=0.0)
    ends = torch.tensor([limit for limit, _ in BLUR_WORDS])
    for step in range(recipe.steps):
        optimizer.param_groups[0]["lr"] = recipe.rate * rate_share(step, recipe.steps, 1, recipe.decay)
        pictures = base.scenes.draw(generator, recipe.batch, 1)
        latents = base.latents(pictures.images)
        noise = torch.randn(latents.shape, generator=generator)
        shares = noise_levels(torch.rand(recipe.batch, generator=generator))
        rungs = torch.randint(len(ends), (recipe.batch,), generator=generator)
        told = [tell_blur(text, blur) for text, blur in zip(pictures.captions, ends[rungs].tolist(), strict=True)]
        every = torch.ones(recipe.batch, words.TOKENS)
        with torch.no_grad():
            wanted, *_ = base.predict(latents, noise, shares, *encode_captions(told, every))
        for product in products.values():
            product.strengths = 2 * rungs / (len(ends) - 1) - 1
        found, _, weights = base.predict(latents, noise, shares, *encode_captions(pictures.captions, every))
        for product in products.values():
            product.strengths = None
        loss = (weights * (found - wanted).square()).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        on_step(step + 1, loss.item())
    return {
        f"diffusion_model.{name}.lora_{part}.weight": getattr(product, part).detach()
        for name, product in products.items()
        for part in ("down", "up")
    }
