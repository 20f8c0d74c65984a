"""Focus in metres against lenses worked out by hand, the discs of a real stereo scene, and the renderer's discs."""

from __future__ import annotations

import math
import re

import pytest
import torch

from bokeh.optics import focus as optics
from bokeh.optics.focus import LENSES, Focus, Lens, blurs_of, in_words
from bokeh.optics.lens import depth_of_field
from bokeh.optics.render import render_depth


def focus_of(distances, plane, lens, f_number, size=(512, 768)) -> Focus:
    """A picture whose left column holds one pixel of each distance, the rest at the plane."""
    disparity = torch.full((1, *size), 1 / plane, dtype=torch.float64)
    disparity[0, : len(distances), 0] = 1 / torch.tensor(distances, dtype=torch.float64)
    planes = torch.tensor([1 / plane], dtype=torch.float64)
    return Focus(disparity, True, planes, blurs_of(lens, f_number, planes, *size), f_number=f_number)


def test_discs_of_lenses_as_worked_out_by_hand():
    # 50 mm f/1.8 at 2 m, 768 x 512: K = 1000 * 0.0025 * 2 / (3.6 * 1.95) * 768 / 36 = 15.19468
    # at 4 m: * (1/2 - 1/4) = 3.798670; at 1 m: * (1 - 1/2) = 7.597341; at infinity 7.597341
    radii = focus_of([4.0, 1.0, math.inf, 2.0], 2.0, LENSES["50 mm f/1.8, 36 x 24 mm"], 1.8).defocus(0)[:4, 0]
    assert radii.tolist() == pytest.approx([-3.798670, 7.597341, -7.597341, 0], rel=1e-6)
    # 85 mm f/1.4 at 1.5 m, upright: K = 58.35437 at 512 px, twice that at 1024 x 1536; at 3 m: * (1/1.5 - 1/3)
    upright = focus_of([3.0], 1.5, LENSES["85 mm f/1.4, 36 x 24 mm"], 1.4, (1536, 1024)).defocus(0)[0, 0]
    assert upright.item() == pytest.approx(-2 * 58.35437 / 3, rel=1e-6)


def test_discs_of_the_motorcycle_as_its_calibration_says():
    """Middlebury 2014 "Motorcycle" at 741 x 500: focal length 994.978 px, so 50 mm lie on a sensor of 37.237 mm."""
    lens = Lens(50, 1.8, (741 * 50 / 994.978, 500 * 50 / 994.978))
    radii = focus_of([3.0, 4.0, 5.02], 2.3, lens, 1.8, (500, 741)).defocus(0)[:3, 0]
    # K = 0.05^2 * 2.3 / (2 * 1.8 * 2.25) * 994.978 / 0.05 = 14.1261 px; * (1/2.3 - 1/s)
    assert radii.tolist() == pytest.approx([-1.433, -2.610, -3.328], abs=0.001)


