"""Installation on a host model: checks, then the host's own hooks on a clone."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import comfy.ldm.flux.model
import torch
from comfy.ldm.flux.layers import QKNorm
from comfy.model_patcher import ModelPatcher

from ..host import CLONED
from ..weights.format import Adapter, AdapterError
from .equations import adapt_heads
from .module import AdapterModule, adapter_patcher
from .rows import Plan
from .run import Hooks

KEY = "bokeh"


def install(model: ModelPatcher, adapter: Adapter, plan: Plan, strength: float = 1.0) -> ModelPatcher:
    """Put an adapter on a clone of a FLUX model.

    A model carries one bokeh adapter at a time: installing again replaces the earlier one.

    Args:
        model: a native FLUX model of the host; it is not changed.
        adapter: as read from a file.
        plan: the blurs, and the pivot if any.
        strength: factor on the bokeh bias and on the q/k adapters; 1 = as trained. 0 returns ``model``.

    Raises:
        ValueError: when the model is not native FLUX.
        AdapterError: when the adapter does not fit the model.
    """
    places = block_places(model, adapter)
    if strength == 0:
        return model
    settings = adapter.settings
    dtype = compute_dtype(model)
    patcher = adapter_patcher(adapter, dtype)
    clone = adapt(model, adapter, patcher.model, places, strength)
    clone.set_additional_models(KEY, [patcher])
    hooks = Hooks(plan, patcher.model, settings.bokeh_scale * strength, dtype, places, settings.unfreeze_k)
    for kind, wrapper in hooks.wrappers().items():
        clone.add_wrapper_with_key(kind, KEY, wrapper)
    for kind in CLONED:
        clone.add_callback_with_key(kind, KEY, _follow)
    return clone


def adapt(
    model: ModelPatcher,
    adapter: Adapter,
    module: AdapterModule,
    places: dict[tuple[str, int], int],
    strength: float = 1.0,
) -> ModelPatcher:
    """A clone of a FLUX model with the q/k adapters on its norms; the bokeh bias and grounding are ``run.attend``'s.

    Args:
        module: the weights, of ``adapter``'s settings.
        places: from ``block_places``.
        strength: factor on the q/k adapters.
    """
    settings = adapter.settings
    clone = uninstall(model)
    scale = settings.lora_scale * module.rank_scale * strength
    for (kind, index), place in places.items():
        stream = f"double_blocks.{index}.img_attn" if kind == "double" else f"single_blocks.{index}"
        if settings.unfreeze_q or settings.unfreeze_k:
            name = f"diffusion_model.{stream}.norm.forward"
            forward = _adapted_norm(clone.get_model_object(name), module, place, scale)
            clone.add_object_patch(name, forward)
    return clone


def uninstall(model: ModelPatcher) -> ModelPatcher:
    """A clone of ``model`` without any bokeh adapter; patches of other packs stay."""
    clone = model.clone()
    clone.remove_additional_models(KEY)
    for kind in list(clone.wrappers):
        clone.remove_wrappers_with_key(kind, KEY)
    for kind in CLONED:
        clone.remove_callbacks_with_key(kind, KEY)
    for name, patch in list(clone.object_patches.items()):
        if hasattr(patch, "before_bokeh"):
            del clone.object_patches[name]
            # What another pack had put there comes back; the module's own method needs no patch.
            owner = clone.get_model_object(name.removesuffix(".forward"))
            if getattr(patch.before_bokeh, "__self__", None) is not owner:
                clone.object_patches[name] = patch.before_bokeh
    return clone


def _follow(source: ModelPatcher, clone: ModelPatcher) -> None:
    """Put a clone that has a network of its own (a second GPU, LoRA hooks on a conditioning) on its own norms."""
    if clone.model is source.model:
        return
    (patcher,) = clone.get_additional_models_with_key(KEY)
    for name, patch in list(clone.object_patches.items()):
        if isinstance(getattr(getattr(patch, "before_bokeh", None), "__self__", None), QKNorm):
            del clone.object_patches[name]
            own = clone.get_model_object(name)
            clone.object_patches[name] = _adapted_norm(own, patcher.model, patch.place, patch.scale)


def _adapted_norm(norm_forward: Callable, module: AdapterModule, place: int, scale: float) -> Callable:
    """The q/k norm of a block, with the adapters on the projections' output before it (DESIGN section 2)."""
    block = module.blocks[place]
    project_q, project_k = getattr(block, "q", None), getattr(block, "k", None)

    def forward(q, k, v):
        if project_q is not None:
            q = adapt_heads(q, project_q, scale)
        if project_k is not None:
            k = adapt_heads(k, project_k, scale)
        return norm_forward(q, k, v)

    forward.before_bokeh, forward.place, forward.scale = norm_forward, place, scale
    return forward


