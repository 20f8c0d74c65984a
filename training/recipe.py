"""What is trained on what: the settings, and the drawing of batches (Bokeh Diffusion, arXiv 2503.08434, section 3).

Flow matching, x = (1 - s) z + s noise with the velocity noise - z as target. A batch is made of units of
``per_scene`` pictures, each unit one of

    grounded group    one scene at several blurs, a random member the pivot of the others, as in sampling
    group             the same without grounding
    singles           scenes of their own, each at one blur

Pictures of one scene share noise, timestep and caption; see ``by_row`` for another way. Everything a unit draws comes
from generators made of (seed, step, number of the unit), so it does not matter which process draws it, or whether the
run was interrupted.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..attention.equations import NO_ANNOTATION, annotation
from .pictures import LatentDataset, Text

# A recipe's ``blocks`` in a word.
DEEP = "deep"
# Below it nothing changes in float32.
SMALLEST = 1e-12


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The settings of a training run.

    Attributes:
        seed: of everything that is drawn.
        batch: pictures that go through the model together, in each process; a multiple of ``per_scene``.
        accumulate: batches of one step.
        per_scene: pictures of a unit, and so of a group.
        grouped: share of the units that are groups.
        grounded: share of the groups in which grounding is active.
        no_annotation: share of the scenes whose blur is replaced by "no annotation". A group loses all of its
            annotations or none, and one that lost them is not grounded: "no annotation" is the negative branch of
            sampling, which never is.
        no_caption: share of the scenes whose caption is replaced by the empty one.
        timestep_mean, timestep_std: of the normal distribution of log(s / (1 - s)). A mean of log(shift) is FLUX's
            shift; a larger one trains more on the noisiest steps, in which layout and blur are settled.
        by_row: draw grounding, noise and annotation for each picture instead of each group: ``grounded`` is then the
            share of a group's pictures that follow another one of it, and these alone share its noise and timestep.
        noise_offset: standard deviation of a shift of the noise by one number a channel.
        guidance: for models that take it as an input.
        rank: of every low-rank pair.
        blocks: numbers of the adapted blocks, in the order in which they run; DEEP for the deeper ones (see
            ``start.deep``), None for all.
        unfreeze_q, unfreeze_k: whether queries and keys are adapted.
        context_dim, hidden_dim: widths of the bokeh embedding and of the layer inside it.
        learning_rate, warmup, weight_decay, gradient_clip: of AdamW; warm-up in steps, clip by the gradient's norm.
        decay: last share of the run's steps, over which the learning rate falls to zero; 0 for a constant rate.
        cosine: whether it falls along half a cosine instead of a line.
        average: decay of the moving average of the weights, which is the result; 0 for the weights themselves.
        held_out_units: units on which the held-out loss is measured, the same ones every time.
        autocast: compute in bfloat16 what the model would compute in float32.
        checkpointing: compute blocks a second time in the backward pass instead of keeping their activations.
    """

    seed: int = 0
    batch: int = 4
    accumulate: int = 1
    per_scene: int = 4
    grouped: float = 0.5
    grounded: float = 0.5
    no_annotation: float = 0.1
    no_caption: float = 0.1
    timestep_mean: float = 0.6
    timestep_std: float = 1.0
    by_row: bool = False
    noise_offset: float = 0.0
    guidance: float = 1.0
    rank: int = 64
    blocks: tuple[int, ...] | str | None = None
    unfreeze_q: bool = True
    unfreeze_k: bool = True
    context_dim: int = 768
    hidden_dim: int = 64
    learning_rate: float = 1e-4
    warmup: int = 100
    decay: float = 0.0
    cosine: bool = False
    weight_decay: float = 0.0
    gradient_clip: float = 1.0
    average: float = 0.999
    held_out_units: int = 8
    autocast: bool = False
    checkpointing: bool = True

    def __post_init__(self) -> None:
        for name in ("batch", "accumulate", "per_scene", "rank", "context_dim", "hidden_dim", "held_out_units"):
            # Also false for NaN, here and below.
            if not (getattr(self, name) >= 1 and getattr(self, name) == int(getattr(self, name))):
                raise ValueError(f"{name} is {getattr(self, name)}. Choose a whole number of at least 1.")
        if not 0 <= self.seed < 2**64:
            raise ValueError("The seed is outside 0 to 2**64 - 1. Choose another one.")
        if self.batch % self.per_scene:
            raise ValueError(
                f"A batch of {self.batch} pictures cannot be made of groups of {self.per_scene}. Choose a batch "
                f"that is a multiple of {self.per_scene}, or another number of pictures for each scene."
            )
        if isinstance(self.blocks, str) and self.blocks != DEEP:
            raise ValueError(f'blocks is "{self.blocks}". Choose "{DEEP}", or the numbers of blocks.')
        for name in ("grouped", "grounded", "no_annotation", "no_caption", "decay"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}. It is a share: choose a number from 0 to 1.")
        if not 0 <= self.average < 1:
            raise ValueError(f"average is {self.average}. Choose a number from 0 (off) to less than 1.")
        for name in ("learning_rate", "timestep_std", "gradient_clip"):
            if not (getattr(self, name) > 0 and math.isfinite(getattr(self, name))):
                raise ValueError(f"{name} is {getattr(self, name)}. Choose a number greater than 0.")
            if getattr(self, name) < SMALLEST:
                raise ValueError(f"{name} is {getattr(self, name)}. Choose a number of at least {SMALLEST:g}.")
        for name in ("weight_decay", "warmup", "guidance", "noise_offset"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)}. Choose a number from 0 up.")
        if not math.isfinite(self.timestep_mean):
            raise ValueError(f"timestep_mean is {self.timestep_mean}. Choose a finite number, such as 0.6.")

    def identity(self, processes: int) -> dict[str, object]:
        """What must be equal for a run to go on from a checkpoint; processes only divide the batch among them."""
        settings = asdict(self) | {"batch": self.batch * processes}
        del settings["checkpointing"]
        return settings | {"blocks": list(self.blocks) if isinstance(self.blocks, tuple) else self.blocks}


