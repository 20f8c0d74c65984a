"""How well photos are held and refocused: pivots from a latent, and inversion, on the demonstration model.

The photos are of the model's own kind: pictures it made, and true pictures of held-out prompts, which it did not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean

import comfy.samplers
import torch
from torch import Tensor

from ...attention.install import install
from ...attention.invert import Inversion, invert
from ...attention.rows import Pivot, Plan
from ...sweep import measures
from ...training.scenes import Props, render
from ...weights.format import Adapter
from .judge import GROUNDING, LEVELS, PIVOT, STEPS, Case, Painter, Verdict, cases, judge

ITERATIONS = 8


@dataclass(frozen=True)
class PhotoVerdict:
    """Means over all cases.

    Attributes:
        verdicts: the sweeps by where their pivot comes from.
        psnr: of sample, invert, sample back, and of true pictures, by number of steps; in dB.
    """

    verdicts: dict[str, Verdict]
    psnr: dict[str, float]


def judge_photos(
    painter: Painter, adapter: Adapter, count: int, seed: int = 0, on_case: Callable[[int], None] = lambda _: None
) -> PhotoVerdict:
    """Measure ``count`` held-out cases, with a painter of cfg 1: inversion is that of one call a step."""
    props = Props()
    verdicts: dict[str, list[Verdict]] = {}
    errors: dict[str, list[float]] = {}
    for index, case in enumerate(cases(count, seed)):
        single = install(painter.model, adapter, Plan((PIVOT,)))
        made = painter.sample(single, case, painter.prompt(case.prompt), 1)
        true = painter.vae.encode(render(props, case.scene, torch.tensor([PIVOT])))
        sweeps = {
            "generated pivot": painter.paint(case, LEVELS, adapter, Pivot(PIVOT, GROUNDING)),
            "its latent as pivot": painter.paint(case, LEVELS, adapter, Pivot(PIVOT, GROUNDING, made)),
        }
        for name, picture in (("made", made), ("true", true)):
            for steps in (STEPS, 2 * STEPS):
                inversion = _inverted(painter, single, case, picture, steps)
                pair = (painter.decode(inversion.reconstruction), painter.decode(picture)[0])
                errors.setdefault(f"{name}, {steps} steps", []).append(measures.psnr(*pair).item())
                if steps == STEPS:
                    sweeps[f"{name}, inverted"] = _refocused(painter, adapter, case, inversion)
        for name, pictures in sweeps.items():
            verdicts.setdefault(name, []).append(judge(pictures, case, props))
        on_case(index + 1)
    return PhotoVerdict(
        {name: Verdict.mean(rows) for name, rows in verdicts.items()},
        {name: fmean(values) for name, values in errors.items()},
    )


def _inverted(painter: Painter, model, case: Case, picture: Tensor, steps: int) -> Inversion:
    return invert(_guider(model, painter.prompt(case.prompt)), {"samples": picture}, _sigmas(model, steps), ITERATIONS)


def _refocused(painter: Painter, adapter: Adapter, case: Case, inversion: Inversion) -> Tensor:
    pivot = Pivot(PIVOT, GROUNDING, trajectory=inversion.trajectory)
    model = install(painter.model, adapter, Plan(LEVELS, pivot, one_scene=True))
    latent = torch.zeros_like(inversion.noise.noise).repeat(len(LEVELS), 1, 1, 1)
    samples = _guider(model, painter.prompt(case.prompt)).sample(
        inversion.noise.generate_noise({"samples": latent}),
        latent,
        comfy.samplers.sampler_object("euler"),
        _sigmas(model, STEPS),
        disable_pbar=True,
        seed=case.seed,
    )
    return painter.decode(samples)


def _guider(model, positive: list) -> comfy.samplers.CFGGuider:
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(positive, positive)
    guider.set_cfg(1.0)
    return guider


def _sigmas(model, steps: int) -> Tensor:
    return comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", steps)
