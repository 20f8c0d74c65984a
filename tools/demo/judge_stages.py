"""What GBSD (arXiv 2306.08251) does to the demonstration model: sharpness of the object and of what is behind it, over
the plain picture of the same prompt and seed."""

from __future__ import annotations

from collections.abc import Callable
from statistics import geometric_mean

import torch
from torch import Tensor

from ...stages.hooks import install_stages
from ...stages.prompts import stage_prompt
from ...sweep import measures
from .judge import Case, Painter, cases, find_subject

LAYOUT = 0.8


def staged(painter: Painter, case: Case, alphas: tuple[float, ...], layout: float = LAYOUT) -> Tensor:
    """The plain picture and one for each alpha, [1 + n, H, W, 3]; the local prompt names the object alone."""
    words = case.prompt.split(" before ")
    prompts = [painter.prompt(text) for text in (case.prompt, words[0])]
    pictures = [painter.decode(painter.sample(painter.model, case, prompts[0], 1))]
    for alpha in alphas:
        positive = stage_prompt(painter.model, *prompts, (alpha,), (layout,))
        pictures.append(painter.decode(painter.sample(install_stages(painter.model), case, positive, 1)))
    return torch.cat(pictures)


def judge_stages(
    painter: Painter,
    alphas: tuple[float, ...],
    layout: float,
    count: int,
    seed: int = 0,
    on_case: Callable[[int], None] = lambda _: None,
) -> dict[str, list[float]]:
    """For each measure and area, the ratio to the plain picture at each alpha, geometric mean over ``count`` cases."""
    ratios: dict[str, list[Tensor]] = {}
    for index, case in enumerate(cases(count, seed)):
        pictures = staged(painter, case, alphas, layout)
        subject = find_subject(pictures[:1], case.scene).float()
        if subject.any():
            areas = {"object": subject, "rest": measures.background_area(subject, pictures[:1]).float()}
            for area, mask in areas.items():
                for name, measure in (("Laplacian", measures.laplacian_variance), ("Brenner", measures.brenner)):
                    values = measure(pictures, mask)
                    ratios.setdefault(f"{name}, {area}", []).append(values[1:] / values[0])
        on_case(index + 1)
    return {name: [geometric_mean(column) for column in torch.stack(rows).T.tolist()] for name, rows in ratios.items()}
