"""Mixed pixels at the edges of things are parted, and what lies behind shows no seams."""

import time
from itertools import pairwise

import pytest
import torch

from bokeh.optics import edges
from bokeh.optics.discs import Discs
from bokeh.optics.edges import beyond, parted, reach_of
from bokeh.optics.render import render_defocus, render_depth

WALL, THING = torch.tensor([0.8, 0.7, 0.3]), torch.tensor([0.05, 0.1, 0.2])


def thing(size: int = 96, radius: float = 24.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Coverage of a round thing, and linear light [3, size, size] of it before a wall."""
    y = torch.arange(size) - size / 2 + 0.3
    covered = (radius + 0.5 - y[:, None].hypot(y)).clamp(0, 1)
    return covered, torch.lerp(WALL[:, None, None], THING[:, None, None], covered)


def nothing() -> None:
    pass


@pytest.mark.parametrize(("near", "far"), [(0.0, -12.0), (12.0, 0.0), (10.0, -3.0)])
def test_a_mixed_pixel_beside_a_thing_is_parted_by_its_light(near, far):
    covered, light = thing()
    signed = torch.where(covered > 0.5, near, far)
    parts = parted(light, signed, nothing)
    mixed = (covered > 0.06) & (covered <= 0.5)
    assert (parts.coverage[3] - covered)[mixed].abs().max() < 0.05
    torch.testing.assert_close(parts.signed[mixed], torch.full((int(mixed.sum()),), near))
    # Nothing is made or lost but what stands for a guess.
    wall = WALL[:, None].expand(3, int(mixed.sum())) * edges.GUESSED
    whole = (parts.light[:3] + parts.coverage[:3])[:, mixed] - wall
    torch.testing.assert_close(whole, light[:, mixed], atol=0.03, rtol=0)
    elsewhere = (covered < 0.01) | (covered > 0.5)
    assert torch.equal(parts.light[:3, elsewhere], light[:, elsewhere])
    assert not parts.coverage[3, elsewhere].any()


def test_between_discs_of_one_size_and_on_slopes_nothing_is_parted():
    covered, light = thing()
    slope = torch.linspace(-20, 20, 96)[:, None].expand(96, 96)
    for signed in (torch.where(covered > 0.5, 5.0, -5.0), slope.contiguous()):
        parts = parted(light, signed, nothing)
        assert torch.equal(parts.light[:3], light)
        assert not parts.coverage.any()


def test_strips_do_not_show(monkeypatch):
    covered, light = thing()
    signed = torch.where(covered > 0.5, 9.0, 0.0)
    whole = parted(light, signed, nothing)
    monkeypatch.setattr(edges, "STRIP", 7)
    for one, other in zip(parted(light, signed, nothing), whole, strict=True):
        torch.testing.assert_close(one, other)


def test_a_sharp_thing_before_a_blurred_wall_keeps_its_smooth_edge():
    """Its mixed pixels are neither jagged nor spread with the wall: a plain wall stays as it is."""
    covered, light = thing(128, 32.0)
    image = light.pow(1 / 2.2).movedim(0, -1)
    signed = torch.where(covered > 0.5, 0.0, -14.0)
    rendered = render_defocus(image, signed, behind=True)
    assert (rendered - image).abs().max() < 0.04
    assert torch.equal(rendered[covered > 0.5], image[covered > 0.5])


def test_what_lies_behind_changes_softly_with_the_depth():
    """A near slope before a wall in focus: where one range of radii gives way to the next no line is seen."""
    size = 256
    image = torch.full((size, size, 3), 0.2)
    image[:, : size // 2] = torch.tensor([0.9, 0.6, 0.3])
    signed = torch.zeros(size, size)
    signed[:, size // 2 :] = torch.linspace(4, 24, size)[:, None]
    rendered = render_defocus(image, signed, behind=True)[:, size // 2 + 1 : size // 2 + 20]
    assert rendered.diff(dim=0).abs().max() < 0.02


def test_a_level_sees_behind_it_what_its_range_does():
    for low in (4.0, 4.0 * 2**0.5, 16.0):
        assert beyond(low * 1.1) == pytest.approx(reach_of(low)[1])
        assert beyond(-low * 1.1) == pytest.approx(reach_of(-low * 2**0.5)[1])
        for signed in (low * 1.1, -low * 1.1):
            assert beyond(signed) < signed


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1), (2, 3), (300, 17), (33, 70)])
def test_any_size_is_rendered(size):
    rng = torch.Generator().manual_seed(0)
    image, disparity = torch.rand(1, *size, 3, generator=rng), torch.rand(1, *size, generator=rng)
    blur = 120.0 if min(size) > 1 else 30.0
    for lens in ({}, {"cats_eye": 0.5}, {"highlight": 3.0}):
        rendered = render_depth(image, disparity, 0.5, blur, behind=True, **lens)
        assert rendered.shape == image.shape
        assert rendered.isfinite().all()
        assert ((rendered >= 0) & (rendered <= 1)).all()


def test_what_lies_behind_costs_less_than_twice_the_picture(monkeypatch):
    """By the numbers that are transformed, of flat things at all depths. Without coarser cells it is seven times."""
    rng = torch.Generator().manual_seed(0)
    image, coarse = torch.rand(1024, 1024, 3, generator=rng), torch.rand(1, 1, 8, 8, generator=rng)
    signed = torch.nn.functional.interpolate(coarse, (1024, 1024))[0, 0] * 60 - 30
    transformed = []

    def only_counted(discs: Discs, spectrum: torch.Tensor, side: int, *args) -> torch.Tensor:
        transformed.append(len(spectrum) * side**2)
        return torch.zeros(len(spectrum), side, side)

    monkeypatch.setattr(Discs, "spread", only_counted)
    render_defocus(image, signed)
    plain = sum(transformed)
    transformed.clear()
    render_defocus(image, signed, behind=True)
    assert sum(transformed) < 3 * plain


def test_hills_are_transformed_few_times(monkeypatch):
    """By the numbers that are transformed for each pixel where every level lies in every tile: 963. They were 2020 when
    all that is seen through a level's discs was transformed for that level."""
    rng = torch.Generator().manual_seed(0)
    image, coarse = torch.rand(512, 512, 3, generator=rng), torch.rand(1, 1, 4, 4, generator=rng)
    hills = torch.nn.functional.interpolate(coarse, (512, 512), mode="bicubic")[0, 0].clamp(0, 1) * 60 - 30
    transformed = []
    forward, inverse = torch.fft.rfft2, torch.fft.irfft2

    def to_spectrum(light: torch.Tensor, *args, **settings) -> torch.Tensor:
        transformed.append(light.numel())
        return forward(light, *args, **settings)

    def to_light(*args, **settings) -> torch.Tensor:
        light = inverse(*args, **settings)
        transformed.append(light.numel())
        return light

    monkeypatch.setattr(torch.fft, "rfft2", to_spectrum)
    monkeypatch.setattr(torch.fft, "irfft2", to_light)
    render_defocus(image, hills, behind=True)
    assert sum(transformed) < 1200 * hills.numel()


def test_preparing_a_large_picture_is_told_all_the_time():
    """By the processor's time between two reports, of three megapixels; the interrupt comes with the same calls."""
    rng = torch.Generator().manual_seed(0)
    image = torch.rand(1536, 2048, 3, generator=rng)
    image[200:260, 300:380] = 1
    coarse = torch.rand(1, 1, 8, 8, generator=rng)
    signed = torch.nn.functional.interpolate(coarse, (1536, 2048))[0, 0] * 60 - 30
    told = [time.process_time()]

    def on_part(done: int, parts: int) -> None:
        told.append(time.process_time())
        if done / parts > 0.2:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        render_defocus(image, signed, behind=True, highlight=2.0, on_part=on_part)
    assert max(after - before for before, after in pairwise(told)) < 1
