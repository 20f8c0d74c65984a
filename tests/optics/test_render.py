"""The depth renderer by levels against the exact one, and what holds without it."""

import math
import re

import pytest
import torch

from bokeh.optics import tiles
from bokeh.optics.exact import render_exactly
from bokeh.optics.levels import Levels
from bokeh.optics.render import render_depth


def scene(kind: str, size: int = 256, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """A picture of soft spots and noise, and disparities."""
    rng = torch.Generator().manual_seed(seed)
    spots = torch.rand(1, 3, size // 4, size // 4, generator=rng)
    spots = torch.nn.functional.interpolate(spots, (size, size), mode="bilinear").movedim(1, -1)
    image = spots * 0.7 + 0.3 * torch.rand(1, size, size, 3, generator=rng)
    y = torch.linspace(0, 1, size)[:, None].expand(size, size)
    if kind == "slope":
        return image, y[None].clone()
    if kind == "smooth":
        coarse = torch.rand(1, 1, 6, 6, generator=rng)
        return image, torch.nn.functional.interpolate(coarse, (size, size), mode="bicubic")[0].clamp(0, 1)
    disparity = torch.full((1, size, size), 0.1)
    for _ in range(6):
        top, left, radius, value = torch.rand(4, generator=rng)
        disparity[0, (y - top).square() + (y.T - left).square() < (0.05 + 0.2 * radius) ** 2] = value
    return image, disparity


def decibels(one: torch.Tensor, other: torch.Tensor) -> float:
    return -10 * math.log10((one - other).square().mean().item() + 1e-12)


def light_of(picture: torch.Tensor) -> float:
    return picture.double().pow(2.2).sum().item() / 3


def assert_refused(message: str, *args, **settings) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        render_depth(*args, **settings)


@pytest.mark.parametrize("lens", [{}, {"blades": 5, "rotation": 20.0}, {"gamma": 1.0}])
@pytest.mark.parametrize(
    ("kind", "focus", "blur"), [("blobs", 0.1, 30.0), ("blobs", 0.6, 12.0), ("slope", 0.4, 30.0), ("smooth", 1.0, 25.0)]
)
def test_it_is_nearly_the_exact_renderer(kind, focus, blur, lens):
    image, disparity = scene(kind)
    fast, exact = (render(image, disparity, focus, blur, **lens) for render in (render_depth, render_exactly))
    assert decibels(fast, exact) > 50


@pytest.mark.parametrize("lens", [{"cats_eye": 1.0}, {"cats_eye": 0.6, "blades": 6}])
def test_discs_squeezed_towards_the_corners_are_nearly_exact(lens):
    image, disparity = scene("smooth")
    fast, exact = (render(image, disparity, 0.8, 30.0, **lens) for render in (render_depth, render_exactly))
    assert decibels(fast, exact) > 45


def test_large_discs_on_coarse_grids_are_nearly_exact():
    image, disparity = scene("blobs")
    for focus, blur in ((0.1, 80.0), (0.9, 80.0)):
        fast, exact = (render(image, disparity, focus, blur) for render in (render_depth, render_exactly))
        assert decibels(fast, exact) > 45


@pytest.mark.parametrize(("subject", "ground"), [(0.1, 1.0), (1.0, 0.1)])
def test_nothing_leaks_over_a_subject_near_focus(subject, ground):
    image = torch.full((1, 128, 128, 3), ground)
    disparity = torch.zeros(1, 128, 128)
    image[:, 32:96, 32:96] = subject
    disparity[:, 32:96, 32:96] = 1
    for radius in (0.0, 0.1, 0.25, 0.4, 0.6, 0.8, 1.0):
        for sign in (1, -1):
            focus = 1 - sign * radius / 7.5
            fast, exact = (render(image, disparity, focus, 30.0) for render in (render_depth, render_exactly))
            assert (fast - exact).abs().max() < 0.005


@pytest.mark.parametrize("radius", [0.0, 0.3, 0.8, 1.5, 4.0, 10.3, 40.0])
@pytest.mark.parametrize("near", [True, False])
def test_a_point_of_light_keeps_its_energy(radius, near):
    image = torch.zeros(1, 181, 201, 3)
    image[:, 80, 90] = 1
    plane = torch.full((1, 181, 201), 1.0 if near else 0.0)
    rendered = render_depth(image, plane, 0.0 if near else 1.0, radius * 512 / 181)
    assert light_of(rendered) == pytest.approx(1, rel=0.005)
    assert (rendered.amax() < 1) == (radius > 0.5)


@pytest.mark.parametrize("kind", ["blobs", "slope", "smooth"])
def test_a_constant_picture_stays_constant(kind):
    disparity = scene(kind)[1]
    constant = torch.tensor([0.9, 0.31, 0.02]).expand(1, 256, 256, 3)
    assert (render_depth(constant, disparity, 0.4, 30.0) - constant).abs().max() < 1e-3


def test_a_sharp_plane_is_the_picture_bit_for_bit():
    image, disparity = scene("blobs")
    # Nothing nearer than the subject: it would spill over it.
    subject = disparity == disparity.max()
    rendered = render_depth(image, disparity, disparity.max().item(), 30.0)
    assert torch.equal(rendered[subject], image[subject])
    assert (rendered[~subject] != image[~subject]).any(-1).float().mean() > 0.9
    assert torch.equal(render_depth(image, disparity, 0.2, 0.0), image)
    assert torch.equal(render_depth(image, torch.full_like(disparity, 0.2), 0.2, 30.0), image)


def test_tiles_do_not_show(monkeypatch):
    image, disparity = scene("smooth")
    whole = render_depth(image, disparity, 0.3, 60.0)
    for side in (32, 96):
        monkeypatch.setattr(tiles, "TILE", side)
        assert (render_depth(image, disparity, 0.3, 60.0) - whole).abs().max() < 2e-3


def test_a_batch_is_its_pictures_one_by_one():
    scenes = [scene(kind, 128) for kind in ("blobs", "slope", "smooth")]
    images, disparities = (torch.cat(parts) for parts in zip(*scenes, strict=True))
    focus, blur = torch.tensor([0.5, 0.2, 0.9]), torch.tensor([30.0, 0.0, 12.0])
    together = render_depth(images, disparities, focus, blur, blades=7)
    for i in range(3):
        alone = render_depth(images[i : i + 1], disparities[i : i + 1], focus[i].item(), blur[i].item(), blades=7)
        assert torch.equal(together[i], alone[0])


def test_what_a_near_thing_hides_is_filled_in_and_its_outline_does_not_stay():
    """A blurred fence before a wall in focus: its posts must not be seen as sharp lines where they stood."""
    size = 192
    x = torch.arange(size).expand(size, size)
    # Posts 3 px wide, with half covered pixels on either side.
    cover = ((2.0 - ((x % 32) - 16).abs()).clamp(0, 1) + 0.5 * ((((x % 32) - 16).abs() == 2).float())).clamp(0, 1)
    wall = torch.stack([0.3 + 0.4 * x / size, 0.6 - 0.3 * x / size, torch.full((size, size), 0.4)], -1)
    light = wall.pow(2.2) * (1 - cover[..., None]) + cover[..., None] * 0.02
    image = light.pow(1 / 2.2)[None]
    disparity = (cover > 0.5).float()[None]
    plain, filled = (render_depth(image, disparity, 0.0, 120.0, behind=behind) for behind in (False, True))
    # Far from the picture's border a fence of this blur is an even veil.
    veil = cover[:, 16:-16].mean() * 0.02 + (1 - cover[:, 16:-16].mean()) * wall.pow(2.2)
    inner = slice(48, -48), slice(48, -48)
    errors = [(picture[0].pow(2.2) - veil).abs()[inner].mean().item() for picture in (plain, filled)]
    assert errors[1] < errors[0] / 2


def test_filling_in_leaves_what_is_sharp_and_not_covered_bit_for_bit():
    image, disparity = scene("blobs", 128)
    disparity = disparity.clamp(max=0.5)
    subject = disparity == disparity.max()
    rendered = render_depth(image, disparity, disparity.max().item(), 30.0, behind=True)
    assert torch.equal(rendered[subject], image[subject])
    constant = torch.full_like(image, 0.5)
    assert (render_depth(constant, disparity, 0.3, 30.0, behind=True) - constant).abs().max() < 2e-3


def test_the_same_picture_is_the_same_at_every_size():
    image, disparity = scene("blobs", 512)
    small = torch.nn.functional.interpolate(image.movedim(-1, 1), scale_factor=0.5, mode="area").movedim(1, -1)
    near = disparity[:, ::2, ::2]
    large = render_depth(image, disparity, 0.1, 30.0).movedim(-1, 1).pow(2.2)
    reduced = torch.nn.functional.interpolate(large, scale_factor=0.5, mode="area").pow(1 / 2.2).movedim(1, -1)
    assert decibels(render_depth(small, near, 0.1, 30.0), reduced) > 38


def test_levels_are_as_wide_as_the_discs_between_them():
    levels = Levels(-40.0, 7.0)
    signed = torch.linspace(-40, 7, 400)
    lower, share = levels.place(signed)
    values = torch.tensor(levels.values)
    low, high = values[lower.long()], values[lower.long() + 1]
    assert ((low <= signed + 1e-5) & (signed <= high + 1e-5)).all()
    large = (low.abs() > 5) & (high.abs() > 5)
    mixed = torch.lerp(low.square(), high.square(), share)[large]
    torch.testing.assert_close(mixed, signed.square()[large], rtol=0.015, atol=0)


def test_it_is_told_at_once_and_may_be_stopped():
    image, disparity = scene("smooth", 512)
    told = []
    render_depth(image, disparity, 0.5, 30.0, on_part=lambda done, parts: told.append(done / parts))
    assert told == sorted(told)
    assert told[-1] == 1
    assert len(told) > 50

    def stop(done, parts):
        raise InterruptedError

    with pytest.raises(InterruptedError):
        render_depth(image, disparity, 0.5, 30.0, on_part=stop)


def test_a_lamp_keeps_its_colour_and_mid_tones_stay():
    image = torch.full((1, 128, 128, 3), 0.3)
    image[:, 56:66, 56:66] = torch.tensor([1.0, 0.6, 0.25])
    image[:, 58:64, 58:64] = 1.0
    plane = torch.ones(1, 128, 128)
    plain, glowing = (render_depth(image, plane, 0.0, 40.0, highlight=value) for value in (0.0, 4.0))
    red, green, blue = glowing[0, 61, 61].pow(2.2).tolist()
    assert red > 1.5 * plain[0, 61, 61, 0].pow(2.2)
    assert blue < green < red
    torch.testing.assert_close(glowing[:, :30], plain[:, :30], atol=1e-3, rtol=0)
    dim = image * 0.8
    assert torch.equal(render_depth(dim, plane, 0.0, 40.0), render_depth(dim, plane, 0.0, 40.0, highlight=4.0))


def test_pictures_are_left_as_they_are():
    image, disparity = scene("blobs", 128)
    before = image.clone(), disparity.clone()
    render_depth(image, disparity, 0.5, 30.0)
    assert torch.equal(image, before[0])
    assert torch.equal(disparity, before[1])


def test_bad_input_is_refused_with_what_came_and_what_to_do():
    image, disparity = scene("blobs", 128)
    nan = disparity.clone()
    nan[0, 3, 3] = math.nan
    assert_refused(
        "The pictures have the shape [128, 128, 3], expected [B, H, W, 3]: RGB in 0 to 1.", image[0], disparity, 0, 1
    )
    assert_refused(
        "The disparities have the shape [1, 128, 50], the pictures [1, 128, 128, 3]. Give one disparity for each pixel "
        "of each picture.",
        *(image, disparity[..., :50], 0, 1),
    )
    assert_refused(
        "The disparities have NaN or infinite values. Replace them, or make them again.", image, nan, 0.5, 15
    )
    assert_refused(
        "The pictures have NaN or infinite values. Replace them, or make them again.",
        *(image / 0, disparity, 0.5, 15),
    )
    for blur in (1001, -1):
        assert_refused(
            f"Blur {blur} is outside 0 to 1000. 0 is sharp, 30 a strong defocus.", image, disparity, 0.5, blur
        )
    assert_refused(
        "The largest disc has a radius of 100 px in a picture of 128 x 128 px, wider than the picture. Check the unit "
        "of the depth map and the focus, or use a smaller blur.",
        *(image, disparity / disparity.max(), 0.0, 400.0),
    )
    assert_refused("The focus is NaN or infinite. Give a finite number.", image, disparity, math.nan, 15)
    assert_refused(
        "The blur has the shape [2] for 1 pictures. Give one number for all, or one for each.",
        *(image, disparity, 0.5, torch.tensor([1.0, 2.0])),
    )
    for settings, message in (
        ({"gamma": 0.0}, "Gamma 0 is not above 0. 2.2 is that of pictures; 1 blurs the values themselves."),
        ({"blades": 4}, "An aperture of 4 blades was asked for. Use 5 to 9, or 0 for a round one."),
        ({"cats_eye": 1.5}, "Cat's eye 1.5 is outside 0 (round everywhere) to 1."),
        ({"highlight": -1.0}, "Highlight -1 is not a number from 0 (off) up. 3 makes lights glow."),
        ({"rotation": math.inf}, "The rotation is infinite or NaN. Give it in degrees."),
    ):
        assert_refused(message, image, disparity, 0.5, 15, **settings)
