"""The depth renderer as a node: focus, sweeps, notes, progress, interrupts and refusals."""

from __future__ import annotations

import json
import re

import comfy.model_management
import comfy.utils
import pytest
import torch

from bokeh.nodes.device import device_for, where_it_fits
from bokeh.nodes.render import BokehRender
from bokeh.nodes.report import BokehReport
from bokeh.nodes.results import BokehSweepGrid
from bokeh.nodes.view import BokehSweepView
from bokeh.optics.focus import Focus
from bokeh.optics.lens import blur_of
from bokeh.optics.render import render_defocus, render_depth

FOCUS = {"focus_by": "point", "focus_x": 0.5, "focus_y": 0.5, "focus_value": 0.5}
LENS = {"blades": "round", "rotation": 0.0, "cats_eye": 0.0, "highlight": 0.0}
DEPTH = {"depth_is": "near is bright", "depth_range": "shared by the batch", "repair": True}
SETTINGS = {"blurs": "15", **DEPTH, **FOCUS, **LENS}


def scene(count: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures, and depth in which the middle is nearest."""
    images = torch.rand(count, 128, 144, 3, generator=torch.Generator().manual_seed(1))
    depth = torch.full((128, 144), 0.2)
    depth[44:84, 52:92] = 0.8
    depth[:, :30] = 0.35
    return images, depth[None, ..., None].repeat(1, 1, 1, 3)


def run(image: torch.Tensor, depth: torch.Tensor, **changed):
    """Pictures, sweep and the text shown."""
    done = BokehRender.execute(image, depth=depth, **SETTINGS | changed)
    return *done.result[:2], done.ui.as_dict()["text"][0]


def assert_refused(message: str, *args, **changed) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        run(*args, **changed)


@pytest.mark.parametrize(
    ("changed", "focus"),
    [
        ({}, 1.0),
        ({"focus_x": 0.02, "focus_y": 1.0}, 0.25),
        ({"focus_by": "value", "focus_value": 0.4}, 0.4),
        ({"mask": torch.nn.functional.pad(torch.ones(1, 128, 10), (0, 134))}, 0.25),
    ],
)
def test_the_focus_is_at_the_point_the_value_or_the_mask(changed, focus):
    image, depth = scene()
    disparity = (depth[..., 0] - 0.2) / 0.6
    (pictures, sweep, text) = run(image, depth, **changed)
    torch.testing.assert_close(pictures, render_depth(image, disparity, focus, 15.0, behind=True), atol=1e-4, rtol=0)
    assert sweep.values == (15.0,)
    diameter = 2 * 15 * max(focus, 1 - focus) * 128 / 512
    assert text.startswith(f"- focus {focus:g} (0 = far, 1 = near), sharp from ")
    assert text.endswith(f"largest disc {diameter:.3g} px")


def test_dark_near_is_the_same_turned_round_and_what_is_in_focus_stays_bit_for_bit():
    image, depth = scene()
    (bright, _, _), (dark, _, _) = run(image, depth), run(image, 1 - depth, depth_is="near is dark")
    torch.testing.assert_close(bright, dark, atol=1e-5, rtol=0)
    assert torch.equal(bright[:, 44:84, 52:92], image[:, 44:84, 52:92])


def test_settings_of_the_lens_reach_the_renderer():
    image, depth = scene()
    lens = {"rotation": 30.0, "cats_eye": 0.7, "highlight": 2.0}
    pictures, _, _ = run(image, depth, blades="6", **lens)
    expected = render_depth(image, (depth[..., 0] - 0.2) / 0.6, 1.0, 15.0, blades=6, **lens, behind=True)
    torch.testing.assert_close(pictures, expected, atol=1e-4, rtol=0)


def test_a_sweep_goes_into_view_grid_and_report():
    image, depth = scene()
    pictures, sweep, _ = run(image, depth, blurs="0..30/4")
    assert sweep.values == (0, 10, 20, 30)
    assert torch.equal(pictures[0], image[0])
    for row, blur in enumerate(sweep.values):
        alone, _, _ = run(image, depth, blurs=str(blur))
        assert torch.equal(pictures[row], alone[0])
    (shown,) = BokehSweepView.execute(pictures, sweep).ui["bokeh_sweep"]
    assert [level["label"] for level in shown["levels"]] == ["blur 0", "blur 10", "blur 20", "blur 30"]
    (sheet,) = BokehSweepGrid.execute(pictures, sweep, 2).result
    assert sheet.shape[1] > 2 * 128
    # The depth is the mask of the sharp subject: the rest follows the blur.
    *_, numbers = BokehReport.execute(pictures, sweep, mask=(depth[..., 0] > 0.7).float()).result
    assert json.loads(numbers)["score"] > 0.8
    assert json.loads(numbers)["consistency"] > 0.5


def test_a_batch_gives_each_picture_its_depth_and_one_blur():
    images, depth = scene(3)
    depths = torch.cat([depth, depth.flip(2), depth.flip(1)])
    pictures, sweep, text = run(images, depths, focus_x=0.02)
    assert sweep.values == (15.0,) * 3
    for row in range(3):
        alone, _, _ = run(images[row : row + 1], depths[row : row + 1], focus_x=0.02)
        assert torch.equal(pictures[row], alone[0])
    assert text.startswith("- focus from ")
    assert_refused(
        "3 pictures came and 2 blurs were asked for, but a sweep is one scene. Connect one picture, or ask for one "
        "blur.",
        *(images, depths),
        blurs="0, 30",
    )


def test_notes_are_shown():
    image, depth = scene()
    _, _, text = run(image, depth[:, ::2, ::2], mask=torch.ones(1, 64, 72))
    assert text.splitlines()[1:] == [
        "- The depth map of 72 x 64 was resized to the picture's 144 x 128.",
        "- The mask of 72 x 64 was resized to the picture's 144 x 128.",
    ]


def test_a_small_map_takes_its_edges_from_the_picture():
    image, depth = scene()
    image = depth / 2 + image / 20
    whole = BokehRender.execute(image, depth=depth, **SETTINGS).result[2]
    small = torch.nn.functional.avg_pool2d(depth.movedim(-1, 1), 4).movedim(1, -1)
    as_it_is, by_picture = (
        BokehRender.execute(image, depth=small, **SETTINGS | {"repair": repair}).result[2] for repair in (False, True)
    )
    wrong = [((made - whole).abs() > 1).float().mean() for made in (as_it_is, by_picture)]
    assert wrong[1] < 0.1 * wrong[0]


def test_a_fourth_channel_is_left_out():
    image, depth = scene()
    with_alpha = torch.cat([image, torch.ones_like(image[..., :1])], -1)
    assert torch.equal(run(with_alpha, depth)[0], run(image, depth)[0])


def test_bad_input_is_refused():
    image, depth = scene()
    assert_refused(
        "The focus point (1.5, 0.5) is outside the picture. x goes from 0 (left) to 1 (right), y from 0 (top) to 1 "
        "(bottom).",
        *(image, depth),
        focus_x=1.5,
    )
    assert_refused(
        "focus_value is 5, expected 0 to 1. Change it, or what is connected to it.",
        *(image, depth),
        focus_by="value",
        focus_value=5.0,
    )
    assert_refused(
        "There are 2 depth maps for 1 picture. Give one map for each picture, or one for all.",
        *(image, depth.repeat(2, 1, 1, 1)),
    )
    assert "1001 is outside 0 to 1000" in BokehRender.validate_inputs(blurs="1001")
    with pytest.raises(ValueError, match="1001 is outside 0 to 1000"):
        run(image, depth, blurs="1001")
    assert BokehRender.validate_inputs(blurs="0..30/7") is True
    assert BokehRender.validate_inputs(blurs=None) is True
    assert_refused(
        "The pictures have NaN or infinite values. Replace them, or make them again.", image * float("nan"), depth
    )
    assert_refused("There is no depth. Connect the picture's depth map, or the focus of Bokeh Focus.", image, None)


def test_progress_is_told_and_an_interrupt_stops_it(monkeypatch):
    image, depth = scene()
    steps = []

    def on_progress(value, total, preview, node_id=None):
        steps.append((value, total))
        if len(steps) == stop_after:
            comfy.model_management.interrupt_current_processing()

    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", on_progress)
    stop_after = None
    run(image, depth, blurs="0, 10, 30")
    assert steps == sorted(steps)
    assert len(steps) > 20
    assert steps[-1] == (300, 300)
    steps.clear()
    stop_after = 2
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        run(image, depth, blurs="0, 10, 30")
    assert len(steps) == 2


def test_the_k_of_a_lens_gives_its_true_discs_with_distances_in_metres():
    """A grey map of the same scene has no unit: it is stretched, and the node says so."""
    image = torch.rand(1, 500, 741, 3)
    metres = torch.full((1, 500, 741, 1), 2.3)
    places = {3.0: 100, 4.0: 250, 5.02: 400}
    for distance, left in places.items():
        metres[:, :, left : left + 150] = distance
    # f 994.978 px on a picture of 741 px; 50 mm make that a sensor of 37.24 mm.
    lens = {"focal_length": 50.0, "focus_distance": 2.3, "sensor_width": 741 / 994.978 * 50}
    k = blur_of(f_number=1.8, **lens, width=741, height=500)
    settings = {**SETTINGS, "depth_is": "metres", "lens_blur": k, "focus_x": 0.01}
    done = BokehRender.execute(image, depth=metres, **settings)
    defocus = done.result[2][0]
    for (distance, left), radius in zip(places.items(), (1.43, 2.61, 3.33), strict=True):
        predicted = k * (1 / 2.3 - 1 / distance) * 500 / 512
        assert defocus[250, left + 50].item() == pytest.approx(-predicted, abs=1e-3)
        assert predicted == pytest.approx(radius, abs=0.1)
    assert done.ui.as_dict()["text"][0].startswith("- focus 2.3 m, sharp from ")
    inverse = BokehRender.execute(image, depth=1 / metres, **settings | {"depth_is": "1/m"})
    torch.testing.assert_close(inverse.result[2], done.result[2], atol=1e-3, rtol=0)
    _, _, text = run(image, 1 / metres, lens_blur=k)
    assert "this depth map has no unit" in text


def test_the_focus_of_bokeh_focus_goes_before_the_node_s_own():
    image, depth = scene()
    disparity = depth[..., 0] * 2
    swept = Focus(disparity, True, torch.tensor([1.6, 0.4]), torch.tensor([20.0, 20.0]), swept=True)
    done = BokehRender.execute(image, focus=swept, **SETTINGS)
    images, sweep, defocus, in_focus = done.result
    for row, plane in enumerate((1.6, 0.4)):
        torch.testing.assert_close(
            images[row], render_depth(image, disparity, plane, 20.0, behind=True)[0], atol=1e-4, rtol=0
        )
        torch.testing.assert_close(defocus[row], swept.defocus(row))
        assert torch.equal(in_focus[row], swept.in_focus(row))
    assert sweep.labels == ("0.62 m", "2.5 m")
    with pytest.raises(ValueError, match="3 pictures came with the focus of 2"):
        BokehRender.execute(image.repeat(3, 1, 1, 1), focus=swept, **SETTINGS)
    with pytest.raises(ValueError, match="focus is for a picture of 144 x 128, but the picture is 72 x 128"):
        BokehRender.execute(image[:, :, ::2], focus=swept, **SETTINGS)


def test_a_drawn_aperture_draws_the_lights_of_the_background_upright():
    image = torch.zeros(1, 129, 129, 3)
    image[:, 64, 64] = 1
    depth = torch.zeros(1, 129, 129, 1)
    depth[:, :4] = 1
    triangle = torch.ones(40, 40).tril()
    settings = SETTINGS | {"blurs": "60"}
    far = BokehRender.execute(image, depth=depth, aperture=triangle[None], **settings | {"focus_y": 0.0}).result[0]
    near = BokehRender.execute(image, depth=1 - depth, aperture=triangle[None], **settings | {"focus_y": 0.0}).result[0]
    # The triangle has its right angle below on the left.
    assert far[0, 72, 56, 0] > 0.05 > far[0, 56, 72, 0]
    assert near[0, 56, 72, 0] > 0.05 > near[0, 72, 56, 0]
    assert far.pow(2.2).sum() / 3 == pytest.approx(1, rel=0.01)
    with pytest.raises(ValueError, match=r"^The aperture is empty: "):
        BokehRender.execute(image, depth=depth, aperture=torch.zeros(1, 8, 8), **settings)
    with pytest.raises(ValueError, match=r"^The values of the aperture have NaN"):
        BokehRender.execute(image, depth=depth, aperture=torch.full((1, 8, 8), float("nan")), **settings)
    with_channel = BokehRender.execute(image, depth=depth, aperture=triangle[None, None], **settings | {"focus_y": 0.0})
    # A GPU adds in an order of its own, and a display's curve is steep at black.
    torch.testing.assert_close(with_channel.result[0], far, atol=1e-3, rtol=0)


def test_without_memory_on_the_device_the_processor_renders(monkeypatch):
    image, depth = scene()
    expected, _, _ = run(image, depth)
    calls = []

    def full(*args, **settings):
        calls.append(args)
        if len(calls) == 1:
            raise comfy.model_management.OOM_EXCEPTION
        return render_defocus(*args, **settings)

    monkeypatch.setattr("bokeh.nodes.render.render_defocus", full)
    torch.testing.assert_close(run(image, depth)[0], expected, atol=1e-3, rtol=0)
    assert len(calls) == 2


def test_the_processor_gets_what_lies_on_a_device_without_memory(monkeypatch):
    """With --gpu-only the pictures do."""
    moved = []

    class Picture(torch.Tensor):
        def to(self, device):
            moved.append(device)
            return self

    def full(picture):
        if len(moved) == 1:
            raise comfy.model_management.OOM_EXCEPTION
        return picture

    management, gpu = comfy.model_management, torch.device("meta")
    monkeypatch.setattr(management, "get_torch_device", lambda: gpu)
    monkeypatch.setattr(management, "free_memory", lambda need, device: None)
    monkeypatch.setattr(management, "get_free_memory", lambda device: 100)
    where_it_fits(full, 100)(torch.zeros(1).as_subclass(Picture))
    assert moved == [gpu, torch.device("cpu")]


def test_the_host_is_asked_for_memory_and_a_device_that_is_full_or_lacks_transforms_is_not_used(monkeypatch):
    management = comfy.model_management
    asked = []
    gpu = torch.device("meta")
    monkeypatch.setattr(management, "get_torch_device", lambda: gpu)
    monkeypatch.setattr(management, "free_memory", lambda need, device: asked.append((need, device)))
    monkeypatch.setattr(management, "get_free_memory", lambda device: 100)
    assert device_for(100) == gpu
    assert device_for(101) == torch.device("cpu")
    assert asked == [(100, gpu), (101, gpu)]

    def lacks(*args):
        raise NotImplementedError

    monkeypatch.setattr(torch.fft, "rfft2", lacks)
    assert device_for(100) == torch.device("cpu")


def test_soft_edges_of_the_depth_are_repaired_unless_switched_off():
    image, depth = scene()
    soft = depth.clone()
    soft[:, 44:84, 51] = 0.4
    (repaired, _, _), (plain, _, _), (sharp, _, _) = run(image, soft), run(image, soft, repair=False), run(image, depth)
    assert (repaired - sharp).abs().mean() < 0.5 * (plain - sharp).abs().mean()
