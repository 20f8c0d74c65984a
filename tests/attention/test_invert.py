"""From pictures to noise and back: the solver, the round trip, refocusing, and what is refused."""

from __future__ import annotations

import comfy.model_management
import comfy.model_sampling
import comfy.samplers
import comfy.sd
import comfy.utils
import pytest
import torch
from comfy.taesd.taesd import TAESD
from flux import relative_error, run_node
from sampling import swept

from bokeh.attention import invert as inversion_module
from bokeh.attention.invert import fixed_point
from bokeh.attention.rows import Pivot
from bokeh.nodes.invert import latent_psnr

STEPS = 30


@pytest.fixture(scope="module")
def model(golden, adapter):
    """The golden model with the blur slider at 12."""
    return run_node("BokehBlur", model=golden.model, adapter=adapter, blur=12.0, strength=1.0)[0]


@pytest.fixture(scope="module")
def photo(golden, model):
    """A picture of the model's own at blur 12."""
    return drawn(model, golden.positive(), golden.latent())


@pytest.fixture(scope="module")
def inverted(golden, model, photo):
    """(noise, trajectory, reconstruction, psnr, report) of that picture over STEPS steps."""
    return invert(basic(model, golden.positive()), levels(model), photo)


def levels(model, steps: int = STEPS, denoise: float = 1.0) -> torch.Tensor:
    return run_node("BasicScheduler", model=model, scheduler="simple", steps=steps, denoise=denoise)[0]


def basic(model, positive):
    return run_node("BasicGuider", model=model, conditioning=positive)[0]


def invert(guider, sigmas, latent, iterations=4, vae=None) -> tuple:
    return run_node("BokehInvert", guider=guider, sigmas=sigmas, latent=latent, iterations=iterations, vae=vae)


def advanced(noise, guider, sigmas, latent, sampler="euler") -> torch.Tensor:
    (sampler,) = run_node("KSamplerSelect", sampler_name=sampler)
    out = run_node(
        "SamplerCustomAdvanced", noise=noise, guider=guider, sampler=sampler, sigmas=sigmas, latent_image=latent
    )
    return out[0]["samples"]


def drawn(model, positive, empty: dict, steps: int = STEPS, seed: int = 5) -> dict:
    """What a queue of the standard nodes makes: the picture that is then inverted."""
    (noise,) = run_node("RandomNoise", noise_seed=seed)
    return {"samples": advanced(noise, basic(model, positive), levels(model, steps), empty)}


def round_trip(model, positive, empty: dict, steps: int, iterations: int = 4) -> float:
    """PSNR in dB of sample -> invert -> sample back through the standard nodes, on any MODEL of the host."""
    picture = drawn(model, positive, empty, steps)
    guider, sigmas = basic(model, positive), levels(model, steps)
    noise = invert(guider, sigmas, picture, iterations)[0]
    return float(latent_psnr(advanced(noise, guider, sigmas, empty), picture["samples"]))


def random_picture(golden, seed: int = 4) -> torch.Tensor:
    return torch.randn(golden.latent()["samples"].shape, generator=torch.Generator().manual_seed(seed))


def small_vae() -> comfy.sd.VAE:
    """FLUX's small autoencoder of the host with random weights."""
    draw = torch.Generator().manual_seed(0)
    state = TAESD(latent_channels=16).state_dict()
    for name, weight in state.items():
        fan_in = weight[0].numel() if weight.ndim > 1 else 1e4
        state[name] = torch.randn(weight.shape, generator=draw) / fan_in**0.5
    return comfy.sd.VAE(sd={**state, "vae_scale": torch.tensor(1.0), "vae_shift": torch.tensor(0.0)})


# The solver


def test_every_row_is_solved_and_stops_for_itself():
    """x = b + c x has the solution b / (1 - c), and each iteration leaves c of the residual."""
    factors = torch.tensor([0.0, 0.3, 0.6])[:, None]
    wanted = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    constants = wanted * (1 - factors)
    calls = []

    def function(x):
        calls.append(x.clone())
        return constants + factors * x

    x, residual = fixed_point(function, constants, 60, 1e-6)
    torch.testing.assert_close(x, wanted, rtol=1e-5, atol=0)
    assert (residual <= 1e-6).all()
    assert torch.equal(calls[5][0], calls[1][0])
    assert len(calls) < 40
    x, residual = fixed_point(function, constants, 1, 1e-6)
    torch.testing.assert_close(x, constants + factors * constants)


