"""Sliders and sweeps in the host's own sampling: exactness, samplers, branches, and other patches beside them."""

from __future__ import annotations

import comfy.samplers
import pytest
import torch
from adapters import official_tensors
from flux import relative_error, run_node, sample
from sampling import ksample, ksample_part, plain, swept

from bokeh.attention.rows import Pivot
from bokeh.weights.format import build_adapter

SIGMAS = torch.tensor([1.0, 0.75, 0.5, 0.25, 0.0])


# Exactness


def test_the_model_that_came_in_stays_as_it_was(golden, adapter):
    before = plain(golden)
    model, latent, _ = swept(golden, adapter, "0, 15, 30")
    rows = ksample(model, golden.positive(), latent)
    assert not torch.equal(rows[:1], before)
    assert torch.equal(plain(golden), before)
    # The same queue may go back and forth between them.
    assert torch.equal(ksample(model, golden.positive(), latent), rows)
    assert torch.equal(plain(golden), before)


def test_strength_zero_is_the_very_model(golden, adapter):
    (model,) = run_node("BokehBlur", model=golden.model, adapter=adapter, blur=20.0, strength=0.0)
    assert model is golden.model
    model, latent, _ = run_node(
        "BokehSweep", model=golden.model, adapter=adapter, latent=golden.latent(), blurs="0, 30", strength=0.0
    )
    assert model is golden.model
    rows = ksample(model, golden.positive(), latent)
    assert relative_error(rows, plain(golden).expand_as(rows)) <= 1e-5


def test_strength_scales_bias_and_adapters_together(golden, adapter):
    scaled = build_adapter(
        official_tensors(32, [0, 1, 2, 3, 4]), {"lora_scale": 0.5, "bokeh_scale": 0.5}, "random adapter"
    )
    (half,) = run_node("BokehBlur", model=golden.model, adapter=adapter, blur=20.0, strength=0.5)
    (by_settings,) = run_node("BokehBlur", model=golden.model, adapter=scaled, blur=20.0, strength=1.0)
    ours = ksample(half, golden.positive(), golden.latent())
    assert torch.equal(ours, ksample(by_settings, golden.positive(), golden.latent()))
    assert relative_error(ours, plain(golden)) > 1e-2


def test_pivot_inside_the_values_equals_a_pivot_row_outside(golden, adapter):
    inside, latent, _ = swept(golden, adapter, "2, 15, 28", Pivot(15.0))
    with_pivot = ksample(inside, golden.positive(), latent)
    outside, latent, _ = swept(golden, adapter, "2, 28", Pivot(15.0))
    without = ksample(outside, golden.positive(), latent)
    assert without.shape[0] == 2
    assert relative_error(without, with_pivot[[0, 2]]) <= 1e-5
    (slider,) = run_node("BokehBlur", model=golden.model, adapter=adapter, blur=15.0, strength=1.0)
    assert relative_error(with_pivot[1:2], ksample(slider, golden.positive(), golden.latent())) <= 1e-5


@pytest.mark.parametrize("sampler", ["euler", "heun", "euler_ancestral", "dpmpp_2m_sde", "lcm"])
@pytest.mark.parametrize("cfg", [1.0, 3.0])
def test_a_sweep_equals_every_target_alone(golden, adapter, sampler, cfg):
    model, latent, _ = swept(golden, adapter, "0, 6, 15, 29", Pivot(15.0))
    options = {"negative": golden.negative() if "neg_txt" in golden.expected else None, "cfg": cfg, "sampler": sampler}
    rows = ksample(model, golden.positive(), latent, **options)
    for row, blur in zip(rows, (0.0, 6.0, 15.0, 29.0), strict=True):
        (slider,) = run_node(
            "BokehBlur", model=golden.model, adapter=adapter, blur=blur, strength=1.0, pivot=Pivot(15.0)
        )
        alone = ksample(slider, golden.positive(), golden.latent(), **options)
        assert relative_error(row[None], alone) <= 1e-5


def test_order_and_duplicates_of_the_values_are_kept(golden, adapter):
    model, latent, sweep = swept(golden, adapter, "30, 0, 30, 15")
    rows = ksample(model, golden.positive(), latent)
    assert sweep.values == (30.0, 0.0, 30.0, 15.0)
    assert sweep.pivot == 15.0
    assert relative_error(rows[0], rows[2]) <= 1e-6
    assert relative_error(rows[0], rows[1]) > 1e-2


def test_every_picture_of_a_slider_batch_keeps_its_seed(golden, adapter):
    batch = {"samples": golden.latent()["samples"].repeat(3, 1, 1, 1)}
    (model,) = run_node("BokehBlur", model=golden.model, adapter=adapter, blur=25.0, strength=1.0, pivot=Pivot(10.0))
    rows = ksample(model, golden.positive(), batch)
    assert rows.shape[0] == 3
    noise = torch.randn(batch["samples"].shape, generator=torch.manual_seed(1), device="cpu")
    for row, own in zip(rows, noise, strict=True):
        sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", 4)
        alone = sample(model, golden.positive(), golden.latent(), sigmas, noise=own[None])
        assert relative_error(model.model.process_latent_in(row[None]), alone) <= 1e-5


