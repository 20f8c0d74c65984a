"""Training from a node, in the inference mode in which the host runs nodes, and the text side of it."""

from __future__ import annotations

import math

import comfy.model_management
import comfy.model_sampling as model_sampling
import comfy.sd
import comfy.utils
import folder_paths
import nodes
import pytest
import torch
from blobs import tiny_flux
from comfy.model_patcher import ModelPatcher
from comfy.supported_models_base import ClipTarget
from comfy.text_encoders.flux import FluxTokenizer
from demo_files import write_demo
from families import build_case
from flux import run_node
from sampling import ksample

from bokeh.attention.install import network_places
from bokeh.demo.load import load_demo
from bokeh.training.checkpoint import TrainingError
from bokeh.training.curve import draw_losses
from bokeh.training.encoded import EncodedDataset
from bokeh.training.pictures import Pictures
from bokeh.training.scenes import Scenes
from bokeh.training.start import timestep_mean

SETTINGS = {"batch": 4, "rank": 4, "learning_rate": 1e-3, "seed": 1, "show_every": 2}


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    with torch.inference_mode():
        return load_demo(write_demo(tmp_path_factory.mktemp("demo")))


@pytest.fixture(autouse=True)
def _as_the_host_runs_nodes():
    with torch.inference_mode():
        yield


def train(demo, name: str, **changes):
    parts = {"model": demo.model, "clip": demo.clip, "vae": demo.vae, "pairs": Scenes(), "name": name}
    return run_node("BokehTrainAdapter", **{**parts, **SETTINGS, "steps": 2, **changes})


def test_an_adapter_is_trained_shown_used_and_trained_further(demo, monkeypatch):
    shown = []
    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", lambda *args, **kwargs: shown.append(args))
    adapter, plot = train(demo, "mine/first")
    assert plot.shape[0] == 1
    assert 0 <= plot.min() < 0.5 < plot.max() <= 1
    ours = [(done, preview) for done, total, preview in shown if total == 2 and done and preview is not None]
    assert [done for done, _ in ours] == [2]
    # The curve, and under it the sweep.
    assert ours[0][1][1].height > 720
    assert adapter.settings.rank == 4
    assert adapter.settings.width == demo.model.model.diffusion_model.hidden_size
    adapter, _ = train(demo, "mine/first", steps=4)
    positive = demo.clip.encode_from_tokens_scheduled(demo.clip.tokenize("a red disc before teal lights"))
    blank = {"samples": torch.zeros_like(demo.vae.encode(torch.zeros(1, 128, 128, 3)))}
    model, latent, _ = run_node(
        "BokehSweep", model=demo.model, adapter=adapter, latent=blank, blurs="0, 15, 30", strength=1.0
    )
    rows = ksample(model, positive, latent)
    # After four steps on a random model the best adapter may still be the one that changes nothing.
    assert rows.shape[0] == 3
    assert torch.isfinite(rows).all()
    with pytest.raises(TrainingError, match="was made with another recipe: rank 4 there and 8 here"):
        train(demo, "mine/first", steps=6, rank=8)


def test_what_moves_to_its_device_in_training_works_there_and_in_the_nodes_after_it(tmp_path, monkeypatch):
    """As to a GPU. On a CPU the host moves nothing, so every weight gets new memory when it would be moved, in the same
    way."""
    load, unload = ModelPatcher.load, ModelPatcher.detach

    def moved(patcher, *args, **kwargs):
        patcher.model._apply(torch.clone)
        # The card is full, and something else has to make room.
        loaded = comfy.model_management.current_loaded_models
        for entry in [entry for entry in loaded if entry.model is other and patcher is not other]:
            loaded.remove(entry)
            entry.model_unload()
        return load(patcher, *args, **kwargs)

    def moved_back(patcher, *args, **kwargs):
        patcher.model._apply(torch.clone)
        return unload(patcher, *args, **kwargs)

    monkeypatch.setattr(ModelPatcher, "load", moved)
    monkeypatch.setattr(ModelPatcher, "detach", moved_back)
    demo, other = load_demo(write_demo(tmp_path)), tiny_flux()
    comfy.model_management.load_models_gpu([other])
    parts = [demo.clip.patcher, demo.vae.patcher, demo.model]
    own = [list(part.model.parameters()) for part in parts]
    adapter, _ = train(demo, "mine/moved")
    for part, weights in zip(parts, own, strict=True):
        assert all(weight is kept for weight, kept in zip(part.model.parameters(), weights, strict=True))
    positive = demo.clip.encode_from_tokens_scheduled(demo.clip.tokenize("a red disc before teal lights"))
    model, latent, _ = run_node(
        "BokehSweep",
        model=demo.model,
        adapter=adapter,
        latent={"samples": demo.vae.encode(torch.zeros(1, 128, 128, 3))},
        blurs="0, 15, 30",
        strength=1.0,
    )
    assert torch.isfinite(demo.vae.decode(ksample(model, positive, latent))).all()
    assert all(weight.t().is_inference() for weight in other.model.parameters() if weight.ndim == 2)


