"""Installation on a host model: checks, then the host's own hooks on a clone."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from torch import nn

from ..host import CLONED
from ..weights.format import Adapter, AdapterError
from .attend import Running, marked
from .equations import adapt_columns
from .families import Columns, Family, Place, find, titles
from .module import AdapterModule, adapter_patcher
from .patches import follow, put, take_out
from .rows import Plan
from .run import Hooks

KEY = "bokeh"
_ADVICE = "Use the adapter that was trained for this model."


def install(model: ModelPatcher, adapter: Adapter | None, plan: Plan, strength: float = 1.0) -> ModelPatcher:
    """Put an adapter, or grounding alone, on a clone of a model.

    A model carries one bokeh adapter at a time: installing again replaces the earlier one.

    Args:
        model: a model of the host; it is not changed.
        adapter: as read from a file; None for grounding alone, with the keys shared, on any model of the host.
        plan: the blurs, and the pivot if any.
        strength: factor on the bokeh bias and on the q/k adapters; 1 = as trained. 0 returns ``model``. Without an
            adapter it means nothing.

    Raises:
        ValueError: when the model is of no family that adapters are made for, or passes nothing on.
        AdapterError: when the adapter does not fit the model.
    """
    before = hooks_on(model)
    if before is not None and before.plan.conditions is not None:
        raise ValueError(
            "This model has Genfocus on it, which makes the blur by itself. Connect the model from before that node."
        )
    network = _network(model)
    places = list(find(network).places(network)) if adapter is None and find(network) else None
    if adapter is not None:
        places = block_places(model, adapter)
        if strength == 0:
            return model
    running, dtype = Running(), compute_dtype(model)
    if adapter is None:
        clone = uninstall(model)
        _mark(clone, places or [], running)
        hooks = Hooks(plan, None, 1.0, dtype, True, running, None if places is None else _names(places))
    else:
        settings = adapter.settings
        patcher = adapter_patcher(adapter, dtype)
        clone = adapt(model, adapter, patcher.model, places, strength, running, patcher)
        scale = settings.bokeh_scale * strength
        hooks = Hooks(plan, patcher.model, scale, dtype, settings.unfreeze_k, running, _names(places))
    for kind, wrapper in hooks.wrappers().items():
        clone.add_wrapper_with_key(kind, KEY, wrapper)
    for kind in CLONED:
        clone.add_callback_with_key(kind, KEY, follow)
    return clone


def adapt(
    model: ModelPatcher,
    adapter: Adapter,
    module: AdapterModule,
    places: list[Place],
    strength: float = 1.0,
    running: Running | None = None,
    patcher: ModelPatcher | None = None,
) -> ModelPatcher:
    """A clone of a model whose attention calls tell ``run.attend`` their places, with the q/k adapters on the
    projections; the bokeh bias and grounding are ``run.attend``'s.

    Args:
        module: the weights, of ``adapter``'s settings.
        places: from ``block_places``, in the adapter's order.
        strength: factor on the q/k adapters.
        running: where the running call's options stand.
        patcher: of the weights, for the host to load with the model; None where somebody else sees to that.
    """
    settings = adapter.settings
    clone = uninstall(model)
    if patcher is not None:
        clone.set_additional_models(KEY, [patcher])
    _mark(clone, places, running or Running())
    projections: dict[str, list[tuple[int, int, int, str]]] = {}
    for number, place in enumerate(places):
        for part, wanted in (("q", settings.unfreeze_q), ("k", settings.unfreeze_k)):
            if wanted:
                columns: Columns = getattr(place, part)
                projections.setdefault(columns.module, []).append((columns.start, columns.width, number, part))
    scale = settings.lora_scale * module.rank_scale * strength
    for name, parts in projections.items():
        put(clone, name, _Adapted(tuple(sorted(parts)), scale), module)
    return clone


class _Marked(NamedTuple):
    """The places of an owner's attention calls, in their order; None for a call that is left alone."""

    numbers: tuple[int | None, ...]
    running: Running
    key = KEY
    rank = 2

    def around(self, forward: Callable, module: AdapterModule | None) -> Callable:
        return marked(forward, self.numbers, self.running)


class _Adapted(NamedTuple):
    """First column, width, place and part of every adapted piece of a projection's output."""

    parts: tuple[tuple[int, int, int, str], ...]
    scale: float
    key = KEY
    rank = 1

    def around(self, forward: Callable, module: AdapterModule) -> Callable:
        parts = [(start, width, getattr(module.blocks[number], part)) for start, width, number, part in self.parts]

        def projected(*args, **kwargs):
            return adapt_columns(forward(*args, **kwargs), parts, self.scale)

        return projected


def _mark(clone: ModelPatcher, places: list[Place], running: Running) -> None:
    owners: dict[str, dict[int, int]] = {}
    for number, place in enumerate(places):
        owners.setdefault(place.owner, {})[place.call] = number
    for owner, calls in owners.items():
        numbers = tuple(calls.get(call) for call in range(max(calls) + 1))
        put(clone, owner, _Marked(numbers, running), None)


def _names(places: list[Place]) -> tuple[str, ...]:
    return tuple(place.name for place in places)


