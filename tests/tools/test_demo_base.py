"""Training of the demonstration model's transformer: repeatable, resumable, and it learns."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from commands import run_each
from flux import relative_error
from places import CHECKOUT
from safetensors.torch import load_file, save_file

from bokeh.demo import FOLDER, words
from bokeh.demo.load import load_weights
from bokeh.demo.network import FLUX, KINDS, SHIFT, SIGMA_DATA, UNET, build
from bokeh.tools.demo.base import BaseRecipe, BaseTrainer, encode_captions, noise_levels
from bokeh.tools.demo.decoder import DecoderRecipe, fit_codec, train_decoder
from bokeh.training.scenes import BLUR_WORDS, Scenes, tell_blur

RECIPE = BaseRecipe(steps=4, batch=4, warmup=2)


@pytest.fixture(scope="module")
def codec():
    return fit_codec(0, pictures=300)


@pytest.fixture(autouse=True)
def gradients():
    with torch.enable_grad():
        yield


def trained(codec, steps: int, trainer: BaseTrainer | None = None, family: str = "flux") -> BaseTrainer:
    trainer = trainer or BaseTrainer(codec, replace(RECIPE, family=family))
    while trainer.step < steps:
        trainer.train_step(trainer.draw(trainer.step))
    return trainer


def test_pictures_that_are_drawn_ahead_are_those_of_the_step(codec):
    whole, begun = trained(codec, 4), trained(codec, 1)
    begun.run(lambda step, loss: None, workers=2)
    assert begun.losses == whole.losses


@pytest.mark.parametrize("family", KINDS)
def test_resumed_equals_uninterrupted(codec, tmp_path, family):
    whole = trained(codec, 4, family=family)
    trained(codec, 2, family=family).save(tmp_path / "checkpoint")
    resumed = BaseTrainer(codec, replace(RECIPE, family=family))
    resumed.load(tmp_path / "checkpoint")
    trained(codec, 4, resumed)
    assert resumed.losses == whole.losses
    for name, weight in whole.average.items():
        assert torch.equal(weight, resumed.average[name]), name
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


def test_a_checkpoint_of_another_recipe_is_refused(codec, tmp_path):
    trained(codec, 1).save(tmp_path / "checkpoint")
    other = BaseTrainer(codec, BaseRecipe(steps=4, batch=8, warmup=2))
    with pytest.raises(ValueError, match=r"'batch': 4.*'batch': 8"):
        other.load(tmp_path / "checkpoint")


def test_it_goes_on_from_a_finished_model(codec, tmp_path):
    first = trained(codec, 2)
    save_file({name: weight.contiguous() for name, weight in first.average.items()}, tmp_path / "model.safetensors")
    second = BaseTrainer(codec, replace(RECIPE, seed=1))
    second.start_from(tmp_path / "model.safetensors")
    for name, weight in second.network.state_dict().items():
        assert torch.equal(weight, first.average[name]), name
        assert torch.equal(weight, second.average[name]), name
    trained(codec, 2, second).save(tmp_path / "checkpoint")
    with pytest.raises(ValueError, match=r"'start': '[0-9a-f]{64}'"):
        BaseTrainer(codec, replace(RECIPE, seed=1)).load(tmp_path / "checkpoint")


def test_weights_of_something_else_are_refused(codec, tmp_path):
    wrong = tmp_path / "wrong.safetensors"
    save_file({"some": torch.zeros(4)}, wrong)
    for content, said in ((wrong.read_bytes(), "does not fit"), (b"not a model", "is damaged")):
        wrong.write_bytes(content)
        with pytest.raises(ValueError, match=rf"wrong\.safetensors: {said} .* Give the folder"):
            BaseTrainer(codec, RECIPE).start_from(wrong)
        with pytest.raises(ValueError, match=rf"wrong\.safetensors: {said} "):
            load_weights(codec, wrong)


def test_the_command_goes_on_from_a_folder_and_says_what_is_missing_in_it(tmp_path):
    def base(start, name: str) -> list:
        options = ("--start", start, "--out", tmp_path / name, "--steps", 1, "--batch", 4, "--seed", 2, "--no-compile")
        return ["base", "--work", tmp_path / f"{name} work", *options]

    half = tmp_path / "half"
    half.mkdir()
    (half / "codec.safetensors").write_bytes((FOLDER / "codec.safetensors").read_bytes())
    commands = [base(tmp_path, "none"), base(half, "no model"), base(FOLDER, "out")]
    nothing, no_model, done = run_each(CHECKOUT / "tools" / "demo" / "__main__.py", commands, COMFYUI_BOKEH_DEMO="1")
    for (code, said), missing in ((nothing, tmp_path / "codec"), (no_model, half / "model")):
        assert code == 1
        assert f"{missing}.safetensors: there is no such file. Give the folder" in said
    assert done[0] == 0, done[1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["half", "out", "out work"]
    assert [path.name for path in half.iterdir()] == ["codec.safetensors"]
    assert (tmp_path / "out" / "codec.safetensors").read_bytes() == (FOLDER / "codec.safetensors").read_bytes()
    before, after = (load_file(folder / "model.safetensors") for folder in (FOLDER, tmp_path / "out"))
    assert before.keys() == after.keys()
    for name, weight in before.items():
        assert relative_error(after[name], weight) < 0.05, name


@pytest.mark.parametrize("family", KINDS)
def test_the_loss_falls(codec, family):
    trainer = BaseTrainer(codec, BaseRecipe(steps=12, batch=8, warmup=3, family=family))
    never_seen = trainer.draw(100)

    def loss() -> float:
        with torch.no_grad():
            predicted, target, weights = trainer.predict(*never_seen)
        return (weights * (predicted - target).square()).mean().item()

    before = loss()
    trained(codec, 12, trainer)
    assert loss() < 0.99 * before


def test_training_draws_sigmas_as_the_sampler_steps_through_them():
    sampling = build(FLUX, torch.float32, "cpu").model_sampling
    uniform = torch.rand(64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = torch.tensor([sampling.sigma(u) for u in uniform.tolist()], dtype=torch.float64)
    torch.testing.assert_close(noise_levels(uniform), expected, atol=1e-9, rtol=0)
    assert sampling.shift == SHIFT


def test_the_unet_is_trained_on_what_the_sampler_asks_of_it(codec):
    """With the target that it is taught, the host's own way of calling the network gives back the latents; an error of
    theirs counts once in noise and five times without."""
    trainer = BaseTrainer(codec, BaseRecipe(batch=4, family="unet"))
    model = build(UNET, torch.float32, "cpu")
    latents, noise, shares, tokens, pooled = trainer.draw(0)
    assert latents.std().sub(1).abs() < 0.2
    asked, target = [], None

    def network(x, timestep, context, **_):
        asked.append((x, timestep))
        return noise if target is None else target

    trainer.forward = lambda x, timestep, tokens, pooled: network(x, timestep, tokens)
    _, target, weights = trainer.predict(latents, noise, shares, tokens, pooled)
    model.diffusion_model.forward = network
    sigma = model.model_sampling.sigma(999 * shares)
    x = latents + sigma.view(-1, 1, 1, 1) * noise
    with torch.no_grad():
        torch.testing.assert_close(model.apply_model(x, sigma, c_crossattn=tokens), latents, atol=1e-4, rtol=0)
        target = target + 1
        moved = (model.apply_model(x, sigma, c_crossattn=tokens) - latents).square().mean((1, 2, 3))
    counted = (1 + (SIGMA_DATA / sigma) ** 2).clamp(max=5)
    torch.testing.assert_close(weights.flatten() / moved, counted, rtol=1e-3, atol=0)
    for ours, hosts in zip(*asked[:2], strict=True):
        torch.testing.assert_close(ours, hosts, atol=1e-6, rtol=1e-6)


def test_left_out_words_leave_their_vectors_out():
    keep = torch.ones(1, words.TOKENS, dtype=torch.bool)
    tokens, pooled = encode_captions(["a red disc before teal lights"], keep)
    assert (tokens.abs().sum(2) > 0).sum() == 4
    torch.testing.assert_close(tokens.sum(1), pooled)
    keep[:, 1:3] = False
    tokens, pooled = encode_captions(["a red disc before teal lights"], keep)
    assert pooled.nonzero()[:, 1].tolist() == sorted(words.WORDS.index(word) for word in ("red", "lights"))


def test_the_codec_keeps_pictures_and_its_own_coordinates(codec):
    pictures = 2 * Scenes().draw(torch.Generator().manual_seed(9), 40, 1).images.movedim(-1, 1) - 1
    latents = codec.encode(pictures)
    assert latents.shape == (40, 32, 16, 16)
    error = ((codec.decode(latents) - pictures) / 2).square().mean()
    assert -10 * error.log10() > 30
    torch.testing.assert_close(codec.encode(codec.decode(latents)), latents, atol=1e-4, rtol=0)


def test_the_trained_decoder_brings_back_what_patches_leave_out():
    codec = fit_codec(0, pictures=300)
    pictures = 2 * Scenes().draw(torch.Generator().manual_seed(9), 24, 1).images.movedim(-1, 1) - 1
    latents = codec.encode(pictures)
    assert torch.equal(codec.decode(latents), codec.decode_patches(latents))
    before = codec.encoder.clone(), codec.decoder.clone()
    errors = []
    train_decoder(codec, DecoderRecipe(steps=80, batch=8, warmup=10), "cpu", lambda _, error: errors.append(error))
    assert len(errors) == 80
    assert all(torch.equal(ours, theirs) for ours, theirs in zip((codec.encoder, codec.decoder), before, strict=True))
    assert not any(weight.requires_grad for weight in codec.parameters())
    for noise in (0.0, 0.1):
        noisy = latents + noise * torch.randn(latents.shape, generator=torch.Generator().manual_seed(1))
        refined, linear = (
            (part - pictures).square().mean().item() for part in (codec.decode(noisy), codec.decode_patches(noisy))
        )
        assert refined < 0.9 * linear, noise
    again = fit_codec(0, pictures=300)
    train_decoder(again, DecoderRecipe(steps=3, batch=8, warmup=10), "cpu", lambda _, error: errors.append(error))
    assert errors[80:] == errors[:3]


def test_captions_that_tell_the_blur_are_words_the_model_knows():
    plain = "an orange heart before navy lights"
    assert tell_blur(plain, 4.0) == "an orange heart before sharp navy lights"
    assert tell_blur(plain, 30.0) == "an orange heart before completely blurred navy lights"
    for limit, name in BLUR_WORDS:
        known, unknown = words.split(tell_blur(plain, limit))
        assert not unknown
        assert known == ["orange", "heart", *name.split(), "navy", "lights"]
        assert len(known) <= words.TOKENS
    told = BaseTrainer(fit_codec(0, pictures=50), BaseRecipe(batch=64, empty=0.0, partial=0.0))
    pooled = told.draw(0)[-1]
    share = (pooled[:, [words.WORDS.index(word) for word in ("sharp", "blurred")]] > 0).any(1).float().mean().item()
    assert 0.3 < share < 0.7
