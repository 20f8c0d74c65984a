"""Guiders with more branches than two, against the same statements as the host's first one."""

from __future__ import annotations

import pytest
import torch
from comfy_extras.nodes_perpneg import perp_neg as host_perp_neg
from families import build_case, prompt_a_row, random_adapter
from flux import Golden, conditioning, relative_error, run_node, sample
from genfocus import Statement, nodes_on
from nodes import NODE_CLASS_MAPPINGS
from safetensors.torch import load_file
from two_rows import two_rows

from bokeh.attention.install import install
from bokeh.attention.rows import Pivot, Plan

BLURS = (3.0, 15.0, 27.0)
PIVOT = Pivot(10.0, 0.5)


def dual(style: str, cond1, cond2, negative):
    strengths = {"cfg_conds": 3.0, "cfg_cond2_negative": 2.0, "style": style}
    return lambda model: run_node(
        "DualCFGGuider", model=model, cond1=cond1, cond2=cond2, negative=negative, **strengths
    )[0]


def perp_neg(positive, empty, negative):
    strengths = {"cfg": 4.0, "neg_scale": 1.0}
    return lambda model: run_node(
        "PerpNegGuider", model=model, positive=positive, negative=negative, empty_conditioning=empty, **strengths
    )[0]


def third(case) -> list:
    """A prompt besides the case's own."""
    return [[case.negative[0][0].flip(2), case.negative[0][1]]]


def two_models(model, positive, negative):
    inputs = {"positive": positive, "negative": negative, "cfg": 4.0}
    return run_node("DualModelGuider", model=model, model_negative=model, **inputs)[0]


@pytest.fixture(scope="module", params=["flux", "sdxl"])
def case(request):
    return build_case(request.param)


@pytest.mark.parametrize("style", ["regular", "nested"])
def test_a_sweep_with_two_prompts_equals_two_rows_a_target(case, style):
    guider = dual(style, case.positive, third(case), case.negative)
    adapter = random_adapter(case.model)
    rows = case.run(install(case.model, adapter, Plan(BLURS, PIVOT, one_scene=True)), 3, guider=guider)
    for row, blur in zip(rows, BLURS, strict=True):
        expected = two_rows(case, adapter, blur, PIVOT.blur, 1.0, guider=guider, negatives=(0,))
        assert relative_error(row[None], expected) <= 1e-5


def test_perp_neg_equals_two_rows_a_target(case):
    """Of target and pivot, as there: the node measures over all pictures of its batch together."""
    guider = perp_neg(case.positive, third(case), case.negative)
    adapter = random_adapter(case.model)
    rows = case.run(install(case.model, adapter, Plan((27.0, PIVOT.blur), PIVOT, one_scene=True)), 2, guider=guider)
    expected = two_rows(case, adapter, 27.0, PIVOT.blur, 1.0, guider=guider, negatives=(1, 2))
    assert relative_error(rows[:1], expected) <= 1e-5


@pytest.mark.parametrize("name", ["flux", "wan"])
@pytest.mark.skipif("DualModelGuider" not in NODE_CLASS_MAPPINGS, reason="newer hosts have it")
def test_the_negative_prompt_is_known_in_a_model_of_its_own(name):
    case = build_case(name)
    adapter = random_adapter(case.model) if name == "flux" else None
    swept = install(case.model, adapter, Plan(BLURS, PIVOT, one_scene=True))
    positive = prompt_a_row(case, 3)
    rows = case.run(swept, 3, guider=lambda model: two_models(model, positive, case.negative))
    assert relative_error(rows, case.run(swept, 3, 4.0, positive=positive)) <= 1e-6


class Stated:
    """The velocity of one picture by Genfocus, for each of three prompts, and the nodes for the same."""

    def __init__(self, load_genfocus, blurs: str, order: list[int]):
        golden = Golden("genfocus_bokeh")
        expected, guidance = golden.expected, golden.case["guidance"]
        self.noise, self.sigmas = expected["noise"], torch.tensor([1.0, 0.8, 0.45, 0.0])
        self.model, self.latent = nodes_on(golden, load_genfocus, blurs=blurs, order=order)
        texts = [(expected["txt"].roll(shift, 2), expected["pooled"].roll(shift, 1)) for shift in range(3)]
        self.prompts = [conditioning(*text, guidance) for text in texts]
        (file,) = (golden.folder / "adapter").iterdir()
        conditions = [expected[f"condition/{number}"] for number in range(golden.case["conditions"])]
        deltas = golden.case.get("deltas") or [(0, 0)] * len(conditions)
        common = golden.model.model.diffusion_model, load_file(file), conditions, deltas
        self.branches = [Statement(*common, *text, guidance) for text in texts]

    def by_hand(self, guided) -> torch.Tensor:
        """Euler's steps; ``guided`` makes one denoised picture of the three prompts'."""
        x = self.noise
        for now, then in zip(self.sigmas[:-1].tolist(), self.sigmas[1:].tolist(), strict=True):
            denoised = guided(*(x - now * branch(x, now) for branch in self.branches))
            x = x + (then - now) * (x - denoised) / now
        return x

    def by_nodes(self, guider) -> torch.Tensor:
        return sample(self.model, None, self.latent, self.sigmas, noise=self.noise, guider=guider)


@pytest.mark.parametrize("style", ["regular", "nested"])
def test_genfocus_with_two_prompts_is_each_branch_as_stated(load_genfocus, style):
    stated = Stated(load_genfocus, "5, 10", [0, 1, 1])

    def guided(first, second, negative):
        if style == "nested":
            return negative + 2.0 * (second + 3.0 * (first - second) - negative)
        return negative + 2.0 * (second - negative) + 3.0 * (first - second)

    rows = stated.by_nodes(dual(style, *stated.prompts))
    expected = stated.by_hand(guided)
    assert len(rows) == 2
    assert all(relative_error(row[None], expected) <= 1e-5 for row in rows)


def test_perp_neg_does_not_measure_the_conditions_of_genfocus(load_genfocus):
    stated = Stated(load_genfocus, "", [0, 1])
    row = stated.by_nodes(perp_neg(*stated.prompts))
    expected = stated.by_hand(
        lambda positive, empty, negative: host_perp_neg(stated.noise, positive, negative, empty, 1.0, 4.0)
    )
    assert relative_error(row, expected) <= 1e-5
