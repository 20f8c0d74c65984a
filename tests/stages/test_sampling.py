"""Stage diffusion against a plain statement of the algorithm, its exact cases, and where the switch falls."""

from __future__ import annotations

import comfy.samplers
import pytest
import torch
from families import build_case
from flux import relative_error, run_node
from staged import ALPHA, LAYOUT, STEPS, Scene, flux_scene, statement, unet_scene


@pytest.fixture(scope="module", params=["flux", "unet"])
def scene(request) -> Scene:
    return {"flux": flux_scene, "unet": unet_scene}[request.param]()


@pytest.mark.parametrize(
    ("sampler", "scheduler", "cfg", "denoise"),
    [("euler", "simple", 7.0, 1.0), ("dpmpp_2m", "beta", 1.0, 0.6), ("heun", "karras", 7.0, 0.6)],
)
def test_equals_a_plain_statement_of_the_algorithm(scene, sampler, scheduler, cfg, denoise):
    options = {"sampler": sampler, "scheduler": scheduler, "cfg": cfg, "denoise": denoise}
    latent = scene.empty() if denoise == 1 else scene.photo()
    model, positive = scene.staged()
    ours = scene.sample(model, positive, latent, **options)
    assert relative_error(ours, statement(scene, ALPHA, LAYOUT, latent, **options)) <= 1e-5
    # Ten times the bar: schedules that end at very low noise leave the focus stage little to change.
    assert relative_error(ours, scene.sample(scene.model, scene.positive(), latent, **options)) > 1e-4


# Exact cases


def test_one_is_plain_sampling_by_the_very_model_and_prompt_that_came(scene):
    positive = scene.positive()
    for alpha, layout in ((1.0, LAYOUT), (ALPHA, 1.0)):
        model, staged = scene.staged(alpha, layout, global_prompt=positive)
        assert model is scene.model
        assert staged is positive


def test_a_layout_that_rounds_to_all_steps_is_plain_sampling_bit_for_bit(scene):
    model, staged = scene.staged(layout=0.97)
    for sampler in ("euler", "heun"):
        ours = scene.sample(model, staged, sampler=sampler, cfg=7.0)
        assert torch.equal(ours, scene.sample(scene.model, scene.positive(), sampler=sampler, cfg=7.0))


def test_layout_zero_is_the_focus_stage_from_the_first_step(scene):
    for alpha, focus in ((0.0, scene.local()), (1.4, scene.mixed(1.4))):
        model, staged = scene.staged(alpha, 0.0)
        ours = scene.sample(model, staged, cfg=7.0)
        assert relative_error(ours, scene.sample(scene.model, focus, cfg=7.0)) <= 1e-6


def test_prompts_of_two_lengths_with_masks_stage_z_image_whose_network_takes_none():
    case, generator = build_case("z-image"), torch.Generator().manual_seed(1)
    scene, subject = (torch.randn(1, length, case.kind.width, generator=generator) for length in (7, 9))
    model, positive = run_node(
        "BokehStageSweep",
        model=case.model,
        global_prompt=[[scene, {"attention_mask": torch.ones(1, 7, dtype=torch.long)}]],
        local_prompt=[[subject, {"attention_mask": torch.ones(1, 9, dtype=torch.long)}]],
        latent={"samples": torch.zeros(1, *case.kind.shape)},
        vary="layout",
        values="0, 1",
        alpha=0.5,
        layout=0.5,
    )[:2]
    longer = torch.nn.functional.pad(scene, (0, 0, 0, 2))
    rows = case.run(model, 2, positive=positive)
    for row, prompt in zip(rows, ((longer + subject) / 2, longer), strict=True):
        assert relative_error(row[None], case.run(case.model, 1, positive=[[prompt, {}]])) <= 1e-5


def test_the_model_and_the_prompts_that_came_in_stay_as_they_were(scene):
    positive, local = scene.positive(), scene.local()
    before = scene.sample(scene.model, positive)
    keys = set(positive[0][1]), set(local[0][1])
    tokens = positive[0][0].clone()
    model, staged = scene.staged(global_prompt=positive, local_prompt=local)
    ours = scene.sample(model, staged)
    assert (set(positive[0][1]), set(local[0][1])) == keys
    assert torch.equal(positive[0][0], tokens)
    assert torch.equal(scene.sample(scene.model, positive), before)
    assert torch.equal(scene.sample(model, staged), ours)
    assert not torch.equal(ours, before)


# Where the switch falls


