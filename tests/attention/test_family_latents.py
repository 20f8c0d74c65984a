"""Latents with an axis of frames, and models that predict noise or v: pivots, trajectories, inversion."""

from __future__ import annotations

import types

import comfy.model_sampling
import comfy.sample
import comfy.samplers
import pytest
import torch
from families import build_case, random_adapter
from flux import relative_error, run_node, sample

from bokeh.attention.install import install
from bokeh.attention.invert import invert
from bokeh.attention.rows import Pivot, Plan, Trajectory

BLURS = (3.0, 27.0)


def with_v(case):
    kinds = (comfy.model_sampling.ModelSamplingDiscrete, comfy.model_sampling.V_PREDICTION)
    case.model.add_object_patch("model_sampling", types.new_class("Sampling", kinds)(case.model.model.model_config))
    return case


@pytest.fixture(scope="module", params=["qwen-image", "wan", "sd15", "sd15 v"])
def case(request):
    made = build_case(request.param.split()[0])
    # Random networks answer far too loudly for the noise of a whole run to come out again.
    network = made.model.model.diffusion_model
    last = {"qwen-image": "proj_out", "wan": "head.head", "sd15": "out.2"}[made.name]
    network.get_submodule(last).weight.mul_(0.05)
    return with_v(made) if request.param.endswith("v") else made


def adapter_of(case):
    return None if case.name == "wan" else random_adapter(case.model)


def prompts_of(case, rows: int):
    """Without an adapter something else has to change with the blur."""
    tokens, extras = case.positive[0]
    return [[torch.cat([tokens + 0.1 * row for row in range(rows)]), extras]] if case.name == "wan" else case.positive


@pytest.mark.parametrize("frames", [True, False])
def test_a_pivot_follows_a_given_picture_at_every_noise_level(case, frames):
    """The pivot's row is set to the noised picture; what the targets see of it is the same at each level."""
    picture = torch.randn(1, *case.kind.shape)
    if not frames:
        picture = picture.flatten(2, -2).reshape(1, case.kind.shape[0], *case.kind.shape[-2:])
    seen, base = [], case.model.model

    def watch(apply_model, args):
        seen.append((args["timestep"].cpu(), args["input"][2:3].cpu()))
        return apply_model(args["input"], args["timestep"], **args["c"])

    swept = install(case.model, adapter_of(case), Plan(BLURS, Pivot(15.0, 1.0, latent=picture), one_scene=True))
    swept.set_model_unet_function_wrapper(watch)
    case.run(swept, 2, positive=prompts_of(case, 2))
    clean = base.process_latent_in(comfy.sample.fix_empty_latent_channels(case.model, picture))
    sampling = swept.get_model_object("model_sampling")
    for level, x in seen:
        expected = sampling.noise_scaling(level[2:3].reshape(1, *[1] * (x.ndim - 1)), case.noise, clean)
        assert relative_error(x, expected) <= 1e-5


def test_an_inverted_picture_comes_back_and_holds_a_sweep(case):
    """A picture that the model drew: of others the last step keeps what the model would not have drawn."""
    sigmas = case.kind.sigmas
    slider = case.model if case.name == "wan" else install(case.model, adapter_of(case), Plan((15.0,)))
    (guider,) = run_node("BasicGuider", model=slider, conditioning=case.positive)
    empty, euler = torch.zeros(1, *case.kind.shape), comfy.samplers.sampler_object("euler")
    drawn = guider.sample(case.noise, empty, euler, sigmas, seed=0).cpu()
    found = invert(guider, {"samples": drawn}, sigmas, 20)
    assert found.noise.noise.shape == drawn.shape
    assert relative_error(found.reconstruction, drawn) < 0.05
    pivot = Pivot(15.0, 1.0, trajectory=found.trajectory)
    swept = install(case.model, adapter_of(case), Plan((15.0, 27.0), pivot, one_scene=True))
    latent = {"samples": drawn.repeat(2, *[1] * len(case.kind.shape))}
    rows = sample(swept, prompts_of(case, 2), latent, sigmas, noise=found.noise.noise)
    # Its own blur gives the picture again, another blur another one.
    clean = case.model.model.process_latent_in(drawn)
    assert relative_error(rows[:1], clean) < 0.2
    assert relative_error(rows[1:], clean) > 1e-4


@pytest.mark.parametrize(("loudness", "settles"), [(0.05, True), (0.3, False)])
def test_any_picture_comes_back_where_the_iteration_settles_and_the_report_says_where_not(loudness, settles):
    made = build_case("sd15")
    made.model.model.diffusion_model.get_submodule("out.2").weight.mul_(loudness)
    picture = {"samples": 4.0 * torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(3))}
    (sigmas,) = run_node("BasicScheduler", model=made.model, scheduler="normal", steps=10, denoise=1.0)
    (guider,) = run_node("BasicGuider", model=made.model, conditioning=made.positive)
    inputs = {"guider": guider, "sigmas": sigmas, "latent": picture, "iterations": 10}
    _, _, reconstruction, _, said = run_node("BokehInvert", **inputs)
    assert (relative_error(reconstruction["samples"], picture["samples"]) < 0.02) == settles
    assert ("no noise was found that leads on to the picture" not in said) == settles


def test_a_picture_without_frames_is_measured_against_itself():
    made = build_case("qwen-image")
    picture = torch.randn(2, *made.kind.shape, generator=torch.Generator().manual_seed(3))
    (guider,) = run_node("BasicGuider", model=made.model, conditioning=made.positive)
    inputs = {"guider": guider, "sigmas": made.kind.sigmas, "iterations": 1}
    told = [run_node("BokehInvert", **inputs, latent={"samples": given})[3] for given in (picture, picture[:, :, 0])]
    assert told[0] == told[1]


def test_trajectories_are_linear_between_their_levels_whatever_the_axes():
    for shape in ((4, 6, 6), (16, 1, 6, 6)):
        states = torch.randn(3, 2, *shape)
        way = Trajectory(torch.tensor([0.0, 0.5, 1.0]), states)
        torch.testing.assert_close(
            way.at(torch.tensor([0.25, 0.75])), torch.stack([states[:2, 0].mean(0), states[1:, 1].mean(0)])
        )
