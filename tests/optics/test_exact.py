"""The exact depth renderer against a slow reference, one disc at a time, and against what a lens does."""

import math

import numpy as np
import pytest
import torch
from slow_discs import rendered_slowly

from bokeh.optics import exact
from bokeh.optics.defocus import render_layers
from bokeh.optics.exact import render_exactly

LENSES = {
    "round": {},
    "five blades": {"blades": 5, "rotation": 20.0},
    "eight blades": {"blades": 8},
    "cat's eye": {"cats_eye": 1.0},
    "all together": {"blades": 6, "rotation": -7.0, "cats_eye": 0.6, "gamma": 1.8},
}


def scene(kind: str, height: int = 90, width: int = 101) -> tuple[torch.Tensor, torch.Tensor]:
    """A random picture with bright lights, and disparities."""
    rng = torch.Generator().manual_seed(7)
    image = torch.rand(1, height, width, 3, generator=rng) * 0.5
    image[torch.rand(1, height, width, generator=rng) > 0.98] = 1.0
    y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    if kind == "noise":
        return image, torch.rand(1, height, width, generator=rng)
    disparity = 0.1 + 0.5 * y if kind == "slope" else torch.full_like(y, 0.1)
    disparity[(x - 0.35) ** 2 + (y - 0.5) ** 2 < 0.07] = 0.5
    disparity[(x + 0.2 * y - 0.8).abs() < 0.1] = 1.0
    return image, disparity[None]


def light_of(picture: torch.Tensor) -> float:
    return picture.double().pow(2.2).sum().item() / 3


@pytest.mark.parametrize(
    ("kind", "lens", "focus"),
    [
        ("objects", "round", 0.5),
        ("objects", "cat's eye", 0.0),
        ("slope", "five blades", 0.83),
        ("slope", "all together", 0.3),
        ("noise", "round", 0.0),
        ("noise", "eight blades", 0.5),
    ],
)
def test_it_is_the_slow_reference(kind, lens, focus):
    image, disparity = scene(kind, 70, 78)
    rendered = render_exactly(image, disparity, focus, 43.0, **LENSES[lens])[0]
    expected = rendered_slowly(image[0].numpy(), disparity[0].numpy(), focus, 43.0, **LENSES[lens])
    assert np.abs(rendered.numpy() - expected).max() < 1e-4


@pytest.mark.parametrize("lens", ["round", "five blades", "cat's eye"])
@pytest.mark.parametrize("radius", [0.0, 0.3, 0.8, 1.5, 4.0, 10.3])
@pytest.mark.parametrize("near", [True, False])
def test_a_point_of_light_keeps_its_energy(radius, near, lens):
    image = torch.zeros(1, 181, 201, 3)
    image[:, 80, 90] = 1
    plane = torch.full((1, 181, 201), 1.0 if near else 0.0)
    rendered = render_exactly(image, plane, 0.0 if near else 1.0, radius * 512 / 181, **LENSES[lens])
    assert light_of(rendered) == pytest.approx(1, rel=0.005)
    assert (rendered.amax() < 1) == (radius > 0.5)


def test_a_point_of_light_keeps_its_energy_on_a_slope_and_under_a_noisy_depth():
    image = torch.zeros(1, 256, 256, 3)
    image[:, 128, 128] = 1
    slope = torch.linspace(0, 1, 256)[None, :, None].expand(1, 256, 256)
    noisy = 0.5 + 0.05 * torch.rand(1, 256, 256, generator=torch.Generator().manual_seed(1))
    assert light_of(render_exactly(image, slope, 0.0, 30.0)) == pytest.approx(1, rel=0.03)
    assert light_of(render_exactly(image, noisy, 0.0, 30.0)) == pytest.approx(1, rel=0.03)


