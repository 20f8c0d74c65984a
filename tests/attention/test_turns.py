"""Fewer rows at once, tiles, and other nodes that do something with the batch: right pictures or a sentence."""

from __future__ import annotations

import comfy.model_management
import pytest
import torch
from comfy.model_patcher import ModelPatcher
from flux import relative_error, run_node
from sampling import ksample, swept

from bokeh.attention.install import install
from bokeh.attention.rows import Pivot, Plan

BLURS = (0.0, 8.0, 15.0, 22.0, 30.0)


def batch(golden, count: int) -> dict:
    return {"samples": golden.latent()["samples"].repeat(count, 1, 1, 1), "batch_index": [0] * count}


def cached(model, name: str, threshold: float):
    (model,) = run_node(name, model=model, reuse_threshold=threshold, start_percent=0.0, end_percent=1.0, verbose=False)
    return model


@pytest.fixture
def skipped(caplog):
    """How many steps the host's cache says that it left out in its last run."""
    caplog.set_level("INFO")

    def count() -> int:
        lines = [record.getMessage() for record in caplog.records if " - skipped " in record.getMessage()]
        return int(lines[-1].split(" - skipped ")[1].split("/")[0])

    return count


def test_turns_beside_a_step_cache_are_refused_before_sampling(golden, adapter):
    model = cached(install(golden.model, adapter, Plan(BLURS, Pivot(15.0), True, 2)), "EasyCache", 0.2)
    called = []
    model.add_wrapper_with_key("apply_model", "test", lambda executor, *args, **kw: called.append(1) or executor(*args))
    with pytest.raises(ValueError, match=r"but rows_at_once 2 sends .* Set rows_at_once of Bokeh Sweep to 0, or take"):
        ksample(model, golden.positive(), batch(golden, 5))
    assert not called


@pytest.mark.parametrize("name", ["EasyCache", "LazyCache"])
def test_a_sweep_beside_a_step_cache_equals_every_picture_with_its_pivot(golden, adapter, skipped, name):
    def sampled(blurs, rows_at_once=0):
        model = cached(install(golden.model, adapter, Plan(blurs, Pivot(15.0), True, rows_at_once)), name, 3.0)
        rows = ksample(model, golden.positive(), batch(golden, len(blurs)), steps=8)
        return rows, skipped()

    together, left_out = sampled((30.0, 0.0))
    assert left_out > 0
    # At this threshold every run leaves out the same steps.
    for i, blur in enumerate((30.0, 0.0)):
        alone, of_one = sampled((blur,))
        assert of_one == left_out
        assert relative_error(together[i : i + 1], alone) <= 1e-4
    if name == "LazyCache":
        # It is round the whole call, so it decides once for all turns.
        in_turns, of_turns = sampled((30.0, 0.0), 1)
        assert of_turns == left_out
        assert relative_error(in_turns, together) <= 1e-5


@pytest.fixture
def calls(golden):
    """Rows of every call of the network, seen without putting anything on the model."""
    seen = []
    first = golden.model.model.diffusion_model.img_in
    handle = first.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].shape[0]))
    yield seen
    handle.remove()


# Newer hosts know a second kind.
OUT_OF_MEMORY = [torch.cuda.OutOfMemoryError]
if hasattr(comfy.model_management, "is_oom"):
    OUT_OF_MEMORY.append(comfy.model_management.ACCELERATOR_ERROR)


@pytest.mark.parametrize("error", OUT_OF_MEMORY)
@pytest.mark.parametrize("most", [3, 5])
def test_after_an_out_of_memory_fewer_rows_go_together(golden, adapter, calls, most, error):
    """Once it has run out, the rest of the run goes in turns, without a picture changing."""
    whole = ksample(install(golden.model, adapter, Plan(BLURS, Pivot(15.0), True)), golden.positive(), batch(golden, 5))

    def full(executor, x, *args, **kwargs):
        if x.shape[0] > most:
            raise error("CUDA out of memory")
        return executor(x, *args, **kwargs)

    model = install(golden.model, adapter, Plan(BLURS, Pivot(15.0), True))
    model.add_wrapper_with_key("diffusion_model", "test", full)
    calls.clear()
    rows = ksample(model, golden.positive(), batch(golden, 5))
    assert relative_error(rows, whole) <= 1e-5
    assert max(calls) <= most
    asked = install(golden.model, adapter, Plan(BLURS, Pivot(15.0), True, rows_at_once=4))
    asked.add_wrapper_with_key("diffusion_model", "test", full)
    if most == 3:
        with pytest.raises(error):
            ksample(asked, golden.positive(), batch(golden, 5))