# Named settings beside our own, which are the defaults.
PRESETS: dict[str, dict[str, object]] = {
    # The closest that is published (fogradio/BokehDepth, train_flux_I2I.sh and .py, its text-to-image half), with AdamW
    # for its Prodigy, which finds the learning rate by itself. There: 512 px, four pictures on each of four GPUs, 40
    # epochs.
    "BokehDepth": {
        "batch": 16,
        "per_scene": 4,
        "rank": 128,
        "grouped": 0.5,
        "by_row": True,
        "grounded": 0.2,
        "no_annotation": 0.1,
        "no_caption": 0.1,
        "timestep_mean": 0.0,
        "timestep_std": 1.0,
        "noise_offset": 0.05,
        "decay": 1.0,
        "cosine": True,
        "average": 0.0,
    },
}


def rate_share(step: int, steps: int, warmup: int, decay: float, cosine: bool = False) -> float:
    """The share of the learning rate in step ``step`` (from 0) of ``steps``: rising over ``warmup`` steps, falling to
    zero over the last share ``decay`` of all steps, along a line or half a cosine."""
    rise = min(1.0, (step + 1) / max(1, warmup))
    left = min(1.0, (steps - step) / (decay * steps)) if decay else 1.0
    return rise * ((1 - math.cos(math.pi * left)) / 2 if cosine else left)


class Unit(NamedTuple):
    """What pictures of one size, with captions of one length, give the model; n rows.

    Attributes:
        latents, noise: [n, C, ..., h, w] float32.
        sigmas: [n], the timesteps s.
        annotations: [n], blur / 30, or -1 for none.
        text: one for each row.
        pivots: for each row the row that holds its scene; its own number when it is not grounded.
    """

    latents: Tensor
    noise: Tensor
    sigmas: Tensor
    annotations: Tensor
    text: Text
    pivots: tuple[int, ...]


