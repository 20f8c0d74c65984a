"""A finished picture as the pivot: what its row holds at every call, where the targets start, and what is refused."""

from __future__ import annotations

import comfy.sample
import pytest
import torch
from flux import relative_error, run_node
from sampling import ksample, ksample_part, swept

from bokeh.attention.rows import Pivot

SEED = 1


@pytest.fixture(scope="module")
def generated(golden, adapter):
    """The final latent of the pivot that blur 15 generates from SEED."""
    (slider,) = run_node("BokehBlur", model=golden.model, adapter=adapter, blur=15.0, strength=1.0)
    return {"samples": ksample(slider, golden.positive(), golden.latent(), seed=SEED)}


def random_picture(golden, count: int = 1) -> torch.Tensor:
    shape = golden.latent()["samples"].shape[1:]
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(4))


def pivot_of(latent: dict, blur: float = 15.0, grounding: float = 0.8) -> Pivot:
    return run_node("BokehPivot", blur=blur, grounding=grounding, latent=latent)[0]


def watched(model) -> list[tuple[float, torch.Tensor, int]]:
    """(sigma, rows, chunks) of every model call of ``model``, as the network gets them."""
    seen = []

    def watch(executor, x, timestep, context, y, guidance, ref_latents, control, transformer_options, **kwargs):
        seen.append((float(timestep[0]), x.to("cpu", copy=True), len(transformer_options["cond_or_uncond"])))
        return executor(x, timestep, context, y, guidance, ref_latents, control, transformer_options, **kwargs)

    model.add_wrapper_with_key("diffusion_model", "test", watch)
    return seen


def starting_noise(golden, seed: int = SEED) -> torch.Tensor:
    return run_node("RandomNoise", noise_seed=seed)[0].generate_noise(golden.latent())


@pytest.mark.parametrize("cfg", [1.0, 3.0])
@pytest.mark.parametrize(("sampler", "calls"), [("euler", 4), ("heun", 7), ("dpm_2", 7), ("dpmpp_2m", 4)])
def test_the_generated_pivots_own_latent_is_noised_to_every_level(golden, adapter, generated, sampler, calls, cfg):
    model, latent, _ = swept(golden, adapter, "0, 15, 30", pivot_of(generated))
    seen = watched(model)
    ksample(model, golden.positive(), latent, negative=golden.negative(), cfg=cfg, sampler=sampler, seed=SEED)
    assert len(seen) == calls
    clean, noise = model.model.process_latent_in(generated["samples"]), starting_noise(golden)
    sampling = model.get_model_object("model_sampling")
    for sigma, rows, chunks in seen:
        assert chunks == (1 if cfg == 1 else 2)
        expected = sampling.noise_scaling(torch.tensor([sigma]), noise, clean)
        for chunk in rows.chunk(chunks):
            assert chunk.shape[0] == 4
            torch.testing.assert_close(chunk[3:], expected)


@pytest.mark.parametrize("grounding", [0.0, 0.8])
def test_a_target_at_the_first_level_sees_the_pivot_it_would_generate(golden, adapter, generated, grounding):
    """One step from full noise: a pinned pivot and a generated one are then the same row."""
    pinned, latent, _ = swept(golden, adapter, "0, 30", pivot_of(generated, grounding=grounding))
    free, _, _ = swept(golden, adapter, "0, 30", Pivot(15.0, grounding))
    options = {"seed": SEED, "steps": 1}
    ours = ksample(pinned, golden.positive(), latent, **options)
    assert relative_error(ours, ksample(free, golden.positive(), latent, **options)) <= 1e-5


def test_what_the_pivot_shows_and_its_annotation_both_reach_the_targets(golden, adapter, generated):
    def rows(latent: dict, blur: float) -> torch.Tensor:
        model, empty, _ = swept(golden, adapter, "0, 30", pivot_of(latent, blur))
        return ksample(model, golden.positive(), empty, seed=SEED)

    ours = rows(generated, 15.0)
    assert torch.equal(ours, rows(generated, 15.0))
    assert relative_error(rows({"samples": random_picture(golden)}, 15.0), ours) > 1e-3
    # Through what the bias does to the pivot's queries and keys in later blocks: little, but no rounding.
    assert relative_error(rows(generated, 25.0), ours) > 1e-4


@pytest.mark.parametrize("sampler", ["euler", "heun"])
def test_targets_start_from_the_photo_with_a_denoise_below_one(golden, adapter, sampler):
    photo = {"samples": random_picture(golden)}
    model, latent, _ = swept(golden, adapter, "2, 28", pivot_of(photo, 4.0), latent=photo)
    seen = watched(model)
    ksample(model, golden.positive(), latent, denoise=0.5, sampler=sampler, seed=SEED)
    clean, noise = model.model.process_latent_in(photo["samples"]), starting_noise(golden)
    first, rows, _ = seen[0]
    assert 0 < first < 1
    torch.testing.assert_close(rows, (first * noise + (1 - first) * clean).expand(3, -1, -1, -1))
    for sigma, rows, _ in seen:
        torch.testing.assert_close(rows[2:], sigma * noise + (1 - sigma) * clean)


