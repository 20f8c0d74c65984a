"""Genfocus through the host's sampler node: several photos in one batch, each a scene of its own as several seeds are
for a sweep; planes of focus; runs beside each other, stopped in the middle, and short of memory."""

from __future__ import annotations

import json
from pathlib import Path

import comfy.model_management
import comfy.utils
import folder_paths
import pytest
import torch
from flux import Golden, conditioning, relative_error, run_node
from sampling import ksample
from saving import description, save

from bokeh.nodes.view import BokehSweepView
from bokeh.optics.focus import Focus

PHOTOS = torch.rand(2, 64, 64, 3, generator=torch.Generator().manual_seed(0))
DEPTH = torch.stack([torch.linspace(0, 1, 64).expand(64, 64), torch.linspace(1, 0, 64).expand(64, 64)])


def focus(blurs: tuple[float, ...], swept: bool = False) -> Focus:
    return Focus(DEPTH[: len(blurs)], False, torch.tensor([0.2, 0.9])[: len(blurs)], torch.tensor(blurs), swept=swept)


class Means:
    """A VAE whose latents are a picture's own, whatever came before."""

    def encode(self, image):
        return image.mean(-1).unflatten(1, (8, 8)).unflatten(3, (8, 8)).mean((2, 4))[:, None].repeat(1, 16, 1, 1) - 0.5


@pytest.fixture
def refocused(load_genfocus):
    golden = Golden("genfocus_bokeh")
    adapter = load_genfocus(golden)

    def refocused(photos=PHOTOS, **inputs) -> tuple:
        inputs = {"blurs": "", **inputs}
        return run_node("BokehRefocus", model=golden.model, adapter=adapter, vae=Means(), image=photos, **inputs)

    refocused.golden = golden
    return refocused


@pytest.mark.parametrize("sampler", ["euler", "euler_ancestral", "dpmpp_sde"])
def test_every_photo_has_all_the_blurs_its_own_depth_and_its_own_noise(refocused, sampler):
    golden = refocused.golden
    options = {"sampler": sampler, "negative": conditioning(golden.expected["txt"].flip(1), golden.expected["pooled"])}

    def run(made: tuple, cfg: float) -> torch.Tensor:
        return ksample(made[0], golden.positive(), made[1], cfg=cfg, **options)

    both = refocused(focus=focus((9.0, 7.0)), blurs="3, 20")
    sweep = both[2]
    assert (sweep.values, sweep.scenes, sweep.levels) == ((3.0, 20.0) * 2, 2, 2)
    assert both[1]["batch_index"] == [0, 0, 1, 1]
    for cfg in (1.0, 4.0):
        rows = run(both, cfg)
        if sampler == "euler":
            # The others draw on the way, for both photos at once.
            one = refocused(PHOTOS[:1], focus=focus((9.0,)), blurs="3, 20")
            assert relative_error(rows[:2], run(one, cfg)) < 1e-5
        assert relative_error(rows[2:], rows[:2]) > 1e-2
    # Alike in everything but the photo's number: their noise alone differs.
    same = Focus(DEPTH[:1], False, torch.tensor([0.2, 0.2]), torch.tensor([9.0, 9.0]))
    rows = run(refocused(PHOTOS[:1].repeat(2, 1, 1, 1), focus=same, blurs="9, 9"), 1.0)
    assert relative_error(rows[[1, 3]], rows[[0, 2]]) < 1e-5
    assert relative_error(rows[0], rows[2]) > 1e-2


