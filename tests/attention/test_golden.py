"""Parity with the authors' own code, through the public nodes and the host's samplers.

One source of difference is neither theirs nor ours. FLUX embeds 1000 * guidance with cos and sin of up to 7000
radians, at frequencies that come from float32 exp(). Processors round that function differently in the last bit,
and one such bit is worth 1e-5 in the output of these small models: more than everything else together. The
fixture ``reference_rounding`` gives the host the frequencies of the machine that computed the golden outputs, so that
1e-5 measures code and not processors; the last test bounds what the processor itself adds.
"""

from __future__ import annotations

import pytest
import torch
from flux import Golden, relative_error, run_node, sample
from sampling import swept

TOLERANCE = 1e-5
CASES = ("all_blocks", "true_cfg")


@pytest.fixture(scope="module")
def load(adapters_folder):
    def load(name: str):
        (adapter,) = run_node("BokehLoadAdapter", adapter=name)
        return adapter

    return load


def trajectory_inputs(golden: Golden) -> dict:
    case = golden.case
    inputs = {"noise": golden.expected["noise"], "sigmas": golden.expected["sigmas"]}
    if case["true_cfg"] > 1:
        inputs |= {"negative": golden.negative(), "cfg": case["true_cfg"]}
    return inputs


def grounding(golden: Golden) -> float:
    return golden.case["grounding_steps"] / golden.case["steps"]


def grounded_sweep(golden: Golden, adapter, blurs) -> torch.Tensor:
    (pivot,) = run_node("BokehPivot", blur=golden.case["pivot"], grounding=grounding(golden))
    model, latent, _ = swept(golden, adapter, ", ".join(map(str, blurs)), pivot)
    return sample(model, golden.positive(), latent, **trajectory_inputs(golden))


@pytest.mark.parametrize("name", CASES)
@pytest.mark.usefixtures("reference_rounding")
def test_whole_sweep_with_one_pivot_row_equals_the_reference(name, load):
    golden = Golden(name)
    rows = grounded_sweep(golden, load(f"{name}/model.safetensors"), golden.case["targets"])
    assert len(rows) == len(golden.case["targets"])
    for row, blur in zip(rows, golden.case["targets"], strict=True):
        assert relative_error(row[None], golden.expected[f"trajectory/grounded/{blur:.0f}"]) <= TOLERANCE


@pytest.mark.parametrize("name", CASES)
@pytest.mark.usefixtures("reference_rounding")
def test_pivot_among_the_values_equals_the_reference(name, load):
    golden = Golden(name)
    targets = golden.case["targets"]
    blurs = (targets[0], golden.case["pivot"], targets[1], targets[2])
    rows = grounded_sweep(golden, load(f"{name}/model.safetensors"), blurs)
    names = [f"grounded/{targets[0]:.0f}", "pivot", f"grounded/{targets[1]:.0f}", f"grounded/{targets[2]:.0f}"]
    for row, expected in zip(rows, names, strict=True):
        assert relative_error(row[None], golden.expected[f"trajectory/{expected}"]) <= TOLERANCE


@pytest.mark.parametrize("name", CASES)
@pytest.mark.usefixtures("reference_rounding")
def test_slider_equals_the_reference_with_and_without_pivot(name, load):
    golden = Golden(name)
    adapter = load(f"{name}/model.safetensors")
    (pivot,) = run_node("BokehPivot", blur=golden.case["pivot"], grounding=grounding(golden))
    for blur in golden.case["targets"]:
        for kind, options in (("ungrounded", {}), ("grounded", {"pivot": pivot})):
            (model,) = run_node("BokehBlur", model=golden.model, adapter=adapter, blur=blur, strength=1.0, **options)
            row = sample(model, golden.positive(), golden.latent(), **trajectory_inputs(golden))
            assert relative_error(row, golden.expected[f"trajectory/{kind}/{blur:.0f}"]) <= TOLERANCE


def velocity(model, conditioning, golden: Golden, sigma: float) -> torch.Tensor:
    """One model call at ``sigma`` by an Euler step: (x_next - x) / (sigma_next - sigma)."""
    noise = golden.expected["noise"]
    sigmas = torch.tensor([sigma, sigma / 2])
    # The run starts at sigma * noise + (1 - sigma) * latent; this latent makes that the noise itself.
    latent = {"samples": model.model.process_latent_out(noise)}
    end = sample(model, conditioning, latent, sigmas, noise=noise)
    # Flow models divide the end by 1 - sigma (the host's inverse_noise_scaling).
    return (end * (1 - sigma / 2) - noise) / (-sigma / 2)


def negative_velocity(model, golden: Golden, sigma: float) -> torch.Tensor:
    """The negative branch's velocity, by a guidance weight of 0: cfg result = uncond + 0 * (cond - uncond)."""
    noise = golden.expected["noise"]
    latent = {"samples": model.model.process_latent_out(noise)}
    end = sample(
        model,
        golden.positive(),
        latent,
        torch.tensor([sigma, sigma / 2]),
        noise=noise,
        negative=golden.negative(),
        cfg=0.0,
    )
    return (end * (1 - sigma / 2) - noise) / (-sigma / 2)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.usefixtures("reference_rounding")
def test_single_forwards_equal_the_reference(name, load):
    golden = Golden(name)
    adapter = load(f"{name}/model.safetensors")
    (pivot,) = run_node("BokehPivot", blur=golden.case["pivot"], grounding=1.0)
    for blur in golden.case["targets"]:
        (model,) = run_node("BokehBlur", model=golden.model, adapter=adapter, blur=blur, strength=1.0)
        expected = golden.expected[f"forward/ungrounded/{blur:.0f}"]
        assert relative_error(velocity(model, golden.positive(), golden, 0.7), expected) <= TOLERANCE
        (model,) = run_node("BokehBlur", model=golden.model, adapter=adapter, blur=blur, strength=1.0, pivot=pivot)
        expected = golden.expected[f"forward/grounded/{blur:.0f}"][:1]
        assert relative_error(velocity(model, golden.positive(), golden, 0.7), expected) <= TOLERANCE
        expected = golden.expected["forward/negative"]
        assert relative_error(negative_velocity(model, golden, 0.7), expected) <= TOLERANCE


@pytest.mark.parametrize("file", ["bokeh_lora.bin", "bokeh_lora.safetensors"])
@pytest.mark.usefixtures("reference_rounding")
def test_kontext_forward_equals_the_reference(file, load):
    golden = Golden("kontext")
    adapter = load(f"kontext/{file}")
    reference = golden.model.model.process_latent_out(golden.expected["reference"])
    positive = golden.positive(reference_latents=[reference], reference_latents_method=golden.case["reference_method"])
    for blur in golden.case["blurs"]:
        (model,) = run_node("BokehBlur", model=golden.model, adapter=adapter, blur=blur, strength=1.0)
        ours = velocity(model, positive, golden, golden.case["sigma"])
        assert relative_error(ours, golden.expected[f"forward/{blur:.0f}"]) <= TOLERANCE


@pytest.mark.parametrize("name", CASES)
def test_without_the_references_rounding_only_the_processors_share_is_left(name, load):
    golden = Golden(name)
    adapter = load(f"{name}/model.safetensors")
    (model,) = run_node("BokehBlur", model=golden.model, adapter=adapter, blur=12.0, strength=1.0)
    ours = velocity(model, golden.positive(), golden, 0.7)
    assert relative_error(ours, golden.expected["forward/ungrounded/12"]) <= 1e-4
