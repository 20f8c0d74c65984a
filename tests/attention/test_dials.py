"""Grounding without an adapter: on models that no table knows, and only where something changes with the blur."""

from __future__ import annotations

import nodes
import pytest
import torch
from families import UNTABLED, build_case, prompt_a_row, random_adapter
from flux import relative_error, run_node, sample
from two_rows import two_rows

from bokeh.attention.contents import BLURS
from bokeh.attention.install import install
from bokeh.attention.rows import Pivot, Plan

PLAN = Plan((0.0, 15.0), Pivot(15.0, 0.5), one_scene=True)


@pytest.fixture(scope="module", params=list(UNTABLED))
def untabled(request):
    return build_case(request.param)


@pytest.fixture(scope="module")
def case():
    return build_case("sd15")


@pytest.mark.parametrize("cfg", [1.0, 4.0])
def test_a_model_that_no_table_knows_is_grounded_where_attention_is_the_pictures(untabled, cfg):
    prompts, places = prompt_a_row(untabled, 2), [place for place in untabled.kind.calls if place is not None]
    rows = untabled.run(install(untabled.model, None, PLAN), 2, cfg, positive=prompts)
    expected = two_rows(untabled, None, 0.0, 15.0, cfg, places, positive=prompts)
    assert relative_error(rows[:1], expected) <= 1e-5
    assert relative_error(rows[:1], untabled.run(untabled.model, 2, cfg, positive=prompts)[:1]) > 1e-4
    assert relative_error(rows[1:], untabled.run(untabled.model, 1, cfg)) <= 1e-5


def test_attention_of_the_prompts_length_is_left_alone():
    """Sixteen tokens of a prompt beside sixteen of a picture: nobody can say whose they are."""
    untabled = build_case("wan")
    untabled.positive[0][0] = torch.randn(1, 16, untabled.kind.width)
    with pytest.raises(ValueError, match="Bokeh did not get to the attention of WanModel in this kind of model"):
        untabled.run(install(untabled.model, None, PLAN), 2, positive=prompt_a_row(untabled, 2))


def test_a_model_that_passes_no_options_on_is_refused(untabled):
    swept = install(untabled.model, None, PLAN)

    def without(original):
        return lambda *args, transformer_options=None, **kwargs: original(*args, **kwargs)

    for index in range(2):
        name = f"diffusion_model.blocks.{index}.forward"
        swept.add_object_patch(name, without(swept.get_model_object(name)))
    with pytest.raises(ValueError, match="which is untried"):
        untabled.run(swept, 2, positive=prompt_a_row(untabled, 2))


def test_an_adapter_on_a_model_that_no_table_knows_is_refused_by_name(untabled, case):
    with pytest.raises(
        ValueError, match=r"Bokeh adapters work on these models: .*but this model is WAN21 \(WanModel\)"
    ):
        install(untabled.model, random_adapter(case.model), PLAN)


def sweep_node(case, **inputs):
    latent = {"samples": torch.zeros(1, *case.kind.shape)}
    return run_node("BokehSweep", model=case.model, latent=latent, blurs="0, 15", strength=1.0, **inputs)


def test_the_sweep_takes_no_adapter_and_says_that_a_model_is_untried(untabled, case):
    swept, latent, sweep = sweep_node(case)
    assert latent["samples"].shape[0] == 2
    assert sweep.pivot == 15.0
    prompts = prompt_a_row(case, 2)
    rows = case.run(swept, 2, positive=prompts)
    assert torch.equal(
        rows, case.run(install(case.model, None, Plan((0.0, 15.0), Pivot(15.0), True)), 2, positive=prompts)
    )

    node = nodes.NODE_CLASS_MAPPINGS["BokehSweep"]
    latent = {"samples": torch.zeros(1, *untabled.kind.shape)}
    shown = node.EXECUTE_NORMALIZED(model=untabled.model, latent=latent, blurs="0, 15", strength=1.0)
    assert "WAN21 (WanModel) is untried" in str(shown.ui)


def test_without_an_adapter_strength_means_nothing(case):
    prompts, latent = prompt_a_row(case, 2), {"samples": torch.zeros(1, *case.kind.shape)}
    pictures = []
    for strength in (0.0, 2.0):
        inputs = {"model": case.model, "latent": latent, "blurs": "0, 15", "strength": strength}
        pictures.append(case.run(run_node("BokehSweep", **inputs)[0], 2, positive=prompts))
    assert torch.equal(*pictures)


@pytest.mark.parametrize("node", ["BokehSweep", "BokehBlur"])
def test_a_run_in_which_nothing_changes_with_the_blur_is_refused_before_it_samples(case, node):
    if node == "BokehSweep":
        model, rows = sweep_node(case)[0], 2
    else:
        model, rows = run_node("BokehBlur", model=case.model, blur=3.0, strength=1.0, pivot=Pivot(15.0))[0], 1
    with pytest.raises(ValueError, match="Nothing changes with the blur"):
        case.run(model, rows)


def test_prompts_or_latents_that_change_with_the_blur_are_enough(case):
    case.run(sweep_node(case)[0], 2, positive=prompt_a_row(case, 2))
    references = {"reference_latents": [torch.randn(2, *case.kind.shape)]}
    case.run(sweep_node(case)[0], 2, positive=[[tokens, {**extras, **references}] for tokens, extras in case.positive])
    # A second pass: the pictures of the first differ.
    swept = sweep_node(case)[0]
    latent = {"samples": torch.randn(2, *case.kind.shape)}
    sample(swept, case.positive, latent, case.kind.sigmas[2:], noise=case.noise, negative=case.negative)


def test_a_slider_takes_the_prompt_of_its_blur(case):
    tokens, extras = prompt_a_row(case, 2)[0]
    written = [[tokens, {**extras, BLURS: (3.0, 15.0)}]]
    model = run_node("BokehBlur", model=case.model, blur=3.0, strength=1.0, pivot=Pivot(15.0, 0.5))[0]
    rows = case.run(model, 1, positive=written)
    assert relative_error(rows, two_rows(case, None, 3.0, 15.0, 1.0, positive=[[tokens, extras]])) <= 1e-5


def test_a_single_blur_takes_its_prompt_without_a_pivot(case):
    tokens, extras = prompt_a_row(case, 2)[0]
    written = [[tokens, {**extras, BLURS: (3.0, 15.0)}]]
    one = [[tokens[:1], {name: value[:1] for name, value in extras.items()}]]
    alone = case.run(case.model, 2, positive=one)
    slider = run_node("BokehBlur", model=case.model, blur=3.0, strength=1.0)[0]
    assert relative_error(case.run(slider, 2, positive=written), alone) <= 1e-5
    latent = {"samples": torch.zeros(1, *case.kind.shape)}
    swept = run_node("BokehSweep", model=case.model, latent=latent, blurs="3", strength=1.0)[0]
    listed = [[one[0][0], {**one[0][1], BLURS: (3.0,)}]]
    assert relative_error(case.run(swept, 1, positive=listed), alone[:1]) <= 1e-5
