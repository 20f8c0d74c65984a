"""Sliders and sweeps in the host's own sampling: exactness, samplers, branches, and other patches beside them."""

from __future__ import annotations

import comfy.samplers
import pytest
import torch
from adapters import official_tensors
from flux import Golden, Noise, conditioning, relative_error, run_node, sample

from bokeh.attention.install import install
from bokeh.attention.rows import Pivot, Plan
from bokeh.weights.adapter import build_adapter

SIGMAS = torch.tensor([1.0, 0.75, 0.5, 0.25, 0.0])


@pytest.fixture(scope="module")
def golden() -> Golden:
    return Golden("all_blocks")


@pytest.fixture(scope="module")
def adapter():
    return build_adapter(official_tensors(32, [0, 1, 2, 3, 4]), None, "random adapter")


def swept(golden, adapter, blurs: str, pivot: Pivot | None = None, latent: dict | None = None, model=None):
    return run_node(
        "BokehSweep",
        model=model or golden.model,
        adapter=adapter,
        latent=latent or golden.latent(),
        blurs=blurs,
        strength=1.0,
        pivot=pivot,
    )


def ksample(model, positive, latent, *, negative=None, cfg=1.0, sampler="euler", denoise=1.0, seed=1, steps=4):
    (out,) = run_node(
        "KSampler",
        model=model,
        seed=seed,
        steps=steps,
        cfg=cfg,
        sampler_name=sampler,
        scheduler="simple",
        positive=positive,
        negative=negative or positive,
        latent_image=latent,
        denoise=denoise,
    )
    return out["samples"]


def plain(golden, **options) -> torch.Tensor:
    return ksample(golden.model, golden.positive(), golden.latent(), **options)


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
        rows_seen.append((timestep[-1:].clone(), x[-1:].clone()))
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
    (whole,) = run_node(
        "KSamplerAdvanced",
        **common,
        latent_image=latent,
        add_noise="enable",
        start_at_step=0,
        end_at_step=4,
        return_with_leftover_noise="disable",
    )
    (half,) = run_node(
        "KSamplerAdvanced",
        **common,
        latent_image=latent,
        add_noise="enable",
        start_at_step=0,
        end_at_step=2,
        return_with_leftover_noise="enable",
    )
    (rest,) = run_node(
        "KSamplerAdvanced",
        **common,
        latent_image=half,
        add_noise="disable",
        start_at_step=2,
        end_at_step=4,
        return_with_leftover_noise="disable",
    )
    assert relative_error(rest["samples"], whole["samples"]) <= 1e-4


def test_a_pivot_latent_of_another_size_is_refused_naming_both(golden, adapter):
    (pivot,) = run_node("BokehPivot", blur=5.0, grounding=0.8, latent={"samples": torch.zeros(1, 16, 8, 10)})
    model, latent, _ = swept(golden, adapter, "5, 25", pivot)
    with pytest.raises(ValueError, match=r"latent is 16 x 8 x 10 .*graph samples 16 x 8 x 8\."):
        ksample(model, golden.positive(), latent)


# Branches and regions


def test_the_negative_branch_is_known_whatever_the_order(golden, adapter):
    """DualCFG hands [negative, middle, positive]; PerpNeg [positive, negative, empty]."""
    model, latent, _ = swept(golden, adapter, "5, 15, 25", Pivot(15.0))
    other = conditioning(golden.expected["neg_txt"], golden.expected["neg_pooled"])
    roles = []

    def watch(executor, x, t, c_concat, c_crossattn, control, transformer_options, **kwargs):
        call = transformer_options["bokeh_call"]
        roles.append((transformer_options["cond_or_uncond"], call.bias[0, :, 0], call.grounding))
        return executor(x, t, c_concat, c_crossattn, control, transformer_options, **kwargs)

    model.add_wrapper_with_key("apply_model", "test", watch)
    guiders = {
        "DualCFGGuider": {"cond1": golden.positive(), "cond2": other, "negative": golden.negative(), "nested": True}
        | {"cfg_conds": 2.0, "cfg_cond2_negative": 3.0, "style": "nested"},
    }
    for name, inputs in guiders.items():
        inputs.pop("nested")
        (guider,) = run_node(name, model=model, **inputs)
        roles.clear()
        run_node(
            "SamplerCustomAdvanced",
            noise=Noise(golden.expected["noise"]),
            guider=guider,
            sampler=comfy.samplers.sampler_object("euler"),
            sigmas=SIGMAS[:2],
            latent_image=latent,
        )
        blur_bias, no_bias = bias_table(golden, adapter, (5.0, 15.0, 25.0))
        for order, bias, grounding in roles:
            for chunk, role in enumerate(order):
                expected = no_bias.expand(3, -1) if role == 0 else blur_bias
                torch.testing.assert_close(bias[3 * chunk : 3 * chunk + 3], expected)
            grounded = [chunk * 3 + row for chunk, role in enumerate(order) if role != 0 for row in (0, 2)]
            assert grounding.targets.tolist() == grounded


