"""Does the blur follow and does the subject stay sharp: by hand, and against a Gaussian over everything."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch
from matplotlib import get_data_path
from PIL import Image
from scipy.ndimage import gaussian_filter

from bokeh.optics.render import render_depth
from bokeh.sweep import trend
from bokeh.sweep.measure import measure_sweep
from bokeh.sweep.reference import rendered
from bokeh.sweep.values import Sweep
from bokeh.training.scenes import Props, draw_scenes, render, subject_masks

LEVELS = (0.0, 7.5, 15.0, 22.5, 30.0)
SWEEP = Sweep(LEVELS, 15.0)


def test_lvcorr_by_both_definitions_by_hand():
    # Deviations (-1.5, -.5, .5, 1.5) and (2, 1, 0, -3): -8 / sqrt(5 * 14), turned.
    assert trend.lvcorr_k((1, 2, 3, 4), (6, 5, 4, 1)) == pytest.approx(8 / math.sqrt(70), rel=1e-12)
    assert trend.lvcorr_k((0, 10, 20), (1, 2, 3)) == pytest.approx(-1, rel=1e-12)
    assert trend.lvcorr_reference((6, 5, 4, 1), (12, 10, 8, 2)) == pytest.approx(1, rel=1e-12)
    assert trend.lvcorr_reference((6, 5, 4, 1), (1, 2, 3, 4)) == pytest.approx(-8 / math.sqrt(70), rel=1e-12)


def test_correlations_are_those_of_scipy():
    generator = np.random.default_rng(1)
    x = generator.integers(0, 12, 40).tolist()
    y = [20 - value + noise for value, noise in zip(x, generator.normal(0, 4, 40).round(), strict=True)]
    assert trend.lvcorr_k(x, y) == pytest.approx(-scipy.stats.pearsonr(x, y).statistic, rel=1e-9)
    assert trend.lvcorr_reference(x, y) == pytest.approx(scipy.stats.pearsonr(x, y).statistic, rel=1e-9)
    assert trend.by_rank(x, y) == pytest.approx(-scipy.stats.spearmanr(x, y).statistic, rel=1e-9)


@pytest.mark.parametrize("variances", [(7, 7, 7), (0, 0, 0), (1e-14, 3e-14, 0), (5, 5 + 1e-6, 5)])
def test_correlations_of_equal_pictures_are_not_defined(variances):
    for measure in (trend.lvcorr_k, trend.by_rank, trend.lvcorr_reference):
        assert measure((1, 2, 3), variances) is None
        assert measure((5, 5, 5), (1, 2, 3)) is None
        assert measure((3,), (1,)) is None


def test_order_by_hand():
    assert trend.in_order((0, 1, 2, 3), (9, 4, 5, 1)) == pytest.approx(2 / 3)
    # In any order of the requests, equal requests by their mean, equal measurements not in order.
    assert trend.in_order((3, 0, 2, 1), (1, 9, 5, 4)) == pytest.approx(2 / 3)
    assert trend.in_order((0, 1, 1, 2), (9, 3, 7, 4)) == 1
    assert trend.in_order((0, 1, 2), (4, 4, 4)) == 0
    assert trend.in_order((8, 8), (1, 2)) is None


def test_kept_sharpness_by_hand():
    assert trend.kept_sharpness((2.0, 1.0, 3.0, 0.0), 0) == [1.0, 0.5, 1.0, 0.0]
    assert trend.kept_sharpness((0.0, 1.0), 0) is None


def test_windows_take_every_pixel_whatever_the_shape():
    images = torch.rand(2, 100, 72, 3, generator=torch.Generator().manual_seed(0))
    area = torch.zeros(1, 100, 72, dtype=torch.bool)
    # Windows of 6 px end at row 96.
    area[:, 98:] = True
    assert trend.windows_sharpness(images, area).isfinite().all()
    assert trend.windows_sharpness(images.reshape(2, 16, -1, 3)).isfinite().all()
    assert trend.part_in_focus(*images.reshape(2, 16, -1, 3)).shape == (16, 450)


def photo() -> tuple[torch.Tensor, torch.Tensor]:
    """A portrait [H, W, 3], and a mask of its subject [H, W]."""
    with Image.open(Path(get_data_path(), "sample_data", "grace_hopper.jpg")) as picture:
        image = torch.from_numpy(np.asarray(picture.convert("RGB").resize((256, 300)), np.float32) / 255)
    y, x = torch.meshgrid(*(torch.linspace(-1, 1, side) for side in image.shape[:2]), indexing="ij")
    return image, ((x / 0.5) ** 2 + ((y - 0.2) / 0.8) ** 2 < 1).float()


def lens_and_gaussian(name: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """A scene's sweep through a lens, one by Gaussians over everything, its mask and its depth."""
    if name == "photo":
        image, mask = photo()
        blurs = torch.tensor(LEVELS)
        through_lens = render_depth(
            image.expand(len(LEVELS), -1, -1, -1), mask.expand(len(LEVELS), -1, -1), 1.0, blurs, behind=True
        )
    else:
        props, scene = Props(), draw_scenes(torch.Generator().manual_seed(int(name)), 1, True)
        through_lens = render(props, scene.copies(len(LEVELS)), torch.tensor(LEVELS))
        image, mask = through_lens[0], (subject_masks(props, scene)[0] > 0.5).float()
    # As wide as the lens' discs of the farthest things: half their radius is their standard deviation.
    sigma = min(image.shape[:2]) / 512 / 2
    softened = [gaussian_filter(image.numpy(), (value * sigma, value * sigma, 0)) for value in LEVELS]
    return through_lens, torch.from_numpy(np.stack(softened)), mask, mask[None, ..., None].expand(-1, -1, -1, 3)