def flux_network(model: ModelPatcher) -> comfy.ldm.flux.model.Flux:
    """The FLUX transformer inside a MODEL. Raises ValueError naming what came instead."""
    network = getattr(getattr(model, "model", None), "diffusion_model", None)
    name = type(network).__name__
    if name == "ComfyFluxWrapper":
        raise ValueError(
            "This model was loaded by Nunchaku, whose FLUX does not pass on what bokeh needs in its attention. "
            "Load FLUX with the standard Load Diffusion Model node, or as GGUF or fp8 to save memory."
        )
    if not isinstance(network, comfy.ldm.flux.model.Flux) or getattr(network.params, "global_modulation", False):
        kind = type(getattr(model, "model", None)).__name__
        raise ValueError(
            f"Bokeh adapters work on FLUX.1 models, but this model is {kind} ({name}). "
            "Connect a FLUX.1-dev model (or FLUX.1-Kontext-dev for the image-to-image adapter)."
        )
    return network


def block_places(model: ModelPatcher, adapter: Adapter) -> dict[tuple[str, int], int]:
    """(block type, block index) -> position of the block in the adapter, checked against the model.

    Raises:
        ValueError: when the model is not native FLUX.
        AdapterError: when the adapter does not fit the model.
    """
    network, settings = flux_network(model), adapter.settings
    doubles, singles = len(network.double_blocks), len(network.single_blocks)
    if settings.width != network.hidden_size:
        raise AdapterError(
            f"The adapter {adapter.source} is made for a model of width {settings.width}, but this model's "
            f"width is {network.hidden_size}. Use the adapter that was trained for this model."
        )
    if settings.blocks[-1] >= doubles + singles:
        raise AdapterError(
            f"The adapter {adapter.source} adapts block {settings.blocks[-1]}, but this model has only "
            f"{doubles} double and {singles} single blocks (numbers 0 to {doubles + singles - 1}). "
            "Use the adapter that was trained for this model."
        )
    names = block_names(network, settings.blocks)
    if settings.block_names is not None and set(settings.block_names) != set(names):
        odd = sorted(set(settings.block_names) ^ set(names))[0]
        raise AdapterError(
            f"The adapter {adapter.source} lists other blocks in its settings than its weights reach in this "
            f"model of {doubles} double and {singles} single blocks ('{odd}' is in one of them only). "
            "Use the adapter that was trained for this model."
        )
    return {
        ("double", number) if number < doubles else ("single", number - doubles): place
        for place, number in enumerate(settings.blocks)
    }


def block_names(network: comfy.ldm.flux.model.Flux, numbers: Iterable[int]) -> list[str]:
    """The authors' names of attention blocks, counted with the double blocks first."""
    doubles = len(network.double_blocks)
    return [
        f"transformer_blocks.{number}" if number < doubles else f"single_transformer_blocks.{number - doubles}"
        for number in numbers
    ]


def compute_dtype(model: ModelPatcher) -> torch.dtype:
    """The dtype in which the model's blocks compute."""
    manual = model.get_model_object("manual_cast_dtype")
    return manual if manual is not None else model.model_dtype()
