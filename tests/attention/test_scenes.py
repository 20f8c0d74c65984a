"""Several scenes in one queue, each with all the blurs, and a second pass over a finished sweep."""

from __future__ import annotations

import json

import folder_paths
import numpy as np
import pytest
import torch
from flux import conditioning, relative_error, run_node
from PIL import Image
from sampling import ksample, swept
from saving import save
from text_encoders import flux_clip

from bokeh.attention.rows import Pivot

BLURS = "4, 15, 28"
SCENES = 2


def several(golden) -> dict:
    return {"samples": golden.latent()["samples"].repeat(SCENES, 1, 1, 1)}


def scene(golden, number: int) -> dict:
    """One picture of the batch, as LatentFromBatch takes it out: it keeps the noise that it had there."""
    return run_node("LatentFromBatch", samples=several(golden), batch_index=number, length=1)[0]


@pytest.mark.parametrize("kind", ["listed", "outside", "given"])
@pytest.mark.parametrize(("sampler", "cfg"), [("euler", 1.0), ("dpmpp_2m", 3.0)])
def test_every_scene_of_a_batch_equals_its_sweep_alone(golden, adapter, kind, sampler, cfg):
    photos = torch.randn(several(golden)["samples"].shape, generator=torch.Generator().manual_seed(2))
    given = {"listed": None, "outside": None, "given": photos}[kind]
    blur = 14.0 if kind == "outside" else 15.0
    options = {"negative": golden.negative(), "cfg": cfg, "sampler": sampler}
    model, latent, sweep = swept(golden, adapter, BLURS, Pivot(blur, latent=given), several(golden))
    assert (len(sweep), sweep.scenes, sweep.levels) == (6, 2, 3)
    rows = ksample(model, golden.positive(), latent, **options)
    for number in range(SCENES):
        own = None if given is None else given[number : number + 1]
        model, latent, _ = swept(golden, adapter, BLURS, Pivot(blur, latent=own), scene(golden, number))
        alone = ksample(model, golden.positive(), latent, **options)
        first = number * sweep.levels
        assert relative_error(rows[first : first + sweep.levels], alone) <= 1e-5
    assert relative_error(rows[0], rows[3]) > 1e-2


def test_samplers_that_draw_on_the_way_do_so_once_a_scene(golden, adapter):
    model, latent, _ = swept(golden, adapter, "8, 8", Pivot(15.0), several(golden))
    rows = ksample(model, golden.positive(), latent, sampler="euler_ancestral")
    assert relative_error(rows[[1, 3]], rows[[0, 2]]) <= 1e-5
    assert relative_error(rows[0], rows[2]) > 1e-2


@pytest.mark.parametrize("per", ["scene", "level", "picture"])
def test_prompts_may_be_a_scenes_a_levels_or_a_pictures_own(golden, adapter, per):
    numbers = {"scene": [0, 0, 0, 1, 1, 1], "level": [0, 1, 2, 0, 1, 2], "picture": list(range(6))}[per]
    count = max(numbers) + 1
    generator = torch.Generator().manual_seed(5)
    tokens, pooled = golden.expected["txt"], golden.expected["pooled"]
    tokens = tokens + 0.5 * torch.randn(count, *tokens.shape[1:], generator=generator)
    pooled = pooled + 0.5 * torch.randn(count, pooled.shape[1], generator=generator)
    model, latent, _ = swept(golden, adapter, BLURS, Pivot(15.0), several(golden))
    rows = ksample(model, conditioning(tokens, pooled), latent)
    every = ksample(model, conditioning(tokens[numbers], pooled[numbers]), latent)
    assert relative_error(rows, every) <= 1e-5


