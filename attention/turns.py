"""One model call cut into turns: which rows go through the network together, and what must not happen meanwhile."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from comfy.model_base import BaseModel
from torch import Tensor

from ..host import free_memory, is_out_of_memory
from .attend import row_index
from .equations import Grounding
from .rows import Rows


def tiles_in(batch: int, parts: int, rows: int) -> int:
    """How many tiles a node that cuts the picture has stacked, each with all its parts, every part with all rows.

    Raises:
        ValueError: when a batch of ``batch`` rows cannot be that.
    """
    tiles, odd = divmod(batch, parts * rows)
    if odd or not tiles:
        raise ValueError(
            f"The model was called with {batch} rows in {parts} parts, but this run has {rows} rows. Another node "
            "regroups the batch in a way bokeh cannot follow: take that node out."
        )
    return tiles


def fitting(rows: Rows, parts: int, shape: Sequence[int], model: BaseModel, device: torch.device) -> int:
    """``rows_at_once`` with which a call fits into memory, by the host's own estimate: 0 = all rows together.

    Args:
        parts: how many parts with all rows the call has.
        shape: of one row of the latents.
    """
    free = free_memory(model, device)
    for rows_at_once in (0, *range(rows.targets - 1, 1, -1)):
        largest = max(map(len, rows.turns(rows_at_once)))
        if model.memory_required([parts * largest, *shape]) <= free:
            return rows_at_once
    return 1


def smaller(rows: Rows, rows_at_once: int) -> int:
    """The next smaller ``rows_at_once`` after memory has run out; the same when it is 1 already."""
    return max(1, (rows_at_once or rows.targets) // 2)


def expand(turn: Sequence[int], parts: int, rows: int) -> list[int]:
    """Row numbers of one part -> the same rows in each of ``parts`` parts of ``rows`` rows."""
    return [part * rows + row for part in range(parts) for row in turn]


def take(value: Any, index: Tensor, size: int) -> Any:
    """Rows ``index`` of every tensor that has one row for each of ``size`` rows, in lists and dicts too."""
    if isinstance(value, Tensor):
        return value[index.to(value.device)] if value.ndim and value.shape[0] == size else value
    if isinstance(value, dict):
        return {name: take(entry, index, size) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(take(entry, index, size) for entry in value)
    return value


def grounding_of(
    rows: Rows, turn: Sequence[int], negative: Sequence[bool], with_keys: bool, device: torch.device
) -> Grounding | None:
    """Who looks at whom in a call of the rows ``turn`` in each of several parts; the negative ones look at nobody."""
    targets, pivots, others = [], [], []
    for part, minus in enumerate(negative):
        for place, row in enumerate(turn):
            here, pivot = part * len(turn) + place, rows[row].pivot
            if minus or pivot == row or pivot not in turn:
                others.append(here)
            else:
                targets.append(here)
                pivots.append(part * len(turn) + turn.index(pivot))
    if not targets:
        return None
    if len(set(pivots)) == 1:
        pivots = pivots[:1]
    as_index = (row_index(part, device) for part in (targets, pivots, others))
    return Grounding(*as_index, with_keys=with_keys)


class Watch:
    """Tells when another node leaves out part of the network in some calls, as step caches do.

    Such a node takes one turn's rows for another's. No turn is wrong before something is left out, so the first time
    is early enough to stop.
    """

    def __init__(self, rows_at_once: int, tiled: bool = False):
        self.rows_at_once, self.tiled = rows_at_once, tiled  # as the user has it
        self.reached: dict[Any, set[int]] = {}

    @contextmanager
    def over(self, turns: list[list[int]]) -> Iterator[None]:
        """Round one turn: what remembers rows of the turn before fails where turns are not equally many.

        Raises:
            ValueError: in place of that error.
        """
        try:
            yield
        except RuntimeError as error:
            uneven = len({len(turn) for turn in turns}) > 1
            if not (uneven and self.reached) or is_out_of_memory(error):
                raise
            raise ValueError(step_cache_refused(self.rows_at_once, self.tiled)) from error

    def check(self, options: dict[str, Any], reached: set[int]) -> None:
        """After a turn in which attention was called at the places ``reached``.

        Raises:
            ValueError: when earlier calls of the same kind had more of them.
        """
        replaced = options.get("patches_replace", {})
        # Nodes that leave blocks out in extra calls on purpose (skip layer guidance) say so in these.
        kind = (
            tuple(options.get("uuids", ())),
            *((name, *sorted(map(str, replaced[name]))) for name in sorted(replaced)),
        )
        if self.reached.setdefault(kind, reached) - reached:
            raise ValueError(step_cache_refused(self.rows_at_once, self.tiled))


def step_cache_refused(rows_at_once: int, tiled: bool = False) -> str:
    """Why turns are refused, for the user's ``rows_at_once`` (0: memory is too small for all pictures), and tiles."""
    if tiled:
        why, what = "a large photo goes through the model in tiles", "tile"
        advice = "Switch tiles off, or take the cache out."
    else:
        why = f"rows_at_once {rows_at_once}" if rows_at_once else "a memory too small for all of them"
        why, what = f"{why} sends the pictures through the model in turns", "turn"
        advice = (
            "Set rows_at_once of Bokeh Sweep to 0, or take the cache out." if rows_at_once else "Take the cache out."
        )
    return (
        "Another node reuses results of earlier steps (EasyCache, TeaCache, first block cache and their like), but "
        f"{why}, and the cache would take one {what}'s pictures for another's. {advice}"
    )
