"""The adapter that training starts from: it changes nothing yet."""

from __future__ import annotations

import math
from collections.abc import Sequence

import comfy.model_sampling
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ..attention.families import Place
from ..attention.install import network_places
from ..weights.format import Adapter, build_adapter
from ..weights.settings import TEXT_TO_IMAGE
from .recipe import DEEP, Recipe


def timestep_mean(model: ModelPatcher) -> float:
    """The recipe's ``timestep_mean`` for as many trained steps at a noise level as the sampler makes there: the level
    in the middle of the model's schedule, as log(s / (1 - s)). Where noise is predicted, s is the share of the schedule
    itself."""
    sampling = model.get_model_object("model_sampling")
    if not isinstance(sampling, comfy.model_sampling.CONST):
        return 0.0
    middle = min(max(float(sampling.percent_to_sigma(0.5)), 1e-4), 1 - 1e-4)
    # Rounded, because a run goes on only with the very same recipe.
    return round(math.log(middle / (1 - middle)), 4)


def deep(places: Sequence[Place]) -> tuple[int, ...]:
    """The numbers of the deeper places, where the paper puts the blur apart from what is shown (Bokeh Diffusion, figure
    6; which ones it does not say): of a network that halves the picture on the way the widest ones, which see it
    coarsest; of one that does not the second half."""
    widest = max(place.width for place in places)
    if all(place.width == widest for place in places):
        return tuple(range(len(places) // 2, len(places)))
    return tuple(number for number, place in enumerate(places) if place.width == widest)


def new_adapter(model: ModelPatcher, recipe: Recipe) -> Adapter:
    """An adapter for ``model`` of the recipe's sizes: every ``up`` matrix is zero, so it is exact nothing.

    Raises:
        ValueError: when the model is of no known family, or lacks a block of ``recipe.blocks``.
    """
    family, places = network_places(model)
    count = len(places)
    if recipe.blocks == DEEP:
        numbers = deep(places)
    else:
        numbers = tuple(range(count)) if recipe.blocks is None else tuple(sorted(set(recipe.blocks)))
    odd = [number for number in numbers if not 0 <= number < count]
    if odd or not numbers:
        raise ValueError(
            f"The recipe adapts {f'block {odd[0]}' if odd else 'no block'}, but this model has the blocks 0 to "
            f"{count - 1}. Choose among these, or leave the choice out for all."
        )
    rank, context, hidden = recipe.rank, recipe.context_dim, recipe.hidden_dim
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
    chosen = [places[number] for number in numbers]
    for number, place in enumerate(chosen):
        parts = {"v": (context, place.width)}
        parts |= {"q": (place.q.width,) * 2} if recipe.unfreeze_q else {}
        parts |= {"k": (place.k.width,) * 2} if recipe.unfreeze_k else {}
        for part, (inputs, width) in parts.items():
            tensors[f"blocks.{number}.{part}.down.weight"] = uniform(inputs, rank, inputs)
            tensors[f"blocks.{number}.{part}.up.weight"] = torch.zeros(width, rank)
    settings = {"variant": TEXT_TO_IMAGE, "family": family.name, "blocks": [place.name for place in chosen]}
    return build_adapter(tensors, settings, "new adapter")
