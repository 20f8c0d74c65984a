"""Sweeps over alpha and layout: every row is what a run of its own gives, whatever the sampler draws on the way."""

from __future__ import annotations

import re

import pytest
import torch
from flux import relative_error
from staged import ALPHA, LAYOUT, Scene, flux_scene, unet_scene

from bokeh.attention.install import install
from bokeh.attention.rows import Pivot, Plan


@pytest.fixture(scope="module")
def flux() -> Scene:
    return flux_scene()


@pytest.fixture(scope="module", params=["flux", "unet"])
def scene(request, flux) -> Scene:
    return flux if request.param == "flux" else unet_scene()


@pytest.mark.parametrize(("vary", "sampler"), [("alpha", "euler_ancestral"), ("layout", "dpmpp_2m_sde")])
def test_every_row_is_the_picture_of_its_value(scene, vary, sampler):
    values = (0.2, 0.55, 0.9, 1.0)
    model, positive, latent, sweep = scene.swept("0.2, 0.55, 0.9, 1", vary)
    assert sweep.values == values
    assert latent["samples"].shape[0] == 4
    rows = scene.sample(model, positive, latent, cfg=4.0, sampler=sampler)
    for row, value in zip(rows, values, strict=True):
        single = scene.staged(**{"alpha": ALPHA, "layout": LAYOUT} | {vary: value})
        assert relative_error(row[None], scene.sample(*single, cfg=4.0, sampler=sampler)) <= 1e-5
    assert relative_error(rows[:1], rows[3:]) > 1e-4


def test_on_a_photo(scene):
    model, positive, latent, _ = scene.swept("0.2, 1", latent=scene.photo())
    rows = scene.sample(model, positive, latent, denoise=0.6)
    assert relative_error(rows[:1], scene.sample(*scene.staged(0.2), scene.photo(), denoise=0.6)) <= 1e-5
    plain = scene.sample(scene.model, scene.positive(), scene.photo(), denoise=0.6)
    assert relative_error(rows[1:], plain) <= 1e-5


@pytest.mark.parametrize(("sampler", "stage_first"), [("euler", False), ("euler_ancestral", True)])
def test_a_blur_slider_with_a_pivot_on_the_same_model(flux, adapter, sampler, stage_first):
    """The slider adds a pivot row for every picture; all of them are one scene and draw one noise."""
    plan = Plan((25.0,), Pivot(10.0, 1.0))
    model, positive, latent, _ = flux.swept(
        "0.2, 0.7", **{} if stage_first else {"model": install(flux.model, adapter, plan)}
    )
    model = install(model, adapter, plan) if stage_first else model
    rows = flux.sample(model, positive, latent, cfg=3.0, sampler=sampler)
    for row, alpha in zip(rows, (0.2, 0.7), strict=True):
        single, staged = flux.staged(alpha)
        alone = flux.sample(install(single, adapter, plan), staged, cfg=3.0, sampler=sampler)
        assert relative_error(row[None], alone) <= 1e-5


def test_labels_name_the_value_with_two_decimals(flux):
    *_, sweep = flux.swept("0.3, 1")
    assert (sweep.name, sweep.labels, sweep.pivot) == ("alpha", ("alpha 0.30", "alpha 1.00"), None)
    *_, sweep = flux.swept("0.7..0.9/3", "layout")
    assert sweep.labels == ("layout 0.70", "layout 0.80", "layout 0.90")


def test_another_batch_is_refused(flux):
    model, positive, _, _ = flux.swept("0.3, 0.7, 1")
    message = (
        "The sampler got a batch of 1 latents, but the stage sweep has 3 values. Connect the latent output of the "
        "sweep node to the sampler."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        flux.sample(model, positive)
    with pytest.raises(
        ValueError, match=r"A sweep is one scene, but its latent is a batch of 2\..*each alpha by itself"
    ):
        flux.swept("0.3, 0.7", latent={"samples": torch.zeros(2, *flux.shape[1:])})


def test_bad_values_are_named(flux):
    for values, vary, message in (
        ("", "alpha", "The list of alphas is empty. Write numbers from 0 to 2, for example: 0.3, 0.5, 0.7, 1"),
        ("0.3, x", "alpha", "'x' is not a number. Write alphas from 0 to 2 or ranges such as 0..1/5"),
        ("nan", "alpha", "Alpha nan is outside 0 to 2. 1 is the global prompt alone, 0 the local prompt alone."),
        ("1.2", "layout", "Layout 1.2 is outside 0 to 1. It is a fraction of the steps."),
        ("0.3", "depth", "vary is 'depth', expected alpha or layout. Choose what the values are."),
    ):
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            flux.swept(values, vary)