def test_a_noise_mask_a_scene_stays_with_its_scene(golden, adapter):
    photos = torch.randn(several(golden)["samples"].shape, generator=torch.Generator().manual_seed(2))
    masks = torch.zeros(SCENES, 64, 64)
    masks[0, :, :32] = masks[1, :32] = 1
    model, latent, sweep = swept(golden, adapter, BLURS, Pivot(14.0), {"samples": photos, "noise_mask": masks})
    rows = model.model.process_latent_in(ksample(model, golden.positive(), latent))
    for row, picture in enumerate(rows):
        photo = model.model.process_latent_in(photos[row // sweep.levels])
        kept = (slice(None), slice(None), slice(4, None)) if row < sweep.levels else (slice(None), slice(4, None))
        torch.testing.assert_close(picture[kept], photo[kept], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("scenes", "masks"), [(1, 2), (3, 2)])
def test_noise_masks_of_another_number_go_to_scenes_as_the_host_gives_them_to_pictures(golden, adapter, scenes, masks):
    photos = torch.randn(scenes, *golden.latent()["samples"].shape[1:], generator=torch.Generator().manual_seed(2))
    halves = torch.zeros(masks, 64, 64)
    halves[0, :, :32] = halves[1, :32] = 1
    model, latent, sweep = swept(golden, adapter, BLURS, Pivot(15.0), {"samples": photos, "noise_mask": halves})
    rows = model.model.process_latent_in(ksample(model, golden.positive(), latent))
    for row, picture in enumerate(rows):
        number = row // sweep.levels
        photo = model.model.process_latent_in(photos[number])
        kept = (slice(None), slice(4, None)) if number % masks else (slice(None), slice(None), slice(4, None))
        torch.testing.assert_close(picture[kept], photo[kept], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("upscale", [False, True])
def test_a_second_pass_over_a_finished_sweep_holds_the_scene(golden, adapter, upscale):
    """Denoise below 1 on what the first pass made: every row as with its pivot alone, all from the same noise."""
    model, latent, _ = swept(golden, adapter, BLURS)
    finished = {**latent, "samples": ksample(model, golden.positive(), latent)}
    if upscale:
        (finished,) = run_node("LatentUpscaleBy", samples=finished, upscale_method="bilinear", scale_by=1.5)
    second = {"denoise": 0.6, "seed": 9, "sampler": "euler_ancestral"}
    rows = ksample(model, golden.positive(), finished, **second)
    assert rows.shape == finished["samples"].shape
    for row in (0, 2):
        pair, _, _ = swept(golden, adapter, f"{(4, 15, 28)[row]}, 15")
        # A latent that has been through the VAE brings no number of its noise.
        given = {"samples": finished["samples"][[row, 1]]}
        alone = ksample(pair, golden.positive(), given, **second)
        assert relative_error(rows[row], alone[0]) <= 1e-5


def test_what_is_made_of_several_scenes_keeps_them_apart(golden, adapter):
    _, _, sweep = swept(golden, adapter, BLURS, Pivot(15.0), several(golden))
    assert sweep.labels == (
        "scene 1, blur 4", "scene 1, blur 15", "scene 1, blur 28",
        "scene 2, blur 4", "scene 2, blur 15", "scene 2, blur 28",
    )  # fmt: skip
    pictures = torch.rand(6, 24, 32, 3, generator=torch.Generator().manual_seed(1))
    (matched,) = run_node("BokehMatchColors", images=pictures, sweep=sweep, match_contrast=False)
    one, _, single = pictures[3:], None, swept(golden, adapter, BLURS, Pivot(15.0))[2]
    (alone,) = run_node("BokehMatchColors", images=one, sweep=single, match_contrast=False)
    assert torch.equal(matched[3:], alone)
    (sheet,) = run_node("BokehSweepGrid", images=pictures, sweep=sweep, columns=0)
    (of_one,) = run_node("BokehSweepGrid", images=one, sweep=single, columns=3)
    assert sheet.shape[2] == of_one.shape[2]


def test_every_scene_is_saved_into_a_folder_of_its_own(golden, adapter, tmp_path, monkeypatch):
    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path))
    _, _, sweep = swept(golden, adapter, BLURS, Pivot(15.0), several(golden))
    pictures = torch.rand(6, 24, 32, 3, generator=torch.Generator().manual_seed(1))
    shown = save(pictures, sweep, filename_prefix="mine", animation=False)
    folders = sorted(path.name for path in tmp_path.iterdir())
    assert folders == ["mine_00001_", "mine_00002_"]
    assert len(shown["images"]) == 8
    for number, folder in enumerate(folders):
        told = json.loads((tmp_path / folder / "sweep.json").read_text())
        assert (told["values"], told["pivot_row"]) == ([4.0, 15.0, 28.0], 1)
        with Image.open(tmp_path / folder / told["files"]["levels"][1]) as written:
            assert np.array_equal(np.asarray(written), (pictures[3 * number + 1] * 255).round().byte().numpy())


def test_the_pivot_of_every_scene_is_marked_on_the_sheet(golden, adapter):
    _, _, sweep = swept(golden, adapter, BLURS, Pivot(15.0), several(golden))
    assert sweep.pivot_rows == (1, 4)
    pictures = torch.rand(6, 64, 96, 3, generator=torch.Generator().manual_seed(1))
    (sheet,) = run_node("BokehSweepGrid", images=pictures, sweep=sweep, columns=0)
    accent = (sheet[0] - torch.tensor([240, 178, 84]) / 255).abs().sum(-1) < 1e-3
    bars = accent.sum(1).nonzero().flatten()
    assert bars.max() - bars.min() > 64


def test_a_written_label_names_the_level_and_not_the_scene(golden, adapter):
    _, _, sweep = swept(golden, adapter, BLURS, Pivot(15.0), several(golden))
    _, text = run_node("BokehPrompt", clip=flux_clip(), template="a cat, {label}", blur=0.0, lowest=0.0, sweep=sweep)
    assert text.splitlines() == 2 * ["a cat, blur 4", "a cat, blur 15", "a cat, blur 28"]
