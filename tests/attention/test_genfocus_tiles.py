"""Large photos in tiles, against the reference's own statement of them, one tile at a time."""

from __future__ import annotations

from itertools import pairwise

import comfy.model_management
import comfy.utils
import numpy as np
import pytest
import torch
from flux import Golden, build_controlnet, relative_error, run_node, sample

from bokeh.attention.tiles import corners
from bokeh.optics.focus import Focus

TOLERANCE = 1e-5
TOKENS = 32
SIGMAS = torch.tensor([1.0, 0.6, 0.3])


class Crops:
    """A VAE that gives the same part of given latents of the conditions, one after the other."""

    def __init__(self, golden: Golden, latents: list[torch.Tensor], part=slice(None), column=slice(None)) -> None:
        self.latents = iter([golden.model.model.process_latent_out(x[:, :, part, column]) for x in latents])

    def encode(self, image):
        return next(self.latents)


def node_on(golden: Golden, adapter, vae: Crops, height: int, width: int, **inputs) -> tuple:
    """Model and latent for a photo of this size in latent pixels."""
    inputs |= {"model": golden.model, "adapter": adapter, "vae": vae, "image": torch.rand(1, 8 * height, 8 * width, 3)}
    if golden.folder.name == "genfocus_bokeh":
        focus = Focus(torch.zeros(1, 8 * height, 8 * width), False, torch.tensor([0.5]), torch.tensor([20.0]))
        return run_node("BokehRefocus", **{"focus": focus, "blurs": ""} | inputs)[:2]
    return run_node("BokehAllInFocus", **{"pre_deblur": golden.case["conditions"] > 1} | inputs)