def test_a_row_that_no_longer_gains_stays_where_it_was():
    """One row halves its residual in every iteration, the other keeps it: only the first may go on."""
    factors = torch.tensor([[0.3], [0.9]])
    x, residual = fixed_point(lambda x: 1 + factors * x, torch.ones(2, 4), 50, 1e-6, gain=0.5)
    torch.testing.assert_close(x[0], torch.full((4,), 1 / 0.7), rtol=1e-5, atol=0)
    torch.testing.assert_close(x[1], torch.full((4,), 1.9))
    assert float(residual[1]) == pytest.approx(0.81 / 1.9)


# There and back


def test_a_round_trip_gives_the_picture_again(golden, model, photo, inverted):
    noise, _, reconstruction, psnr, report = inverted
    back = advanced(noise, basic(model, golden.positive()), levels(model), golden.latent())
    assert float(latent_psnr(back, photo["samples"])) >= 30
    assert psnr == pytest.approx(float(latent_psnr(back, photo["samples"])), abs=0.1)
    torch.testing.assert_close(reconstruction["samples"], back, rtol=1e-4, atol=1e-4)
    assert f"| 1 | {psnr:.1f} | " in report


def test_more_steps_and_more_iterations_come_closer(golden, model):
    few, more, most = (
        round_trip(model, golden.positive(), golden.latent(), steps, iterations)
        for steps, iterations in ((8, 1), (STEPS, 1), (STEPS, 4))
    )
    assert most >= 30
    assert few < more < most


def test_the_noise_is_the_one_that_the_picture_was_made_from(golden, model, photo, inverted):
    (noise,) = run_node("RandomNoise", noise_seed=5)
    original = noise.generate_noise(golden.latent())
    assert relative_error(inverted[0].generate_noise(golden.latent()), original) <= 1e-2


@pytest.mark.parametrize("cfg", [1.0, 3.0])
def test_guidance_with_a_negative_prompt_is_inverted_too(golden, model, cfg):
    (guider,) = run_node("CFGGuider", model=model, positive=golden.positive(), negative=golden.negative(), cfg=cfg)
    sigmas = levels(model)
    (noise,) = run_node("RandomNoise", noise_seed=5)
    picture = {"samples": advanced(noise, guider, sigmas, golden.latent())}
    noise, _, _, psnr, _ = invert(guider, sigmas, picture)
    assert psnr >= 30
    assert float(latent_psnr(advanced(noise, guider, sigmas, picture), picture["samples"])) >= 30


@pytest.mark.parametrize("denoise", [1.0, 0.5])
def test_a_picture_of_another_origin_all_the_way_or_half(golden, model, denoise):
    picture = {"samples": random_picture(golden)}
    guider, sigmas = basic(model, golden.positive()), levels(model, denoise=denoise)
    noise, _, _, psnr, _ = invert(guider, sigmas, picture)
    back = advanced(noise, guider, sigmas, picture)
    assert float(latent_psnr(back, picture["samples"])) == pytest.approx(psnr, abs=0.1)
    assert psnr >= 30


def test_every_picture_of_a_batch_is_inverted_by_itself(golden, model, photo, inverted):
    other = random_picture(golden)
    batch = {"samples": torch.cat((other, photo["samples"]))}
    guider, sigmas = basic(model, golden.positive()), levels(model)
    noise, trajectory, _, psnr, report = invert(guider, sigmas, batch)
    back = advanced(noise, guider, sigmas, batch)
    assert float(latent_psnr(back, batch["samples"]).min()) == pytest.approx(psnr, abs=0.1)
    assert psnr >= 30
    assert report.count("\n| ") == 3
    assert trajectory.states.shape == (STEPS + 1, 2, *other.shape[1:])
    (second,) = run_node("LatentFromBatch", samples=batch, batch_index=1, length=1)
    alone = inverted[0].generate_noise(second)
    assert relative_error(noise.generate_noise(second), alone) <= 1e-2
    repeated = {**second, "samples": second["samples"].repeat(3, 1, 1, 1), "batch_index": [1, 1, 0]}
    torch.testing.assert_close(noise.generate_noise(repeated)[[0, 2]], noise.noise[[1, 0]])


def test_a_picture_taken_out_of_a_batch_before_the_inversion_keeps_its_number(golden, model):
    batch = {"samples": torch.cat([random_picture(golden, seed) for seed in (1, 2, 3)])}
    (last_two,) = run_node("LatentFromBatch", samples=batch, batch_index=1, length=2)
    noise = invert(basic(model, golden.positive()), levels(model, 4), last_two)[0]
    torch.testing.assert_close(noise.generate_noise(last_two), noise.noise)
    with pytest.raises(ValueError, match=r"the pictures \[1, 2\] of a batch, but .* asks for picture 0\."):
        noise.generate_noise(batch)


