"""The report on what people give it: values that no picture has, depth, several scenes, next to nothing."""

from __future__ import annotations

import json
import math

import comfy.model_management
import pytest
import torch
from flux import run_node
from half_blurred import LEVELS, SWEEP, assert_refused, check_text_and_figure, left_half, pictures, plain_picture

from bokeh.optics.render import render_depth
from bokeh.sweep.measure import measure_sweep
from bokeh.sweep.reference import rendered
from bokeh.sweep.values import Sweep
from bokeh.sweep.verdict import FOLLOWS, KEEPS, STAYS, verdict, word


@pytest.fixture(autouse=True)
def empty_hub(tmp_path, monkeypatch):
    """No weights for LPIPS, whatever the machine has."""
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))


# What is no picture


@pytest.mark.parametrize("bad", [1e30, -1e30, 3e38, float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("where", ["one pixel", "one picture", "everywhere", "plain"])
def test_values_that_no_picture_has_are_cut_off_as_in_a_file_or_named(bad, where):
    images, plain = pictures(), plain_picture()
    place = {"one pixel": images[2, 3, 3], "one picture": images[2], "everywhere": images, "plain": plain[0, 0, 0]}
    place[where].fill_(bad)
    inputs = {"images": images, "sweep": SWEEP, "plain": plain, "mask": left_half()[None]}
    if not math.isfinite(bad):
        with pytest.raises(ValueError, match=r"^A picture has NaN or infinite values, so it cannot be measured"):
            run_node("BokehReport", **inputs)
        return
    plot, text, numbers = run_node("BokehReport", **inputs)
    assert plot.isfinite().all()
    assert "NaN" not in numbers
    cut = {**inputs, "images": images.clamp(0, 1), "plain": plain.clamp(0, 1)}
    assert json.loads(run_node("BokehReport", **cut)[2]) == json.loads(numbers)
    if where != "plain":
        assert "pictures have values outside 0 to 1; they were measured as they are saved" in text


@pytest.mark.parametrize("number", [-1.0000001, -1.0, 0.0, 0.5, 1.0000001])
def test_every_number_has_a_word(number):
    for scale in (FOLLOWS, KEEPS, STAYS):
        assert word(scale, number) in [words for _, words in scale]


# Depth, and several scenes


def test_the_node_renders_a_reference_where_the_depth_is_known():
    near = left_half()[None, ..., None].expand(-1, -1, -1, 3)
    images = render_depth(
        pictures(1).expand(4, -1, -1, -1), near[..., 0].expand(4, -1, -1), 1.0, torch.tensor(LEVELS), behind=True
    )
    _, text, numbers = run_node("BokehReport", images=images, sweep=SWEEP, depth=near)
    numbers = json.loads(numbers)
    assert numbers["lvcorr_reference"] > 0.999
    assert numbers["lvcorr_reference"] > numbers["lvcorr_k"]
    assert "**LVCorr (reference) 1.000**, kept sharpness " in text
    assert [level["rendered"]["picture"] for level in numbers["levels"]] == pytest.approx(
        [level["laplacian"]["picture"] for level in numbers["levels"]], rel=0.05
    )
    # A map a picture, of another size; that of the sharpest picture counts.
    maps = torch.cat([near, torch.rand(3, 96, 128, 1).expand(-1, -1, -1, 3)])[:, ::2, ::2]
    _, text, numbers = run_node("BokehReport", images=images, sweep=SWEEP, depth=maps, mask=left_half()[None])
    assert json.loads(numbers)["lvcorr_reference"] > 0.99
    assert "The depth map of 64 x 48 was resized to the picture's 128 x 96." in text


def test_the_reference_is_rendered_on_the_host_s_device_and_where_that_is_full_on_the_processor(monkeypatch):
    management, devices = comfy.model_management, []
    monkeypatch.setattr(management, "get_torch_device", lambda: torch.device("meta"))
    monkeypatch.setattr(management, "free_memory", lambda need, device: None)
    monkeypatch.setattr(management, "get_free_memory", lambda device: 1e12)

    def render(image: torch.Tensor, *args, **settings) -> torch.Tensor:
        devices.append(image.device.type)
        if devices[-1] == "meta":
            raise management.OOM_EXCEPTION
        return render_depth(image, *args, **settings)

    monkeypatch.setattr("bokeh.nodes.report.render_depth", render)
    depth = left_half()[None, ..., None].expand(-1, -1, -1, 3)
    run_node("BokehReport", images=pictures(), sweep=SWEEP, depth=depth)
    assert devices == ["meta", "cpu", "cpu", "cpu"]


def test_the_reference_is_where_its_renders_are_wherever_the_pictures_are():
    depth = left_half()[None, ..., None].expand(-1, -1, -1, 3)
    reference, _ = rendered(pictures(), SWEEP, depth, render=lambda image, *_, **settings: image.to("meta"))
    assert reference.device.type == "meta"
    assert len(reference) == len(LEVELS)


def test_depth_that_does_not_fit_is_named():
    images, near = pictures(), left_half()[None, ..., None].expand(-1, -1, -1, 3)
    assert_refused(
        lambda: run_node("BokehReport", images=images, sweep=SWEEP, depth=near.expand(3, -1, -1, -1)),
        "There are 3 depth maps for 4 pictures. Give one map, or one for each scene or picture.",
    )
    assert_refused(
        lambda: run_node("BokehReport", images=images, sweep=Sweep(LEVELS, name="focus"), depth=near),
        "The reference is rendered at the blurs of a sweep, but this one is over focus. Disconnect depth.",
    )
    assert_refused(
        lambda: run_node("BokehReport", images=images, plain=plain_picture(), depth=near),
        "Depth is for the renders that a sweep is held against, and no sweep is connected. Connect it, or disconnect "
        "depth.",
    )
    with pytest.raises(ValueError, match=r"has the same value, 0\.5, everywhere"):
        run_node("BokehReport", images=images, sweep=SWEEP, depth=torch.full_like(near, 0.5))


def test_scenes_are_measured_each_by_itself_and_their_means_reported():
    first = pictures()
    images, sweep = torch.cat([first, first.flip(1)]), Sweep(LEVELS * 2, 10.0, scenes=2)
    masks = torch.stack([left_half(), left_half().flip(0)])
    alone = measure_sweep(first, SWEEP, left_half())
    for mask in (left_half(), masks, masks.repeat_interleave(4, 0)):
        report = measure_sweep(images, sweep, mask)
        assert len(report.scenes) == 2
        assert report.sweep == SWEEP
        assert report.consistency == pytest.approx(alone.consistency, abs=1e-3)
        assert report.score == pytest.approx(alone.score, abs=1e-3)
        assert report.scenes[1].alignment[1] == pytest.approx(1, abs=1e-4)
    depth = masks[..., None].expand(-1, -1, -1, 3)
    plot, text, numbers = run_node("BokehReport", images=images, sweep=sweep, mask=masks, depth=depth)
    assert "mean over 2 scenes" in text
    assert "| scene | score | kept |" in text
    assert [scene["score"] for scene in json.loads(numbers)["scenes"]] == pytest.approx([alone.score] * 2, abs=1e-3)
    assert plot.isfinite().all()
    turned = measure_sweep(torch.cat([first, first.flip(0)]), sweep, left_half())
    assert turned.score == pytest.approx(0, abs=0.1)


def test_black_and_equal_pictures_one_level_and_few_pixels_are_said_and_not_numbers():
    black = torch.zeros(4, 96, 128, 3)
    _, text, numbers = run_node("BokehReport", images=black, sweep=SWEEP)
    assert json.loads(numbers)["score"] is None
    assert "All pictures are equally sharp (picture)" in text
    fading = torch.linspace(1, 0, 4)[:, None, None, None] * pictures(1)
    assert verdict(measure_sweep(fading, SWEEP), fading).startswith("The blur follows the request")
    small = torch.rand(4, 16, 16, 3, generator=torch.Generator().manual_seed(1))
    check_text_and_figure(measure_sweep(small, SWEEP), small)
    one = measure_sweep(pictures(1), Sweep((7.0,)), left_half())
    assert one.score is one.kept_sharpness is None