def state(golden: Golden, model, latent: dict, sigmas: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """Latents at the last of ``sigmas``; the host scales what has noise in it still."""
    return sample(model, golden.positive(), latent, sigmas, noise=noise) * (1 - sigmas[-1])


def reference(noise: torch.Tensor, velocity) -> torch.Tensor:
    """The denoising loop of the reference's ``generate``, on tokens: ``velocity`` is that of a tile at its first row
    and column of tokens."""
    latent_h, latent_w = (side // 2 for side in noise.shape[-2:])
    stride = TOKENS - TOKENS // 8
    rows = np.arange(0, max(1, latent_h - TOKENS + 1), stride)
    columns = np.arange(0, max(1, latent_w - TOKENS + 1), stride)
    if rows[-1] + TOKENS < latent_h:
        rows = np.append(rows, latent_h - TOKENS)
    if columns[-1] + TOKENS < latent_w:
        columns = np.append(columns, latent_w - TOKENS)
    line = torch.linspace(-2, 2, TOKENS)
    weights = torch.exp(-(line[:, None] ** 2 + line[None] ** 2))

    def pack(x: torch.Tensor) -> torch.Tensor:
        """[1, C, h, w] -> [h / 2, w / 2, C, 2, 2]."""
        return x[0].unflatten(1, (-1, 2)).unflatten(3, (-1, 2)).permute(1, 3, 0, 2, 4)

    def unpack(tokens: torch.Tensor) -> torch.Tensor:
        return tokens.permute(2, 0, 3, 1, 4).flatten(3).flatten(1, 2)[None]

    x = noise
    for now, then in pairwise(SIGMAS):
        total, weight = torch.zeros_like(pack(x)), torch.zeros(latent_h, latent_w)
        for row in rows:
            for column in columns:
                place = slice(row, row + TOKENS), slice(column, column + TOKENS)
                found = velocity(unpack(pack(x)[place]), now, then, int(row), int(column))
                total[place] += pack(found) * weights[..., None, None, None]
                weight[place] += weights
        x = x + (then - now) * unpack(total / weight[..., None, None, None])
    return x


@pytest.mark.parametrize(("name", "height", "width"), [("genfocus_bokeh", 72, 64), ("genfocus_pre_deblur", 66, 122)])
def test_tiles_are_the_references(load_genfocus, name, height, width):
    golden = Golden(name)
    adapter, generator = load_genfocus(golden), torch.Generator().manual_seed(5)
    noise, *conditions = (torch.randn(1, 16, height, width, generator=generator) for _ in range(3))

    def velocity(x, now, then, row, column):
        # A picture of 512 px on its own; the reference gives each of its conditions the picture's positions.
        part, beside = slice(2 * row, 2 * row + 64), slice(2 * column, 2 * column + 64)
        model, latent = node_on(golden, adapter, Crops(golden, conditions, part, beside), 64, 64)
        return (state(golden, model, latent, torch.stack([now, then]), x / now) - x) / (then - now)

    expected = reference(noise, velocity)
    model, latent = node_on(golden, adapter, Crops(golden, conditions), height, width)
    assert relative_error(state(golden, model, latent, SIGMAS, noise), expected) < TOLERANCE
    model, latent = node_on(golden, adapter, Crops(golden, conditions), height, width, tiles=False)
    assert relative_error(state(golden, model, latent, SIGMAS, noise), expected) > 10 * TOLERANCE


def test_a_photo_of_one_tile_is_whole_and_of_less_is_never_cut():
    assert corners(64, 64) == [(0, 0)]
    assert corners(64, 62) == corners(56, 300) == []
    assert corners(120, 65) == [(0, 0), (0, 1), (56, 0), (56, 1)]
    assert len(corners(128, 128)) == 9


def test_tiles_show_progress_stop_at_once_and_do_not_go_with_step_caches(load_genfocus, monkeypatch):
    golden = Golden("genfocus_deblur")
    adapter, shown = load_genfocus(golden), []

    def run(stop_at: float = 1.0, **options):
        def hook(value, total, preview, **_):
            shown.append(value / total)
            if value / total >= stop_at:
                comfy.model_management.interrupt_current_processing()

        monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", hook)
        x = torch.randn(1, 16, 72, 72, generator=torch.Generator().manual_seed(1))
        model, latent = node_on(golden, adapter, Crops(golden, [x]), 72, 72)
        if options:
            (model,) = run_node("EasyCache", model=model, **options)
        return sample(model, golden.positive(), latent, SIGMAS, noise=x)

    run(stop_at=2.0)
    tiles = [share for share in shown if 0 < share < 1]
    assert tiles == sorted(tiles)
    assert {0.125, 0.25, 0.375, 0.625, 0.75, 0.875} <= set(tiles)
    shown.clear()
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        run(stop_at=0.25)
    assert max(shown) == 0.25
    with pytest.raises(ValueError, match=r"a large photo goes .* in tiles, .* one tile's .* Switch tiles off"):
        run(stop_at=2.0, reuse_threshold=0.2, start_percent=0.0, end_percent=1.0, verbose=False)


def test_a_controlnet_guides_every_tile_with_its_own_part_of_the_picture_and_no_condition(load_genfocus):
    golden = Golden("genfocus_deblur")
    seen = []
    positive = golden.positive(control=build_controlnet(golden, 576), control_apply_to_uncond=False)
    x = torch.randn(1, 16, 72, 72, generator=torch.Generator().manual_seed(1))

    def watch(executor, *args, **kwargs):
        seen.append(args[6])
        return executor(*args, **kwargs)

    def run(tiles: bool) -> list[dict]:
        model, latent = node_on(golden, load_genfocus(golden), Crops(golden, [x]), 72, 72, tiles=tiles)
        model.add_wrapper_with_key("diffusion_model", "test", watch)
        seen.clear()
        sample(model, golden.positive(), latent, SIGMAS[:2], noise=x)
        sample(model, positive, latent, SIGMAS[:2], noise=x)
        return seen[len(seen) // 2 :]

    (whole,), tiles = run(False), run(True)
    assert len(tiles) == 4
    for kind in ("input", "output"):
        for number, value in enumerate(whole[kind]):
            if value is not None:
                assert value[0].any()
                assert not value[1].any()
                rows = value[0].unflatten(0, (36, 36))
                parts = [rows[:32, :32], rows[:32, 4:], rows[4:, :32], rows[4:, 4:]]
                for tile, part in zip(tiles, parts, strict=True):
                    assert torch.equal(tile[kind][number][0], part.flatten(0, 1))
                    assert not tile[kind][number][1].any()