@pytest.mark.parametrize("distance", [2.11, 3.0, 4.0, 5.02])
def test_a_lamp_is_rendered_as_large_as_the_metres_say(distance):
    """By the disc's second moment: half of r^2 + 5/12, the edge rising linearly from r - 1/2 to r + 1/2."""
    size, plane = 301, 2.5
    lens = LENSES["135 mm f/2, 36 x 24 mm"]
    planes = torch.tensor([1 / plane])
    k = blurs_of(lens, 2.8, planes, size, size)
    focus = Focus(torch.full((1, size, size), 1 / distance), True, planes, k)
    expected = focus.defocus(0)[0, 0].abs().item()
    image = torch.zeros(1, size, size, 3)
    image[:, size // 2, size // 2] = 1
    # Only the difference from the plane counts; brought to the range that the renderer takes.
    scale = max(1.0, k.item() / 30)
    disparity = (focus.disparity - planes) * scale + 0.6
    picture = render_depth(image, disparity, 0.6, k.item() / scale, gamma=1.0)[0, ..., 0]
    side = torch.arange(size) - size // 2
    moment = (picture * (side[:, None] ** 2 + side**2)).sum() / picture.sum()
    assert math.sqrt(2 * moment.item() - 5 / 12) == pytest.approx(expected, rel=0.02)


def test_what_is_sharp_is_the_depth_of_field_of_the_lens():
    for name, lens in LENSES.items():
        focus = focus_of([1.0], 2.0, lens, lens.f_number)
        along = min(lens.sensor[0], lens.sensor[1] * 768 / 512)
        table = depth_of_field(lens.focal_length, lens.f_number, 2.0, along, 768, 512)
        far, near = focus.sharp_from_to(0)
        assert optics.metres(near) == pytest.approx(table.near, rel=1e-6), name
        assert optics.metres(far) == pytest.approx(min(table.far, optics.FARTHEST), rel=1e-6), name


def test_the_mask_is_what_the_words_call_sharp():
    distances = [1.9, 1.97, 1.98, 2.0, 2.02, 2.03, 2.1]
    focus = focus_of(distances, 2.0, LENSES["85 mm f/1.4, 36 x 24 mm"], 1.4)
    far, near = focus.sharp_from_to(0)
    expected = [far <= 1 / distance <= near for distance in distances]
    assert focus.in_focus(0)[: len(distances), 0].bool().tolist() == expected
    assert True in expected
    assert False in expected


def test_a_sharp_range_around_the_plane_is_taken_off_the_defocus():
    disparity = torch.tensor([[[0.1, 0.4, 0.5, 0.6, 0.9]] * 5])
    focus = Focus(disparity, False, torch.tensor([0.5]), torch.tensor([512.0]), sharp=0.1)
    assert focus.defocus(0)[0].tolist() == pytest.approx([-1.5, 0, 0, 0, 1.5], abs=1e-6)
    assert focus.in_focus(0)[0].tolist() == [0, 1, 1, 1, 0]


def test_words():
    focus = focus_of([1.0, 40.0], 2.11, LENSES["50 mm f/1.8, 36 x 24 mm"], 1.8)
    # K = 15.1737; c = 923 / 1442.3 = 0.6400 px, t = c / 2K = 0.02109: 1 / (0.47393 -+ 0.02109)
    # discs: 2 * 15.1737 * (1 - 0.47393) = 15.97 px
    assert in_words(focus) == "focus 2.11 m, sharp from 2.02 to 2.21 m, largest disc 16 px at f/1.8"
    wide = focus_of([1.0], 5.0, LENSES["phone 5.7 mm f/1.5, 7.6 x 5.7 mm"], 1.5)
    assert "to infinity" in in_words(wide)
    relative = Focus(torch.tensor([[[0.0, 1.0]] * 2]), False, torch.tensor([1.0]), torch.tensor([30.0]))
    assert in_words(relative).startswith("focus 1 (0 = far, 1 = near), sharp from ")
    assert "nan" not in in_words(relative)


def test_planes_become_a_sweep_in_metres_or_from_far_to_near():
    planes = torch.tensor(optics.parse_planes("1.2, 2 m, 2.5m", True))
    focus = Focus(torch.rand(1, 4, 4), True, planes, torch.ones(3), swept=True)
    assert focus.sweep.name == "focus"
    assert focus.sweep.captions == ("1.2 m", "2.0 m", "2.5 m")
    assert focus.sweep.values == pytest.approx((1.2, 2.0, 2.5))
    relative = Focus(torch.rand(1, 4, 4), False, torch.tensor([0.0, 0.25, 1.0]), torch.ones(3), swept=True)
    assert relative.sweep.labels == ("far", "0.25", "near")
    assert optics.distance_labels((1.01, 1.02)) == ("1.01 m", "1.02 m")
    assert optics.distance_labels((optics.metres(0.0), 12.0)) == ("infinity", "12 m")


@pytest.mark.parametrize(
    ("text", "metric", "message"),
    [
        ("", True, "The list of focus distances is empty"),
        ("0", True, "Focus distance 0 is outside 0.01 to 10000. It is the distance from the camera in metres."),
        ("1.5", False, "Focus 1.5 is outside 0 to 1. 0 is the farthest thing, 1 the nearest one."),
        ("near", False, "'near' is not a number"),
    ],
)
def test_wrong_planes_are_refused_in_a_sentence(text, metric, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        optics.parse_planes(text, metric)


def test_distances_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="The nearest thing is at 5 m and the farthest at 2 m"):
        optics.scaled(torch.zeros(1, 2, 2), 5, 2)
    assert optics.scaled(torch.tensor([0.0, 1.0]), 1, 10).tolist() == pytest.approx([0.1, 1.0])


def test_a_pull_starts_and_ends_where_it_should_and_eases():
    first, last = torch.tensor(0.2), torch.tensor(1.0)
    assert optics.pulled(first, last, 5, False).tolist() == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert optics.pulled(first, last, 5, True).tolist() == pytest.approx([0.2, 0.325, 0.6, 0.875, 1.0])
    assert optics.pulled(first, last, 1, True).tolist() == pytest.approx([0.2])


def test_a_smoothed_plane_keeps_a_plane_at_rest_and_its_ends_and_loses_jitter():
    still = torch.full((9,), 0.4)
    assert optics.smoothed(still, 3).tolist() == pytest.approx([0.4] * 9)
    torch.manual_seed(1)
    jitter = 0.5 + 0.05 * torch.randn(100)
    assert optics.smoothed(jitter, 4).std() < 0.4 * jitter.std()
    assert optics.smoothed(jitter, 0) is jitter
    step = torch.cat([torch.zeros(20), torch.ones(20)])
    smooth = optics.smoothed(step, 3)
    assert (smooth.diff() >= 0).all()
    assert smooth[0] == 0
    assert smooth[19:21].mean() == pytest.approx(0.5)


def test_the_names_of_the_lenses_say_their_numbers_as_the_page_reads_them():
    for name, lens in LENSES.items():
        numbers = re.search(r"([\d.]+) mm f/([\d.]+), ([\d.]+) x ([\d.]+) mm", name)
        assert tuple(map(float, numbers.groups())) == (lens.focal_length, lens.f_number, *lens.sensor)
