"""The report's numbers for sweeps of which it is known how good they are: where the limits of its words come from
(`sweep/verdict.py`). The report gets the pictures alone, no mask and no depth, as most people connect it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from ...attention.rows import Pivot
from ...optics.defocus import REFERENCE_SIZE
from ...sweep.measure import measure_sweep
from ...sweep.values import Sweep
from ...training.scenes import Props, render
from ...weights.format import Adapter
from .judge import GROUNDING, LEVELS, PIVOT, Case, Painter, cases

# Of the report: the numbers that the words are about.
NUMBERS = ("by_rank", "kept_sharpness", "consistency")
# A wrong order of seven levels, each at least two places from its own.
SHUFFLED = (3, 6, 1, 5, 0, 2, 4)
# To the seed of another picture of the prompt.
SEEDS_APART = 1000


def sweeps(painter: Painter, adapter: Adapter, case: Case, props: Props) -> dict[str, Tensor]:
    """One case's pictures [7, H, W, 3] by what is known of them: good ones first, then broken ones."""
    grounded = painter.paint(case, LEVELS, adapter, Pivot(PIVOT, GROUNDING))
    ungrounded = painter.paint(case, LEVELS, adapter)
    other = painter.paint(replace(case, seed=case.seed + SEEDS_APART), LEVELS, adapter)
    # The standard deviation of the lens' disc, over everything.
    sigma = grounded.shape[1] / REFERENCE_SIZE / 2
    softened = [gaussian_filter(grounded[0].numpy(), (level * sigma, level * sigma, 0)) for level in LEVELS]
    return {
        "true pictures": render(props, case.scene.copies(len(LEVELS)), torch.tensor(LEVELS)),
        "grounded": grounded,
        "ungrounded": ungrounded,
        "two seeds by turns": torch.stack([(ungrounded, other)[i % 2][i] for i in range(len(LEVELS))]),
        "grounded, levels shuffled": grounded[list(SHUFFLED)],
        "a Gaussian over everything": torch.stack([torch.from_numpy(picture) for picture in softened]),
    }


def judge_verdicts(
    painter: Painter, adapter: Adapter, count: int, seed: int = 0, on_case: Callable[[int], None] = lambda _: None
) -> dict[str, dict[str, Tensor]]:
    """By kind of sweep and by number of the report, its values for ``count`` held-out prompts, [count]; one that is not
    defined is NaN."""
    props, sweep = Props(), Sweep(LEVELS, PIVOT)
    found: dict[str, dict[str, list[float]]] = {}
    for index, case in enumerate(cases(count, seed)):
        for kind, pictures in sweeps(painter, adapter, case, props).items():
            numbers = measure_sweep(pictures, sweep).numbers()
            for name in NUMBERS:
                value = numbers[name]
                found.setdefault(kind, {}).setdefault(name, []).append(float("nan") if value is None else value)
        on_case(index + 1)
    return {kind: {name: torch.tensor(values) for name, values in rows.items()} for kind, rows in found.items()}
