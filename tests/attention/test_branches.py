"""Beside a sweep: other branches, regions, masks, and other patches on the same model."""

from __future__ import annotations

import comfy.samplers
import pytest
import torch
from adapters import official_tensors
from flux import Noise, conditioning, relative_error, run_node
from sampling import ksample, swept

from bokeh.attention.install import install
from bokeh.attention.rows import Pivot, Plan
from bokeh.weights.format import build_adapter

SIGMAS = torch.tensor([1.0, 0.75, 0.5, 0.25, 0.0])


# Branches and regions


def test_the_negative_branch_is_known_whatever_the_order(golden, adapter):
    """DualCFG hands [negative, middle, positive]; PerpNeg [positive, negative, empty]."""
    model, latent, _ = swept(golden, adapter, "5, 15, 25", Pivot(15.0))
    other = conditioning(golden.expected["neg_txt"], golden.expected["neg_pooled"])
    roles = []

    def watch(executor, x, t, c_concat, c_crossattn, control, transformer_options, **kwargs):
        call = transformer_options["bokeh_call"]
        roles.append((transformer_options["cond_or_uncond"], call.bias[0][:, 0].cpu(), call.grounding))
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