def bias_table(golden, adapter, blurs) -> tuple[torch.Tensor, torch.Tensor]:
    """First block's bokeh values by the equation: for each blur, and for the annotation -1."""
    tensors = adapter.tensors

    def value(a: float) -> torch.Tensor:
        hidden = torch.relu(tensors["embedding.0.weight"] @ torch.tensor([a]) + tensors["embedding.0.bias"])
        embedded = tensors["embedding.2.weight"] @ hidden + tensors["embedding.2.bias"]
        return tensors["blocks.0.v.up.weight"] @ (tensors["blocks.0.v.down.weight"] @ embedded)

    return torch.stack([value(blur / 30) for blur in blurs]), value(-1.0)[None]


def test_area_prompts_are_grounded_within_their_area(golden, adapter):
    left = conditioning(golden.expected["neg_txt"], golden.expected["neg_pooled"], area=(8, 4, 0, 0), strength=1.0)
    model, latent, _ = swept(golden, adapter, "5, 15, 25", Pivot(15.0))
    rows = ksample(model, golden.positive() + left, latent)
    assert torch.isfinite(rows).all()
    (slider,) = run_node("BokehBlur", model=golden.model, adapter=adapter, blur=25.0, strength=1.0, pivot=Pivot(15.0))
    alone = ksample(slider, golden.positive() + left, golden.latent())
    assert relative_error(rows[2:], alone) <= 1e-5
    assert relative_error(rows[2:], ksample(slider, golden.positive(), golden.latent())) > 1e-3


def test_conditioning_with_one_row_a_picture_reaches_its_row(golden, adapter):
    both = torch.cat((golden.expected["txt"], golden.expected["neg_txt"]))
    pooled = torch.cat((golden.expected["pooled"], golden.expected["neg_pooled"]))
    model, latent, _ = swept(golden, adapter, "15, 25", Pivot(15.0, 0.0))
    rows = ksample(model, conditioning(both, pooled), latent)
    (slider,) = run_node("BokehBlur", model=golden.model, adapter=adapter, blur=25.0, strength=1.0)
    alone = ksample(slider, conditioning(both[1:], pooled[1:]), golden.latent())
    assert relative_error(rows[1:], alone) <= 1e-5


def test_attention_masks_are_followed_by_grounded_rows(golden, adapter):
    tokens = golden.expected["txt"].shape[1]
    size = tokens + 16
    # The second text token is hidden from everyone, so what it says must not matter.
    mask = torch.zeros(1, size, size)
    mask[:, :, 1] = -1e9
    masked = golden.positive(attention_mask=mask, attention_mask_img_shape=(4, 4))
    model, latent, _ = swept(golden, adapter, "5, 15", Pivot(15.0, 1.0))
    rows = ksample(model, masked, latent)
    changed = golden.expected["txt"].clone()
    changed[:, 1] += 10
    hidden = conditioning(changed, golden.expected["pooled"], attention_mask=mask, attention_mask_img_shape=(4, 4))
    assert relative_error(ksample(model, hidden, latent), rows) <= 1e-5
    assert relative_error(ksample(model, golden.positive(), latent), rows) > 1e-3


def test_inpainting_masks_keep_the_picture_outside(golden, adapter):
    photo = torch.randn(golden.latent()["samples"].shape, generator=torch.Generator().manual_seed(4))
    mask = torch.zeros(1, 1, 64, 64)
    mask[..., 32:] = 1.0
    for sampler in ("euler", "ddim"):
        model, latent, _ = swept(golden, adapter, "8, 8", Pivot(15.0), {"samples": photo, "noise_mask": mask})
        rows = ksample(model, golden.positive(), latent, sampler=sampler)
        torch.testing.assert_close(rows[:, :, :, :4], photo[:, :, :, :4].expand(2, -1, -1, -1), rtol=1e-4, atol=1e-4)
        assert relative_error(rows[1], rows[0]) <= 1e-5
        assert relative_error(rows[:1, :, :, 4:], photo[:, :, :, 4:]) > 1e-2


