"""Stages beside everything else a graph may hold: each stage must be what a run of its own gives."""

from __future__ import annotations

import logging
import re

import comfy.model_management
import pytest
import torch
from flux import relative_error, run_node
from staged import ALPHA, Scene, flux_scene, in_one_run, in_two_runs, unet_scene
from unet import build_control

from bokeh.attention.install import install
from bokeh.attention.rows import Pivot, Plan


@pytest.fixture(scope="module")
def flux() -> Scene:
    return flux_scene()


@pytest.fixture(scope="module")
def unet() -> Scene:
    return unet_scene()


@pytest.fixture(scope="module", params=["flux", "unet"])
def scene(request, flux, unet) -> Scene:
    return {"flux": flux, "unet": unet}[request.param]


def cfg_guider(model, positive, negative, cfg: float = 4.0):
    return run_node("CFGGuider", model=model, positive=positive, negative=negative, cfg=cfg)[0]


def assert_each_stage_is_a_run_of_its_own(scene: Scene, positive, mixed, negative=None, guider=cfg_guider, model=None):
    """``positive`` and ``mixed``: the prompt of the layout and of the focus stage."""
    negative = negative or scene.negative()
    model = model or scene.model
    staged_model, staged = scene.staged(model=model, global_prompt=positive)
    ours = in_one_run(scene, guider(staged_model, staged, negative))
    expected = in_two_runs(scene, lambda prompt: guider(model, prompt, negative), positive, mixed)
    assert relative_error(ours, expected) <= 1e-5
    assert relative_error(ours, in_one_run(scene, guider(model, positive, negative))) > 1e-4


def dual_guider(model, positive, negative):
    other = [[negative[0][0].flip(1), negative[0][1]]]
    inputs = {"cond1": positive, "cond2": other, "negative": negative, "cfg_conds": 3.0, "cfg_cond2_negative": 2.0}
    return run_node("DualCFGGuider", model=model, **inputs, style="regular")[0]


def perp_neg_guider(model, positive, negative):
    empty = [[torch.zeros_like(negative[0][0]), negative[0][1]]]
    return run_node(
        "PerpNegGuider",
        model=model,
        positive=positive,
        negative=negative,
        empty_conditioning=empty,
        cfg=4.0,
        neg_scale=1.0,
    )[0]


@pytest.mark.parametrize("guider", [dual_guider, perp_neg_guider])
def test_guiders_of_other_kinds(unet, guider):
    assert_each_stage_is_a_run_of_its_own(unet, unet.positive(), unet.mixed(), guider=guider)


def test_a_lora_on_the_model(flux):
    name = next(key for key in flux.model.model.state_dict() if key.endswith("img_in.weight"))
    change = torch.randn(flux.model.model.state_dict()[name].shape, generator=torch.Generator().manual_seed(3)) * 0.1
    model = flux.model.clone()
    model.add_patches({name: ("diff", (change,))})
    assert_each_stage_is_a_run_of_its_own(flux, flux.positive(), flux.mixed(), model=model)
    (plain, patched) = (in_one_run(flux, cfg_guider(m, flux.positive(), flux.negative())) for m in (flux.model, model))
    assert relative_error(plain, patched) > 1e-3


def test_areas_and_ranges_of_every_entry_are_kept_and_every_entry_is_staged(scene):
    left = {"area": (8, 4, 0, 0), "strength": 0.7}
    late = {"start_percent": 0.2, "end_percent": 0.9}
    flipped = tuple(part.flip(-1) for part in scene.global_prompt)
    positive = scene.positive(**late) + scene.conditioning(flipped, **left)
    mixed = [
        scene.conditioning(
            tuple(ALPHA * a + (1 - ALPHA) * b for a, b in zip(ours, scene.local_prompt, strict=True)), **x
        )
        for ours, x in ((scene.global_prompt, late), (flipped, left))
    ]
    # The negative prompt has an area of its own, for which the host makes copies of the positive prompt.
    negative = scene.negative() + scene.negative(area=(4, 8, 4, 0))
    assert_each_stage_is_a_run_of_its_own(scene, positive, mixed[0] + mixed[1], negative)


def test_entries_with_stages_of_different_length(unet):
    model, late = unet.staged(layout=0.9)
    _, early = unet.staged(layout=0.3)
    both = in_one_run(unet, cfg_guider(model, late + early, unet.negative()))
    (later,), (sooner,) = ([entry] for entry in (late[0], early[0]))
    assert relative_error(both, in_one_run(unet, cfg_guider(model, [sooner, later], unet.negative()))) <= 1e-5
    for single in (late, early):
        alone = in_one_run(unet, cfg_guider(model, single, unet.negative()))
        assert relative_error(both, alone) > 1e-4