@pytest.mark.parametrize("cfg", [1.0, 3.0])
def test_a_sweep_that_does_not_fit_is_split_by_the_hosts_estimate(golden, adapter, calls, monkeypatch, cfg):
    options = {"negative": golden.negative(), "cfg": cfg}
    model = install(golden.model, adapter, Plan(BLURS, Pivot(15.0), True))
    whole = ksample(model, golden.positive(), batch(golden, 5), **options)
    needed = model.model.memory_required([3, *golden.latent()["samples"].shape[1:]])
    real = comfy.model_management.get_free_memory

    def little(device=None, torch_free_too=False):
        return real(device, torch_free_too) if torch_free_too else needed

    monkeypatch.setattr(comfy.model_management, "get_free_memory", little)
    calls.clear()
    rows = ksample(model, golden.positive(), batch(golden, 5), **options)
    assert relative_error(rows, whole) <= 1e-5
    assert max(calls) == 3


@pytest.mark.skipif(not hasattr(ModelPatcher, "get_free_memory"), reason="the host keeps weights where they are")
def test_weights_that_the_host_gives_up_on_demand_are_free_memory(golden, adapter, calls, monkeypatch):
    """With dynamic VRAM they fill the card, and every allocation pushes some out."""
    model = install(golden.model, adapter, Plan(BLURS, Pivot(15.0), True))
    real = comfy.model_management.get_free_memory

    def full(device=None, torch_free_too=False):
        return real(device, torch_free_too) if torch_free_too else 1

    monkeypatch.setattr(comfy.model_management, "get_free_memory", full)
    monkeypatch.setattr(ModelPatcher, "get_free_memory", lambda patcher, device: real(device))
    calls.clear()
    ksample(model, golden.positive(), batch(golden, 5))
    assert max(calls) == 5


def test_a_pivot_stays_where_a_node_looks_at_all_rows_at_once(golden, adapter, calls):
    """Mahiro weighs the guidance by the mean over the batch."""

    def sampled(watched: bool):
        model = run_node("Mahiro", model=install(golden.model, adapter, Plan((25.0, 4.0), Pivot(14.0, 0.5), True)))[0]
        if watched:
            model.add_wrapper_with_key("diffusion_model", "test", lambda executor, *args, **kw: executor(*args, **kw))
        return ksample(model, golden.positive(), batch(golden, 2), negative=golden.negative(), cfg=3.0)

    assert relative_error(sampled(False), sampled(True)) <= 1e-5


@pytest.mark.parametrize("kind", ["generated", "given"])
@pytest.mark.parametrize(("sampler", "cfg"), [("euler", 1.0), ("dpmpp_2m", 3.0), ("euler_ancestral", 1.0)])
def test_a_pivot_that_nobody_looks_at_any_more_leaves_the_calls(golden, adapter, calls, kind, sampler, cfg):
    photo = torch.randn(golden.latent()["samples"].shape, generator=torch.Generator().manual_seed(3))
    pivot = Pivot(14.0, 0.5, latent=photo if kind == "given" else None)
    options = {"negative": golden.negative(), "cfg": cfg, "sampler": sampler}

    def sampled(watched: bool):
        model = install(golden.model, adapter, Plan((25.0, 4.0), pivot, True))
        if watched:
            # Anything of another node inside the call may be a cache, so every row stays.
            model.add_wrapper_with_key("diffusion_model", "test", lambda executor, *args, **kw: executor(*args, **kw))
        calls.clear()
        return ksample(model, golden.positive(), batch(golden, 2), **options), [
            rows // (1 + (cfg > 1)) for rows in calls
        ]

    kept, of_kept = sampled(True)
    left, of_left = sampled(False)
    assert of_kept == [3, 3, 3, 3]
    assert of_left == [3, 3, 2, 2]
    assert relative_error(left, kept) <= 1e-5


def test_beside_a_step_cache_every_pivot_stays(golden, adapter, calls):
    for name in ("EasyCache", "LazyCache"):
        model = cached(install(golden.model, adapter, Plan((25.0,), Pivot(14.0, 0.5))), name, 0.01)
        calls.clear()
        ksample(model, golden.positive(), batch(golden, 1))
        assert set(calls) == {2}


def forgets(every: int):
    """A node of the kind of step caches that says nothing of itself: it gives the last result again."""
    state = {"calls": 0, "out": None}

    def wrapper(executor, x, *args, **kwargs):
        state["calls"] += 1
        if state["out"] is not None and state["calls"] % every == 0:
            return state["out"] + 0 * x
        state["out"] = executor(x, *args, **kwargs)
        return state["out"]

    return wrapper


@pytest.mark.parametrize("rows_at_once", [1, 2, 3])
def test_whatever_leaves_out_blocks_for_some_turns_is_refused(golden, adapter, rows_at_once):
    model = install(golden.model, adapter, Plan(BLURS, Pivot(14.0), True, rows_at_once))
    model.add_wrapper_with_key("diffusion_model", "unheard of", forgets(5))
    with pytest.raises(ValueError, match=f"rows_at_once {rows_at_once} sends the pictures through the model in turns"):
        ksample(model, golden.positive(), batch(golden, 5))


