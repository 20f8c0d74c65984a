"""The demonstration model in the host's standard nodes; the weights are random, the network and the nodes real."""

from __future__ import annotations

import asyncio
import os

import nodes as host_nodes
import pytest
import torch
from adapters import official_tensors
from comfy.ldm.flux.model import Flux
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from comfy_execution.utils import CurrentNodeContext
from families import random_adapter
from flux import relative_error, run_node
from latent_preview import Latent2RGBPreviewer
from safetensors.torch import load_file, save_file
from sampling import ksample
from server import PromptServer

from bokeh.demo.codec import CHANNELS, PatchCodec
from bokeh.demo.load import DemoError, demo_files, load_demo
from bokeh.demo.network import FLUX, FLUX_SIZES, KINDS, UNET, build
from bokeh.demo.words import TOKENS, WIDTH, WORDS, embed
from bokeh.nodes import demo as demo_node
from bokeh.weights import folder as adapter_folder
from bokeh.weights.files import write_adapter
from bokeh.weights.format import AdapterError, build_adapter

BLOCKS = list(range(FLUX_SIZES["depth"] + FLUX_SIZES["depth_single_blocks"]))
PROMPT = "a red disc in front of grey stripes"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder with the files of the demonstration models, whose weights are random."""
    folder = tmp_path_factory.mktemp("demo")
    generator = torch.Generator().manual_seed(3)
    for kind in KINDS.values():
        state = {}
        for name, weight in build(kind, torch.float32, "cpu").diffusion_model.state_dict().items():
            noise = torch.randn(weight.shape, generator=generator)
            norm = name.endswith(("norm.scale", "norm.weight")) or (weight.ndim == 1 and name.endswith("weight"))
            state[name] = (1 + 0.1 * noise if norm else 0.5 * noise / weight[0].numel() ** 0.5).half()
        save_file(state, folder / kind.file)
    codec = PatchCodec()
    codec.fit(pictures(64, 32, 32).movedim(-1, 1) * 2 - 1)
    save_file(codec.state_dict(), folder / "codec.safetensors")
    adapter = build_adapter(official_tensors(FLUX_SIZES["hidden_size"], BLOCKS), None, "random adapter")
    write_adapter(adapter, folder / "adapter.safetensors")
    with torch.inference_mode():
        write_adapter(random_adapter(load_demo(folder, kind=UNET).model), folder / "unet_adapter.safetensors")
    return folder


@pytest.fixture(scope="module")
def demo(files):
    with torch.inference_mode():
        return load_demo(files)


@pytest.fixture(scope="module", params=list(KINDS))
def network(request):
    return request.param


@pytest.fixture(scope="module")
def either(files, network):
    with torch.inference_mode():
        return load_demo(files, kind=KINDS[network])


@pytest.fixture(autouse=True)
def _as_the_host_runs_nodes():
    with torch.inference_mode():
        yield


def pictures(count: int, height: int, width: int) -> torch.Tensor:
    """Coloured waves [count, height, width, 3] in 0..1: smooth enough for 32 components of a patch."""
    generator = torch.Generator().manual_seed(count)
    y, x = torch.meshgrid(torch.arange(height) / 32, torch.arange(width) / 32, indexing="ij")
    rise, run, phase = torch.rand(3, count, 1, 1, 3, generator=generator) * 4 - 2
    return 0.5 + 0.4 * torch.sin(rise * y[..., None] + run * x[..., None] + 3 * phase)


def encode(demo, text: str) -> list:
    return run_node("CLIPTextEncode", clip=demo.clip, text=text)[0]


def empty(width: int = 128, height: int = 128, count: int = 1) -> dict:
    return run_node("EmptyLatentImage", width=width, height=height, batch_size=count)[0]


def same(ours: list, theirs: list) -> bool:
    (tokens, extra), (others, other_extra) = ours[0], theirs[0]
    return torch.equal(tokens, others) and torch.equal(extra["pooled_output"], other_extra["pooled_output"])


# Text


def test_the_words_of_a_prompt_reach_the_model_as_they_were_trained(demo):
    ((tokens, extra),) = encode(demo, PROMPT)
    vectors, pooled = embed([WORDS.index(word) for word in ("red", "disc", "grey", "stripes")])
    assert tokens.shape == (1, TOKENS, WIDTH)
    assert torch.equal(tokens[0], vectors)
    assert torch.equal(extra["pooled_output"], pooled[None])
    assert same(encode(demo, "RED circle, gray lines!"), encode(demo, PROMPT))


def test_weights_scale_the_words_in_brackets_only(demo):
    plain, weighted = encode(demo, "red disc on grey"), encode(demo, "red (disc on:1.5) grey")
    assert torch.equal(weighted[0][0][0, :, :], plain[0][0][0] * torch.tensor([1, 1.5, 1, *[1] * 5])[:, None])
    assert torch.equal(weighted[0][1]["pooled_output"], weighted[0][0].sum(1))
    assert same(encode(demo, r"red \(disc on\) grey"), plain)


def test_tokens_come_with_word_numbers_when_asked_for(demo):
    red, disc = WORDS.index("red"), WORDS.index("disc")
    expected = [[(red, 1.0, 1), (disc, 1.2, 2)]]
    tokens = demo.clip.tokenize("red (disc:1.2)", return_word_ids=True)
    assert tokens == {"l": expected, "t5xxl": expected}
    assert same(demo.clip.encode_from_tokens_scheduled(tokens), encode(demo, "red (disc:1.2)"))


def test_an_empty_text_is_no_text(demo):
    (zeroed,) = run_node("ConditioningZeroOut", conditioning=encode(demo, PROMPT))
    assert same(encode(demo, ""), zeroed)
    assert same(encode(demo, "the photo of a"), zeroed)


def test_nodes_that_rework_clip_and_conditioning_work(demo):
    (skipped,) = run_node("CLIPSetLastLayer", clip=demo.clip, stop_at_clip_layer=-2)
    (options,) = run_node("T5TokenizerOptions", clip=demo.clip.clone(), min_padding=3, min_length=20)
    for clip in (skipped, options):
        assert same(run_node("CLIPTextEncode", clip=clip, text=PROMPT)[0], encode(demo, PROMPT))
    red, blue = encode(demo, "red disc"), encode(demo, "blue disc")
    (both,) = run_node("CLIPTextEncodeFlux", clip=demo.clip, clip_l="red disc", t5xxl="blue disc", guidance=3.0)
    assert torch.equal(both[0][0], blue[0][0])
    assert torch.equal(both[0][1]["pooled_output"], red[0][1]["pooled_output"])
    (mean,) = run_node("ConditioningAverage", conditioning_to=red, conditioning_from=blue, conditioning_to_strength=0.5)
    assert torch.equal(mean[0][0], (red[0][0] + blue[0][0]) / 2)
    (combined,) = run_node("ConditioningCombine", conditioning_1=red, conditioning_2=blue)
    assert torch.isfinite(ksample(demo.model, combined, empty(), steps=1)).all()


def test_words_left_out_are_named(files, caplog):
    told = []
    demo = load_demo(files, told.append)
    encode(demo, "a red cat on (grass:1.2), red cat")
    encode(demo, "red orange yellow green blue pink disc square diamond heart heart")
    encode(demo, PROMPT)
    known = ", ".join(WORDS)
    assert told == [
        f'The demo model does not know "cat", "grass" and leaves them out. It knows: {known}.',
        'The demo model reads the first 8 words it knows; left out: "diamond", "heart".',
        "",
    ]
    assert [record.message for record in caplog.records if "demo model" in record.message] == told[:2]


@pytest.fixture
def page(monkeypatch):
    """The texts that the host sends to its pages, as (node id, text), each time it is called."""
    loop = asyncio.new_event_loop()
    # The server puts itself here; when the test is over, other tests find what they had.
    monkeypatch.setattr(PromptServer, "instance", None, raising=False)
    server = PromptServer(loop)

    def received() -> list[tuple[str, str]]:
        loop.run_until_complete(asyncio.sleep(0))
        messages = []
        while not server.messages.empty():
            data = server.messages.get_nowait()[1]
            length = int.from_bytes(data[:4], "big")
            messages.append((data[4 : 4 + length].decode(), data[4 + length :].decode()))
        return messages

    yield received
    loop.close()


def test_the_page_shows_them_on_the_node_until_the_text_is_mended(files, page):
    demo = load_demo(files, demo_node._tell)
    with CurrentNodeContext("prompt", "12"):
        encode(demo, PROMPT)
        assert page() == []
        encode(demo, "a red cat")
        ((node, text),) = page()
        assert node == "12"
        assert '"cat"' in text
        encode(demo, PROMPT)
        assert page() == [("12", "The demo model knows every word of this text.")]
        encode(demo, PROMPT)
        assert page() == []
    encode(demo, "a red cat")
    assert page() == []


# Pictures


def test_a_picture_of_the_standard_nodes(either):
    negative = encode(either, "")
    latents = ksample(either.model, encode(either, PROMPT), empty(count=2), negative=negative, cfg=3.0, steps=2)
    assert latents.shape == (2, CHANNELS, 16, 16)
    (images,) = run_node("VAEDecode", vae=either.vae, samples={"samples": latents})
    assert images.shape == (2, 128, 128, 3)
    assert torch.isfinite(images).all()
    assert images.min() >= 0
    assert images.max() <= 1
    again = ksample(either.model, encode(either, PROMPT), empty(count=2), negative=negative, cfg=3.0, steps=2)
    assert torch.equal(again, latents)
    other = ksample(either.model, encode(either, "blue heart"), empty(count=2), negative=negative, cfg=3.0, steps=2)
    assert relative_error(other, latents) > 1e-3


@pytest.mark.parametrize(("width", "height"), [(16, 16), (136, 120), (256, 64)])
def test_other_sizes_run(either, width, height):
    latents = ksample(either.model, encode(either, PROMPT), empty(width, height), steps=1)
    (images,) = run_node("VAEDecode", vae=either.vae, samples={"samples": latents})
    assert images.shape == (1, height, width, 3)
    assert torch.isfinite(images).all()


def test_a_picture_keeps_its_looks_through_the_vae(demo):
    images = pictures(5, 96, 128)
    (latent,) = run_node("VAEEncode", vae=demo.vae, pixels=images)
    assert latent["samples"].shape == (5, CHANNELS, 12, 16)
    (back,) = run_node("VAEDecode", vae=demo.vae, samples=latent)
    assert (back - images).square().mean() < 1e-4
    # What is left of it after the first time is left of it for good.
    (again,) = run_node("VAEEncode", vae=demo.vae, pixels=back)
    assert relative_error(again["samples"], latent["samples"]) < 1e-2


def test_sides_that_are_no_multiple_of_eight_are_cropped_at_both_ends(demo):
    images = pictures(1, 77, 131)
    (latent,) = run_node("VAEEncode", vae=demo.vae, pixels=images)
    (inner,) = run_node("VAEEncode", vae=demo.vae, pixels=images[:, 2:74, 1:129])
    assert latent["samples"].shape == (1, CHANNELS, 9, 16)
    assert torch.equal(latent["samples"], inner["samples"])


def test_tiles_make_the_same_picture(demo):
    images = pictures(2, 192, 320)
    (latent,) = run_node("VAEEncode", vae=demo.vae, pixels=images)
    tiles = {"tile_size": 128, "overlap": 32}
    (tiled,) = run_node("VAEEncodeTiled", vae=demo.vae, pixels=images, **tiles)
    assert relative_error(tiled["samples"], latent["samples"]) < 1e-5
    (whole,) = run_node("VAEDecode", vae=demo.vae, samples=latent)
    (tiled,) = run_node("VAEDecodeTiled", vae=demo.vae, samples=latent, **tiles)
    assert (tiled - whole).abs().max() < 1e-5


def test_a_photo_is_the_start_of_a_picture(demo):
    (latent,) = run_node("VAEEncode", vae=demo.vae, pixels=pictures(1, 128, 128))
    faint, strong = (ksample(demo.model, encode(demo, PROMPT), latent, denoise=part) for part in (0.1, 0.9))
    assert relative_error(faint, latent["samples"]) < relative_error(strong, latent["samples"])


@pytest.mark.parametrize("node", ["VAEDecode", "VAEDecodeTiled"])
def test_latents_of_another_model_are_refused(demo, node):
    tiles = {"tile_size": 128, "overlap": 32} if node == "VAEDecodeTiled" else {}
    with pytest.raises(ValueError, match=r"has the shape \[1, 4, 16, 16\], but the demo VAE decodes \[pictures, 32"):
        run_node(node, vae=demo.vae, samples=empty(), **tiles)


def test_the_live_preview_shows_the_mean_colour_of_every_patch(either):
    (latent,) = run_node("VAEEncode", vae=either.vae, pixels=pictures(1, 128, 128))
    formats = either.model.get_model_object("latent_format")
    previewer = Latent2RGBPreviewer(formats.latent_rgb_factors, formats.latent_rgb_factors_bias)
    shown = previewer.decode_latent_to_preview(either.model.model.process_latent_in(latent["samples"]))
    (images,) = run_node("VAEDecode", vae=either.vae, samples=latent)
    means = images.unflatten(1, (16, 8)).unflatten(3, (16, 8)).mean((2, 4))[0]
    assert shown.size == (16, 16)
    values = torch.tensor(list(shown.getdata())).reshape(16, 16, 3) / 255
    assert (values - means).abs().max() < 2 / 255


# With the adapter


def test_its_adapter_runs_the_slider_and_the_sweep(either, network, files, monkeypatch):
    demo, called = either, KINDS[network].adapter
    monkeypatch.setattr(adapter_folder, "DEMO_FOLDER", files)
    loader = host_nodes.NODE_CLASS_MAPPINGS["BokehLoadAdapter"]
    assert loader.validate_inputs(called) is True
    (adapter,) = run_node("BokehLoadAdapter", adapter=called)
    positive, latent = encode(demo, PROMPT), empty()
    (slider,) = run_node("BokehBlur", model=demo.model, adapter=adapter, blur=15.0, strength=1.0)
    pivot = ksample(slider, positive, latent)
    assert relative_error(pivot, ksample(demo.model, positive, latent)) > 1e-3
    swept, rows, _ = run_node(
        "BokehSweep", model=demo.model, adapter=adapter, latent=latent, blurs="0, 15, 30", strength=1.0
    )
    latents = ksample(swept, positive, rows)
    assert latents.shape == (3, CHANNELS, 16, 16)
    assert relative_error(latents[1:2], pivot) < 1e-4
    assert relative_error(latents[2], latents[0]) > 1e-3


def test_the_adapter_called_demo_is_listed_and_missed_by_name(tmp_path, monkeypatch):
    monkeypatch.setattr(adapter_folder, "DEMO_FOLDER", tmp_path)
    assert adapter_folder.adapter_choices()[-4:] == ["demo", "demo: unet", "demo: all in focus", "demo: refocus"]
    with pytest.raises(AdapterError) as caught:
        adapter_folder.adapter_path("demo")
    assert str(caught.value) == (
        "adapter.safetensors: there is no such file. The demo adapters come with the Bokeh pack: install the pack "
        "again, or restore the file."
    )


# Files


def test_the_network_is_the_host_s_and_holds_the_weights_of_the_file(either, network, files):
    model = either.model.model
    assert type(model.diffusion_model) is {"flux": Flux, "unet": UNetModel}[network]
    # Newer hosts give some weights another name.
    stored = model.model_config.process_unet_state_dict(load_file(files / KINDS[network].file))
    loaded = model.diffusion_model.state_dict()
    assert loaded.keys() == stored.keys()
    assert all(torch.equal(loaded[name], stored[name].to(loaded[name].dtype)) for name in stored)


def test_the_node_gives_all_three_and_reads_new_files(network, files, tmp_path, monkeypatch):
    for file in files.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    monkeypatch.setattr(demo_node, "FOLDER", tmp_path)
    model, clip, vae = run_node("BokehDemoModel", network=network)
    assert type(model.model.model_config) is KINDS[network].config
    (conditioning,) = run_node("CLIPTextEncode", clip=clip, text=PROMPT)
    latents = ksample(model, conditioning, empty(), steps=1)
    (images,) = run_node("VAEDecode", vae=vae, samples={"samples": latents})
    assert images.shape == (1, 128, 128, 3)
    fingerprint = demo_node.BokehDemoModel.fingerprint_inputs
    before = fingerprint(network)
    assert fingerprint(network) == before
    assert len({before, *map(fingerprint, KINDS)}) == len(KINDS)
    os.utime(tmp_path / KINDS[network].file, ns=(0, 0))
    assert fingerprint(network) != before


def test_graphs_from_before_there_were_two_draw_with_the_first():
    (model, _, _) = run_node("BokehDemoModel")
    assert type(model.model.model_config) is FLUX.config
    assert demo_node.BokehDemoModel.fingerprint_inputs() == demo_node.BokehDemoModel.fingerprint_inputs("flux")


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("harm", ["missing", "cut off", "other"])
def test_a_file_that_is_not_right_is_named_with_what_to_do(network, files, tmp_path, number, harm):
    for file in files.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    bad = demo_files(tmp_path, KINDS[network])[number]
    if harm == "missing":
        bad.unlink()
    elif harm == "cut off":
        bad.write_bytes(bad.read_bytes()[:-10])
    else:
        save_file({"mean": torch.zeros(3)}, bad)
    said = {"missing": "there is no such file", "cut off": "is damaged or cut off", "other": "does not fit"}
    with pytest.raises(DemoError) as caught:
        load_demo(tmp_path, kind=KINDS[network])
    assert str(caught.value).startswith(f"{bad}: {said[harm]}")
    assert str(caught.value).endswith(
        "It comes with the Bokeh pack: install the pack again, or restore the file in its folder."
    )
