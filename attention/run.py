"""One sampling run: its state, born when sampling starts and gone when it ends, and the hooks that use it.

The state travels in the run's own copy of the model options, so nothing is shared between runs, threads or
graphs, and an interrupt leaves nothing behind.

    OUTER_SAMPLE     lay out the rows, add pivot rows, share the starting noise; strip the pivots afterwards
    SAMPLER_SAMPLE   compute the bokeh values once, share the noise drawn on the way
    PREDICT_NOISE    set rows that follow a given latent to that latent at this noise level
    CALC_COND_BATCH  note which chunks of the coming calls belong to the negative branch
    APPLY_MODEL      settle, outside the compiled model, what each row of this call needs
    attend           the attention override that runs inside the blocks
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import comfy.model_management
import comfy.sample
import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ..host import is_out_of_memory
from .attend import CALL, Call, Running, attend
from .checks import check_pivot_latent, check_sampler, has_step_cache, noise_of_pivots, rows_may_leave
from .conditions import GUIDANCE, at_conditions
from .contents import BLURS, lay_out, lay_out_mask
from .dials import check_dial
from .equations import NO_ANNOTATION, Grounding, Seeing, annotation
from .families import takes_masks
from .module import AdapterModule
from .noise import SharedNoise
from .reach import Picture, check_reached
from .rows import Plan, Rows, Trajectory, arrange, grounding_steps
from .tiles import SIDE, in_tiles, report
from .turns import Watch, expand, fitting, grounding_of, smaller, step_cache_refused, take, tiles_in

RUN = "bokeh_run"
NEGATIVE = "bokeh_negative"


@dataclass(eq=False)
class Run:
    """State of one sampling run."""

    rows: Rows
    watch: Watch
    rows_at_once: int
    automatic: bool
    rows_may_leave: bool
    noise: Tensor | None = None
    shared_noise: SharedNoise | None = None
    values: list[Tensor] | None = None
    last_grounded_sigma: float = float("inf")
    given: Tensor | Trajectory | None = None
    conds: dict[str, list] = field(default_factory=dict)
    cache: dict[Any, tuple[tuple[int, ...], list[Tensor] | None, Grounding | None]] = field(default_factory=dict)
    reached: set[int] = field(default_factory=set)
    checked: bool = False

    def is_negative(self, conds: list[list | None]) -> tuple[bool, ...]:
        """For each list of conditionings of a call, whether it belongs to the negative branch.

        Known by the host's number of its first entry, which copies keep: guiders with other names (DualCFG, PerpNeg)
        pass the lists in an order of their own, one with a second model (DualModel) a copy for that. A list nobody
        knows counts by the host's order: positive first.
        """
        known = {entries[0]["uuid"]: "negative" in name for name, entries in self.conds.items() if entries}
        return tuple(
            known.get(entries[0]["uuid"] if entries else None, index > 0) for index, entries in enumerate(conds)
        )


@dataclass(frozen=True, eq=False)
class Hooks:
    """The hooks of one node on one clone of a model.

    Attributes:
        plan: what the node asks for.
        module: the adapter's weights; None for grounding alone.
        bokeh_scale: factor on the bokeh values (bokeh_scale of the adapter times the user's strength).
        dtype: compute dtype of the model.
        with_keys: whether grounding shares the pivot's keys: where the adapter adapts keys, and without one.
        running: where the running call's options stand.
        names: of the places; None for a model whose places no table knows.
    """

    plan: Plan
    module: AdapterModule | None
    bokeh_scale: float
    dtype: torch.dtype
    with_keys: bool
    running: Running
    names: tuple[str, ...] | None

    def wrappers(self) -> dict[str, Callable]:
        """Wrapper type -> function, to be added to the model under one key."""
        return {
            WrappersMP.OUTER_SAMPLE: self.outer_sample,
            WrappersMP.PREPARE_SAMPLING: self.prepare_sampling,
            WrappersMP.SAMPLER_SAMPLE: self.sampler_sample,
            WrappersMP.PREDICT_NOISE: self.predict_noise,
            WrappersMP.CALC_COND_BATCH: self.calc_cond_batch,
            WrappersMP.APPLY_MODEL: self.apply_model,
        }

    def outer_sample(
        self,
        executor,
        noise,
        latent_image,
        sampler,
        sigmas,
        denoise_mask=None,
        callback=None,
        disable_pbar=False,
        seed=None,
        **kwargs,
    ):
        rows = arrange(self.plan, noise.shape[0])
        guider = executor.class_obj
        check_pivot_latent(self.plan, noise)
        if self.plan.conditions is not None:
            self.plan.conditions.check(noise)
        if rows.pinned:
            check_sampler(sampler)
        at_once, cached = self.plan.rows_at_once, has_step_cache(guider.model_options)
        tiled = self._tiled(noise)
        if cached and (tiled or len(rows.turns(at_once)) > 1):
            raise ValueError(step_cache_refused(at_once, tiled))
        may_leave = rows_may_leave(sampler, guider.model_options, guider.model_patcher)
        run = Run(rows, Watch(at_once, tiled), at_once, automatic=not (at_once or cached), rows_may_leave=may_leave)
        if tuple(range(len(rows))) != rows.noise:
            noise = noise[list(rows.noise)]
            run.shared_noise = SharedNoise(rows.column("scene"), noise.shape)
        follows = rows.pinned and self.plan.pivot is not None
        run.noise = noise_of_pivots(noise, rows, self.plan, seed) if follows else noise
        if len(rows) > rows.targets and not rows.pinned and not noise.any():
            logging.warning(
                "Bokeh: this sampler goes on with what another began, which kept no row of the pivot, so the picture "
                "nearest in blur stands in for it. List the pivot's blur among the sweep's to hold the scene exactly."
            )
        worded = any(BLURS in entry for entries in guider.conds.values() for entry in entries)
        guider.conds = lay_out(guider.conds, rows)
        if self.module is None and self.plan.conditions is None:
            check_dial(guider.conds, latent_image, rows, guider.model_options["transformer_options"], worded)
        if denoise_mask is not None:
            denoise_mask = lay_out_mask(denoise_mask, rows, noise.ndim - 2)
        if len(rows) > rows.targets:
            latent_image = latent_image[list(rows.column("source"))]
            callback = _without_pivots(callback, rows.targets)
            if "latent_shapes" in kwargs:
                kwargs["latent_shapes"] = [latent_image.shape]
        options = guider.model_options["transformer_options"]
        options[RUN] = run
        try:
            samples = executor(
                noise, latent_image, sampler, sigmas, denoise_mask, callback, disable_pbar, seed, **kwargs
            )
        finally:
            options.pop(RUN, None)
        return samples[: rows.targets]

    def prepare_sampling(self, executor, model, noise_shape, conds, model_options=None, **kwargs):
        run: Run | None = ((model_options or {}).get("transformer_options") or {}).get(RUN)
        if run is not None:
            # Memory follows the rows that go through the model together, pivots among them.
            sides = (SIDE, SIDE) if run.watch.tiled else noise_shape[-2:]
            noise_shape = (max(map(len, run.rows.turns(run.rows_at_once))), *noise_shape[1:-2], *sides)
        return executor(model, noise_shape, conds, model_options=model_options, **kwargs)

    def sampler_sample(self, executor, guider, sigmas, extra_args, *args, **kwargs):
        run: Run = extra_args["model_options"]["transformer_options"][RUN]
        run.conds = guider.conds
        device = guider.model_patcher.load_device
        if self.module is not None:
            annotations = [*map(annotation, run.rows.column("blur")), NO_ANNOTATION]
            values = self.module.values(torch.tensor(annotations, device=device))
            run.values = [(self.bokeh_scale * value).to(self.dtype) for value in values]
        if self.plan.conditions is not None:
            latents = self.plan.conditions.given(run.rows.targets).to(device=device, dtype=torch.float32)
            run.given = guider.inner_model.process_latent_in(latents)
        if self.plan.pivot is not None:
            steps = len(sigmas) - 1
            run.last_grounded_sigma = float(sigmas[grounding_steps(self.plan.pivot.grounding, steps)])
            if self.plan.pivot.trajectory is not None:
                run.given = self.plan.pivot.trajectory.to(device)
            elif run.rows.pinned:
                latent = self.plan.pivot.latent.to(device=device, dtype=torch.float32)
                # Models of pictures and videos count frames; a picture is one.
                latent = comfy.sample.fix_empty_latent_channels(guider.model_patcher, latent)
                run.given = guider.inner_model.process_latent_in(latent)
        with run.shared_noise or nullcontext():
            return executor(guider, sigmas, extra_args, *args, **kwargs)

    def predict_noise(self, executor, x, timestep, model_options, *args, **kwargs):
        run = model_options["transformer_options"].get(RUN)
        if run is not None and run.given is not None:
            sigmas = timestep[run.rows.targets :]
            if isinstance(run.given, Trajectory):
                pinned = run.given.at(sigmas).to(x)
            elif self.plan.conditions is not None:
                # Timestep 0: the latent as it is.
                pinned = run.given.to(x)
            else:
                noise = run.noise[run.rows.targets :].to(x)
                sampling = executor.class_obj.inner_model.model_sampling
                pinned = sampling.noise_scaling(sigmas, noise, run.given.to(x).expand_as(noise))
            x = x.clone()
            x[run.rows.targets :] = pinned
        out = executor(x, timestep, model_options, *args, **kwargs)
        if run is not None and not run.checked:
            run.checked = True
            if self.module is not None or self.plan.pivot is not None or self.plan.conditions is not None:
                check_reached(run.reached, self.names, executor.class_obj.inner_model.diffusion_model, model_options)
        return out

    def calc_cond_batch(self, executor, model, conds, x_in, timestep, model_options):
        options = model_options["transformer_options"]
        run = options.get(RUN)
        if run is not None:
            options = {**options, NEGATIVE: run.is_negative(conds)}
            model_options = {**model_options, "transformer_options": options}
        return executor(model, conds, x_in, timestep, model_options)

    def apply_model(
        self,
        executor,
        x,
        t,
        c_concat=None,
        c_crossattn=None,
        control=None,
        transformer_options=None,
        **kwargs,
    ):
        run: Run | None = (transformer_options or {}).get(RUN)
        if run is None:
            return executor(x, t, c_concat, c_crossattn, control, transformer_options or {}, **kwargs)
        roles = transformer_options["cond_or_uncond"]
        by_list = transformer_options.get(NEGATIVE)
        # Packs that call the model around the host's batching leave only the host's convention: 1 = negative.
        negative = tuple(by_list[role] if by_list else role == 1 for role in roles)
        # A node that cuts the picture into tiles stacks them tile by tile, each with all its parts.
        negative = negative * tiles_in(x.shape[0], len(roles), len(run.rows))
        if not takes_masks(executor.class_obj.diffusion_model):
            kwargs.pop("attention_mask", None)
        sigma = t[0].item()
        grounded = sigma > run.last_grounded_sigma
        if self.plan.conditions is not None:
            numbers = tuple(range(len(run.rows))) * len(negative)
            t = at_conditions(t, run.rows, numbers, 0.0)
            kwargs = {
                name: at_conditions(value, run.rows, numbers, GUIDANCE) if name == "guidance" else value
                for name, value in kwargs.items()
            }
            # A ControlNet guides the picture, not what it is made from.
            control = at_conditions(control, run.rows, numbers, 0.0)
        tiled = self._tiled(x)
        if run.automatic and not run.checked and not run.rows_at_once:
            shape = (*x.shape[1:-2], SIDE, SIDE) if tiled else x.shape[1:]
            run.rows_at_once = fitting(run.rows, len(negative), shape, executor.class_obj, x.device)

        def call(inputs: tuple) -> Tensor:
            return self._in_turns(executor, run, negative, grounded, inputs, transformer_options, kwargs)

        inputs = x, t, c_concat, c_crossattn, control
        # Counting the steps waits for the device, which calls without tiles need not do.
        on_tile = report(transformer_options, sigma) if tiled else None
        while True:
            try:
                with run.shared_noise.paused() if run.shared_noise else nullcontext(), self.running:
                    return in_tiles(call, inputs, on_tile) if tiled else call(inputs)
            except Exception as error:
                fewer = smaller(run.rows, run.rows_at_once)
                if not is_out_of_memory(error) or not run.automatic or fewer == run.rows_at_once:
                    raise
            # Here, where the failed call's tensors are free again.
            comfy.model_management.soft_empty_cache()
            logging.info("Bokeh: memory ran out; from here on %s pictures of the sweep go together.", fewer)
            run.rows_at_once = fewer

    def _tiled(self, latent: Tensor) -> bool:
        return self.plan.conditions is not None and self.plan.conditions.in_tiles(latent.shape)

    def _in_turns(
        self,
        executor: Callable,
        run: Run,
        negative: tuple[bool, ...],
        grounded: bool,
        inputs: tuple,
        transformer_options: dict[str, Any],
        kwargs: dict[str, Any],
    ) -> Tensor:
        """One model call, in as many turns as it takes."""
        x, *_, context, _ = inputs
        turns = run.rows.turns(run.rows_at_once, grounded, not run.rows_may_leave)
        out = None
        for turn in turns:
            call = self._call(run, turn, negative, grounded, x.device, transformer_options)
            if self.names is None:
                call = call._replace(anywhere=Picture.of(x, context))
            if self.plan.conditions is not None:
                kinds = 1 + len(self.plan.conditions.latents)
                call = call._replace(seeing=Seeing(len(negative), kinds, context.shape[1]))
            options = {**transformer_options, CALL: call, "optimized_attention_override": attend}
            self.running.options = options
            if len(turn) == len(run.rows):
                out = executor(*inputs, options, **kwargs)
            else:
                index = torch.tensor(expand(turn, len(negative), len(run.rows)), device=x.device)
                with run.watch.over(turns):
                    part = executor(
                        *(take(value, index, x.shape[0]) for value in inputs),
                        options,
                        **{name: take(value, index, x.shape[0]) for name, value in kwargs.items()},
                    )
                # Rows that nobody looks at any more stay as they are.
                out = x.to(part, copy=True) if out is None else out
                out[index] = part
            if run.watch.tiled or len(turns) > 1:
                run.watch.check(transformer_options, call.reached)
            run.reached |= call.reached
        return out

    def _call(
        self,
        run: Run,
        turn: list[int],
        negative: tuple[bool, ...],
        grounded: bool,
        device: torch.device,
        transformer_options: dict[str, Any],
    ) -> Call:
        """What the rows ``turn`` of every chunk need; cached, because few kinds of call recur every step."""
        key = (tuple(turn), negative, device)
        if key not in run.cache:
            numbers = tuple(row for _ in negative for row in turn)
            bias = None
            if run.values is not None:
                none = len(run.rows)
                entries = [none if minus else row for minus in negative for row in turn]
                bias = [value.to(device)[entries, None] for value in run.values]
            run.cache[key] = numbers, bias, grounding_of(run.rows, turn, negative, self.with_keys, device)
        numbers, bias, grounding = run.cache[key]
        inner = transformer_options.get("optimized_attention_override")
        return Call(len(numbers), bias, grounding if grounded else None, inner, set(), numbers=numbers)


def _without_pivots(callback: Callable | None, targets: int) -> Callable | None:
    """The sampler's callback as the user's side knows it: previews hold the user's rows only."""
    if callback is None:
        return None

    def on_step(step, denoised, x, total):
        return callback(step, denoised[:targets], x[:targets], total)

    return on_step
