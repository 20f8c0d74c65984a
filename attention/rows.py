"""Who is who in a batch: which blur each row shows, which row holds its scene, whose noise it starts from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..sweep.values import nearest

if TYPE_CHECKING:
    from .conditions import Conditions


@dataclass(frozen=True, eq=False)
class Trajectory:
    """The way of n pictures from clean to noise, as an inversion found it.

    Attributes:
        sigmas: noise levels [S], rising from 0.
        states: the pictures at these levels [S, n, C, ..., h, w], in the model's own scale.
    """

    sigmas: Tensor
    states: Tensor

    def to(self, device: torch.device) -> Trajectory:
        return Trajectory(self.sigmas.to(device), self.states.to(device))

    def at(self, sigmas: Tensor) -> Tensor:
        """The states [m, C, ..., h, w] at the levels ``sigmas`` [m], linear between the recorded ones.

        Of one picture all m; of several, level i is picture i's. Above the last level: its state.
        """
        upper = torch.searchsorted(self.sigmas, sigmas.to(self.sigmas)).clamp(1, len(self.sigmas) - 1)
        low, high = self.sigmas[upper - 1], self.sigmas[upper]
        share = ((sigmas.to(low) - low) / (high - low)).clamp(0, 1).view(-1, *[1] * (self.states.ndim - 2))
        picture = torch.arange(len(sigmas), device=upper.device) % self.states.shape[1]
        return torch.lerp(self.states[upper - 1, picture], self.states[upper, picture], share)


@dataclass(frozen=True)
class Pivot:
    """The picture that holds the scene.

    Attributes:
        blur: its blur, 0..30.
        grounding: fraction of the steps, 0..1, during which targets are grounded in it.
        latent: a clean latent [n, C, ..., h, w] to use as the pivot (a photo through the VAE, say) instead of
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
        one_scene: True for a sweep (the rows of a scene differ in blur), False for a slider (every row of the
            batch is a picture of its own, with a pivot of its own).
        rows_at_once: how many targets go through the model together; 0 = all.
        conditions: what the pictures are made from, in place of a blur and a pivot.
        numbers: of a sweep's scenes in the batch that they come from, by which the host draws their noise
            (``batch_index``); None where nobody knows.
    """

    blurs: tuple[float, ...]
    pivot: Pivot | None = None
    one_scene: bool = False
    rows_at_once: int = 0
    conditions: Conditions | None = None
    numbers: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Row:
    """One row of a running batch.

    Attributes:
        blur: what the dial shows, 0..30.
        scene: the scene it belongs to; rows of one scene start from the same noise and draw the same on the way.
        level: which of its scene's levels it shows; of a pivot that is not among them, the nearest.
        source: the user's row whose contents it shows: latent, prompt, masks, references, control pictures.
        pivot: the row that holds its scene; its own number when it is not grounded.
        shown: False for a row that the user did not ask for.
        condition: which of its picture's conditions it is; None for pictures.
    """

    blur: float
    scene: int
    level: int
    source: int
    pivot: int
    shown: bool = True
    condition: int | None = None


@dataclass(frozen=True)
class Rows:
    """The table of a running batch: the user's rows first, scene by scene, pivots that were added after them.

    Everything that has one entry a picture is laid out by this table and nothing else.

    Attributes:
        table: one record a row.
        pinned: True when the added rows follow a given latent.
    """

    table: tuple[Row, ...]
    pinned: bool = False

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, row: int) -> Row:
        return self.table[row]

    def column(self, name: str) -> tuple:
        """One field of every record."""
        return tuple(getattr(row, name) for row in self.table)

    @property
    def targets(self) -> int:
        """Number of rows that the user sees."""
        return sum(row.shown for row in self.table)

    @property
    def scenes(self) -> int:
        return 1 + max(row.scene for row in self.table)

    @property
    def levels(self) -> int:
        """Number of rows that the user sees of each scene."""
        return self.targets // self.scenes

    @property
    def noise(self) -> tuple[int, ...]:
        """For each row the user's row whose starting noise it takes: the first of its scene."""
        return tuple(row.scene * self.levels for row in self.table)

    def turns(self, rows_at_once: int, grounded: bool = True, all_rows: bool = True) -> list[list[int]]:
        """Split the rows into turns of at most ``rows_at_once`` rows (0: all together), each with the pivots it needs.

        Every row is computed for its own sake in exactly one turn. While the scene is being held, pivots come along in
        every turn that holds a row of theirs; afterwards nobody looks at them, and without ``all_rows`` those that the
        user does not see are left out. Conditions go with their picture always, and count for nothing.
        """
        if any(row.condition is not None for row in self.table):
            group = rows_at_once if rows_at_once > 0 else self.targets
            return [
                [number for number, row in enumerate(self.table) if start <= row.source < start + group]
                for start in range(0, self.targets, group)
            ]
        holders = {row.pivot for number, row in enumerate(self.table) if row.pivot != number} if grounded else set()
        rows = [number for number, row in enumerate(self.table) if grounded or all_rows or row.shown]
        own = [number for number in rows if number not in holders]
        if rows_at_once <= 0 or len(own) <= rows_at_once:
            return [rows]
        groups = [own[i : i + rows_at_once] for i in range(0, len(own), rows_at_once)]
        return [sorted({*group, *(self[number].pivot for number in group if grounded)}) for group in groups]


def arrange(plan: Plan, batch: int) -> Rows:
    """Lay out a batch of ``batch`` user rows for a plan: in a sweep one scene after the other, each with all its
    levels; of a slider every row is a scene of its own: one pivot row serves a whole scene.

    A sweep whose pivot is one of its values needs no row besides its own; otherwise one row a scene is added.

    Raises:
        ValueError: when the batch does not fit the sweep or the pivot's latent.
    """
    if plan.conditions is not None:
        return plan.conditions.arrange(batch)
    levels = len(plan.blurs)
    if batch % levels:
        raise ValueError(
            f"The sampler got a batch of {batch} latents, but the sweep has {levels} blurs. "
            "Connect the latent output of the sweep node to the sampler."
        )
    scenes, pivot = batch // levels, plan.pivot
    given = None if pivot is None else pivot.given
    listed = plan.blurs.index(pivot.blur) if given is None and pivot is not None and pivot.blur in plan.blurs else None
    added = pivot is not None and listed is None

    def holder(scene: int, row: int) -> int:
        if pivot is None:
            return row
        return batch + scene if added else scene * levels + listed

    table = [
        Row(blur, scene, level, scene * levels + level, holder(scene, scene * levels + level))
        for scene in range(scenes)
        for level, blur in enumerate(plan.blurs)
    ]
    if not added:
        return Rows(tuple(table))
    if given is not None and given.shape[0] not in (1, scenes):
        raise ValueError(
            f"The pivot's latent is a batch of {given.shape[0]}, but there "
            f"{'is 1 scene' if scenes == 1 else f'are {scenes} scenes'}. "
            "Give one latent (LatentFromBatch picks one out of a batch)."
        )
    # The rows of a scene may differ already (the second of two samplers, a prompt a row): the nearest stands in best.
    level = nearest(plan.blurs, pivot.blur)
    table += [
        Row(pivot.blur, scene, level, scene * levels + level, batch + scene, shown=False) for scene in range(scenes)
    ]
    return Rows(tuple(table), pinned=given is not None)


def grounding_steps(grounding: float, steps: int) -> int:
    """Number of grounded steps out of the steps that actually run, rounded to the nearest."""
    return int(grounding * steps + 0.5)
