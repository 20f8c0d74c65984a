"""Writing a sweep without the host: order, sizes, seeds, and what cannot be written."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from PIL import Image

from bokeh.sweep import export
from bokeh.sweep.export import WEBP_LONGEST_SIDE, ExportError, animation_rows, find_seed, save_sweep
from bokeh.sweep.sheet import contact_sheet
from bokeh.sweep.values import Sweep

NODE = "9"


def pictures(count: int, height: int = 40, width: int = 56, channels: int = 3) -> torch.Tensor:
    return torch.rand(count, height, width, channels, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("values", "rows"),
    [
        ((4.0,), [0]),
        ((4.0, 4.0), [0]),
        ((4.0, 1.0), [1, 0]),
        ((0.0, 1.0, 2.0), [0, 1, 2, 1]),
        ((2.0, 0.0, 2.0, 1.0), [1, 3, 0, 3]),
    ],
)
def test_rows_of_the_animation(values, rows):
    assert animation_rows(values) == rows


def test_a_sheet_stays_small_enough_to_look_at(tmp_path, monkeypatch):
    monkeypatch.setattr(export, "SHEET_PIXELS", 160_000)
    images, sweep = pictures(8, 240, 200), Sweep(tuple(map(float, range(8))))
    folder = save_sweep(images, sweep, tmp_path, "sweep").folder
    smaller = torch.nn.functional.interpolate(images.movedim(-1, 1), size=(154, 129), mode="area").movedim(1, -1)
    expected = (contact_sheet(smaller, sweep.labels)[0] * 255).round().byte().numpy()
    with Image.open(folder / "sheet.png") as sheet, Image.open(folder / "01_blur_00.00.png") as level:
        assert 8 * 154 * 129 <= 160_000
        assert np.array_equal(np.asarray(sheet), expected)
        assert level.size == (200, 240)


def test_a_folder_that_appears_meanwhile_is_left_alone(tmp_path):
    taken = tmp_path / "sweep_00001_"

    def on_progress(done: int, total: int) -> None:
        taken.mkdir(exist_ok=True)

    saved = save_sweep(pictures(2), Sweep((0.0, 1.0)), tmp_path, "sweep", on_progress=on_progress)
    assert saved.folder == tmp_path / "sweep_00002_"
    assert not any(taken.iterdir())


def graph(**inputs: dict) -> dict:
    return {NODE: {"inputs": {"images": ["decode", 0]}}} | {name: {"inputs": value} for name, value in inputs.items()}


@pytest.mark.parametrize(
    ("prompt", "seed"),
    [
        (graph(decode={"samples": ["s", 0]}, s={"noise": ["n", 0], "steps": 4}, n={"noise_seed": 7}), 7),
        # Two samplers one after the other: the one that made these pictures.
        (graph(decode={"samples": ["b", 0]}, b={"latent": ["a", 0], "seed": 2}, a={"seed": 1}), 2),
        # The nearer of two branches, although the other one is named first.
        (graph(decode={"x": ["x", 0], "samples": ["s", 0]}, x={"y": ["y", 0]}, y={"seed": 1}, s={"seed": 2}), 2),
        (graph(decode={"samples": ["s", 0]}, s={"seed": ["v", 0], "text": ["t", 0]}, v={"value": 5}, t={"seed": 1}), 5),
        # Computed somewhere: not known, and the text's own seed is not it.
        (graph(decode={"samples": ["s", 0]}, s={"seed": ["v", 0], "text": ["t", 0]}, v={"a": 5}, t={"seed": 1}), None),
        (graph(decode={"samples": ["s", 0]}, s={"seed": True}), None),
        (graph(decode={"image": "photo.png"}), None),
        (graph(), None),
        (graph(decode={"samples": ["s", 0]}, s={"again": ["decode", 0]}), None),
        ({NODE: {"inputs": {}}}, None),
        ({}, None),
        (None, None),
    ],
)
def test_seed_of_the_nearest_sampler(prompt, seed):
    assert find_seed(prompt, NODE) == seed


def test_pictures_that_are_neither_rgb_nor_rgba(tmp_path):
    with pytest.raises(ExportError) as error:
        save_sweep(pictures(2, channels=1), Sweep((0.0, 1.0)), tmp_path, "sweep")
    assert str(error.value) == (
        "A sweep is saved as RGB or RGBA pictures [B, H, W, 3 or 4]; what came has the shape [2, 40, 56, 1]. "
        "Connect an IMAGE output."
    )
    assert os.listdir(tmp_path) == []


def test_pictures_too_large_for_an_animation(tmp_path):
    images, sweep = torch.zeros(1, 16, WEBP_LONGEST_SIDE + 1, 3), Sweep((0.0,))
    with pytest.raises(ExportError) as error:
        save_sweep(images, sweep, tmp_path, "sweep", frames_per_second=6.0)
    assert str(error.value) == (
        "The pictures are 16384 x 16 px, and a WebP animation holds at most 16383 px a side. Switch the animation "
        "off, or scale the pictures down."
    )
    assert os.listdir(tmp_path) == []
    largest = save_sweep(images[:, :, 1:], sweep, tmp_path, "sweep", frames_per_second=6.0)
    with Image.open(largest.folder / "sweep.webp") as animation:
        assert animation.size == (WEBP_LONGEST_SIDE, 16)