def draw_units(recipe: Recipe, data: LatentDataset, step: int, number: int, held_out: bool = False) -> list[Unit]:
    """Unit ``number`` of a step, in as many parts as its captions have lengths; of the held-out loss, whose steps are
    all alike, with ``held_out``."""
    chosen, shown = generators(recipe, step, number, held_out)
    group = recipe.per_scene > 1 and data.groups
    grouped = group and (_happens(recipe.grouped, chosen) or not data.singles)
    grounded = _happens(recipe.grounded, chosen) and grouped and not recipe.by_row
    scenes, per_scene = (1, recipe.per_scene) if grouped else (recipe.per_scene, 1)

    drawn = data.draw(shown, scenes, per_scene, held_out)
    latents = drawn.latents.float().cpu().split(per_scene)
    # One of each a scene, or a row.
    drawings = per_scene if recipe.by_row else 1
    noise = torch.randn((scenes * drawings, *latents[0].shape[1:]), generator=chosen)
    if recipe.noise_offset:
        shift = torch.randn((*noise.shape[:2], *[1] * (noise.ndim - 2)), generator=chosen)
        noise = noise + recipe.noise_offset * shift
    sigmas = torch.sigmoid(recipe.timestep_mean + recipe.timestep_std * torch.randn(len(noise), generator=chosen))
    annotations = annotation(drawn.blurs.float().cpu()).split(per_scene)
    units = []
    for scene, text in enumerate(drawn.texts):
        pivot = int(torch.randint(per_scene, (), generator=chosen))
        dropped = [_happens(recipe.no_annotation, chosen) for _ in range(drawings)] * (per_scene // drawings)
        shown = annotations[scene].masked_fill(torch.tensor(dropped), NO_ANNOTATION)
        if _happens(recipe.no_caption, chosen):
            text = data.empty()
        if recipe.by_row:
            follows = [grouped and _happens(recipe.grounded, chosen) for _ in range(per_scene)]
        else:
            follows = [grounded] * per_scene
        pivots = tuple(
            pivot if follow and not (dropped[row] or dropped[pivot]) else row for row, follow in enumerate(follows)
        )
        # What a picture takes from another's drawing.
        source = [scene * drawings + (held if recipe.by_row else 0) for held in pivots]
        rows = Text(*(None if part is None else part.expand(per_scene, *part.shape) for part in text))
        units.append(Unit(latents[scene], noise[source], sigmas[source], shown, rows, pivots))
    return join(units)


def generators(recipe: Recipe, step: int, number: int, held_out: bool) -> tuple[torch.Generator, torch.Generator]:
    """What unit ``number`` of a step draws its settings from, and its pictures."""
    key = (recipe.seed, "held out" if held_out else "training", step, number)
    return _generator(*key, "recipe"), _generator(*key, "pictures")


def join(units: list[Unit]) -> list[Unit]:
    """Units of equal shapes one after the other, so that they go through the model together."""
    alike: dict[tuple, list[Unit]] = {}
    for unit in units:
        shapes = (None if part is None else part.shape[1:] for part in (unit.latents, *unit.text))
        alike.setdefault(tuple(shapes), []).append(unit)

    def together(parts: Sequence[Tensor | None]) -> Tensor | None:
        return None if parts[0] is None else torch.cat(parts)

    joined = []
    for members in alike.values():
        pivots, first = [], 0
        for member in members:
            pivots += [first + pivot for pivot in member.pivots]
            first += len(member.pivots)
        text = Text(*map(together, zip(*(member.text for member in members), strict=True)))
        tensors = map(together, zip(*(member[:4] for member in members), strict=True))
        joined.append(Unit(*tensors, text, tuple(pivots)))
    return joined


def _happens(share: float, generator: torch.Generator) -> bool:
    return bool(torch.rand((), generator=generator) < share)


def _generator(*key: object) -> torch.Generator:
    """A generator of its own for each key; Python's own hash differs between processes."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