def test_an_interrupt_from_the_page_stops_training_and_keeps_the_checkpoint(demo, monkeypatch):
    def interrupt(done, *args, **kwargs):
        comfy.model_management.interrupt_current_processing(done == 1)

    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", interrupt)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        train(demo, "stopped", steps=50, show_every=50)
    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", None)
    kept = folder_paths.get_output_directory() + "/bokeh_training/stopped/checkpoint.safetensors"
    assert torch.cuda.is_available() or comfy.utils.load_torch_file(kept)["losses"].shape == (1,)


def test_a_checkpoint_without_a_text_encoder_or_vae_is_refused(demo):
    for part, name in (("clip", "text encoder"), ("vae", "VAE")):
        with pytest.raises(ValueError, match=rf"There is no {name}: this checkpoint holds none\. Load the model's own"):
            train(demo, "mine/without", **{part: None})


def test_deeper_blocks_and_the_published_recipe_train_by_name(demo):
    adapter, _ = train(demo, "mine/deep", blocks="deep", recipe="BokehDepth")
    places = network_places(demo.model)[1]
    assert adapter.settings.block_names == tuple(place.name for place in places[len(places) // 2 :])
    with pytest.raises(TrainingError, match=r"another recipe: average 0\.0 there and 0\.999 here"):
        train(demo, "mine/deep", blocks="deep", steps=3)


def test_a_name_that_leads_out_of_the_folder_is_refused(demo):
    for name in ("", "../models/mine", "a//b", "c:/mine", "nul\0", "long" * 100):
        with pytest.raises(ValueError, match="cannot be the name of a run"):
            train(demo, name)
        # Before the graph runs: the text encoder alone may take minutes to load.
        refused = nodes.NODE_CLASS_MAPPINGS["BokehTrainAdapter"].validate_inputs(name=name)
        assert "cannot be the name of a run" in refused
    assert nodes.NODE_CLASS_MAPPINGS["BokehTrainAdapter"].validate_inputs(name=None) is True


def test_a_run_on_other_captions_is_refused(demo):
    class Captioned(Scenes):
        def identity(self):
            return {**super().identity(), "captions": "others"}

    train(demo, "mine/data")
    with pytest.raises(TrainingError, match=r"made with another data: captions None there and others here\."):
        train(demo, "mine/data", steps=3, pairs=Captioned())


def test_a_run_with_another_vae_or_text_encoder_is_refused(demo, monkeypatch):
    """Told by what they make of a chart and a sentence, so a LoRA or a skipped layer is noticed too."""
    train(demo, "mine/parts")
    text, vae = demo.clip.cond_stage_model, demo.vae.first_stage_model
    plain_text, plain_vae = text.encode_token_weights, vae.encode
    with monkeypatch.context() as other:
        other.setattr(text, "encode_token_weights", lambda tokens: (plain_text(tokens)[0], 1.1 * plain_text(tokens)[1]))
        with pytest.raises(TrainingError, match=r"made with another text encoder\. Go on with the text encoder of the"):
            train(demo, "mine/parts", steps=3)
    with monkeypatch.context() as other:
        other.setattr(vae, "encode", lambda *args, **kwargs: 1.1 * plain_vae(*args, **kwargs))
        with pytest.raises(TrainingError, match=r"made with another VAE\. Go on with the VAE of the"):
            train(demo, "mine/parts", steps=3)
    train(demo, "mine/parts", steps=3)


@pytest.mark.parametrize("kind", ["Flux", "DiscreteFlow", "noise"])
@pytest.mark.parametrize("shift", [1.0, 3.0, 1.15])
def test_timesteps_are_trained_where_the_models_own_schedule_has_its_middle(kind, shift):
    """FLUX.1-dev, schnell, ModelSamplingSD3 and ModelSamplingAuraFlow: the value that is called shift is its logarithm
    in the first alone."""
    base = {"Flux": model_sampling.ModelSamplingFlux, "DiscreteFlow": model_sampling.ModelSamplingDiscreteFlow}.get(
        kind
    )
    if base is None:
        sampling, expected = model_sampling.ModelSamplingDiscrete(), 0.0
    else:
        sampling = type("Sampling", (base, model_sampling.CONST), {})()
        sampling.set_parameters(shift=shift)
        expected = shift if kind == "Flux" else math.log(shift)
    if kind == "noise":
        sampling = type("Sampling", (model_sampling.ModelSamplingDiscrete, model_sampling.EPS), {})()
    model = tiny_flux()
    model.add_object_patch("model_sampling", sampling)
    assert timestep_mean(model) == pytest.approx(expected, abs=1e-3)


class SmallText(torch.nn.Module):
    """FLUX's tokens to vectors that only tell them apart."""

    def __init__(self, device="cpu", dtype=None, model_options=None):
        super().__init__()
        self.dtypes = {torch.float32}
        self.placeholder = torch.nn.Parameter(torch.zeros(1, device=device), requires_grad=False)
        self.calls = 0

    def set_clip_options(self, options):
        pass

    def reset_clip_options(self):
        pass

    def encode_token_weights(self, tokens):
        self.calls += 1
        numbers = torch.tensor([float(number) for number, _ in tokens["t5xxl"][0]])
        return numbers[None, :, None].expand(1, -1, 3), numbers[None, :2]


def test_captions_keep_the_length_that_sampling_gives_them_and_are_encoded_once(demo):
    clip = comfy.sd.CLIP(ClipTarget(FluxTokenizer, SmallText))
    long = "one two three four five six seven " * 60

    class Captions:
        groups = singles = True
        captions = ["short", long]

        def draw(self, generator, scenes, per_scene, held_out=False):
            return Pictures(torch.zeros(scenes, 128, 128, 4), self.captions[:scenes], torch.zeros(scenes))

    data = EncodedDataset(Captions(), demo.vae, clip, demo.model)
    both = data.draw(torch.Generator(), 2, 1)
    for caption, text in zip(["short", long, ""], [*both.texts, data.empty()], strict=True):
        (context, extra), *_ = clip.encode_from_tokens_scheduled(clip.tokenize(caption))
        assert torch.equal(text.context, context[0])
        assert torch.equal(text.pooled, extra["pooled_output"][0])
    assert [len(text.context) for text in both.texts] == [256, len(both.texts[1].context)]
    assert len(both.texts[1].context) > 256
    calls = clip.cond_stage_model.calls
    data.draw(torch.Generator(), 2, 1)
    data.empty()
    assert clip.cond_stage_model.calls == calls


def test_a_vae_of_videos_gets_one_picture_at_a_time(demo):
    """It takes a batch for the frames of one video, and would give one latent for all."""

    class Photos:
        groups = singles = True

        def draw(self, generator, scenes, per_scene, held_out=False):
            return Pictures(torch.rand(3, 32, 32, 3, generator=generator), ["a"], torch.zeros(3))

    class Frames:
        latent_dim = 3

        def encode(self, pixels):
            return pixels.movedim(-1, 0)[None, :, :1]

    data = EncodedDataset(Photos(), Frames(), demo.clip, build_case("qwen-image").model)
    data._scale = lambda latents: latents
    images = Photos().draw(torch.Generator().manual_seed(0), 1, 3).images
    assert torch.equal(data.draw(torch.Generator().manual_seed(0), 1, 3).latents, images.movedim(-1, 1)[:, :, None])


def test_what_overflows_in_a_vae_or_text_encoder_is_said_with_its_caption(demo):
    class Photos:
        groups = singles = True

        def draw(self, generator, scenes, per_scene, held_out=False):
            return Pictures(torch.ones(4, 32, 32, 3), ["a cat", "a dog"], torch.zeros(4))

    class Overflow:
        latent_dim = 2

        def encode(self, pixels):
            latents = torch.zeros(len(pixels), 16, 4, 4)
            latents[2, 0, 0, 0] = torch.nan
            return latents

    class Words:
        tokenize = encode = staticmethod(lambda text: text)

        @staticmethod
        def encode_from_tokens_scheduled(text):
            return [[torch.full((1, 4, 16), torch.inf), {}]]

    generator = torch.Generator()
    with pytest.raises(ValueError, match=r'VAE gave NaN .* for a picture with the caption "a dog", .* --fp32-vae'):
        EncodedDataset(Photos(), Overflow(), demo.clip, demo.model).draw(generator, 2, 2)
    with pytest.raises(ValueError, match=r'text encoder gave NaN .* for the caption "a cat", .* --fp32-text-enc'):
        EncodedDataset(Photos(), demo.vae, Words(), demo.model).draw(generator, 2, 2)


def test_a_curve_is_drawn_from_the_first_step_to_the_last():
    empty = draw_losses([], [], 10)
    started = draw_losses([1.0, 0.9], [(0, 1.1)], 10)
    long = draw_losses([1 / (1 + i / 100) for i in range(3000)], [(0, 1.2), (3000, 0.1)], 3000)
    pictures = [empty, started, long]
    assert len({tuple(picture.shape) for picture in pictures}) == 1
    blue = torch.tensor([0x1D, 0x6F, 0xA5]) / 255
    drawn = [int(((picture - blue).abs().sum(-1) < 0.05).any(dim=(0, 1)).sum()) for picture in pictures]
    # Columns of the plot that the smooth line reaches: a fifth of the way, then all of it.
    assert drawn[0] == 0
    assert drawn[0] < drawn[1] < drawn[2]
    assert drawn[2] > 900
