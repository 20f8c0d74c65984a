"""Measures against SciPy, torchmetrics and cases worked out by hand."""

import functools
import math
import re
import sys

import numpy as np
import pytest
import scipy.ndimage
import scipy.signal
import torch
from lpips_backbone import save_random_backbone
from torchmetrics.functional.image import (
    learned_perceptual_image_patch_similarity,
    multiscale_structural_similarity_index_measure,
    peak_signal_noise_ratio,
)

from bokeh.sweep import measures

LEVELS = (0.0, 5.0, 10.0, 15.0, 20.0, 25.0, 30.0)
LUMA = torch.tensor([0.299, 0.587, 0.114])


def blurred(scene: torch.Tensor, radius: float, gamma: float = 2.2) -> torch.Tensor:
    """A scene [H, W, 3] through a disc of ``radius`` px, in linear light (or, gamma 1, as it is)."""
    if radius == 0:
        return scene
    reach = math.ceil(radius)
    # Eight samples a pixel each way, so that the disc's area follows its radius smoothly.
    axis = (torch.arange((2 * reach + 1) * 8) + 0.5) / 8 - reach - 0.5
    inside = (axis[:, None] ** 2 + axis[None] ** 2 <= radius**2).double()
    disc = inside.reshape(2 * reach + 1, 8, 2 * reach + 1, 8).mean((1, 3))
    light = scene.double().numpy() ** gamma
    planes = [
        scipy.signal.fftconvolve(np.pad(light[..., c], reach, "reflect"), disc / disc.sum(), "valid") for c in range(3)
    ]
    return torch.from_numpy(np.stack(planes, -1).clip(0, 1) ** (1 / gamma)).float()


@functools.cache
def card(height: int = 256, width: int = 256, seed: int = 0) -> torch.Tensor:
    """Coarse and fine structure over a picture's whole range: a star, checks, and blobs of all sizes."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    radius, angle = (x**2 + y**2).sqrt(), torch.atan2(y, x)
    card = 0.5 + 0.4 * torch.sin(16 * angle).sign()
    checks = 0.5 + 0.35 * (torch.sin(16 * x) * torch.sin(16 * y)).sign()
    card = torch.where(radius < 0.6, card, checks)[..., None].repeat(1, 1, 3)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(80):
        place, size = torch.rand(2, generator=generator) * 2 - 1, torch.rand(1, generator=generator) ** 3 * 0.2
        card[(x - place[0]) ** 2 + (y - place[1]) ** 2 < size**2] = torch.rand(3, generator=generator)
    return card


def subject(height: int = 256, width: int = 256) -> torch.Tensor:
    y, x = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    return ((x / 0.4) ** 2 + ((y - 0.3) / 0.8) ** 2 < 1).float()


def portrait(radius: float) -> torch.Tensor:
    """A sharp, textured subject before a background blurred by a disc."""
    mask = subject()[..., None]
    texture = 0.2 + 0.6 * torch.rand(256, 256, 3, generator=torch.Generator().manual_seed(5))
    return blurred(card(), radius) * (1 - mask) + texture * mask


@functools.cache
def card_sweep(gamma: float = 2.2, softness: float = 0) -> torch.Tensor:
    sharpest = blurred(card(), softness, gamma)
    return torch.stack([blurred(sharpest, level, gamma) for level in LEVELS])


def shuffled(image: torch.Tensor, tile: int) -> torch.Tensor:
    """The picture's square tiles in another order, none in its place."""
    rows, columns = image.shape[0] // tile, image.shape[1] // tile
    tiles = image.reshape(rows, tile, columns, tile, 3).transpose(1, 2).flatten(0, 1)
    tiles = tiles[torch.randperm(len(tiles), generator=torch.Generator().manual_seed(2))].roll(1, 0)
    return tiles.unflatten(0, (rows, columns)).transpose(1, 2).reshape(image.shape)


def some_pictures() -> torch.Tensor:
    return torch.stack([portrait(0), portrait(3), card(), card(seed=4)])[:, :200]


def grey(image: torch.Tensor) -> np.ndarray:
    return image.double().numpy() @ np.array([0.299, 0.587, 0.114])


