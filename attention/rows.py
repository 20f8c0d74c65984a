"""Who is who in a batch: which blur each row shows, which row holds its scene, whose noise it starts from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..sweep.values import nearest


@dataclass(frozen=True, eq=False)
class Trajectory:
    """The way of n pictures from clean to noise, as an inversion found it.

    Attributes:
        sigmas: noise levels [S], rising from 0.
        states: the pictures at these levels [S, n, C, h, w], in the model's own scale.
    """

    sigmas: Tensor
    states: Tensor

    def to(self, device: torch.device) -> Trajectory:
        return Trajectory(self.sigmas.to(device), self.states.to(device))

    def at(self, sigmas: Tensor) -> Tensor:
        """The states [m, C, h, w] at the levels ``sigmas`` [m], linear between the recorded ones.

        Of one picture all m; of several, level i is picture i's. Above the last level: its state.
        """
        upper = torch.searchsorted(self.sigmas, sigmas.to(self.sigmas)).clamp(1, len(self.sigmas) - 1)
        low, high = self.sigmas[upper - 1], self.sigmas[upper]
        share = ((sigmas.to(low) - low) / (high - low)).clamp(0, 1)[:, None, None, None]
        picture = torch.arange(len(sigmas), device=upper.device) % self.states.shape[1]
        return torch.lerp(self.states[upper - 1, picture], self.states[upper, picture], share)


@dataclass(frozen=True)
class Pivot:
    """The picture that holds the scene.

    Attributes:
        blur: its blur, 0..30.
        grounding: fraction of the steps, 0..1, during which targets are grounded in it.
        latent: a clean latent [n, C, h, w] to use as the pivot (a photo through the VAE, say) instead of
            a generated one.
        trajectory: the inversion of such a latent, to be followed instead of the straight line between
            the latent and the run's noise.
    """

    blur: float
    grounding: float = 0.8
    latent: Tensor | None = field(default=None, compare=False)
    trajectory: Trajectory | None = field(default=None, compare=False)

    @property
    def given(self) -> Tensor | None:
        """The pictures [n, C, h, w] that pivots follow, clean; None when pivots are generated."""
        return self.latent if self.trajectory is None else self.trajectory.states[0]


@dataclass(frozen=True)
class Plan:
    """What one node asks of a model.

    Attributes:
        blurs: the values of a sweep, or the one value of a slider.
        pivot: None for ungrounded sampling.
        one_scene: True for a sweep (every row is the same scene), False for a slider (every row of the
            batch is a picture of its own, with a pivot of its own).
        rows_at_once: how many targets go through the model together; 0 = all.
    """

    blurs: tuple[float, ...]
    pivot: Pivot | None = None
    one_scene: bool = False
    rows_at_once: int = 0


@dataclass(frozen=True)
class Rows:
    """The rows of a running batch; the targets come first, in the user's order, pivots after them.

    Attributes:
        targets: number of rows that the user sees.
        blurs: blur of each row.
        pivots: for each row the row that holds its scene; its own number when it is not grounded.
        noise: for each row the target row whose starting noise it shares.
        latents: for each row the target row whose starting latent it shares.
        pinned: True when the rows after the targets follow a given latent.
    """

    targets: int
    blurs: tuple[float, ...]
    pivots: tuple[int, ...]
    noise: tuple[int, ...]
    latents: tuple[int, ...]
    pinned: bool = False

    def __len__(self) -> int:
        return len(self.blurs)

    def turns(self, rows_at_once: int) -> list[list[int]]:
        """Split the rows into turns of at most ``rows_at_once`` rows, each with the pivots it needs.

        Every row is computed for its own sake in exactly one turn, except pivots, which come along in
        every turn that holds a row of theirs.
        """
        holders = {pivot for row, pivot in enumerate(self.pivots) if pivot != row}
        followers = [row for row in range(len(self)) if row not in holders]
        if rows_at_once <= 0 or len(followers) <= rows_at_once:
            return [list(range(len(self)))]
        groups = [followers[i : i + rows_at_once] for i in range(0, len(followers), rows_at_once)]
        return [sorted({*group, *(self.pivots[row] for row in group)}) for group in groups]


def arrange(plan: Plan, batch: int) -> Rows:
    """Lay out a batch of ``batch`` user rows for a plan (DESIGN: one pivot row serves a whole sweep).

    A sweep whose pivot is one of its values needs no row besides its own; otherwise one row is added. A
    slider with a pivot adds one pivot row for every picture of the batch.

    Raises:
        ValueError: when the batch does not fit the sweep or the pivot's latent.
    """
    if plan.one_scene and batch != len(plan.blurs):
        raise ValueError(
            f"The sampler got a batch of {batch} latents, but the sweep has {len(plan.blurs)} blurs. "
            "Connect the latent output of the sweep node to the sampler."
        )
    blurs = plan.blurs if plan.one_scene else plan.blurs * batch
    own = tuple(range(batch))
    scenes = (0,) * batch if plan.one_scene else own
    pivot = plan.pivot
    given = None if pivot is None else pivot.given
    if pivot is None or (given is None and not plan.one_scene and pivot.blur == blurs[0]):
        return Rows(batch, blurs, own, scenes, own)
    if plan.one_scene and given is None and pivot.blur in blurs:
        return Rows(batch, blurs, (blurs.index(pivot.blur),) * batch, scenes, own)
    count = 1 if plan.one_scene else batch
    if given is not None and given.shape[0] not in (1, count):
        raise ValueError(
            f"The pivot's latent is a batch of {given.shape[0]}, but there "
            f"{'is 1 scene' if count == 1 else f'are {count} scenes'}. "
            "Give one latent (LatentFromBatch picks one out of a batch)."
        )
    added = tuple(range(batch, batch + count))
    return Rows(
        targets=batch,
        blurs=blurs + (pivot.blur,) * count,
        pivots=tuple(added[scene] for scene in scenes) + added,
        noise=scenes + tuple(range(count)),
        # In the second of two sampler nodes the latents already differ: the nearest blur stands in best.
        latents=own + ((nearest(blurs, pivot.blur),) if plan.one_scene else own),
        pinned=given is not None,
    )


def grounding_steps(grounding: float, steps: int) -> int:
    """Number of grounded steps out of the steps that actually run, rounded to the nearest."""
    return int(grounding * steps + 0.5)


def expand(rows: Sequence[int], chunks: int, size: int) -> list[int]:
    """Row numbers of one chunk -> the same rows in each of ``chunks`` chunks of ``size`` rows."""
    return [chunk * size + row for chunk in range(chunks) for row in rows]
