"""The adapter that training starts from: it changes nothing yet."""

from __future__ import annotations

import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ..attention.install import block_names, flux_network
from ..weights.format import Adapter, build_adapter
from ..weights.settings import TEXT_TO_IMAGE
from .recipe import Recipe


def new_adapter(model: ModelPatcher, recipe: Recipe) -> Adapter:
    """An adapter for ``model`` of the recipe's sizes: every ``up`` matrix is zero, so it is exact nothing.

    Raises:
        ValueError: when the model is not native FLUX, or lacks a block of ``recipe.blocks``.
    """
    network = flux_network(model)
    count = len(network.double_blocks) + len(network.single_blocks)
    numbers = tuple(range(count)) if recipe.blocks is None else tuple(sorted(set(recipe.blocks)))
    odd = [number for number in numbers if not 0 <= number < count]
    if odd or not numbers:
        raise ValueError(
            f"The recipe adapts {f'block {odd[0]}' if odd else 'no block'}, but this model has the blocks 0 to "
            f"{count - 1} (double blocks first). Choose among these, or leave the choice out for all."
        )
    width, rank, context, hidden = network.hidden_size, recipe.rank, recipe.context_dim, recipe.hidden_dim
    generator = torch.Generator().manual_seed(recipe.seed)

    def uniform(inputs: int, *shape: int) -> Tensor:
        # torch's own start of a linear layer.
        return (2 * torch.rand(shape, generator=generator) - 1) / inputs**0.5

    tensors = {
        "embedding.0.weight": uniform(1, hidden, 1),
        "embedding.0.bias": uniform(1, hidden),
        "embedding.2.weight": uniform(hidden, context, hidden),
        "embedding.2.bias": uniform(hidden, context),
    }
    parts = {"v": context} | ({"q": width} if recipe.unfreeze_q else {}) | ({"k": width} if recipe.unfreeze_k else {})
    for number in numbers:
        for part, inputs in parts.items():
            tensors[f"blocks.{number}.{part}.down.weight"] = uniform(inputs, rank, inputs)
            tensors[f"blocks.{number}.{part}.up.weight"] = torch.zeros(width, rank)
    settings = {"variant": TEXT_TO_IMAGE, "blocks": block_names(network, numbers)}
    return build_adapter(tensors, settings, "new adapter")
