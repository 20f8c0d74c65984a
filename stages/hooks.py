"""Stage diffusion in a sampling run: the host's own hooks on a clone, which let prompts change with the noise level.

    OUTER_SAMPLE      find the staged prompts of the run; give all rows of a sweep one noise
    PREPARE_SAMPLING  the noise drawn on the way is one for all rows too, a blur adapter's pivot rows among them
    SAMPLER_SAMPLE    find the noise levels at which the focus stage begins in the steps that actually run
    PREDICT_NOISE     hand the guider the prompts of the stage that this noise level belongs to

The prompts are encoded by the host itself, once a stage; between switches a step costs one comparison.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import comfy.samplers
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP

from ..attention.contents import lay_out
from ..attention.families import takes_masks
from ..attention.noise import SharedNoise
from ..attention.run import RUN as BLUR_RUN
from .mixing import Stages, in_focus
from .prompts import STAGES, is_changed, with_prompt

KEY = RUN = "bokeh_stage"

Entries = list[dict[str, Any]]


def install_stages(model: ModelPatcher) -> ModelPatcher:
    """A clone of ``model`` that follows the stages of prompts from ``stage_prompt``.

    The stages themselves travel with the prompts, so one model serves prompts of several nodes.
    """
    clone = model.clone()
    hooks = {
        WrappersMP.OUTER_SAMPLE: _outer_sample,
        WrappersMP.PREPARE_SAMPLING: _prepare_sampling,
        WrappersMP.SAMPLER_SAMPLE: _sampler_sample,
        WrappersMP.PREDICT_NOISE: _predict_noise,
    }
    for kind, hook in hooks.items():
        clone.remove_wrappers_with_key(kind, KEY)
        clone.add_wrapper_with_key(kind, KEY, hook)
    return clone


@dataclass(eq=False)
class StagedEntry:
    """A staged entry of this run, in the place of its stages among the encoded conditions.

    Attributes:
        branch: the guider's name for the list it is in.
        entry: as the guider got it, without the stages.
        stages: its prompts.
        switches: the sigmas at which its rows change to the focus stage, known once sampling starts.
        in_focus: which rows have changed.
        conditions: the encoded prompt, while any row has changed.
    """

    branch: str
    entry: dict[str, Any]
    stages: Stages
    switches: tuple[float, ...] = ()
    in_focus: tuple[bool, ...] = ()
    conditions: dict[str, Any] = field(default_factory=dict)


@dataclass(eq=False)
class StageRun:
    """State of one sampling run.

    Attributes:
        entries: the staged entries.
        sweeps: whether the batch is a sweep, one scene throughout.
        shapes: what the host passes on about latents in several parts.
        shared_noise: for the rows of a sweep, unless a blur adapter on the same model sees to it.
        branches: the guider's lists that have staged entries, with their ``StagedEntry`` still in them.
        encode: (entry, the entry with another prompt in it) -> its encoded conditions.
    """

    entries: list[StagedEntry]
    sweeps: bool
    shapes: dict[str, Any]
    shared_noise: SharedNoise | None = None
    branches: dict[str, Entries] = field(default_factory=dict)
    encode: Callable[[StagedEntry, dict[str, Any]], dict[str, Any]] | None = None

    def enter(self, conds: dict[str, Entries], sigma: float) -> None:
        """Put the prompts for this noise level into the guider's ``conds``."""
        changed = False
        for staged in self.entries:
            rows = tuple(in_focus(sigma, switch) for switch in staged.switches)
            if rows == staged.in_focus:
                continue
            changed, staged.in_focus = True, rows
            if any(rows):
                staged.conditions = self.encode(staged, with_prompt(staged.entry, staged.stages.prompt(rows)))
        if changed:
            for name, entries in self.branches.items():
                conds[name] = [_at_this_stage(entry) for entry in entries]


def _at_this_stage(entry: dict[str, Any]) -> dict[str, Any]:
    """An encoded entry of the guider as the model may see it."""
    conditions = dict(entry["model_conds"])
    staged: StagedEntry | None = conditions.pop(STAGES, None)
    if staged is None:
        return entry
    if not any(staged.in_focus):
        return {**entry, "model_conds": conditions}
    # Another uuid: caches of other packs know a prompt by it.
    return {**entry, "model_conds": staged.conditions, "uuid": uuid.uuid4()}