def test_odd_sizes_and_a_model_without_an_adapter(golden):
    picture = {"samples": torch.randn(1, 16, 9, 7, generator=torch.Generator().manual_seed(1))}
    guider, sigmas = basic(golden.model, golden.positive()), levels(golden.model)
    noise, _, _, psnr, _ = invert(guider, sigmas, picture)
    assert psnr >= 30
    assert float(latent_psnr(advanced(noise, guider, sigmas, picture), picture["samples"])) >= 30


# Refocus


def test_a_sweep_from_the_noise_keeps_the_photo_at_its_blur_and_changes_it_elsewhere(golden, adapter, photo, inverted):
    swept_model, latent, _ = swept(golden, adapter, "2, 12, 28", Pivot(12.0), latent=photo)
    rows = advanced(inverted[0], basic(swept_model, golden.positive()), levels(swept_model), latent)
    error = latent_psnr(rows, photo["samples"].expand_as(rows))
    assert float(error[1]) >= 30
    assert (error[[0, 2]] < error[1] - 10).all()


@pytest.mark.parametrize("sampler", ["euler", "heun"])
def test_a_pivot_follows_the_trajectory_through_every_level(golden, adapter, inverted, sampler):
    noise, trajectory = inverted[:2]
    (pivot,) = run_node("BokehPivot", blur=12.0, grounding=0.8, trajectory=trajectory)
    swept_model, latent, _ = swept(golden, adapter, "2, 12", pivot)
    seen = []

    def watch(executor, x, timestep, *args, **kwargs):
        seen.append((float(timestep[-1]), x[-1].to("cpu", copy=True)))
        return executor(x, timestep, *args, **kwargs)

    swept_model.add_wrapper_with_key("diffusion_model", "test", watch)
    sigmas = levels(swept_model)
    rows = advanced(noise, basic(swept_model, golden.positive()), sigmas, latent, sampler)
    assert rows.shape[0] == 2
    recorded = dict(zip(trajectory.sigmas.tolist(), trajectory.states[:, 0], strict=True))
    assert {sigma for sigma, _ in seen} == set(sigmas[:-1].tolist())
    for sigma, row in seen:
        torch.testing.assert_close(row, recorded[sigma])
    if sampler == "euler":
        assert float(latent_psnr(rows[1:], inverted[2]["samples"])) >= 30


def test_between_its_levels_a_trajectory_is_linear(inverted):
    trajectory = inverted[1]
    low, high = trajectory.sigmas[3:5]
    torch.testing.assert_close(
        trajectory.at((low + high)[None] / 2), trajectory.states[3:5].mean(0), rtol=1e-4, atol=1e-5
    )
    above = trajectory.at(torch.tensor([2.0, 1.0]))
    torch.testing.assert_close(above, trajectory.states[-1].expand_as(above))
    assert float(trajectory.sigmas[0]) == 0


# What the user sees


def test_with_a_vae_the_error_is_that_of_the_pictures(golden, model, photo):
    vae = small_vae()
    _, _, reconstruction, psnr, report = invert(basic(model, golden.positive()), levels(model), photo, vae=vae)
    decoded = [vae.decode(latent["samples"]) for latent in (reconstruction, photo)]
    expected = 10 * torch.log10(1 / (decoded[0] - decoded[1]).square().mean())
    assert psnr == pytest.approx(float(expected), abs=0.1)
    assert "PSNR between pictures, dB" in report


def test_a_poor_inversion_is_called_so(golden, model, monkeypatch):
    picture = {"samples": 3 * random_picture(golden)}
    *_, psnr, report = invert(basic(model, golden.positive()), levels(model, 2), picture, iterations=1)
    assert psnr < 30
    assert "PSNR below 30 dB: use more steps" in report
    assert "the model would not draw this picture" in report


def test_progress_counts_both_ways(golden, model, photo, monkeypatch):
    counted = []
    hook = comfy.utils.PROGRESS_BAR_HOOK
    comfy.utils.set_progress_bar_global_hook(lambda value, total, *_, **__: counted.append((value, total)))
    try:
        invert(basic(model, golden.positive()), levels(model, 5), photo)
    finally:
        comfy.utils.set_progress_bar_global_hook(hook)
    assert counted == [(step, 10) for step in range(1, 11)]