@pytest.mark.parametrize("lens", LENSES)
@pytest.mark.parametrize("kind", ["objects", "slope", "noise"])
def test_a_constant_picture_stays_constant(kind, lens):
    disparity = scene(kind)[1]
    constant = torch.tensor([0.9, 0.31, 0.02]).expand(1, 90, 101, 3)
    rendered = render_exactly(constant, disparity, 0.4, 30.0, **LENSES[lens])
    assert (rendered - constant).abs().max() < 2e-6


@pytest.mark.parametrize("lens", LENSES)
def test_a_sharp_plane_is_the_picture_bit_for_bit(lens):
    image, disparity = scene("objects")
    # Nothing nearer than the subject: it would spill over it.
    disparity = disparity.clamp(max=0.5)
    subject = disparity == 0.5
    rendered = render_exactly(image, disparity, 0.5, 30.0, **LENSES[lens])
    assert torch.equal(rendered[subject], image[subject])
    assert (rendered[~subject] != image[~subject]).any(-1).float().mean() > 0.9
    assert torch.equal(render_exactly(image, disparity, 0.2, 0.0, **LENSES[lens]), image)
    assert torch.equal(render_exactly(image, torch.full_like(disparity, 0.2), 0.2, 30.0, **LENSES[lens]), image)


def test_far_blur_does_not_leak_over_a_nearer_sharp_edge():
    image = torch.full((1, 128, 128, 3), 0.2)
    image[:, :, 64:] = 1.0
    far = torch.ones(1, 128, 128)
    far[:, :, 64:] = 0.0
    rendered = render_exactly(image, far, 1.0, 30.0)
    assert torch.equal(rendered, image)


def test_near_blur_spills_over_a_sharp_edge_and_is_soft_on_both_sides():
    """A near, bright half before a sharp, dark one: at the edge half of the aperture sees each of them."""
    image = torch.full((1, 256, 256, 3), 0.0)
    image[:, :, :128] = 1.0
    near = torch.zeros(1, 256, 256)
    near[:, :, :128] = 1.0
    light = render_exactly(image, near, 0.0, 30.0)[0, 128, :, 0].double().pow(2.2)
    # The share of a disc of radius 15 to the left of a line at the distance t from its centre.
    t = (torch.arange(256) - 127.5).double().clamp(-15, 15) / 15
    share = (t.acos() - t * (1 - t * t).sqrt()) / math.pi
    assert (light - share).abs().max() < 0.01


def test_layers_in_known_places_come_out_as_the_renderer_of_layers_makes_them():
    """Where nothing hidden is needed that a flat background does not tell, both give the same picture."""
    size, margin, blur = 160, 20, 30.0
    wide = size + 2 * margin
    y, x = (axis.float() - margin for axis in torch.meshgrid(torch.arange(wide), torch.arange(wide), indexing="ij"))
    subject = ((x - 80) ** 2 + (y - 80) ** 2 < 40**2).float()
    texture = torch.rand(3, wide, wide, generator=torch.Generator().manual_seed(2))
    ground = torch.tensor([0.1, 0.6, 0.3])[:, None, None].expand_as(texture)
    here = slice(margin, margin + size)
    image = torch.where(subject > 0, texture, ground).movedim(0, -1)[here, here]
    disparity = (0.2 + 0.6 * subject)[here, here]
    for focus in (0.8, 0.2, 0.5, 0.0, 1.0):
        radii = torch.tensor([[abs(0.2 - focus), abs(0.8 - focus)]]) * blur * size / 512
        colours = torch.stack([ground, texture])[None].pow(2.2)
        alphas = torch.stack([torch.ones_like(subject), subject])[None, :, None]
        expected = render_layers(colours, alphas, radii, margin)[0].movedim(0, -1).clamp(0, 1).pow(1 / 2.2)
        rendered = render_exactly(image[None], disparity[None], focus, blur)[0]
        difference = (rendered - expected).abs()
        assert difference.mean() < 2e-3
        assert difference.max() < 0.15