# Other patches on the same model


@pytest.mark.parametrize("first", ["theirs", "ours"])
def test_an_attention_override_of_another_node_is_called_through(golden, adapter, first):
    calls = []

    def theirs(func, *args, **kwargs):
        calls.append(args[0].shape[0])
        return func(*args, **kwargs)

    model = golden.model.clone()
    if first == "theirs":
        model.model_options["transformer_options"]["optimized_attention_override"] = theirs
        model = install(model, adapter, Plan((20.0,)))
    else:
        model = install(model, adapter, Plan((20.0,)))
        model.model_options["transformer_options"]["optimized_attention_override"] = theirs
    rows = ksample(model, golden.positive(), golden.latent())
    assert len(calls) == 4 * 5
    (slider,) = run_node("BokehBlur", model=golden.model, adapter=adapter, blur=20.0, strength=1.0)
    assert torch.equal(rows, ksample(slider, golden.positive(), golden.latent()))


def test_two_sweeps_of_one_model_do_not_touch_each_other(golden, adapter):
    other = build_adapter(official_tensors(32, [0, 3], q=False, k=False, seed=9), None, "another adapter")
    first, first_latent, _ = swept(golden, adapter, "0, 30")
    alone = ksample(first, golden.positive(), first_latent)
    second, second_latent, _ = swept(golden, other, "5, 10, 20")
    second_alone = ksample(second, golden.positive(), second_latent)
    assert torch.equal(ksample(first, golden.positive(), first_latent), alone)
    assert torch.equal(ksample(second, golden.positive(), second_latent), second_alone)


def test_a_second_bokeh_node_replaces_the_first(golden, adapter):
    other = build_adapter(official_tensors(32, [0, 3], seed=9), None, "another adapter")
    (first,) = run_node("BokehBlur", model=golden.model, adapter=other, blur=3.0, strength=1.0)
    (both,) = run_node("BokehBlur", model=first, adapter=adapter, blur=20.0, strength=1.0)
    (only,) = run_node("BokehBlur", model=golden.model, adapter=adapter, blur=20.0, strength=1.0)
    ours = ksample(both, golden.positive(), golden.latent())
    assert torch.equal(ours, ksample(only, golden.positive(), golden.latent()))


def test_a_lora_beside_the_adapter_acts_in_both(golden, adapter):
    weight = golden.model.model.diffusion_model.double_blocks[0].img_attn.qkv.weight
    down, up = torch.randn(2, weight.shape[1]), torch.randn(weight.shape[0], 2)
    lora = {
        "diffusion_model.double_blocks.0.img_attn.qkv.lora_A.weight": down,
        "diffusion_model.double_blocks.0.img_attn.qkv.lora_B.weight": up,
    }
    import comfy.sd

    before, _ = comfy.sd.load_lora_for_models(golden.model, None, lora, 0.5, 0.0)
    (model,) = run_node("BokehBlur", model=before, adapter=adapter, blur=20.0, strength=1.0)
    (bare,) = run_node("BokehBlur", model=golden.model, adapter=adapter, blur=20.0, strength=1.0)
    after, _ = comfy.sd.load_lora_for_models(bare, None, lora, 0.5, 0.0)
    ours = ksample(model, golden.positive(), golden.latent())
    assert torch.equal(ours, ksample(after, golden.positive(), golden.latent()))
    assert relative_error(ours, ksample(bare, golden.positive(), golden.latent())) > 1e-3


@pytest.mark.parametrize("blurs", ["8, 8", "0, 6, 12, 15, 22, 30"])
def test_turns_of_fewer_rows_equal_the_whole_batch(golden, adapter, blurs):
    for pivot in (Pivot(15.0), Pivot(9.0)):
        model, latent, sweep = swept(golden, adapter, blurs, pivot)
        whole = ksample(model, golden.positive(), latent, negative=golden.negative(), cfg=2.0)
        plan = Plan(sweep.values, pivot, one_scene=True, rows_at_once=2)
        in_turns = install(golden.model, adapter, plan)
        rows = []

        def watch(executor, x, *args, rows=rows, **kwargs):
            rows.append(x.shape[0])
            return executor(x, *args, **kwargs)

        in_turns.add_wrapper_with_key("diffusion_model", "test", watch)
        ours = ksample(in_turns, golden.positive(), latent, negative=golden.negative(), cfg=2.0)
        assert relative_error(ours, whole) <= 1e-5
        assert max(rows) <= 2 * 3