def _outer_sample(executor, noise, latent_image, sampler, sigmas, *args, **kwargs):
    guider = executor.class_obj
    options = guider.model_options["transformer_options"]
    entries = _take_entries(guider.conds)
    if not entries:
        logging.getLogger(__name__).warning(
            "Bokeh Stage: the model has stages, but no prompt of this sampler comes from Bokeh Stage. Connect its "
            "positive output as well."
        )
        return executor(noise, latent_image, sampler, sigmas, *args, **kwargs)
    blur_run = options.get(BLUR_RUN)
    batch = noise.shape[0] if blur_run is None else blur_run.rows.targets
    counts = {entry.stages.rows for entry in entries if entry.stages.rows is not None}
    if counts - {batch}:
        raise ValueError(
            f"The sampler got a batch of {batch} latents, but the stage sweep has {max(counts - {batch})} values. "
            "Connect the latent output of the sweep node to the sampler."
        )
    if counts:
        noise = noise[[0] * len(noise)]
    shapes = {name: value for name, value in kwargs.items() if name == "latent_shapes"}
    options[RUN] = StageRun(entries, bool(counts), shapes)
    try:
        return executor(noise, latent_image, sampler, sigmas, *args, **kwargs)
    finally:
        options.pop(RUN, None)


def _take_entries(conds: dict[str, Entries]) -> list[StagedEntry]:
    """The staged entries of a guider, each put into ``conds`` where its stages were."""
    found = []

    def take(name: str, entry: dict[str, Any]) -> dict[str, Any]:
        conditions = dict(entry["model_conds"])
        if STAGES not in conditions:
            return entry
        stages: Stages = conditions.pop(STAGES).stages
        plain = {**entry, "model_conds": conditions}
        tokens = entry.get("cross_attn")
        if is_changed(tokens, stages):
            # Zeroed out, as for a negative prompt, there is nothing to be staged.
            if tokens is not None and not tokens.any():
                return plain
            raise ValueError(
                "A node between Bokeh Stage and the sampler changes the prompt itself, as Conditioning (Concat) and "
                "(Average) do. Put it before Bokeh Stage, so that both stages have it."
            )
        found.append(StagedEntry(name, plain, stages))
        return {**plain, "model_conds": {**conditions, STAGES: found[-1]}}

    for name, entries in conds.items():
        conds[name] = [take(name, entry) for entry in entries]
    return found


def _prepare_sampling(executor, model, noise_shape, conds, model_options=None, **kwargs):
    options = (model_options or {}).get("transformer_options", {})
    run: StageRun | None = options.get(RUN)
    if run is not None and run.sweeps:
        blur_run = options.get(BLUR_RUN)
        # One at a time: nested, the inner would hand the outer draws of another size than it looks for.
        if blur_run is not None:
            blur_run.shared_noise = SharedNoise((0,) * len(blur_run.rows), noise_shape)
        else:
            run.shared_noise = SharedNoise((0,) * noise_shape[0], noise_shape)
    return executor(model, noise_shape, conds, model_options=model_options, **kwargs)


def _sampler_sample(executor, guider, sigmas, extra_args, callback, noise, latent_image=None, mask=None, *args, **kw):
    run: StageRun | None = extra_args["model_options"]["transformer_options"].get(RUN)
    if run is None:
        return executor(guider, sigmas, extra_args, callback, noise, latent_image, mask, *args, **kw)
    given = {"latent_image": latent_image, "denoise_mask": mask, "seed": extra_args.get("seed"), **run.shapes}
    blur_run = extra_args["model_options"]["transformer_options"].get(BLUR_RUN)

    def encode(staged: StagedEntry, entry: dict[str, Any]) -> dict[str, Any]:
        model, device = guider.inner_model, guider.model_patcher.load_device
        if blur_run is not None:
            # A prompt a row is one for each of the user's rows; the pivot's rows have theirs from the table.
            ((entry,),) = lay_out({staged.branch: [entry]}, blur_run.rows).values()
        (encoded,) = comfy.samplers.encode_model_conds(
            model.extra_conds, [entry], noise, device, staged.branch, **given
        )
        if not takes_masks(model.diffusion_model):
            encoded["model_conds"].pop("attention_mask", None)
        return encoded["model_conds"]

    run.encode = encode
    levels = sigmas.tolist()
    for staged in run.entries:
        staged.switches = staged.stages.switches(levels)
    # By now the host may have copied entries within a list, one for each area of the other lists.
    run.branches = {
        name: entries
        for name, entries in guider.conds.items()
        if any(STAGES in entry["model_conds"] for entry in entries)
    }
    run.enter(guider.conds, levels[0])
    with run.shared_noise or nullcontext():
        return executor(guider, sigmas, extra_args, callback, noise, latent_image, mask, *args, **kw)


def _predict_noise(executor, x, timestep, model_options, *args, **kwargs):
    run: StageRun | None = model_options["transformer_options"].get(RUN)
    if run is None:
        return executor(x, timestep, model_options, *args, **kwargs)
    with run.shared_noise.paused() if run.shared_noise else nullcontext():
        run.enter(executor.class_obj.conds, float(timestep[0]))
        return executor(x, timestep, model_options, *args, **kwargs)
