"""The virtual camera on the demonstration model as it ships: a few of the scenes that `tools/demo camera` measures."""

from __future__ import annotations

import pytest
import torch

from bokeh.demo import ADAPTERS, FOLDER
from bokeh.demo.load import load_demo
from bokeh.sweep.measures import laplacian_variance
from bokeh.tools.demo.camera import Camera, psnr
from bokeh.training.scenes import draw_scenes, render, subject_masks
from bokeh.weights.files import read_adapter

LORAS = [FOLDER / ADAPTERS[name] for name in ("demo: all in focus", "demo: refocus")]


@pytest.fixture(scope="module")
def camera():
    return Camera(load_demo(), *map(read_adapter, LORAS))


@pytest.fixture(scope="module")
def scene():
    return draw_scenes(torch.Generator().manual_seed(9), 3, held_out=True)


def test_what_was_out_of_focus_comes_back(camera, scene):
    sharp, blurred = (render(camera.props, scene, torch.full((3,), blur)) for blur in (0.0, 20.0))
    found, before = psnr(camera.sharpen(blurred), sharp), psnr(blurred, sharp)
    assert found.mean() > 26
    assert (found - before).mean() > 6


def test_the_plane_of_focus_is_where_it_was_put(camera, scene):
    sharp = render(camera.props, scene, torch.zeros(3))
    pictures = {}
    for plane in (1.0, 0.0):
        blurs, planes = torch.full((3,), 15.0), torch.full((3,), plane)
        pictures[plane] = camera.focus(sharp, scene, blurs, planes)
        assert psnr(pictures[plane], render(camera.props, scene, blurs, planes)).mean() > 24
    near, far = pictures[1.0], pictures[0.0]
    for row, subject in enumerate(subject_masks(camera.props, scene)):
        for mask, sharper, softer in ((subject > 0.99, near, far), (subject < 0.01, far, near)):
            one, other = (laplacian_variance(part[row : row + 1], mask[None].float()) for part in (sharper, softer))
            assert one > other


def test_both_loras_fit_into_4_megabytes():
    assert sum(file.stat().st_size for file in LORAS) <= 4e6