def test_photos_at_blurs_of_their_own_are_shown_saved_and_measured_each_by_itself(refocused):
    *_, sweep = refocused(focus=focus((20.0, 6.0)))
    assert (sweep.values, sweep.scenes, sweep.levels) == ((20.0, 6.0), 2, 1)
    assert sweep.labels == ("scene 1, blur 20", "scene 2, blur 6")
    assert (sweep.reference_row, sweep.sharpest_row, sweep.softest_row) == (0, 0, 0)
    found = BokehSweepView.execute(PHOTOS, sweep, 6.0)
    assert torch.equal(found.result[0], PHOTOS)
    (shown,) = found.ui["bokeh_sweep"]
    assert [(level["value"], level["label"]) for level in shown["levels"]] == [(20.0, "blur 20"), (6.0, "blur 6")]
    save(PHOTOS, sweep, animation=False)
    folders = sorted(Path(folder_paths.get_output_directory()).glob("bokeh/*"))
    assert [description(folder)["values"] for folder in folders] == [[20.0], [6.0]]
    depth = DEPTH[..., None].expand(-1, -1, -1, 3)
    _, text, numbers = run_node("BokehReport", images=PHOTOS, sweep=sweep, depth=depth)
    numbers = json.loads(numbers)
    assert [scene["levels"][0]["value"] for scene in numbers["scenes"]] == [20.0, 6.0]
    assert [level["label"] for level in numbers["levels"]] == ["blur 13"]
    assert numbers["consistency"] is None
    assert "| 13 |" in text
    assert run_node("BokehSweepGrid", images=PHOTOS, sweep=sweep, columns=0)[0].isfinite().all()


def test_maps_are_a_sweep_of_one_photo_or_one_for_each(refocused):
    maps = DEPTH * 8
    assert (refocused(PHOTOS[:1], defocus=maps)[2].scenes, refocused(defocus=maps)[2].scenes) == (1, 2)
    for inputs, words in (
        ({"defocus": maps[:1]}, "2 photos, but the defocus map is for 1"),
        ({"focus": focus((9.0,))}, "2 photos, but the focus is for 1"),
        # One scene, focused twice.
        ({"focus": focus((9.0, 9.0), swept=True)}, "2 photos, but the focus is for 1"),
        ({"photos": PHOTOS[:1], "focus": focus((9.0, 7.0))}, "1 photos, but the focus is for 2"),
    ):
        with pytest.raises(ValueError, match=words):
            refocused(**inputs)


def test_planes_of_focus_are_those_alone(refocused):
    def run(*planes: float) -> torch.Tensor:
        at = torch.tensor(planes)
        model, latent, sweep = refocused(
            PHOTOS[:1], focus=Focus(DEPTH[:1], False, at, torch.full_like(at, 20.0), swept=len(planes) > 1)
        )
        assert (sweep.name, sweep.scenes, len(sweep)) == ("focus" if len(planes) > 1 else "blur", 1, len(planes))
        return ksample(model, refocused.golden.positive(), latent)

    rows = run(0.0, 0.5, 1.0)
    for row, plane in enumerate((0.0, 0.5, 1.0)):
        assert relative_error(rows[row : row + 1], run(plane)) < 1e-5
    assert relative_error(rows[:1], rows[2:]) > 1e-4


def test_two_sweeps_on_one_model_do_not_know_of_each_other_nor_of_one_that_was_stopped(refocused, monkeypatch):
    golden = refocused.golden

    def run(made: tuple) -> torch.Tensor:
        return ksample(made[0], golden.positive(), made[1])

    def stop(value, total, preview, **_):
        if value >= total / 2:
            comfy.model_management.interrupt_current_processing()

    plain = run((golden.model, golden.latent()))
    first = refocused(PHOTOS[:1], focus=focus((9.0,)), blurs="3, 20")
    second = refocused(PHOTOS[1:], focus=focus((9.0,)), blurs="5, 9, 30")
    before = run(first), run(second)
    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", stop)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        run(first)
    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", None)
    assert torch.equal(run(second), before[1])
    assert torch.equal(run(first), before[0])
    assert torch.equal(run((golden.model, golden.latent())), plain)


def test_where_memory_runs_out_pictures_go_with_their_conditions_in_turns(refocused):
    golden, sizes = refocused.golden, []

    def run(most: int) -> torch.Tensor:
        def small(executor, x, *args, **kwargs):
            sizes.append(len(x))
            if len(x) > most:
                raise comfy.model_management.OOM_EXCEPTION("out of memory")
            return executor(x, *args, **kwargs)

        model, latent, _ = refocused(PHOTOS[:1], focus=focus((9.0,)), blurs="1, 3, 9, 20, 30")
        model.add_wrapper_with_key("diffusion_model", "test", small)
        return ksample(model, golden.positive(), latent)

    whole = run(15)
    sizes.clear()
    assert relative_error(run(6), whole) < 1e-5
    assert sizes == [15, *[6, 6, 3] * 4]
