"""Random adapters in the authors' file format."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor


def official_tensors(
    width: int,
    blocks: list[int],
    rank: int = 4,
    context_dim: int = 12,
    hidden_dim: int = 8,
    *,
    q: bool = True,
    k: bool = True,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Tensors under the authors' keys; ``blocks`` may have gaps. Large enough to change pictures visibly."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator) / shape[-1] ** 0.5

    tensors = {
        "embedding_layer.0.weight": random(hidden_dim, 1),
        "embedding_layer.0.bias": random(hidden_dim),
        "embedding_layer.2.weight": random(context_dim, hidden_dim),
        "embedding_layer.2.bias": random(context_dim),
    }
    parts = {"to_k_bokeh": context_dim, "to_v_bokeh": context_dim}
    parts |= {"to_q_adp": width} if q else {}
    parts |= {"to_k_adp": width} if k else {}
    for block in blocks:
        for part, inputs in parts.items():
            tensors[f"adapter_modules.{block}.{part}.down.weight"] = random(rank, inputs)
            tensors[f"adapter_modules.{block}.{part}.up.weight"] = random(width, rank)
    return tensors


def write_official(folder: Path, tensors: dict[str, Tensor], config: dict | None = None) -> Path:
    """``model.safetensors`` in ``folder``, with a ``config.json`` beside it when one is given."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "model.safetensors")
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return folder / "model.safetensors"
