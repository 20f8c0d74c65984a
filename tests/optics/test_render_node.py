"""The depth renderer as a node: focus, sweeps, notes, progress, interrupts and refusals."""

from __future__ import annotations

import json
import re

import comfy.model_management
import comfy.utils
import pytest
import torch

from bokeh.nodes.pictures import BokehSweepGrid
from bokeh.nodes.render import BokehRender
from bokeh.nodes.report import BokehReport
from bokeh.nodes.view import BokehSweepView
from bokeh.optics.render import render_depth

FOCUS = {"focus_by": "point", "focus_x": 0.5, "focus_y": 0.5, "focus": 0.5}
LENS = {"blades": "round", "rotation": 0.0, "cats_eye": 0.0, "highlight": 0.0, "gamma": 2.2}
SETTINGS = {"near": "bright", "blurs": "15", **FOCUS, **LENS}


def scene(count: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures, and depth in which the middle is nearest."""
    images = torch.rand(count, 128, 144, 3, generator=torch.Generator().manual_seed(1))
    depth = torch.full((128, 144), 0.2)
    depth[44:84, 52:92] = 0.8
    depth[:, :30] = 0.35
    return images, depth[None, ..., None].repeat(1, 1, 1, 3)


def run(image: torch.Tensor, depth: torch.Tensor, **changed):
    """Pictures, sweep and the text shown."""
    done = BokehRender.execute(image, depth, **SETTINGS | changed)
    return *done.result, done.ui.as_dict()["text"][0]


def assert_refused(message: str, *args, **changed) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        run(*args, **changed)


@pytest.mark.parametrize(
    ("changed", "focus"),
    [
        ({}, 1.0),
        ({"focus_x": 0.02, "focus_y": 1.0}, 0.25),
        ({"focus_by": "value", "focus": 0.4}, 0.4),
        ({"mask": torch.nn.functional.pad(torch.ones(1, 128, 10), (0, 134))}, 0.25),
    ],
)
def test_the_focus_is_at_the_point_the_value_or_the_mask(changed, focus):
    image, depth = scene()
    disparity = (depth[..., 0] - 0.2) / 0.6
    (pictures, sweep, text) = run(image, depth, **changed)
    torch.testing.assert_close(pictures, render_depth(image, disparity, focus, 15.0), atol=1e-4, rtol=0)
    assert sweep.values == (15.0,)
    radius = 15 * max(focus, 1 - focus) * 128 / 512
    assert text == f"- focus at {focus:g} (0 = far, 1 = near); the largest disc has a radius of {radius:.1f} px"


def test_dark_near_is_the_same_turned_round_and_what_is_in_focus_stays_bit_for_bit():
    image, depth = scene()
    (bright, _, _), (dark, _, _) = run(image, depth), run(image, 1 - depth, near="dark")
    torch.testing.assert_close(bright, dark, atol=1e-5, rtol=0)
    assert torch.equal(bright[:, 44:84, 52:92], image[:, 44:84, 52:92])


def test_settings_of_the_lens_reach_the_renderer():
    image, depth = scene()
    lens = {"rotation": 30.0, "cats_eye": 0.7, "highlight": 2.0, "gamma": 1.5}
    pictures, _, _ = run(image, depth, blades="6", **lens)
    expected = render_depth(image, (depth[..., 0] - 0.2) / 0.6, 1.0, 15.0, blades=6, **lens)
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
    assert json.loads(numbers)["lvcorr"] > 0.8
    assert json.loads(numbers)["consistency"] > 0.5


def test_a_batch_gives_each_picture_its_depth_and_one_blur():
    images, depth = scene(3)
    depths = torch.cat([depth, depth.flip(2), depth.flip(1)])
    pictures, sweep, text = run(images, depths, focus_x=0.02)
    assert sweep.values == (15.0,) * 3
    for row in range(3):
        alone, _, _ = run(images[row : row + 1], depths[row : row + 1], focus_x=0.02)
        assert torch.equal(pictures[row], alone[0])
    assert "focus at 0 to 0.25 (0 = far" in text
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
        "There are 2 depth maps for 1 picture. Give one map for each picture, or one for all.",
        *(image, depth.repeat(2, 1, 1, 1)),
    )
    outside = "Blur 31 is outside 0 to 30. 0 is sharp, 30 is the strongest defocus."
    assert_refused(outside, image, depth, blurs="31")
    assert BokehRender.validate_inputs(blurs="31") == outside
    assert BokehRender.validate_inputs(blurs="0..30/7") is True
    assert BokehRender.validate_inputs(blurs=None) is True
    assert_refused(
        "The pictures have NaN or infinite values. Replace them, or make them again.", image * float("nan"), depth
    )


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
