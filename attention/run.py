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

import inspect
import threading
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from .contents import lay_out, lay_out_mask
from .equations import NO_ANNOTATION, Grounding, add, annotation, grounded_attention, tiled
from .module import AdapterModule
from .noise import SharedNoise
from .reach import Picture, check_reached
from .rows import Plan, Rows, Trajectory, arrange, expand, grounding_steps

RUN = "bokeh_run"
CALL = "bokeh_call"
NEGATIVE = "bokeh_negative"
PLACES = "bokeh_places"


class Running(threading.local):
    """The options of the model call that runs on this thread, for blocks whose caller forgot to pass them on."""

    options: dict[str, Any] | None = None

    def __enter__(self) -> None:
        pass

    def __exit__(self, *exception: object) -> None:
        self.options = None


class Call(NamedTuple):
    """What the attention override needs in one call of the model; plain values and ready tensors only.

    Attributes:
        rows: of the batch.
        bias: [rows, 1, C] for every place; None without an adapter.
        grounding: None while there is none.
        inner: another node's attention override.
        reached: collects the places that attention was called at.
        anywhere: which attention is the picture's, in a model whose places no table knows.
    """

    rows: int
    bias: list[Tensor] | None
    grounding: Grounding | None
    inner: Callable | None
    reached: set[int] | None = None
    anywhere: Picture | None = None