def test_odd_sizes_and_a_dozen_pictures(golden, adapter):
    """A latent whose sides do not divide into patches, and a slider batch of twelve with its twelve pivots."""
    odd = {"samples": torch.zeros(1, 16, 9, 7)}
    model, latent, _ = swept(golden, adapter, "0, 12, 30", Pivot(12.0), latent=odd)
    rows = ksample(model, golden.positive(), latent, sampler="euler_ancestral", negative=golden.positive(1.0), cfg=3.0)
    assert rows.shape == (3, 16, 9, 7)
    assert torch.isfinite(rows).all()
    dozen = {"samples": torch.zeros(12, 16, 9, 7)}
    (model,) = run_node("BokehBlur", model=golden.model, adapter=adapter, blur=25.0, strength=1.0, pivot=Pivot(10.0))
    rows = ksample(model, golden.positive(), dozen)
    assert rows.shape == (12, 16, 9, 7)
    assert torch.isfinite(rows).all()
    assert all(relative_error(rows[i], rows[0]) > 1e-2 for i in range(1, 12))


# Samplers


@pytest.mark.parametrize("sampler", comfy.samplers.KSampler.SAMPLERS)
def test_every_sampler_draws_the_same_noise_for_all_rows(golden, adapter, sampler):
    model, latent, _ = swept(golden, adapter, "8, 8", Pivot(15.0))
    equal = ksample(model, golden.positive(), latent, sampler=sampler)
    assert torch.isfinite(equal).all()
    assert relative_error(equal[1], equal[0]) <= 1e-5
    model, latent, _ = swept(golden, adapter, "4, 26", Pivot(15.0))
    different = ksample(model, golden.positive(), latent, sampler=sampler)
    assert torch.isfinite(different).all()
    assert relative_error(different[1], different[0]) > 1e-3


@pytest.mark.parametrize("grounding", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(("sampler", "calls"), [("euler", 1), ("heun", 2), ("dpm_2", 2)])
def test_grounding_ends_by_sigma_in_multi_call_samplers(golden, adapter, sampler, calls, grounding):
    model, latent, _ = swept(golden, adapter, "3, 15", Pivot(15.0, grounding))
    seen = record_calls(model)
    ksample(model, golden.positive(), latent, sampler=sampler)
    sampling = model.get_model_object("model_sampling")
    sigmas = comfy.samplers.KSampler(model, 4, "cpu", sampler, "simple").sigmas
    boundary = float(sigmas[round(grounding * (len(sigmas) - 1))])
    assert len(seen) >= (len(sigmas) - 2) * calls
    for sigma, grounded in seen:
        assert grounded == (sigma > boundary), (sigma, boundary, sampling)


def test_grounding_counts_the_steps_that_run_with_denoise_below_one(golden, adapter):
    photo = {"samples": torch.randn(golden.latent()["samples"].shape, generator=torch.Generator().manual_seed(4))}
    model, latent, _ = swept(golden, adapter, "3, 15", Pivot(15.0, 0.5), latent=photo)
    seen = record_calls(model)
    ksample(model, golden.positive(), latent, denoise=0.5)
    assert [grounded for _, grounded in seen] == [True, True, False, False]


def record_calls(model) -> list[tuple[float, bool]]:
    """(sigma, grounded) of every model call of ``model``, seen from inside the innermost wrapper."""
    seen = []

    def watch(executor, x, timestep, context, y, guidance, ref_latents, control, transformer_options, **kwargs):
        call = transformer_options["bokeh_call"]
        seen.append((float(timestep[0]), call.grounding is not None))
        return executor(x, timestep, context, y, guidance, ref_latents, control, transformer_options, **kwargs)

    model.add_wrapper_with_key("diffusion_model", "test", watch)
    return seen


# The pivot from a latent


def test_a_given_latent_is_noised_to_the_level_of_every_call(golden, adapter):
    photo = torch.randn(golden.latent()["samples"].shape, generator=torch.Generator().manual_seed(4))
    (pivot,) = run_node("BokehPivot", blur=5.0, grounding=0.8, latent={"samples": photo})
    model, latent, _ = swept(golden, adapter, "5, 25", pivot)
    rows_seen = []

    def watch(executor, x, timestep, *args, **kwargs):
        rows_seen.append((timestep[-1:].to("cpu", copy=True), x[-1:].to("cpu", copy=True)))
        return executor(x, timestep, *args, **kwargs)

    model.add_wrapper_with_key("diffusion_model", "test", watch)
    noise = golden.expected["noise"]
    rows = sample(model, golden.positive(), latent, SIGMAS, noise=noise, sampler="heun")
    assert rows.shape[0] == 2
    assert torch.isfinite(rows).all()
    clean = model.model.process_latent_in(photo)
    assert len(rows_seen) == 7
    for sigma, row in rows_seen:
        torch.testing.assert_close(row, sigma * noise + (1 - sigma) * clean)


def test_a_given_latent_keeps_its_noise_in_the_second_of_two_samplers(golden, adapter):
    photo = torch.randn(golden.latent()["samples"].shape, generator=torch.Generator().manual_seed(4))
    model, latent, _ = swept(golden, adapter, "5, 25", Pivot(5.0, 1.0, photo))
    common = {"model": model, "noise_seed": 3, "steps": 4, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple"}
    common |= {"positive": golden.positive(), "negative": golden.positive()}
    whole = ksample_part(latent, 0, 4, **common)
    half = ksample_part(latent, 0, 2, **common)
    rest = ksample_part(half, 2, 4, **common)
    assert relative_error(rest["samples"], whole["samples"]) <= 1e-4


def test_a_pivot_latent_of_another_size_is_refused_naming_both(golden, adapter):
    (pivot,) = run_node("BokehPivot", blur=5.0, grounding=0.8, latent={"samples": torch.zeros(1, 16, 8, 10)})
    model, latent, _ = swept(golden, adapter, "5, 25", pivot)
    with pytest.raises(ValueError, match=r"latent is 16 x 8 x 10 .*graph samples 16 x 8 x 8\."):
        ksample(model, golden.positive(), latent)
