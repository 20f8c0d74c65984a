"""Adapter tensors in the authors' key names, with random values."""

from __future__ import annotations

import torch
from torch import Tensor


def official_tensors(
    blocks: tuple[int, ...] = (0, 1, 2),
    width: int = 32,
    context: int = 12,
    hidden: int = 8,
    rank: int | None = 4,
    parts: str = "qk",
    kind: str = "bokeh",
    prefix: str = "adapter_modules.",
    bias: bool = False,
) -> dict[str, Tensor]:
    """kind: "bokeh" or "dof". rank None: full matrices, with a bias if asked for."""
    draw = torch.Generator().manual_seed(sum(blocks) + width)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw) * 0.1

    tensors = {
        "embedding_layer.0.weight": random(hidden, 1),
        "embedding_layer.0.bias": random(hidden),
        "embedding_layer.2.weight": random(context, hidden),
        "embedding_layer.2.bias": random(context),
    }
    modules = [(f"to_k_{kind}", context), (f"to_v_{kind}", context)] + [(f"to_{part}_adp", width) for part in parts]
    for index in blocks:
        for module, came_in in modules:
            name = f"{prefix}{index}.{module}"
            if rank is None:
                tensors[f"{name}.weight"] = random(width, came_in)
                if bias:
                    tensors[f"{name}.bias"] = random(width)
            else:
                tensors[f"{name}.down.weight"] = random(rank, came_in)
                tensors[f"{name}.up.weight"] = random(width, rank)
    return tensors


def official_config(blocks: list[str], **changes: object) -> dict[str, object]:
    """A config.json that fits `official_tensors()`, with changes."""
    return {
        "attn_hidden_dim": 32,
        "blocks": blocks,
        "bokeh_context_dim": 12,
        "bokeh_hidden_dim": 8,
        "bokeh_input_dim": 1,
        "bokeh_scale": 1.0,
        "lora_alpha": None,
        "lora_rank": 4,
        "lora_scale": 1.0,
        "unfreeze_k": True,
        "unfreeze_q": True,
    } | changes