@dataclass(eq=False)
class Run:
    """State of one sampling run."""

    rows: Rows
    rows_at_once: int
    noise: Tensor | None = None
    shared_noise: SharedNoise | None = None
    values: list[Tensor] | None = None
    last_grounded_sigma: float = float("inf")
    given: Tensor | Trajectory | None = None
    conds: dict[str, list] = field(default_factory=dict)
    cache: dict[Any, tuple[list[Tensor] | None, Grounding | None]] = field(default_factory=dict)
    reached: set[int] = field(default_factory=set)
    checked: bool = False

    def is_negative(self, conds: list[list | None]) -> tuple[bool, ...]:
        """For each list of conditionings of a call, whether it belongs to the negative branch.

        Known by identity with the guider's own lists; guiders with other names (DualCFG, PerpNeg) pass the
        same lists in an order of their own. A list nobody knows counts by the host's order: positive first.
        """
        known = {id(entries): "negative" in name for name, entries in self.conds.items()}
        return tuple(known.get(id(entries), index > 0) for index, entries in enumerate(conds))


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
        _check_pivot_latent(self.plan, noise)
        run = Run(rows, self.plan.rows_at_once)
        if tuple(range(len(rows))) != rows.noise:
            noise = noise[list(rows.noise)]
            run.shared_noise = SharedNoise(rows.column("scene"), noise.shape)
        run.noise = noise if not rows.pinned or noise.any() else _noise_of_seed(noise, rows, seed)
        guider = executor.class_obj
        guider.conds = lay_out(guider.conds, rows)
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

    def prepare_sampling(self, executor, model, noise_shape, conds, *args, **kwargs):
        rows_at_once = self.plan.rows_at_once
        if rows_at_once:
            # Memory follows the rows that go through the model together, a pivot among them.
            noise_shape = (min(noise_shape[0], rows_at_once + 1), *noise_shape[1:])
        return executor(model, noise_shape, conds, *args, **kwargs)

    def sampler_sample(self, executor, guider, sigmas, extra_args, *args, **kwargs):
        run: Run = extra_args["model_options"]["transformer_options"][RUN]
        run.conds = guider.conds
        device = guider.model_patcher.load_device
        if self.module is not None:
            annotations = [*map(annotation, run.rows.column("blur")), NO_ANNOTATION]
            values = self.module.values(torch.tensor(annotations, device=device))
            run.values = [(self.bokeh_scale * value).to(self.dtype) for value in values]
        if self.plan.pivot is not None:
            steps = len(sigmas) - 1
            run.last_grounded_sigma = float(sigmas[grounding_steps(self.plan.pivot.grounding, steps)])
            if self.plan.pivot.trajectory is not None:
                run.given = self.plan.pivot.trajectory.to(device)
            elif run.rows.pinned:
                latent = self.plan.pivot.latent.to(device=device, dtype=torch.float32)
                run.given = guider.inner_model.process_latent_in(latent)
        with run.shared_noise or nullcontext():
            return executor(guider, sigmas, extra_args, *args, **kwargs)

    def predict_noise(self, executor, x, timestep, model_options, *args, **kwargs):
        run = model_options["transformer_options"].get(RUN)
        if run is not None and run.given is not None:
            sigmas = timestep[run.rows.targets :]
            if isinstance(run.given, Trajectory):
                pinned = run.given.at(sigmas).to(x)
            else:
                noise = run.noise[run.rows.targets :].to(x)
                sampling = executor.class_obj.inner_model.model_sampling
                pinned = sampling.noise_scaling(sigmas, noise, run.given.to(x).expand_as(noise))
            x = x.clone()
            x[run.rows.targets :] = pinned
        out = executor(x, timestep, model_options, *args, **kwargs)
        if run is not None and not run.checked:
            run.checked = True
            if self.module is not None or self.plan.pivot is not None:
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
        size = x.shape[0] // len(roles)
        if x.shape[0] % len(roles) or size % len(run.rows):
            raise ValueError(
                f"The model was called with {x.shape[0]} rows in {len(roles)} parts, but this run has "
                f"{len(run.rows)} rows. Another node regroups the batch in a way bokeh cannot follow: take "
                "that node out."
            )
        grounded = bool(t[0].item() > run.last_grounded_sigma)
        # A node that cuts the picture into tiles stacks them batch by batch: `size // rows` copies.
        copies = range(size // len(run.rows))
        turns = [
            [copy * len(run.rows) + row for copy in copies for row in turn] for turn in run.rows.turns(run.rows_at_once)
        ]
        out = None
        with run.shared_noise.paused() if run.shared_noise else nullcontext(), self.running:
            for turn in turns:
                call = self._call(run, turn, negative, grounded, x.device, transformer_options)
                if self.names is None:
                    call = call._replace(anywhere=Picture.of(x, c_crossattn))
                options = {**transformer_options, CALL: call, "optimized_attention_override": attend}
                self.running.options = options
                if len(turns) == 1:
                    return executor(x, t, c_concat, c_crossattn, control, options, **kwargs)
                index = torch.tensor(expand(turn, len(roles), size), device=x.device)
                part = executor(
                    *(_take(value, index, x.shape[0]) for value in (x, t, c_concat, c_crossattn, control)),
                    options,
                    **{name: _take(value, index, x.shape[0]) for name, value in kwargs.items()},
                )
                out = part.new_empty((x.shape[0], *part.shape[1:])) if out is None else out
                out[index] = part
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
            none = len(run.rows)
            entries = [none if minus else row % len(run.rows) for minus in negative for row in turn]
            bias = None if run.values is None else [value.to(device)[entries, None] for value in run.values]
            run.cache[key] = bias, self._grounding(run.rows, turn, negative, device)
        bias, grounding = run.cache[key]
        inner = transformer_options.get("optimized_attention_override")
        return Call(len(negative) * len(turn), bias, grounding if grounded else None, inner, run.reached)

    def _grounding(
        self, rows: Rows, turn: list[int], negative: tuple[bool, ...], device: torch.device
    ) -> Grounding | None:
        targets, pivots, others = [], [], []
        for chunk, minus in enumerate(negative):
            for place, row in enumerate(turn):
                here = chunk * len(turn) + place
                copy, inside = divmod(row, len(rows))
                pivot = copy * len(rows) + rows[inside].pivot
                if minus or pivot == row:
                    others.append(here)
                else:
                    targets.append(here)
                    pivots.append(chunk * len(turn) + turn.index(pivot))
        if not targets:
            return None
        if len(set(pivots)) == 1:
            pivots = pivots[:1]
        as_index = (row_index(part, device) for part in (targets, pivots, others))
        return Grounding(*as_index, with_keys=self.with_keys)


def marked(forward: Callable, places: tuple[int | None, ...], running: Running) -> Callable:
    """The forward of a module that calls attention, which tells ``attend`` the places of these calls.

    Packs that write a forward of the network anew call its blocks without the options that the host passes on; then
    those of the running call stand in.
    """
    parameters = inspect.signature(forward).parameters.values()
    names = [parameter.name for parameter in parameters]
    if "transformer_options" not in names and all(parameter.kind != parameter.VAR_KEYWORD for parameter in parameters):
        return lambda *args, **kwargs: forward(*args, **kwargs)
    index = names.index("transformer_options") if "transformer_options" in names else None

    def with_places(*args, **kwargs):
        positional = index is not None and len(args) > index
        options = args[index] if positional else kwargs.get("transformer_options")
        if not options or CALL not in options:
            if running.options is None:
                return forward(*args, **kwargs)
            options = {**running.options, **(options or {})}
        # A copy: its places are counted off by the owner's own attention calls, and nobody else sees them.
        options = {**options, PLACES: places}
        if positional:
            return forward(*args[:index], options, *args[index + 1 :], **kwargs)
        return forward(*args, **{**kwargs, "transformer_options": options})

    return with_places


def attend(func, q, k, v, heads, mask=None, *args, **kwargs):
    """Attention override: grounding where it is on, and the bokeh value added for every token.

    One function for all nodes and runs: what differs arrives in ``transformer_options``, so a compiled model
    finds the same function at every step.
    """
    options = kwargs["transformer_options"]
    call: Call = options[CALL]

    def attention(q, k, v, mask):
        if call.inner is not None:
            return call.inner(func, q, k, v, heads, mask, *args, **kwargs)
        return func(q, k, v, heads, mask, *args, **kwargs)

    # Projections that leave queries, keys and values flat count tokens before heads.
    tokens = 2 if kwargs.get("skip_reshape") else 1
    place, places = None, options.get(PLACES)
    if places:
        # The options are the owner's own copy; its next attention call has the next place.
        place, options[PLACES] = places[0], places[1:]
    elif call.anywhere is not None and call.anywhere.is_seen(q, k, tokens, call.rows):
        place = 0
    if place is None:
        return attention(q, k, v, mask)
    if call.reached is not None and not torch.compiler.is_compiling():
        call.reached.add(place)
    bias = None if call.bias is None else call.bias[place]
    # A node that cuts pictures into tiles for attention alone (HyperTile) gives every row several.
    tiles = q.shape[0] // call.rows
    if tiles > 1:
        # Its keys and values are whole still: the host's attention cuts them by looking at the queries' batch.
        k, v = (part.reshape(q.shape[0], -1, *part.shape[2:]) for part in (k, v))
        bias = None if bias is None else bias.repeat_interleave(tiles, dim=0)
        if mask is not None and mask.ndim > 2 and mask.shape[0] == call.rows:
            mask = mask.repeat_interleave(tiles, dim=0)
    if call.grounding is not None:
        out = grounded_attention(attention, q, k, v, tiled(call.grounding, tiles, q.device), mask, tokens)
        return out if bias is None else add(out, bias)
    out = attention(q, k, v, mask)
    if bias is None:
        return out
    # What another pack's override returns may be its own to keep.
    return out + bias if call.inner is not None else add(out, bias)


def row_index(rows: list[int], device: torch.device) -> Tensor | slice:
    """Row numbers as an index: a slice where they follow one another, because that copies nothing."""
    if rows and rows == list(range(rows[0], rows[-1] + 1)):
        return slice(rows[0], rows[-1] + 1)
    return torch.tensor(rows, device=device, dtype=torch.long)


def _noise_of_seed(noise: Tensor, rows: Rows, seed: int) -> Tensor:
    """The noise that ``seed`` starts from, for the later of two sampler nodes: it adds none itself, but a pivot
    that follows a given latent needs at every level the noise that the first one started from."""
    drawn = torch.randn((rows.scenes, *noise.shape[1:]), generator=torch.Generator().manual_seed(seed))
    return drawn[list(rows.column("scene"))]


def _take(value: Any, index: Tensor, size: int) -> Any:
    """Rows ``index`` of every tensor that has one row for each of ``size`` rows, in lists and dicts too."""
    if isinstance(value, Tensor):
        return value[index.to(value.device)] if value.ndim and value.shape[0] == size else value
    if isinstance(value, dict):
        return {name: _take(entry, index, size) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_take(entry, index, size) for entry in value)
    return value


def _without_pivots(callback: Callable | None, targets: int) -> Callable | None:
    """The sampler's callback as the user's side knows it: previews hold the user's rows only."""
    if callback is None:
        return None

    def on_step(step, denoised, x, total):
        return callback(step, denoised[:targets], x[:targets], total)

    return on_step


def _check_pivot_latent(plan: Plan, noise: Tensor) -> None:
    latent = plan.pivot.given if plan.pivot is not None else None
    if latent is not None and latent.shape[1:] != noise.shape[1:]:
        raise ValueError(
            f"The pivot's latent is {_shape(latent)} (channels x height x width), but the graph samples "
            f"{_shape(noise)}. Encode the pivot's picture at the size of the latent that goes into the sampler."
        )


def _shape(latent: Tensor) -> str:
    return " x ".join(str(side) for side in latent.shape[1:])