def test_a_second_sampler_that_adds_no_noise_starts_where_the_first_one_stopped(golden, adapter, generated):
    """Noise is zero then and every row brings its own latent; the pivot needs the noise of the seed again."""
    model, latent, _ = swept(golden, adapter, "0, 15, 30", pivot_of(generated))
    common = {"model": model, "noise_seed": SEED, "steps": 4, "cfg": 1.0, "sampler_name": "euler"}
    common |= {"positive": golden.positive(), "negative": golden.positive(), "scheduler": "simple"}
    half = ksample_part(latent, 0, 2, **common)
    seen = watched(model)
    ksample_part(half, 2, 4, **common)
    clean, noise = model.model.process_latent_in(generated["samples"]), starting_noise(golden)
    first, rows, _ = seen[0]
    half_rows = (1 - first) * model.model.process_latent_in(half["samples"])
    torch.testing.assert_close(rows[:3], half_rows, rtol=1e-4, atol=1e-5)
    for sigma, rows, _ in seen:
        torch.testing.assert_close(rows[3:], sigma * noise + (1 - sigma) * clean, rtol=1e-4, atol=1e-5)


def test_a_second_sampler_draws_the_noise_of_the_pictures_place_in_its_batch(golden, adapter, generated):
    """LatentFromBatch says which picture of a batch it picked, and the first sampler takes that one's noise."""
    (third,) = run_node("LatentFromBatch", samples={"samples": torch.zeros(3, 16, 8, 8)}, batch_index=2, length=1)
    model, latent, _ = swept(golden, adapter, "0, 30", pivot_of(generated), third)
    common = {"model": model, "noise_seed": SEED, "steps": 4, "cfg": 1.0, "sampler_name": "euler"}
    common |= {"positive": golden.positive(), "negative": golden.positive(), "scheduler": "simple"}
    seen = watched(model)
    ksample_part(ksample_part(latent, 0, 2, **common), 2, 4, **common)
    clean = model.model.process_latent_in(generated["samples"])
    noise = comfy.sample.prepare_noise(third["samples"], SEED, [2])
    for sigma, rows, _ in seen:
        torch.testing.assert_close(rows[2:], sigma * noise + (1 - sigma) * clean, rtol=1e-4, atol=1e-5)


def test_every_picture_of_a_slider_batch_follows_its_own_photo(golden, adapter):
    photos = {"samples": random_picture(golden, 2)}
    (model,) = run_node(
        "BokehBlur", model=golden.model, adapter=adapter, blur=25.0, strength=1.0, pivot=pivot_of(photos, 5.0)
    )
    seen = watched(model)
    empty = {"samples": torch.zeros_like(photos["samples"])}
    together = ksample(model, golden.positive(), empty, seed=SEED)
    clean = model.model.process_latent_in(photos["samples"])
    noise = run_node("RandomNoise", noise_seed=SEED)[0].generate_noise(empty)
    for sigma, rows, _ in seen:
        torch.testing.assert_close(rows[2:], sigma * noise + (1 - sigma) * clean)
    (first,) = run_node("LatentFromBatch", samples=photos, batch_index=0, length=1)
    (alone,) = run_node(
        "BokehBlur", model=golden.model, adapter=adapter, blur=25.0, strength=1.0, pivot=pivot_of(first, 5.0)
    )
    ours = ksample(alone, golden.positive(), golden.latent(), seed=SEED)
    assert relative_error(together[:1], ours) <= 1e-5


def test_a_batch_of_photos_fits_as_many_scenes_only(golden, adapter):
    photos = {"samples": random_picture(golden, 3)}
    model, latent, _ = swept(golden, adapter, "5, 25", pivot_of(photos))
    with pytest.raises(ValueError, match=r"latent is a batch of 3, but there is 1 scene\. Give one latent"):
        ksample(model, golden.positive(), latent)
    model, latent, _ = swept(golden, adapter, "5, 25", pivot_of(photos), {"samples": torch.zeros(2, 16, 8, 8)})
    with pytest.raises(ValueError, match=r"latent is a batch of 3, but there are 2 scenes\. Give one latent"):
        ksample(model, golden.positive(), latent)
    (slider,) = run_node(
        "BokehBlur", model=golden.model, adapter=adapter, blur=25.0, strength=1.0, pivot=pivot_of(photos)
    )
    with pytest.raises(ValueError, match="latent is a batch of 3, but there are 2 scenes"):
        ksample(slider, golden.positive(), {"samples": torch.zeros(2, 16, 8, 8)})


@pytest.mark.parametrize("shape", [(16, 8, 10), (4, 8, 8), (16, 16, 16)])
def test_a_latent_of_another_size_or_channel_count_is_refused_naming_both(golden, adapter, shape):
    model, latent, _ = swept(golden, adapter, "5, 25", pivot_of({"samples": torch.ones(1, *shape)}))
    given = " x ".join(map(str, shape))
    with pytest.raises(ValueError, match=rf"latent is {given} .*graph samples 16 x 8 x 8\. Encode the pivot's"):
        ksample(model, golden.positive(), latent)