def hooks_on(model: ModelPatcher) -> Hooks | None:
    """What a bokeh node has put on a model; None for a model without any."""
    wrappers = model.get_wrappers(WrappersMP.OUTER_SAMPLE, KEY)
    return wrappers[0].__self__ if wrappers else None


def uninstall(model: ModelPatcher) -> ModelPatcher:
    """A clone of ``model`` without any bokeh adapter; patches of other packs stay."""
    clone = model.clone()
    clone.remove_additional_models(KEY)
    for kind in list(clone.wrappers):
        clone.remove_wrappers_with_key(kind, KEY)
    for kind in CLONED:
        clone.remove_callbacks_with_key(kind, KEY)
    take_out(clone, KEY)
    return clone


def _network(model: ModelPatcher) -> nn.Module | None:
    """The network inside a MODEL. Raises ValueError where a loader's own network would swallow what bokeh needs."""
    network = getattr(getattr(model, "model", None), "diffusion_model", None)
    if type(network).__name__ == "ComfyFluxWrapper":
        raise ValueError(
            "This model was loaded by Nunchaku, whose FLUX does not pass on what bokeh needs in its attention. "
            "Load FLUX with the standard Load Diffusion Model node, or as GGUF or fp8 to save memory."
        )
    return network


def _kind(model: ModelPatcher) -> str:
    network = getattr(getattr(model, "model", None), "diffusion_model", None)
    return f"{type(getattr(model, 'model', None)).__name__} ({type(network).__name__})"


def untried(model: ModelPatcher) -> tuple[str, ...]:
    """A note where grounding acts on a model whose attention no table knows; else none."""
    if find(_network(model)) is not None:
        return ()
    return (
        f"{_kind(model)} is untried: the scene is held wherever attention looks like the picture's own. If the "
        "pictures of the sweep are not one scene, this model cannot do it.",
    )


def network_places(model: ModelPatcher) -> tuple[Family, list[Place]]:
    """The family of a MODEL and all self-attentions of its network. Raises ValueError naming what came instead."""
    network = _network(model)
    family = find(network)
    if family is None:
        raise ValueError(
            f"Bokeh adapters work on these models: {titles()}; but this model is {_kind(model)}. Connect one of "
            "these, or leave the adapter unconnected and let words or a slider LoRA change the blur."
        )
    return family, list(family.places(network))


def block_places(model: ModelPatcher, adapter: Adapter) -> list[Place]:
    """The places of an adapter's blocks, in the adapter's order, checked against the model.

    Raises:
        ValueError: when the model is of no known family.
        AdapterError: when the adapter does not fit the model.
    """
    family, places = network_places(model)
    settings, source = adapter.settings, adapter.source
    if settings.family != family.name:
        raise AdapterError(
            f'The adapter {source} is made for models of the family "{settings.family}", but this model is '
            f'{_kind(model)} of the family "{family.name}" ({family.title}). {_ADVICE} Where there is none: words '
            "(Bokeh Words) and slider LoRAs (Bokeh LoRA) change the blur of any model without an adapter, and Train "
            "Bokeh Adapter makes one."
        )
    if settings.by_name:
        named = {place.name: place for place in places}
        odd = next((name for name in settings.block_names if name not in named), None)
        if odd is not None:
            raise AdapterError(
                f'The adapter {source} adapts the block "{odd}", but this model has no such block among its '
                f"{len(places)} ({places[0].name} to {places[-1].name}). {_ADVICE}"
            )
        chosen = [named[name] for name in settings.block_names]
    else:
        chosen = _numbered(adapter, places)
    for number, place in zip(settings.blocks, chosen, strict=True):
        for part, width in (("v", place.width), ("q", place.q.width), ("k", place.k.width)):
            _check_width(adapter, number, part, width)
    return chosen


def _check_width(adapter: Adapter, number: int, part: str, width: int) -> None:
    found = adapter.width(number, part)
    if found not in (None, width):
        raise AdapterError(
            f"The adapter {adapter.source} is made for a model of width {found}, but this model's width is {width}. "
            f"{_ADVICE}"
        )


def _numbered(adapter: Adapter, places: list[Place]) -> list[Place]:
    """The places of an adapter that counts the blocks of FLUX, as the authors' files do."""
    settings = adapter.settings
    # Another size of model has other numbers of blocks too, and its width says more.
    _check_width(adapter, settings.blocks[0], "v", places[0].width)
    doubles = sum(place.name.startswith("transformer_blocks.") for place in places)
    singles = len(places) - doubles
    if settings.blocks[-1] >= len(places):
        raise AdapterError(
            f"The adapter {adapter.source} adapts block {settings.blocks[-1]}, but this model has only "
            f"{doubles} double and {singles} single blocks (numbers 0 to {len(places) - 1}). {_ADVICE}"
        )
    chosen = [places[number] for number in settings.blocks]
    odd = set(settings.block_names or _names(chosen)) ^ set(_names(chosen))
    if odd:
        raise AdapterError(
            f"The adapter {adapter.source} lists other blocks in its settings than its weights reach in this "
            f"model of {doubles} double and {singles} single blocks ('{min(odd)}' is in one of them only). {_ADVICE}"
        )
    return chosen


def compute_dtype(model: ModelPatcher) -> torch.dtype:
    """The dtype in which the model's blocks compute."""
    manual = model.get_model_object("manual_cast_dtype")
    return manual if manual is not None else model.model_dtype()
