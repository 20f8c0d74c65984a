"""Colour transfer against CIELAB written down from the CIE's equations in float64."""

import re

import numpy as np
import pytest
import torch

from bokeh.sweep.colour import match_colors

# IEC 61966-2-1 (sRGB) and CIE 15 (CIELAB, D65, 2 degrees).
XYZ_OF_RGB = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
WHITE = np.array([0.95047, 1.0, 1.08883])
DELTA = 6 / 29


def lab_of(rgb: torch.Tensor) -> np.ndarray:
    values = rgb[..., :3].double().numpy()
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    ratio = linear @ XYZ_OF_RGB.T / WHITE
    f = np.where(ratio > DELTA**3, np.cbrt(ratio), ratio / (3 * DELTA**2) + 4 / 29)
    return np.stack([116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], axis=-1)


def rgb_of(lab: np.ndarray) -> np.ndarray:
    y = (lab[..., 0] + 16) / 116
    f = np.stack([y + lab[..., 1] / 500, y, y - lab[..., 2] / 200], axis=-1)
    xyz = np.where(f > DELTA, f**3, 3 * DELTA**2 * (f - 4 / 29)) * WHITE
    linear = xyz @ np.linalg.inv(XYZ_OF_RGB).T
    powered = 1.055 * np.maximum(linear, 0.0031308) ** (1 / 2.4) - 0.055
    return np.where(linear <= 0.0031308, 12.92 * linear, powered)


def pictures(count: int, channels: int = 3) -> torch.Tensor:
    """Pictures of middling colours with casts of their own, so that nothing has to be clipped."""
    generator = torch.Generator().manual_seed(7)
    noise = torch.rand(count, 24, 40, channels, generator=generator)
    cast = torch.rand(count, 1, 1, channels, generator=generator)
    return 0.3 + 0.2 * noise + 0.2 * cast


@pytest.mark.parametrize("match_contrast", [False, True])
def test_every_picture_becomes_what_the_equations_say(match_contrast):
    images = pictures(4)
    matched = match_colors(images, 2, match_contrast)
    wanted = lab_of(images[2])
    for row in (0, 1, 3):
        lab = lab_of(images[row])
        gain = wanted.std((0, 1)) / lab.std((0, 1)) if match_contrast else 1.0
        expected = rgb_of((lab - lab.mean((0, 1))) * gain + wanted.mean((0, 1)))
        assert 0 < expected.min() < expected.max() < 1
        np.testing.assert_allclose(matched[row].numpy(), expected, atol=1e-4)
        np.testing.assert_allclose(lab_of(matched[row]).mean((0, 1)), wanted.mean((0, 1)), atol=5e-3)


def test_the_reference_comes_out_bit_for_bit_and_the_input_stays():
    images = pictures(3)
    before = images.clone()
    matched = match_colors(images, 1, match_contrast=True)
    assert torch.equal(matched[1], before[1])
    assert torch.equal(images, before)
    assert not torch.equal(matched[0], before[0])


def test_no_eight_bit_steps():
    ramp = torch.linspace(0.3, 0.31, 1000)[None, None, :, None].expand(2, 4, 1000, 3).clone()
    ramp[1] += 0.1
    matched = match_colors(ramp, 1)
    assert len(matched[0, 0, :, 1].unique()) > 900


def test_values_outside_srgb_are_clipped():
    images = torch.rand(2, 16, 16, 3, generator=torch.Generator().manual_seed(1))
    images[1] = images[1] * 0.1 + 0.9
    matched = match_colors(images, 1)
    assert matched.min() >= 0
    assert matched.max() == 1


def test_one_picture_is_its_own_reference():
    image = pictures(1)
    assert torch.equal(match_colors(image, 0), image)


def test_flat_pictures_take_the_colour_without_dividing_by_their_spread():
    images = torch.cat([torch.full((1, 24, 40, 3), 0.2), pictures(1)])
    matched = match_colors(images, 1, match_contrast=True)
    assert matched.isfinite().all()
    np.testing.assert_allclose(lab_of(matched[0]).mean((0, 1)), lab_of(images[1]).mean((0, 1)), atol=5e-3)


def test_alpha_is_kept():
    images = pictures(2, channels=4)
    matched = match_colors(images, 0)
    assert torch.equal(matched[..., 3], images[..., 3])
    assert torch.equal(matched[..., :3], match_colors(images[..., :3], 0))


def assert_refused(call, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        call()


def test_bad_input_is_named():
    images = pictures(3)
    images[1, 0, 0, 0] = float("nan")
    assert_refused(
        lambda: match_colors(images, 0),
        "Picture 2 of 3 has NaN or infinite values, so its colours cannot be matched. Such a picture is usually "
        "black: decode it again in full precision (--fp32-vae).",
    )
    assert_refused(
        lambda: match_colors(pictures(3), 3),
        "Row 3 is to give the colours, but there are 3 pictures (rows 0 to 2). Connect the pictures and the sweep "
        "of the same run.",
    )
    assert_refused(
        lambda: match_colors(pictures(3)[..., 0], 0),
        "Colours can be matched in a batch of RGB pictures [B, H, W, 3 or 4]; what came has the shape "
        "[3, 24, 40]. Connect an IMAGE output.",
    )