def assert_refused(call, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        call()


@pytest.mark.parametrize("masked", [False, True])
def test_laplacian_variance_is_that_of_scipy(masked):
    images = some_pictures()
    mask = subject()[:200] if masked else None
    area = subject()[:200].numpy() > 0.5 if masked else np.ones((200, 256), bool)
    expected = [scipy.ndimage.laplace(grey(image), mode="mirror")[area].var() for image in images]
    np.testing.assert_allclose(measures.laplacian_variance(images, mask), expected, rtol=1e-5)


@pytest.mark.parametrize("masked", [False, True])
def test_brenner_is_that_of_scipy(masked):
    images = some_pictures()
    mask = subject()[:200] if masked else None
    area = subject()[:200].numpy() > 0.5 if masked else np.ones((200, 256), bool)
    expected = []
    for image in images:
        gradient = scipy.ndimage.correlate1d(grey(image), [-1, 0, 1], axis=1)[:, 1:-1]
        expected.append((gradient[area[:, 2:] & area[:, :-2]] ** 2).mean())
    np.testing.assert_allclose(measures.brenner(images, mask), expected, rtol=1e-5)


def test_sharpness_by_hand():
    """One bright column: its Laplacian is -2 on it and 1 beside it; a Brenner pair two apart sees it twice."""
    image = torch.zeros(1, 16, 16, 3)
    image[:, :, 8] = 1
    assert measures.laplacian_variance(image).item() == pytest.approx(6 / 16, rel=1e-6)
    assert measures.brenner(image).item() == pytest.approx(2 / 14, rel=1e-6)


def test_a_mask_for_each_picture_counts_for_that_picture():
    images = some_pictures()
    masks = torch.stack([subject().roll(10 * i, 1)[:200] for i in range(4)])
    alone = [measures.laplacian_variance(images[i : i + 1], masks[i]).item() for i in range(4)]
    np.testing.assert_allclose(measures.laplacian_variance(images, masks), alone, rtol=1e-6)


def test_the_background_keeps_its_distance_from_the_subject():
    images = torch.zeros(1, 100, 200, 3)
    mask = torch.zeros(100, 200)
    mask[40:50, 60:80] = 1
    area = measures.background_area(mask, images)[0]
    margin = round(0.02 * 200)
    assert not area[40 - margin : 50 + margin, 60 - margin : 80 + margin].any()
    assert area.sum() == 100 * 200 - (10 + 2 * margin) * (20 + 2 * margin)


def test_psnr_is_that_of_torchmetrics():
    images = some_pictures()
    ours = measures.psnr(images, images[0])
    assert ours[0] == math.inf
    for image, value in zip(images[1:], ours[1:], strict=True):
        expected = peak_signal_noise_ratio(image, images[0], data_range=1.0)
        assert value.item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize(("height", "width", "scales"), [(256, 256, 5), (176, 251, 5), (99, 200, 4), (50, 60, 3)])
def test_ms_ssim_is_that_of_torchmetrics(height, width, scales):
    images = torch.stack([blurred(card(height, width), radius) for radius in (0, 1, 4)])
    images = torch.cat([images, card(height, width, 4)[None], images[:1] * 0.5])
    betas = np.array([0.0448, 0.2856, 0.3001, 0.2363, 0.1333])
    used = betas[:scales] * betas.sum() / betas[:scales].sum()
    planes = (images @ LUMA)[:, None]
    expected = multiscale_structural_similarity_index_measure(
        planes, planes[:1].expand_as(planes), data_range=1.0, reduction="none", betas=tuple(used.tolist())
    )
    np.testing.assert_allclose(measures.ms_ssim(images, images[0]), expected, rtol=1e-5)


def test_ms_ssim_of_the_smallest_pictures_has_one_scale():
    image = card(16, 16)
    assert measures.ms_ssim(image[None], image).item() == pytest.approx(1, rel=1e-6)
    assert 0 <= measures.ms_ssim(1 - image[None], image).item() < 0.5


@pytest.fixture
def backbone(tmp_path, monkeypatch):
    """Where torchvision looks for its weights, in a hub folder of the test's own."""
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    file = tmp_path / "checkpoints" / "vgg16-397923af.pth"
    file.parent.mkdir()
    return file


def test_lpips_is_that_of_torchmetrics(backbone):
    save_random_backbone(backbone)
    network, missing = measures.lpips_network()
    assert missing == ""
    images = some_pictures()[:, :96, :96]
    expected = learned_perceptual_image_patch_similarity(
        *(pictures.movedim(-1, 1) for pictures in (images[1:], images[:-1])),
        net_type="vgg",
        reduction="none",
        normalize=True,
    )
    np.testing.assert_allclose(measures.lpips(images[1:], images[:-1], network), expected, rtol=1e-5)
    assert measures.lpips(images[:1], images[:1], network).item() == 0
    assert measures.lpips(images[:2, :16, :20], images[1:3, :16, :20], network).isfinite().all()


def test_lpips_is_left_out_where_its_package_or_its_weights_are_missing_and_nothing_is_fetched(
    backbone, monkeypatch, caplog
):
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda *_, **__: pytest.fail("a download was tried"))
    how = "It takes `pip install torchmetrics` and torchvision's vgg16-397923af.pth, which"
    network, missing = measures.lpips_network()
    assert network is None
    assert missing.startswith("LPIPS is left out: vgg16-397923af.pth is not in the folder checkpoints of torch's hub. ")
    assert how in missing
    backbone.write_bytes(b"half a file")
    network, missing = measures.lpips_network()
    assert network is None
    assert "cannot be read" in missing
    assert f"LPIPS is left out: {backbone} cannot be read (" in caplog.text
    monkeypatch.setitem(sys.modules, "torchmetrics", None)
    network, missing = measures.lpips_network()
    assert network is None
    assert "the package torchmetrics is not installed" in missing
    assert how in missing