@pytest.mark.parametrize("to_uncond", [False, True])
def test_a_controlnet_acts_in_both_stages(unet, to_uncond):
    hint = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(3))
    control = build_control(unet.model).set_cond_hint(hint, 1.0, (0.0, 1.0))
    extra = {"control": control, "control_apply_to_uncond": to_uncond}
    positive, mixed = unet.positive(**extra), unet.mixed(**extra)
    assert_each_stage_is_a_run_of_its_own(unet, positive, mixed)
    without = in_two_runs(
        unet, lambda prompt: cfg_guider(unet.model, prompt, unet.negative()), unet.positive(), unet.mixed()
    )
    with_control = in_two_runs(unet, lambda prompt: cfg_guider(unet.model, prompt, unet.negative()), positive, mixed)
    assert relative_error(with_control, without) > 1e-3


def test_nodes_between_us_and_the_sampler_are_heard(flux):
    """Guidance and the like may be set behind the node as well as before it."""
    model, staged = flux.staged()
    (behind,) = run_node("FluxGuidance", conditioning=staged, guidance=5.0)
    (before,) = run_node("FluxGuidance", conditioning=flux.positive(), guidance=5.0)
    _, first = flux.staged(global_prompt=before)
    ours = in_one_run(flux, cfg_guider(model, behind, flux.negative()))
    assert torch.equal(ours, in_one_run(flux, cfg_guider(model, first, flux.negative())))
    assert relative_error(ours, in_one_run(flux, cfg_guider(model, staged, flux.negative()))) > 1e-4


def test_a_staged_prompt_zeroed_out_is_no_staged_prompt(flux):
    model, staged = flux.staged()
    (zero,) = run_node("ConditioningZeroOut", conditioning=staged)
    (expected,) = run_node("ConditioningZeroOut", conditioning=flux.positive())
    ours = in_one_run(flux, cfg_guider(model, staged, zero))
    assert torch.equal(ours, in_one_run(flux, cfg_guider(model, staged, expected)))


# With a blur adapter on the same model


@pytest.mark.parametrize("stage_first", [False, True])
def test_the_adapter_decides_how_much_and_the_stages_what(flux, adapter, stage_first):
    plan = Plan((3.0, 15.0, 27.0), Pivot(15.0, 1.0), one_scene=True)
    blurred = install(flux.model, adapter, plan)
    if stage_first:
        model, staged = flux.staged()
        model = install(model, adapter, plan)
    else:
        model, staged = flux.staged(model=blurred)
    ours = in_one_run(flux, cfg_guider(model, staged, flux.negative()), rows=3)
    expected = in_two_runs(
        flux, lambda prompt: cfg_guider(blurred, prompt, flux.negative()), flux.positive(), flux.mixed(), rows=3
    )
    assert relative_error(ours, expected) <= 1e-5
    assert relative_error(ours, in_one_run(flux, cfg_guider(blurred, flux.positive(), flux.negative()), rows=3)) > 1e-3
    for row, blur in zip(ours, plan.blurs, strict=True):
        slider = install(flux.staged()[0], adapter, Plan((blur,), plan.pivot))
        assert relative_error(row[None], in_one_run(flux, cfg_guider(slider, staged, flux.negative()))) <= 1e-5


# Wired wrongly


def test_the_prompt_without_the_model_is_refused(flux):
    _, staged = flux.staged()
    message = (
        "The positive prompt of this sampler comes from Bokeh Stage, but its model does not. Connect the model output "
        "of the same node to the sampler as well."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        in_one_run(flux, cfg_guider(flux.model, staged, flux.negative()))


def test_the_model_without_the_prompt_samples_plainly_and_says_so(flux, caplog):
    model, _ = flux.staged()
    with caplog.at_level(logging.WARNING):
        ours = in_one_run(flux, cfg_guider(model, flux.positive(), flux.negative()))
    assert "no prompt of this sampler comes from Bokeh Stage" in caplog.text
    assert torch.equal(ours, in_one_run(flux, cfg_guider(flux.model, flux.positive(), flux.negative())))


def test_a_prompt_changed_behind_the_node_is_refused(flux):
    model, staged = flux.staged()
    (longer,) = run_node("ConditioningConcat", conditioning_to=staged, conditioning_from=flux.local())
    message = (
        "A node between Bokeh Stage and the sampler changes the prompt itself, as Conditioning (Concat) and (Average) "
        "do. Put it before Bokeh Stage, so that both stages have it."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        in_one_run(flux, cfg_guider(model, longer, flux.negative()))


def test_an_interrupt_leaves_the_model_clean(flux):
    model, staged = flux.staged()
    whole = in_one_run(flux, cfg_guider(model, staged, flux.negative()))

    def interrupt(executor, x, t, *args, **kwargs):
        raise comfy.model_management.InterruptProcessingException

    watched = model.clone()
    watched.add_wrapper_with_key("apply_model", "test", interrupt)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        in_one_run(flux, cfg_guider(watched, staged, flux.negative()))
    assert torch.equal(in_one_run(flux, cfg_guider(model, staged, flux.negative())), whole)
