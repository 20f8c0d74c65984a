"""Weights that were loaded inside a node, where work goes on outside the inference mode in which nodes run.

Autograd refuses such inference tensors. And one that leaves or comes to a GPU out there is broken: the host moves a
weight by its ``data``, after which it counts as an ordinary tensor, but has no version as those have. What takes a view
of it, as a linear layer does, fails then, and goes on failing inside later nodes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import comfy.model_management
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor, nn


@contextmanager
def without_inference_tensors(patcher: ModelPatcher, refusal: Callable[[str], Exception]) -> Iterator[None]:
    """Ordinary tensors over the same memory in the places of a model's inference tensors, and no model on its device
    that the host could move out of the way meanwhile.

    Args:
        patcher: the host's handle on the model (a network, a text encoder, a VAE); it is off its device afterwards.
        refusal: the error for a tensor that no ordinary one can stand for, by why.
    """
    kept = [
        (members, name, tensor)
        for module in patcher.model.modules()
        for members in (module._parameters, module._buffers)
        for name, tensor in members.items()
        if tensor is not None and tensor.is_inference()
    ]
    if not kept:
        yield
        return
    comfy.model_management.unload_all_models()
    _unload(patcher)

    def put_back() -> None:
        for members, name, tensor in kept:
            members[name] = tensor

    try:
        with torch.inference_mode(False):
            for members, name, tensor in kept:
                try:
                    members[name] = _outside_inference(tensor)
                except (RuntimeError, TypeError, NotImplementedError) as error:
                    raise refusal(f"its weight {name} cannot be had with gradients") from error
        yield
    finally:
        # Before the model leaves its device, so that nothing is moved that is dropped, and after, because the host then
        # puts back what LoRAs had changed.
        put_back()
        _unload(patcher)
        put_back()


def _unload(patcher: ModelPatcher) -> None:
    """Take the model off its device, so that no weight is pinned or patched while it is replaced."""
    for entry in list(comfy.model_management.current_loaded_models):
        if entry.model is not None and patcher.is_clone(entry.model):
            comfy.model_management.current_loaded_models.remove(entry)
            entry.model_unload()


def _outside_inference(tensor: Tensor) -> Tensor:
    """The same numbers in the same memory, so that every kernel does with them what it did before."""
    if hasattr(tensor, "__tensor_flatten__"):
        names, context = tensor.__tensor_flatten__()
        parts = {name: _outside_inference(getattr(tensor, name)) for name in names}
        made = type(tensor).__tensor_unflatten__(parts, context, tensor.size(), tensor.stride())
        return nn.Parameter(made, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else made
    plain = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
    plain.set_(tensor.untyped_storage(), tensor.storage_offset(), tensor.size(), tensor.stride())
    # Of the same class and with the same attributes: quantised weights carry their kind and shape in them.
    plain = plain.as_subclass(type(tensor))
    plain.__dict__.update(tensor.__dict__)
    return plain.requires_grad_(tensor.requires_grad)