@pytest.mark.parametrize("gamma", [1, 2.2])
def test_alignment_is_not_lowered_by_blur(gamma):
    images = card_sweep(gamma)
    for reference in images:
        assert measures.alignment(images, reference).min() >= 0.95


def test_alignment_is_not_lowered_by_blur_behind_a_sharp_subject():
    images = torch.stack([portrait(level) for level in LEVELS])
    for reference in images:
        assert measures.alignment(images, reference).min() >= 0.95


@pytest.mark.parametrize("tile", [1, 4, 16, 32, 64])
@pytest.mark.parametrize("level", range(0, len(LEVELS), 2))
def test_alignment_of_a_shuffled_scene_is_low(tile, level):
    for image, sweep in ((card_sweep()[1], card_sweep()), (portrait(2), torch.stack([portrait(15)]))):
        reference = sweep[min(level, len(sweep) - 1)]
        assert measures.alignment(shuffled(image, tile)[None], reference).item() <= 0.5


def test_alignment_falls_when_the_scene_moves_or_changes():
    images = card_sweep()
    moved = torch.stack([images[1].roll(step, 1) for step in (0, 4, 16, 64)])
    scores = measures.alignment(moved, images[3]).tolist()
    assert scores == sorted(scores, reverse=True)
    assert scores[0] - scores[-1] > 0.4
    assert measures.alignment(blurred(card(seed=9), 2).flip(0)[None], images[3]).item() < 0.9
    assert measures.alignment(1 - images[:1], images[0]).item() < 0


def test_alignment_takes_any_shape_and_exposure():
    for height, width in ((16, 16), (300, 40), (64, 700)):
        image = card(height, width)
        assert measures.alignment(image[None], image).item() == pytest.approx(1, abs=1e-4)
    image = card_sweep()[2]
    assert measures.alignment(0.8 * image[None] + 0.1, image).item() >= 0.95


def test_flat_pictures_give_numbers():
    flat = torch.full((2, 64, 64, 3), 0.4)
    flat[1] = 0.7
    structured = card(64, 64)
    assert measures.laplacian_variance(flat).tolist() == [0, 0]
    assert measures.brenner(flat).tolist() == [0, 0]
    assert measures.alignment(flat, flat[0]).tolist() == pytest.approx([1, 1])
    assert measures.alignment(flat, structured).abs().max() < 0.1
    assert measures.ms_ssim(flat, structured).isfinite().all()
    assert measures.ms_ssim(flat, flat[0]).isfinite().all()


def test_bad_input_is_named():
    images = torch.zeros(2, 48, 64, 3)
    assert_refused(
        lambda: measures.laplacian_variance(images, torch.ones(64, 64)),
        "The mask is 64 x 64 px, but the pictures are 64 x 48 px. Scale the mask to the pictures' size; a picture "
        "loaded without transparency gives an empty mask of 64 x 64 px.",
    )
    assert_refused(
        lambda: measures.brenner(images, torch.ones(3, 48, 64)),
        "There are 3 masks for 2 pictures. Give one mask for all, or one a picture.",
    )
    assert_refused(
        lambda: measures.background_area(torch.zeros(48, 64), images),
        "The mask is empty. Mark the subject in it, or leave the mask unconnected.",
    )
    assert_refused(
        lambda: measures.background_area(torch.ones(48, 64), images),
        "The mask with its margin of 2 px covers a whole picture, so no background is left to measure. Mask the "
        "subject only, or leave the mask unconnected.",
    )
    assert_refused(
        lambda: measures.luma(images[:, :8]),
        "Measures take a batch of RGB pictures [B, H, W, 3] of at least 16 px a side; what came has the shape "
        "[2, 8, 64, 3]. Connect an IMAGE output.",
    )
    images[0, 0, 0, 0] = float("inf")
    assert_refused(
        lambda: measures.alignment(images, images[1]),
        "A picture has NaN or infinite values, so it cannot be measured. Such a picture is usually black: decode it "
        "again in full precision (--fp32-vae).",
    )
