"""Bokeh Focus: what is focused, by which lens, the words, and what the page is sent."""

from __future__ import annotations

import json
import re

import folder_paths
import numpy as np
import pytest
import torch
from flux import run_node
from focus_inputs import SETTINGS
from PIL import Image

from bokeh.nodes.focus import BokehFocus
from bokeh.nodes.render import BokehRender
from bokeh.nodes.view import BokehSweepView
from bokeh.sweep.export import save_sweep
from bokeh.sweep.measure import measure_sweep
from bokeh.sweep.sheet import contact_sheet
from bokeh.sweep.table import markdown


def scene(count: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures, and grey depth in which the middle is nearest and the left edge halfway."""
    depth = torch.full((128, 192), 0.2)
    depth[44:84, 70:110] = 0.8
    depth[:, :30] = 0.5
    return torch.rand(count, 128, 192, 3), depth[None, ..., None].repeat(count, 1, 1, 3)


def run(count: int = 1, **changed):
    image, depth = scene(count)
    done = BokehFocus.execute(**SETTINGS | {"image": image, "depth": depth} | changed)
    return *done.result, done.ui


def refused(message: str, **changed) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        run(**changed)


SUBJECT = torch.nn.functional.pad(torch.ones(1, 40, 40), (70, 82, 44, 44))


@pytest.mark.parametrize(
    ("changed", "plane"),
    [
        ({}, 1.0),
        ({"focus_x": 0.0}, 0.5),
        ({"focus_y": 0.1}, 0.0),
        ({"focus_by": "mask", "mask": SUBJECT, "focus_x": 0.0}, 1.0),
        ({"focus_by": "distances", "distances": "0.25"}, 0.25),
        ({"depth_is": "near is dark"}, 0.0),
        ({"depth": None, "mask": SUBJECT}, 1.0),
        ({"depth": None, "mask": SUBJECT[None]}, 1.0),
        ({"depth": None, "mask": SUBJECT, "focus_x": 0.0}, 0.0),
    ],
)
def test_the_plane_is_at_the_point_on_the_subject_or_at_the_distance(changed, plane):
    focus, *_ = run(**changed)
    assert focus.plane.tolist() == pytest.approx([plane])
    assert not focus.metric


def test_a_blur_is_the_disc_of_the_farthest_thing_behind_the_nearest():
    _, defocus, in_focus, text, _ = run()
    assert defocus.shape == (1, 128, 192)
    # 16 px at 512, a quarter of that at 128.
    assert defocus.min().item() == pytest.approx(-4.0)
    assert in_focus.mean().item() == pytest.approx(40 * 40 / (128 * 192))
    assert text.startswith("focus 1 (0 = far, 1 = near), sharp from ")
    metres = 1 / (0.1 + 0.9 * (scene()[1] - 0.2) / 0.6)
    _, in_metres, *_ = run(depth=metres, depth_is="metres")
    torch.testing.assert_close(in_metres, defocus, atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", ["grey", "metres", "moge"])
def test_a_lens_in_metres_is_the_same_for_every_kind_of_depth(kind):
    """50 mm f/1.8 at 1 m: K = 1000 * 0.0025 / (3.6 * 0.95) * 768 / 36 = 15.5945, at 10 m 0.9 of it, at 128 px 1/4."""
    distance = 1 / (0.1 + 0.9 * (scene()[1] - 0.2) / 0.6)
    depth = {"grey": scene()[1], "metres": distance, "moge": {"depth": distance[..., 0]}}[kind]
    depth_is = "metres" if kind == "metres" else "near is bright"
    focus, defocus, _, text, _ = run(depth=depth, depth_is=depth_is, lens="50 mm f/1.8, 36 x 24 mm")
    assert focus.metric
    assert focus.f_number == 1.8
    assert defocus.min().item() == pytest.approx(-15.5945 * 0.9 / 4, rel=1e-4)
    assert text == "focus 1 m, sharp from 0.98 to 1.02 m, largest disc 7.02 px at f/1.8"


def test_the_f_number_and_the_own_lens():
    listed, *_ = run(lens="50 mm f/1.8, 36 x 24 mm", f_number=3.6)
    own, *_ = run(lens="own lens", f_number=3.6)
    assert own.blur.tolist() == pytest.approx(listed.blur.tolist())
    refused("The own lens has the f-number 0. Set f_number", lens="own lens")


def test_distances_are_a_sweep_and_a_pull_is_one_too():
    focus, defocus, *_ = run(focus_by="distances", distances="1, 2 m, 4", lens="50 mm f/1.8, 36 x 24 mm")
    assert focus.sweep.captions == ("1.0 m", "2.0 m", "4.0 m")
    assert defocus.shape == (3, 128, 192)
    assert len(set(focus.blur.tolist())) == 3
    pulled, _, _, text, _ = run(pull="even", pull_x=0.5, pull_y=0.0)
    assert pulled.plane.tolist() == pytest.approx([1.0, 0.75, 0.5, 0.25, 0.0])
    assert pulled.swept
    assert text == "focus from 1 to 0 in 5 planes, largest disc 8 px"


def test_a_clip_is_pulled_over_its_frames_and_its_plane_is_calm():
    focus, defocus, *_ = run(count=9, pull="eased", pull_x=0.5, pull_y=0.0)
    assert focus.plane[[0, 4, 8]].tolist() == pytest.approx([1.0, 0.5, 0.0])
    assert not focus.swept
    assert defocus.shape == (9, 128, 192)
    _, depth = scene(30)
    depth[::2, 44:84, 70:110] -= 0.05
    shaking, *_ = run(count=30, depth=depth, nearest=1, farthest=10)
    assert shaking.plane.std() < 0.01
    refused("3 pictures came and 2 focus distances were asked for", count=3, focus_by="distances", distances="0, 1")


def test_soft_edges_of_a_depth_map_are_made_hard_and_those_of_a_mask_left():
    hard = scene()[1][..., 0]
    soft = torch.nn.functional.avg_pool2d(hard, 3, 1, 1, count_include_pad=False)[..., None].expand(-1, -1, -1, 3)
    assert len(run(depth=soft)[0].disparity[0, 20:100, 50:130].unique()) == 2
    assert len(run(depth=None, mask=soft[..., 0])[0].disparity[0, 20:100, 50:130].unique()) > 2


def test_a_sharp_range_keeps_what_lies_around_the_plane():
    focus, _, in_focus, *_ = run(focus_by="distances", distances="0.5", sharp=1.0)
    assert focus.sharp == pytest.approx(0.5)
    assert in_focus.min() == 1


def test_view_grid_report_and_files_label_a_rack_focus_in_metres_or_from_far_to_near(tmp_path):
    metres = {"lens": "50 mm f/1.8, 36 x 24 mm", "focus_by": "distances", "distances": "1.2, 2 m, 4"}
    far_to_near = {"focus_by": "distances", "distances": "0, 0.5, 1"}
    images = torch.rand(3, 48, 64, 3, generator=torch.Generator().manual_seed(0))
    for changed, captions in ((metres, ("1.2 m", "2.0 m", "4.0 m")), (far_to_near, ("far", "0.5", "near"))):
        sweep = run(**changed)[0].sweep
        (shown,) = BokehSweepView.execute(images, sweep).ui["bokeh_sweep"]
        assert shown["name"] == "focus"
        assert tuple(level["label"] for level in shown["levels"]) == captions
        (grid,) = run_node("BokehSweepGrid", images=images, sweep=sweep, columns=0)
        assert torch.equal(grid, contact_sheet(images, captions))
        report = markdown(measure_sweep(images, sweep))
        assert all(f"{caption})" in report or f"| {caption} |" in report for caption in captions)
        saved = save_sweep(images, sweep, tmp_path, captions[0])
        assert json.loads((saved.folder / "sweep.json").read_text())["labels"] == list(captions)


def test_a_depth_map_of_another_size_is_said_and_one_with_nan_refused():
    _, depth = scene()
    smaller = run(depth=depth[:, ::2, ::2])[-1]["text"][0]
    assert "The depth map of 96 x 64 was resized to the picture's 192 x 128." in smaller
    assert "Its shape is another" in run(depth=depth[:, :, :64])[-1]["text"][0]
    depth[0, 5, 7] = float("nan")
    refused("The depth map has NaN or infinite values in 1 of its 24576 pixels", depth=depth)
    refused("has 1 of 24576 values that are not distances above 0", depth=depth[..., :1], depth_is="metres")
    refused("The depth map has NaN or infinite values in 1 of its", depth=depth, depth_is="1/m")
    refused("The focus point (1.2, 0.5) is outside the picture", focus_x=1.2)


def test_wrong_inputs_are_refused_in_a_sentence():
    refused("There is no mask. Connect one", depth=None)
    refused("There is no mask. Connect one", focus_by="mask")
    refused("The mask is 0 everywhere", depth=None, mask=torch.zeros(1, 64, 64))
    refused("values that are not distances above 0", depth_is="metres", depth=scene()[1] - 0.2)
    refused("The nearest thing is at 5 m", lens="50 mm f/1.8, 36 x 24 mm", nearest=5.0, farthest=2.0)
    refused("blur is -5, expected 0 to 1000.", blur=-5.0)
    refused("sharp is -0.5, expected 0 to 1.", sharp=-0.5)
    refused("The depth map has the same distance everywhere", depth_is="1/m", depth=torch.ones(1, 8, 8, 3))
    refused("There are 2 depth maps for 3 pictures", count=3, depth_is="metres", depth=scene(2)[1])
    refused("inside the focal length", lens="own lens", focal_length=2000.0, f_number=2.0)


def test_the_page_gets_the_picture_and_its_disparity_to_sixteen_bits():
    disparity = torch.linspace(0, 1, 256).expand(1, 64, 256)[..., None]
    done = BokehFocus.execute(torch.full((1, 64, 256, 3), 0.5), **SETTINGS, depth=disparity)
    (shown,) = done.ui["bokeh_focus"]

    def read(file: dict) -> np.ndarray:
        return np.asarray(Image.open(f"{folder_paths.get_temp_directory()}/{file['filename']}").convert("RGB"))

    assert read(shown.pop("picture")).tolist()[0][0] == [127] * 3
    packed = read(shown.pop("depth")).astype(int)
    values = shown["low"] + (packed[..., 0] * 256 + packed[..., 1]) / 65535 * (shown["high"] - shown["low"])
    np.testing.assert_allclose(values, disparity[0, ..., 0], atol=2e-5)
    assert shown == {
        "low": 0.0,
        "high": 1.0,
        "width": 256,
        "height": 64,
        "depth_is": "near is bright",
        "metres": False,
        "plane": pytest.approx(0.502, abs=0.001),
    }
    large = BokehFocus.execute(torch.rand(1, 900, 1200, 3), **SETTINGS, depth=disparity).ui["bokeh_focus"][0]
    assert read(large["picture"]).shape == (576, 768, 3)


def test_bokeh_render_shows_what_is_chosen_sharp_and_a_pull_as_a_sweep():
    torch.manual_seed(1)
    image, depth = scene()
    focus = BokehFocus.execute(
        image, **SETTINGS | {"depth": depth, "pull": "even"} | {"pull_x": 0.5, "pull_y": 0.0, "pull_steps": 3}
    ).result[0]
    render = {
        "depth_is": "metres",
        "repair": True,
        "depth_range": "shared by the batch",
        "blurs": "0",
        "focus_by": "point",
    }
    render |= {"focus_x": 0.0, "focus_y": 0.0, "focus_value": 0.0, "blades": "round", "rotation": 0.0}
    images, sweep, *_ = BokehRender.execute(image, **render, cats_eye=0.0, highlight=0.0, focus=focus).result
    assert (sweep.name, sweep.captions) == ("focus", ("near", "0.5", "far"))
    square = np.s_[44:84, 70:110]
    assert torch.equal(images[0][square], image[0][square])
    # Away from what spills over from the nearer square.
    assert torch.equal(images[2][:, 150:], image[0][:, 150:])
    assert (images[2][square] - image[0][square]).abs().mean() > 0.1


def test_what_is_no_picture_is_refused_in_a_sentence():
    ramp = torch.linspace(0, 1, 64).reshape(1, 8, 8, 1).expand(-1, -1, -1, 3)
    refused("The depth map has the same distance everywhere", image=torch.rand(1, 1, 1, 3), depth=ramp)
    refused("The pictures have NaN or infinite values", image=torch.full((1, 8, 8, 3), float("nan")), depth=ramp)
    refused("This geometry holds no depth", depth={})
    for shape in ((0, 8, 8, 3), (1, 0, 8, 3), (1, 8, 8, 1), (8, 8, 3)):
        refused("expected [B, H, W, 3 or 4], none of them 0", image=torch.rand(shape), depth=ramp)
    refused("expected [B, H, W], none of them 0", mask=torch.rand(0, 8, 8))
    run(image=torch.rand(1, 8, 8, 3).bfloat16(), depth=ramp)