def test_a_batch_is_its_pictures_one_by_one():
    scenes = [scene(kind) for kind in ("objects", "slope", "noise")]
    images, disparities = (torch.cat(parts) for parts in zip(*scenes, strict=True))
    focus, blur = torch.tensor([0.5, 0.2, 0.9]), torch.tensor([30.0, 0.0, 12.0])
    together = render_exactly(images, disparities, focus, blur, blades=7)
    for i in range(3):
        alone = render_exactly(images[i : i + 1], disparities[i : i + 1], focus[i].item(), blur[i].item(), blades=7)
        torch.testing.assert_close(together[i], alone[0], atol=1e-6, rtol=0)


@pytest.mark.parametrize("lens", LENSES)
def test_tiles_do_not_show(monkeypatch, lens):
    image, disparity = scene("objects")
    whole = render_exactly(image, disparity, 0.3, 30.0, **LENSES[lens])
    monkeypatch.setattr(exact, "CPU_TILE", 300)
    torch.testing.assert_close(render_exactly(image, disparity, 0.3, 30.0, **LENSES[lens]), whole, atol=2e-6, rtol=0)


def test_the_radius_is_blur_times_disparity_difference_at_512_px():
    for size, blur, radius in ((512, 20.0, 10.0), (256, 20.0, 5.0), (128, 24.0, 3.0)):
        image = torch.zeros(1, size, size + 8, 3)
        image[:, size // 2, size // 2] = 1
        rendered = render_exactly(image, torch.full((1, size, size + 8), 0.75), 0.25, blur)
        across = (rendered[0, size // 2, :, 0] > 0).sum().item()
        assert across == 2 * radius + 1


def test_a_polygon_has_corners_and_the_area_of_the_disc():
    image = torch.zeros(1, 257, 257, 3)
    image[:, 128, 128] = 1
    plane = torch.ones(1, 257, 257)
    disc, hexagon = (
        render_exactly(image, plane, 0.0, 30.0, blades=blades)[0, ..., 0].double().pow(2.2) for blades in (0, 6)
    )
    assert hexagon.max().item() == pytest.approx(disc.max().item(), rel=0.01)
    # A hexagon with a corner to the right reaches farther there than above.
    right, above = (line > 0 for line in (hexagon[128, 128:], hexagon[128:, 128]))
    assert right.sum() > above.sum()
    assert (disc[128] > 0).sum() == (disc[:, 128] > 0).sum()


def test_cats_eye_squeezes_discs_towards_the_centre_in_the_corners_only():
    size = 161
    discs = {}
    for place in (80, 140):
        image = torch.zeros(1, size, size, 3)
        image[:, place, place] = 1
        rendered = render_exactly(image, torch.ones(1, size, size), 0.0, 30.0, cats_eye=1.0)[0, ..., 0]
        y, x = (rendered > 0).nonzero().double().sub(place).unbind(1)
        discs[place] = ((x + y).abs().max().item(), (x - y).abs().max().item())
    assert discs[80][0] == discs[80][1]
    along, across = discs[140]
    assert along < 0.8 * across


def test_each_part_is_told_and_may_stop_the_rendering(monkeypatch):
    monkeypatch.setattr(exact, "CPU_TILE", 256**2 // torch.get_num_threads())
    image, disparity = torch.rand(1, 300, 520, 3), torch.rand(1, 300, 520)
    told = []
    render_exactly(image, disparity, 0.5, 1.0, on_part=lambda done, parts: told.append((done, parts)))
    assert told == [(part, 6) for part in range(1, 7)]

    def stop(done, parts):
        raise InterruptedError

    with pytest.raises(InterruptedError):
        render_exactly(image, disparity, 0.5, 1.0, on_part=stop)


def test_pictures_are_left_as_they_are():
    image, disparity = scene("objects")
    before = image.clone(), disparity.clone()
    render_exactly(image, disparity, 0.5, 30.0)
    assert torch.equal(image, before[0])
    assert torch.equal(disparity, before[1])