def record(scene: Scene, **options) -> tuple[list[tuple[float, bool]], list[float]]:
    """(sigma, in focus stage) of every call of the staged model, and the sigmas of the run."""
    model, staged = scene.staged()
    calls, runs = [], []
    focus = scene.mixed()[0][0]

    def watch(executor, x, t, c_concat=None, c_crossattn=None, control=None, transformer_options=None, **kwargs):
        # Some samplers ask for the negative branch whatever the cfg.
        for role, tokens in zip(transformer_options["cond_or_uncond"], c_crossattn, strict=True):
            if role == 0:
                calls.append((float(t[0]), torch.allclose(tokens, focus[0])))
                assert calls[-1][1] or torch.equal(tokens, scene.global_prompt[0][0])
        runs.append(transformer_options["sample_sigmas"])
        return executor(x, t, c_concat, c_crossattn, control, transformer_options, **kwargs)

    model.add_wrapper_with_key("apply_model", "test", watch)
    scene.sample(model, staged, **options)
    return calls, runs[0].tolist()


def test_the_switch_falls_after_the_same_step_of_every_scheduler(scene):
    for scheduler in comfy.samplers.KSampler.SCHEDULERS:
        calls, sigmas = record(scene, scheduler=scheduler, denoise=0.6, latent=scene.photo())
        steps = len(sigmas) - 1
        assert [focus for _, focus in calls] == [i >= round(LAYOUT * steps) for i in range(steps)], scheduler


# One of each kind: one call a step, two, half steps between, noise on the way, steps of its own choice, by way of
# logarithms, several steps remembered, a negative branch whatever the cfg.
SAMPLERS = (
    *("euler_ancestral", "heun", "dpm_2", "dpmpp_sde", "dpm_adaptive", "dpmpp_2m_sde", "ipndm", "uni_pc"),
    *("lcm", "ddim", "res_multistep_cfg_pp"),
)


def test_every_kind_of_sampler_switches_at_the_noise_level_of_that_step(scene):
    for sampler in SAMPLERS:
        if sampler == "dpm_adaptive" and scene.guidance is not None:
            # On a flow it takes hundreds of calls.
            continue
        calls, sigmas = record(scene, sampler=sampler, scheduler="normal")
        boundary = sigmas[round(LAYOUT * (len(sigmas) - 1))]
        assert {focus for _, focus in calls} == {False, True}, sampler
        for sigma, focus in calls:
            # What a sampler computes by way of logarithms is beside its step by rounding.
            assert focus == (sigma <= boundary or sigma == pytest.approx(boundary, rel=1e-6)), (sampler, sigma)


def test_the_later_of_two_samplers_counts_its_own_steps(scene):
    model, staged = scene.staged(layout=0.5)
    common = {"model": model, "noise_seed": 1, "steps": 8, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple"}
    common |= {"positive": staged, "negative": scene.negative(), "add_noise": "disable"}
    common |= {"start_at_step": 4, "end_at_step": 8, "return_with_leftover_noise": "disable"}
    (ours,) = run_node("KSamplerAdvanced", latent_image=scene.photo(), **common)
    halves = scene.photo()
    for start, end, prompt in ((4, 6, scene.positive()), (6, 8, scene.mixed())):
        leave = "enable" if end < 8 else "disable"
        plain = common | {"model": scene.model, "positive": prompt, "start_at_step": start, "end_at_step": end}
        (halves,) = run_node("KSamplerAdvanced", latent_image=halves, **plain | {"return_with_leftover_noise": leave})
    assert relative_error(ours["samples"], halves["samples"]) <= 1e-5


def test_every_picture_of_a_batch_is_staged(scene):
    batch = {"samples": torch.zeros(3, *scene.shape[1:])}
    model, staged = scene.staged()
    ours = scene.sample(model, staged, batch)
    assert relative_error(ours[:1], scene.sample(model, staged)) <= 1e-5
    plain = scene.sample(scene.model, scene.positive(), batch)
    assert all(relative_error(row, other) > 1e-4 for row, other in zip(ours, plain, strict=True))


def test_steps_are_counted_as_documented():
    from bokeh.stages.mixing import switch_sigma

    sigmas = [float(STEPS - i) for i in range(STEPS + 1)]
    assert [switch_sigma(layout, sigmas) for layout in (0.0, 0.07, 0.08, 0.8, 0.92, 0.93, 1.0)] == [
        float("inf"),
        float("inf"),
        6.0,
        1.0,
        1.0,
        -float("inf"),
        -float("inf"),
    ]
