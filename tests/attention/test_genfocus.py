"""Genfocus through the public nodes and the host's samplers, against what the authors' own code computed."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from flux import Golden, build_flux, conditioning, relative_error, run_node, sample
from genfocus import FOCUS, IMAGE, Encoder, nodes_on

from bokeh.attention.conditions import Conditions
from bokeh.attention.genfocus import defocus_map
from bokeh.optics.focus import Focus

TOLERANCE = 1e-5


@pytest.mark.parametrize("name", ["genfocus_bokeh", "genfocus_deblur", "genfocus_pre_deblur"])
@pytest.mark.usefixtures("reference_rounding")
def test_the_run_is_the_authors(load_genfocus, name):
    golden = Golden(name)
    before = sample(
        golden.model, golden.positive(), golden.latent(), torch.tensor([1.0, 0.5]), noise=golden.expected["noise"]
    )
    model, latent = nodes_on(golden, load_genfocus)
    inputs = {"sigmas": golden.expected["sigmas"], "noise": golden.expected["noise"]}
    out = sample(model, golden.positive(), latent, **inputs)
    assert out.shape == golden.expected["trajectory"].shape
    assert relative_error(out, golden.expected["trajectory"]) < TOLERANCE
    # The model itself is as it was.
    after = sample(
        golden.model, golden.positive(), golden.latent(), torch.tensor([1.0, 0.5]), noise=golden.expected["noise"]
    )
    assert torch.equal(before, after)


def test_pictures_of_a_sweep_and_of_a_batch_are_those_alone_cfg_and_order_of_branches_included(load_genfocus):
    golden = Golden("genfocus_bokeh")
    sigmas, noise = golden.expected["sigmas"][:4], golden.expected["noise"]
    negative = conditioning(golden.expected["txt"].flip(1), golden.expected["pooled"], 1.0)

    def run(sampler: str, latent_noise, **inputs):
        model, latent = nodes_on(golden, load_genfocus, **inputs)
        torch.manual_seed(0)
        return sample(
            model, golden.positive(), latent, sigmas, noise=latent_noise, negative=negative, cfg=3.0, sampler=sampler
        )

    for sampler in ("euler", "dpmpp_2m_sde"):
        alone = run(sampler, noise)
        swept = run(sampler, noise, blurs="5, 10, 20", order=[0, 1, 1, 1])
        assert swept.shape[0] == 3
        assert all(relative_error(row[None], alone) < TOLERANCE for row in swept)
    twice = Focus(FOCUS.disparity, False, FOCUS.plane.repeat(2), FOCUS.blur.repeat(2))
    encoder = Encoder(golden, [0, 1, 1])
    first = encoder.latents
    encoder.latents = iter([torch.cat([latent := next(first), latent]), next(first), next(first)])
    batch = run("euler", noise.repeat(2, 1, 1, 1), vae=encoder, image=IMAGE.repeat(2, 1, 1, 1), focus=twice)
    assert all(relative_error(row[None], run("euler", noise)) < TOLERANCE for row in batch)


def test_turns_keep_a_picture_with_its_conditions():
    latent = torch.zeros(1, 16, 8, 8)
    rows = Conditions((latent, latent), ((0, 0), (0, 0))).arrange(3)
    assert rows.turns(2) == [[0, 1, 3, 4, 6, 7], [2, 5, 8]]
    assert rows.turns(0, grounded=False, all_rows=False) == [list(range(9))]


def test_a_defocus_map_reaches_the_vae_as_the_reference_gives_it():
    # 100 px and more at 512 px are white; the host's VAE takes 0..1 to -1..1 and the reference does not.
    focus = Focus(torch.tensor([[[0.0, 0.5, 4.0]]]).repeat(1, 2, 1), True, torch.tensor([0.5]), torch.tensor([60.0]))
    seen = defocus_map(focus.defocus(0))[0, 0, :, 0] * 2 - 1
    assert seen.tolist() == pytest.approx([0.3, 0.0, 1.0])


def test_what_does_not_fit_is_refused_by_name(load_genfocus, adapter):
    golden = Golden("genfocus_bokeh")
    genfocus = load_genfocus(golden)
    other = torch.rand(1, 64, 80, 3)
    model, latent = nodes_on(golden, load_genfocus)

    def of_videos(picture):
        return torch.zeros(1, 16, 1, 8, 8)

    cases = [
        ("none of Genfocus", lambda: nodes_on(golden, load_genfocus, adapter=adapter)),
        ("those for videos", lambda: nodes_on(golden, load_genfocus, vae=SimpleNamespace(encode=of_videos))),
        ("no VAE", lambda: nodes_on(golden, load_genfocus, vae=None)),
        ("NaN or infinite", lambda: nodes_on(golden, load_genfocus, image=IMAGE * float("nan"))),
        ("none of Genfocus", lambda: nodes_on(golden, load_genfocus, adapter=adapter, vae=None)),
        ("64 x 64, but the photo is 80 x 64", lambda: nodes_on(golden, load_genfocus, image=other)),
        # Before anything is encoded.
        ("a bokeh node on it already", lambda: nodes_on(golden, load_genfocus, model=model, vae=object())),
        ("has Genfocus on it", lambda: run_node("BokehBlur", model=model, adapter=adapter, blur=5.0, strength=1.0)),
        (
            "a file of Genfocus",
            lambda: run_node("BokehBlur", model=golden.model, adapter=genfocus, blur=5.0, strength=1.0),
        ),
        ("a file of Genfocus", lambda: run_node("BokehSaveAdapter", adapter=genfocus, name="x", dtype="bfloat16")),
        (
            "pre_deblur is off",
            lambda: run_node(
                "BokehAllInFocus",
                model=golden.model,
                adapter=genfocus,
                vae=None,
                image=IMAGE,
                pre_deblur=False,
                deblurred=IMAGE,
            ),
        ),
        (
            "the graph samples",
            lambda: sample(
                model,
                golden.positive(),
                {"samples": torch.zeros(1, 16, 8, 10)},
                golden.expected["sigmas"],
                noise=torch.randn(1, 16, 8, 10),
            ),
        ),
        (
            "fixed steps",
            lambda: sample(
                model,
                golden.positive(),
                latent,
                golden.expected["sigmas"],
                noise=golden.expected["noise"],
                sampler="dpm_adaptive",
            ),
        ),
    ]
    for words, act in cases:
        with pytest.raises(ValueError, match=words):
            act()
    wider = build_flux({**golden.case["flux"], "num_attention_heads": 4, "attention_head_dim": 16})
    with pytest.raises(ValueError, match="inputs and"):
        nodes_on(golden, load_genfocus, model=wider)
