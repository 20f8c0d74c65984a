"""Layers through a lens, and the aperture, against slow references."""

import math
import re

import numpy as np
import pytest
import torch
from slow_discs import distance, layers_slowly

from bokeh.optics.defocus import Aperture, disc_radius, render_layers, soft_disc, spread_periodic


def layers(count: int, height: int, width: int, margin: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Random colours, and coverages with soft, hard and no edges; the rearmost layer is everywhere."""
    rng = torch.Generator().manual_seed(4)
    size = height + 2 * margin, width + 2 * margin
    colours = torch.rand(1, count, 3, *size, generator=rng)
    alphas = (torch.rand(1, count, 1, *size, generator=rng) * 3 - 1).clamp(0, 1)
    alphas[:, 0] = 1
    return colours, alphas


@pytest.mark.parametrize("radii", [(0.0, 0.3, 2.5), (5.0, 0.0, 1.2), (3.7, 5.9, 0.6)])
def test_layers_are_those_of_the_slow_reference(radii):
    margin = 7
    colours, alphas = layers(3, 20, 26, margin)
    rendered = render_layers(colours, alphas, torch.tensor([radii]), margin)[0].movedim(0, -1).numpy()
    expected = layers_slowly(colours[0].movedim(1, -1).double().numpy(), alphas[0, :, 0].double().numpy(), radii)
    assert np.abs(rendered - expected[margin:-margin, margin:-margin]).max() < 1e-5


@pytest.mark.parametrize("radius", [0.0, 0.5, 0.8, 3.0, 7.7])
def test_a_point_of_light_keeps_its_energy(radius):
    colours = torch.zeros(1, 1, 3, 61, 61)
    colours[..., 30, 28] = 1
    rendered = render_layers(colours, torch.ones(1, 1, 1, 61, 61), torch.tensor([[radius]]), 10)
    assert rendered.sum((2, 3))[0].tolist() == pytest.approx([1, 1, 1], rel=1e-4)
    assert (rendered.max() < 0.999) == (radius > 0.5)


def test_flat_layers_stay_flat_and_sharp_ones_as_they_are():
    colours, alphas = layers(1, 30, 30, 9)
    assert torch.equal(render_layers(colours, alphas, torch.tensor([[0.5]]), 9), colours[:, 0, :, 9:-9, 9:-9])
    flat = torch.full_like(colours, 0.37)
    rendered = render_layers(flat, alphas, torch.tensor([[8.0]]), 9)
    torch.testing.assert_close(rendered, torch.full_like(rendered, 0.37), atol=1e-6, rtol=0)


def test_a_batch_is_its_pictures_one_by_one():
    colours, alphas = (torch.cat([maps, maps.flip(-1)]) for maps in layers(3, 24, 24, 6))
    radii = torch.tensor([[3.0, 0.0, 1.5], [0.0, 4.0, 5.0]])
    together = render_layers(colours, alphas, radii, 6)
    for i in range(2):
        alone = render_layers(colours[i : i + 1], alphas[i : i + 1], radii[i : i + 1], 6)
        torch.testing.assert_close(together[i], alone[0], atol=1e-6, rtol=0)


def test_light_that_leaves_on_one_side_comes_back_on_the_other():
    point = torch.zeros(1, 1, 16, 20)
    point[..., 0, 0] = 1
    moved = point.roll((7, 9), (2, 3))
    radii = torch.tensor([4.0])
    expected = spread_periodic(moved, radii).roll((-7, -9), (2, 3))
    torch.testing.assert_close(spread_periodic(point, radii), expected, atol=1e-7, rtol=0)


def test_a_margin_smaller_than_the_discs_is_refused():
    colours, alphas = layers(1, 8, 8, 3)
    message = (
        "The layers reach 3 px beyond the picture, but a disc has a radius of 2.5 px. Give them a margin of the "
        "largest radius + 1."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        render_layers(colours, alphas, torch.tensor([[2.5]]), 3)


def test_the_radius_is_that_of_the_design():
    """15 = 30 x 0.5 at 512 px, twice that at 1024 px, the same on both sides of the plane of focus."""
    blur, defocus = torch.tensor(30.0), torch.tensor([0.5, -0.5])
    assert disc_radius(blur, defocus, 512).tolist() == [15, 15]
    assert disc_radius(blur, defocus, 1024).tolist() == [30, 30]


@pytest.mark.parametrize("blades", [0, 5, 6, 7, 8, 9])
@pytest.mark.parametrize("radius", [0.0, 0.5, 3.3, 12.0])
def test_an_aperture_covers_the_area_of_its_disc_and_its_offsets_are_all_it_covers(blades, radius):
    aperture = Aperture(blades, 11.0)
    y, x = np.mgrid[-20:21, -20:21]
    expected = np.clip(radius + 0.5 - distance(y, x, blades, 11.0), 0, 1)
    covered = np.zeros_like(expected)
    for far, offsets in aperture.offsets(radius):
        for dy, dx in offsets:
            assert covered[20 + dy, 20 + dx] == 0
            covered[20 + dy, 20 + dx] = soft_disc(far, torch.tensor(radius, dtype=torch.float64))
    np.testing.assert_allclose(covered, expected, atol=1e-9)
    if radius > 3:
        assert covered.sum() == pytest.approx(math.pi * radius**2, rel=0.02)