def test_blocks_left_out_on_purpose_are_no_step_cache(golden, adapter):
    def sampled(rows_at_once):
        model = install(golden.model, adapter, Plan(BLURS, Pivot(15.0), True, rows_at_once))
        (model,) = run_node(
            "SkipLayerGuidanceDiT",
            model=model,
            double_layers="1",
            single_layers="0",
            scale=3.0,
            start_percent=0.0,
            end_percent=1.0,
            rescaling_scale=0.0,
        )
        return ksample(model, golden.positive(), batch(golden, 5), negative=golden.negative(), cfg=2.0)

    assert relative_error(sampled(2), sampled(0)) <= 1e-5


def tiles_at_once(count: int):
    """A node of the kind of TiledDiffusion: ``count`` tiles of the picture in one call, each with all its parts."""

    def wrapper(apply_model, args):
        x, t, c = args["input"], args["timestep"], args["c"]
        width = x.shape[-1] // 4
        out = torch.empty_like(x)
        for first in range(0, 4, count):
            places = [slice(tile * width, (tile + 1) * width) for tile in range(first, first + count)]
            parts = {
                name: torch.cat([value] * count) if isinstance(value, torch.Tensor) else value
                for name, value in c.items()
            }
            tiles = apply_model(torch.cat([x[..., place] for place in places]), torch.cat([t] * count), **parts)
            for place, tile in zip(places, tiles.chunk(count), strict=True):
                out[..., place] = tile
        return out

    return wrapper


@pytest.mark.parametrize("rows_at_once", [0, 2])
@pytest.mark.parametrize("cfg", [1.0, 3.0])
def test_tiles_in_one_call_equal_tiles_one_by_one(golden, adapter, cfg, rows_at_once):
    def sampled(count):
        model = install(golden.model, adapter, Plan((0.0, 12.0, 30.0), Pivot(15.0), True, rows_at_once))
        model.set_model_unet_function_wrapper(tiles_at_once(count))
        return ksample(model, golden.positive(), batch(golden, 3), negative=golden.negative(), cfg=cfg)

    one_by_one = sampled(1)
    for count in (2, 4):
        assert relative_error(sampled(count), one_by_one) <= 1e-5


@pytest.mark.parametrize("times", [2, 1.5])
def test_rows_that_another_node_adds_inside_the_model_get_a_sentence(golden, adapter, times):
    """As NAG does: the network's own batch is larger than what went into the model."""

    def doubled(executor, x, t, context, y=None, guidance=None, *args, **kwargs):
        rows = x.shape[0]
        more = slice(0, int(rows * (times - 1)))
        grown = [torch.cat((value, value[more])) for value in (x, t, context, y, guidance)]
        return executor(*grown, *args, **kwargs)[:rows]

    model = install(golden.model, adapter, Plan((0.0, 30.0), Pivot(15.0, 0.5), True))
    model.add_wrapper_with_key("diffusion_model", "test", doubled)
    with pytest.raises(ValueError, match=r"3 went into the model\. Another node adds rows inside the model \(as NAG"):
        ksample(model, golden.positive(), batch(golden, 2))


def test_samplers_that_choose_their_steps_are_refused_beside_a_given_pivot(golden, adapter):
    pivot = Pivot(15.0, latent=torch.randn(golden.latent()["samples"].shape))
    model, latent, _ = swept(golden, adapter, "0, 30", pivot)
    with pytest.raises(ValueError, match=r"the sampler \(.*dpm_adaptive\) chooses its steps .* such as euler, heun"):
        ksample(model, golden.positive(), latent, sampler="dpm_adaptive")
    assert torch.isfinite(ksample(model, golden.positive(), latent, sampler="heun")).all()
    generated, latent, _ = swept(golden, adapter, "0, 30", Pivot(15.0))
    assert torch.isfinite(ksample(generated, golden.positive(), latent, sampler="dpm_adaptive")).all()


def test_a_given_pivot_behind_disable_noise_is_refused_before_sampling(golden, adapter):
    def second_sampler(pivot):
        model, latent, _ = swept(golden, adapter, "0, 30", pivot)
        (guider,) = run_node("BasicGuider", model=model, conditioning=golden.positive())
        (noise,) = run_node("DisableNoise")
        return run_node(
            "SamplerCustomAdvanced",
            noise=noise,
            guider=guider,
            sampler=run_node("KSamplerSelect", sampler_name="euler")[0],
            sigmas=torch.tensor([0.5, 0.25, 0.0]),
            latent_image=latent,
        )

    photo = torch.randn(golden.latent()["samples"].shape)
    with pytest.raises(ValueError, match=r"adds no noise and its seed is 0, as DisableNoise gives it"):
        second_sampler(Pivot(15.0, latent=photo))
    second_sampler(Pivot(15.0))