@pytest.mark.parametrize("stop_at", [2, 7])
def test_an_interrupt_on_either_way_leaves_the_model_clean(golden, model, photo, stop_at):
    guider, sigmas = basic(model, golden.positive()), levels(model, 5)

    def stop(step, *_):
        if step == stop_at:
            comfy.model_management.interrupt_current_processing()
            comfy.model_management.throw_exception_if_processing_interrupted()

    with pytest.raises(comfy.model_management.InterruptProcessingException):
        inversion_module.invert(guider, photo, sigmas, 4, stop)
    assert "bokeh_run" not in model.model_options["transformer_options"]
    assert not guider.model_patcher.model_options["transformer_options"].get("bokeh_run")
    before = drawn(model, golden.positive(), golden.latent())
    torch.testing.assert_close(before["samples"], photo["samples"], rtol=0, atol=0)


def test_an_interrupt_is_heard_at_the_next_model_call(golden, model, photo):
    watched, calls = model.clone(), []

    def watch(executor, *args, **kwargs):
        calls.append(1)
        comfy.model_management.interrupt_current_processing()
        return executor(*args, **kwargs)

    watched.add_wrapper_with_key("apply_model", "test", watch)
    try:
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            invert(basic(watched, golden.positive()), levels(model), photo)
    finally:
        comfy.model_management.interrupt_current_processing(False)
    assert len(calls) == 1


# What is refused


def refusal(guider, sigmas, latent) -> str:
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the caller compares the sentence
        invert(guider, sigmas, latent)
    return str(error.value)


def test_models_with_a_sweep_or_a_pivot_are_refused(golden, adapter, photo):
    swept_model, _, _ = swept(golden, adapter, "2, 12")
    (grounded,) = run_node("BokehBlur", model=golden.model, adapter=adapter, blur=12.0, strength=1.0, pivot=Pivot(15.0))
    for model, name in ((swept_model, "sweep"), (grounded, "pivot")):
        assert refusal(basic(model, golden.positive()), levels(model), photo) == (
            f"A picture is inverted by itself, but this model carries a bokeh {name}. Connect a guider whose model "
            "has the blur slider at the blur that the picture shows, without a pivot; the sweep and the pivot come "
            "after the inversion."
        )


def test_latents_without_a_picture_of_this_model_are_refused(golden, model):
    guider, sigmas = basic(model, golden.positive()), levels(model)
    assert refusal(guider, sigmas, {"samples": torch.ones(1, 4, 8, 8)}) == (
        "The latent is 4 x 8 x 8 (channels x height x width), but this model's pictures have 16 channels. "
        "Encode the picture with the VAE that belongs to the model."
    )
    empty = "The latent is empty. Connect a photo through VAE Encode, or a finished picture's latent."
    assert refusal(guider, sigmas, golden.latent()) == empty
    broken = {"samples": torch.full((1, 16, 8, 8), float("nan"))}
    assert refusal(guider, sigmas, broken).startswith("The latent has NaN or infinite values.")


@pytest.mark.parametrize(
    ("sigmas", "listed"),
    [([1.0, 0.5], "[1, 0.5]"), ([0.0], "[0]"), ([0.0, 0.5, 1.0], "[0, 0.5, 1]"), ([14.6, 1.0, 0.0], "[14.6, 1, 0]")],
)
def test_sigmas_that_do_not_lead_to_a_picture_are_refused(golden, model, photo, sigmas, listed):
    assert refusal(basic(model, golden.positive()), torch.tensor(sigmas), photo) == (
        f"The sigmas are {listed}, expected at least two that fall from at most 1 to 0. Connect BasicScheduler, the "
        "same that goes into the sampler."
    )


def test_noise_is_refused_where_it_does_not_belong(golden, model, photo, inverted):
    with pytest.raises(ValueError, match=r"noise is 16 x 8 x 8 .* being sampled is 16 x 8 x 10\."):
        inverted[0].generate_noise({"samples": torch.zeros(1, 16, 8, 10)})
    half = invert(basic(model, golden.positive()), levels(model, 4, denoise=0.5), photo)[0]
    with pytest.raises(ValueError, match="the sampler's latent is empty"):
        half.generate_noise(golden.latent())


def test_a_pivot_follows_a_latent_or_a_trajectory_but_not_both(photo, inverted):
    with pytest.raises(ValueError, match="it can follow one of them only"):
        run_node("BokehPivot", blur=12.0, grounding=0.8, latent=photo, trajectory=inverted[1])
