"""The adapter's weights as a torch module that the host loads, counts and offloads like any model."""

from __future__ import annotations

from collections.abc import Mapping
from weakref import WeakKeyDictionary, WeakValueDictionary

import comfy.model_management
import comfy.model_patcher
import comfy.ops
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor, nn

from ..host import new_patcher
from ..weights.format import Adapter

# The host's layers that cast their weights to the input's dtype and device, so that offloading works.
_ops = comfy.ops.manual_cast

# Weak on both sides: a patcher holds its adapter, and a clone of a patcher holds the patcher.
_patchers: WeakKeyDictionary[Adapter, WeakValueDictionary[torch.dtype, ModelPatcher]] = WeakKeyDictionary()


class BlockAdapter(nn.Module):
    """One block's part: ``v`` (bokeh value), and ``q`` and ``k`` where the adapter has them."""

    def __init__(self, tensors: Mapping[str, Tensor], prefix: str, dtype: torch.dtype):
        super().__init__()
        for name in ("v", "q", "k"):
            if any(key.startswith(f"{prefix}{name}.") for key in tensors):
                self.add_module(name, _projection(tensors, f"{prefix}{name}.", dtype))


class AdapterModule(nn.Module):
    """The bokeh embedding and every adapted block, ready to run.

    Args:
        adapter: as read from a file.
        dtype: dtype of the weights in memory, the compute dtype of the model they serve.
    """

    def __init__(self, adapter: Adapter, dtype: torch.dtype):
        super().__init__()
        settings, tensors = adapter.settings, adapter.tensors
        # Low-rank products carry alpha / rank; full matrices and files without alpha carry 1.
        self.rank_scale = 1.0
        if settings.lora_alpha is not None and settings.rank is not None:
            self.rank_scale = settings.lora_alpha / settings.rank
        self.numbers = settings.blocks
        self.embedding = nn.Sequential(
            _linear(tensors, "embedding.0.", dtype), nn.ReLU(), _linear(tensors, "embedding.2.", dtype)
        )
        self.blocks = nn.ModuleList(BlockAdapter(tensors, f"blocks.{number}.", dtype) for number in settings.blocks)

    def named_weights(self) -> dict[str, nn.Parameter]:
        """The weights under the canonical names of ``weights/format.py``."""
        weights = {f"embedding.{name}": weight for name, weight in self.embedding.named_parameters()}
        for number, block in zip(self.numbers, self.blocks, strict=True):
            for name, weight in block.named_parameters():
                canonical = name.replace(".0.", ".down.").replace(".1.", ".up.")
                weights[f"blocks.{number}.{canonical}"] = weight
        return weights

    def values(self, annotations: Tensor) -> list[Tensor]:
        """Bokeh values of every adapted block: V_b = v(W2 relu(W1 a + c1) + c2) (paper, section 3.2).

        The bokeh context is one token, so the softmax over it is 1 and V_b is the whole cross-attention.

        Args:
            annotations: [A], blur / 30, or -1 for none.

        Returns:
            For each block [A, C] in the dtype of ``annotations``; C is the block's own.
        """
        embedded = self.embedding(annotations[:, None])
        return [self.rank_scale * block.v(embedded) for block in self.blocks]


def adapter_patcher(adapter: Adapter, dtype: torch.dtype) -> ModelPatcher:
    """The host's handle on an adapter's weights, one for each dtype however many nodes use it."""
    by_dtype = _patchers.setdefault(adapter, WeakValueDictionary())
    patcher = by_dtype.get(dtype)
    if patcher is None:
        patcher = by_dtype[dtype] = _new_patcher(adapter, dtype)
    return patcher


def _new_patcher(adapter: Adapter, dtype: torch.dtype) -> ModelPatcher:
    return new_patcher(_new_patcher, adapter, dtype, module=AdapterModule(adapter, dtype))


def _projection(tensors: Mapping[str, Tensor], prefix: str, dtype: torch.dtype) -> nn.Module:
    if f"{prefix}down.weight" in tensors:
        down, up = (_linear(tensors, f"{prefix}{part}.", dtype) for part in ("down", "up"))
        return nn.Sequential(down, up)
    return _linear(tensors, prefix, dtype)


def _linear(tensors: Mapping[str, Tensor], prefix: str, dtype: torch.dtype) -> nn.Module:
    weight, bias = tensors[f"{prefix}weight"], tensors.get(f"{prefix}bias")
    # Built empty and filled with the file's own tensors: no second copy where the dtype already fits.
    linear = _ops.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    linear.weight = nn.Parameter(weight.to(dtype), requires_grad=False)
    if bias is not None:
        linear.bias = nn.Parameter(bias.to(dtype), requires_grad=False)
    return linear
