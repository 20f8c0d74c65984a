"""What is refused before sampling begins, because it would go wrong without a word later."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import comfy.sample
import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from torch import Tensor, nn

from .rows import Plan, Rows


def check_pivot_latent(plan: Plan, noise: Tensor) -> None:
    """Raise ValueError unless the pivot's latent has the size of the pictures."""
    latent = plan.pivot.given if plan.pivot is not None else None
    if latent is None:
        return
    # A picture is one frame to models that count frames.
    frames = [1] * (noise.ndim - latent.ndim)
    if (latent.shape[1], *frames, *latent.shape[2:]) != tuple(noise.shape[1:]):
        raise ValueError(
            f"The pivot's latent is {sides_of(latent)} (channels x height x width), but the graph samples "
            f"{sides_of(noise)}. Encode the pivot's picture at the size of the latent that goes into the sampler."
        )


def is_adaptive(sampler: Any) -> bool:
    """Whether a sampler is called after choosing its steps itself."""
    return "adaptive" in _sampler_name(sampler).lower()


def check_sampler(sampler: Any) -> None:
    """Raise ValueError for a sampler that chooses its steps itself, which rows that follow a latent would mislead."""
    if is_adaptive(sampler):
        name = _sampler_name(sampler)
        raise ValueError(
            "Rows of this run follow a given latent (that of Bokeh Pivot, or Genfocus' photo), but the sampler "
            f"({name.removesuffix('_function')}) chooses its steps by its own error, which such rows make meaningless. "
            "Choose a sampler with fixed steps, such as euler, heun, dpmpp_2m or dpmpp_2m_sde."
        )


def noise_of_pivots(noise: Tensor, rows: Rows, plan: Plan, seed: int | None) -> Tensor:
    """The noise that rows started from, for pivots that follow a given latent: at every level they need it.

    The later of two samplers adds none itself; then it is the noise of ``seed``, which both of them have.

    Raises:
        ValueError: when the sampler has no seed either.
    """
    if plan.pivot.trajectory is not None or noise.any():
        return noise
    if not seed:
        raise ValueError(
            "The pivot follows a given latent and needs the noise that the first sampler began with, but this sampler "
            "adds no noise and its seed is 0, as DisableNoise gives it, so nothing says which noise that was. Use "
            "KSampler (Advanced) or SamplerCustom with add_noise off and the first sampler's seed (not 0) instead of "
            "DisableNoise, sample in one go, or take the latent off Bokeh Pivot."
        )
    generator = torch.Generator().manual_seed(seed)
    # The sampler may have got another latent than the sweep's.
    numbers = plan.numbers if plan.numbers is not None and len(plan.numbers) == rows.scenes else None
    drawn = comfy.sample.prepare_noise_inner(noise.new_empty(rows.scenes, *noise.shape[1:]), generator, numbers)
    return drawn[list(rows.column("scene"))]


def has_step_cache(model_options: dict[str, Any]) -> bool:
    """Whether something inside a model call is called a cache; those round the whole call never see turns."""
    options = model_options.get("transformer_options", {})
    return any("cache" in name.lower() for name in _inside(model_options, options))


def rows_may_leave(sampler: Any, model_options: dict[str, Any], patcher: ModelPatcher) -> bool:
    """Whether model calls may lack rows that earlier ones had.

    Not where anything but the host's own code lies between the steps of the sampler and the blocks: caches and their
    like remember rows from one call to the next. Nor where the sampler looks at all rows to choose its steps, or a
    function at the guidance may (the host's Mahiro weighs it by the mean over the batch).
    """
    options = model_options.get("transformer_options", {})
    function = getattr(sampler, "sampler_function", sampler)
    if is_adaptive(sampler) or not getattr(function, "__module__", "").startswith("comfy."):
        return False
    kinds = (WrappersMP.DIFFUSION_MODEL, WrappersMP.APPLY_MODEL, WrappersMP.PREDICT_NOISE, WrappersMP.CALC_COND_BATCH)
    keys = {key for kind in kinds for key, found in options.get("wrappers", {}).get(kind, {}).items() if found}
    if any(not str(key).startswith(("bokeh", "torch.compile")) for key in keys) or options.get("patches_replace"):
        return False
    if model_options.get("model_function_wrapper") or any(name.startswith("sampler_") for name in model_options):
        return False
    network = patcher.model.diffusion_model
    if any(name.startswith("forward") for name in vars(network)):
        return False
    return all(
        isinstance(getattr(getattr(patch, "before_bokeh", None), "__self__", None), nn.Module)
        for name, patch in patcher.object_patches.items()
        if name.startswith("diffusion_model")
    )


def _inside(model_options: dict[str, Any], options: dict[str, Any]) -> Iterator[str]:
    wrappers = options.get("wrappers", {}).get(WrappersMP.DIFFUSION_MODEL, {})
    for key, functions in wrappers.items():
        yield str(key)
        yield from map(_name, functions)
    yield _name(model_options.get("model_function_wrapper"))
    for by_place in options.get("patches_replace", {}).values():
        yield from map(_name, by_place.values())
    # What the host's own two caches share says nothing: one of them is round the whole call.
    yield from (name for name in options if isinstance(name, str) and name != "easycache")


def _sampler_name(sampler: Any) -> str:
    return _name(getattr(sampler, "sampler_function", sampler))


def _name(thing: Any) -> str:
    """A function's or object's name, with those of the class and the module that it is from."""
    named = thing if hasattr(thing, "__qualname__") else type(thing)
    # The host names a pack's modules by the path of its folder, and folders are called anything.
    module = named.__module__.replace("\\", "/").rpartition("/")[2]
    return f"{module.rpartition('.')[2]}.{named.__qualname__}" if module != "builtins" else named.__qualname__


def sides_of(latent: Tensor) -> str:
    """A latent's channels, height and width as a sentence writes them."""
    return " x ".join(str(side) for side in latent.shape[1:])