@pytest.mark.parametrize("known", ["nothing", "mask", "depth", "mask and depth"])
@pytest.mark.parametrize("name", ["photo", "1", "2", "3", "4"])
def test_a_gaussian_over_everything_scores_at_least_15_hundredths_lower(name, known):
    scores = []
    *sweeps, mask, depth = lens_and_gaussian(name)
    mask = mask if "mask" in known else None
    for images in sweeps:
        reference = (
            rendered(images, SWEEP, depth, None if mask is None else mask[None])[0] if "depth" in known else None
        )
        scores.append(measure_sweep(images, SWEEP, mask, reference=reference))
    lens, gaussian = scores
    # Without a mask a subject with little structure of its own is found in part only.
    assert lens.score > (0.95 if mask is not None else 0.6)
    assert gaussian.score < lens.score - 0.15
    assert gaussian.kept_sharpness < lens.kept_sharpness - 0.15
    if "depth" in known:
        assert lens.picture.lvcorr_reference > 0.99


def test_the_reference_of_a_scene_is_its_true_pictures():
    for seed in range(4):
        images, _, mask, depth = lens_and_gaussian(str(seed))
        reference, notes = rendered(images, SWEEP, depth, mask[None])
        assert notes == []
        # The pattern goes on behind the object, which the renderer does not know.
        assert (reference - images).abs().mean() < 0.02
        small = torch.nn.functional.avg_pool2d(depth.movedim(-1, 1), 2).movedim(1, -1)
        resized, notes = rendered(images, SWEEP, small, mask[None])
        assert notes == ["The depth map of 64 x 64 was resized to the picture's 128 x 128."]
        assert (resized - images).abs().mean() < 0.03


def test_the_reference_sees_a_small_map_as_bokeh_render_does():
    """With edges where the picture has them. By a bilinear map the reference was 0.008 from that of the whole one."""
    y = torch.linspace(-1, 1, 128)
    near = (y[:, None].hypot(y) < 0.6).float()[..., None]
    grain = 0.1 * torch.rand(128, 128, 3, generator=torch.Generator().manual_seed(0))
    images = (near * torch.tensor([0.8, 0.3, 0.1]) + (1 - near) * torch.tensor([0.1, 0.4, 0.7]) + grain)[None]
    depth = near[None].expand(-1, -1, -1, 3)
    small = torch.nn.functional.avg_pool2d(depth.movedim(-1, 1), 8).movedim(1, -1)
    sweep, mask = Sweep((0.0, 30.0)), near[None, ..., 0]
    whole, by_small = (rendered(images.expand(2, -1, -1, -1), sweep, maps, mask)[0][1] for maps in (depth, small))
    assert (by_small - whole).abs().mean() < 1e-3


def test_a_sweep_that_starts_blurred_is_blurred_on_from_there():
    props, scene = Props(), draw_scenes(torch.Generator().manual_seed(5), 1, True)
    blurs = (10.0, 20.0, 30.0)
    images = render(props, scene.copies(3), torch.tensor(blurs))
    depth = subject_masks(props, scene)[..., None]
    reference, notes = rendered(images, Sweep(blurs), depth)
    assert torch.equal(reference[0], images[0])
    assert (reference - images).abs().mean() < 0.02
    assert notes == ["The reference starts from blur 10: a sweep from 0 has one of its own sharp picture."]
