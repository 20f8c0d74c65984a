"""A photo in, the photo at other blurs out: the image-to-image adapter through the public nodes.

That single calls equal the authors' code, from both of its files, is in test_golden.
"""

from __future__ import annotations

import nodes as host_nodes
import pytest
import torch
from flux import Golden, relative_error, run_node
from sampling import ksample
from text_encoders import flux_clip

from bokeh.attention.rows import Pivot
from bokeh.weights.files import read_adapter

TOLERANCE = 1e-5
METHODS = ("offset", "index", "uxo/uno")


@pytest.fixture(scope="module")
def kontext():
    return Golden("kontext")


@pytest.fixture(scope="module")
def depth(adapters_folder):
    return read_adapter(adapters_folder / "kontext" / "bokeh_lora.bin")


@pytest.fixture(scope="module")
def clip():
    return flux_clip()


def execute(name: str, **inputs):
    return host_nodes.NODE_CLASS_MAPPINGS[name].EXECUTE_NORMALIZED(**inputs)


def references(kontext, count: int = 1) -> list[dict]:
    first = kontext.model.model.process_latent_out(kontext.expected["reference"])
    # The second of another shape, so that its place differs from the first one's.
    return [{"samples": first}, {"samples": first[..., :4].flip(-2)}][:count]


def positive(clip, photos: list[dict], method: str = "offset", **prompt) -> list:
    """Prompt, photos, their placement and guidance 7 through the nodes of the workflow."""
    template = "Set dof_cond = {K:.2f} (stronger background defocus)"
    rows = run_node("BokehPrompt", clip=clip, template=template, lowest=1.0, **{"blur": 15.0, "sweep": None, **prompt})
    conditioning = rows[0]
    for photo in photos:
        (conditioning,) = run_node("ReferenceLatent", conditioning=conditioning, latent=photo)
    (conditioning,) = run_node(
        "FluxKontextMultiReferenceLatentMethod", conditioning=conditioning, reference_latents_method=method
    )
    return run_node("FluxGuidance", conditioning=conditioning, guidance=7.0)[0]


def sweep_of(kontext, adapter, blurs: str, **options):
    inputs = {"model": kontext.model, "adapter": adapter, "latent": kontext.latent(), "blurs": blurs, "strength": 1.0}
    return execute("BokehSweep", **inputs, **options)


def slider(kontext, adapter, blur: float):
    return execute("BokehBlur", model=kontext.model, adapter=adapter, blur=blur, strength=1.0)


def test_both_files_of_the_adapter_hold_equal_tensors(adapters_folder, depth):
    other = read_adapter(adapters_folder / "kontext" / "bokeh_lora.safetensors")
    assert other.settings == depth.settings
    assert other.tensors.keys() == depth.tensors.keys()
    for name, tensor in depth.tensors.items():
        assert torch.equal(other.tensors[name], tensor)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("photos", [1, 2])
def test_a_sweep_with_a_prompt_for_each_row_equals_single_runs(kontext, depth, clip, method, photos):
    given = references(kontext, photos)
    model, latent, sweep = sweep_of(kontext, depth, "1, 8.5, 30").result
    rows = ksample(model, positive(clip, given, method, sweep=sweep), latent)
    assert len(rows) == 3
    for row, blur in zip(rows, sweep.values, strict=True):
        (single,) = slider(kontext, depth, blur).result
        alone = ksample(single, positive(clip, given, method, blur=blur), kontext.latent())
        assert relative_error(row[None], alone) <= TOLERANCE
    assert relative_error(rows[0], rows[2]) > 1e-3


def test_where_the_photo_is_placed_matters(kontext, depth, clip):
    (model,) = slider(kontext, depth, 8.0).result
    given = references(kontext, 2)
    offset, index, uxo = (ksample(model, positive(clip, given, method), kontext.latent()) for method in METHODS)
    for one, other in ((offset, index), (offset, uxo), (index, uxo)):
        assert relative_error(one, other) > 1e-3


def test_prompts_stay_with_their_rows_when_fewer_go_through_the_model_at_once(kontext, depth, clip):
    given = references(kontext)
    whole_model, latent, sweep = sweep_of(kontext, depth, "1, 8, 15, 22, 30").result
    whole = ksample(whole_model, positive(clip, given, sweep=sweep), latent)
    for at_once in (1, 2):
        model, latent, _ = sweep_of(kontext, depth, "1, 8, 15, 22, 30", rows_at_once=at_once).result
        rows = ksample(model, positive(clip, given, sweep=sweep), latent)
        assert relative_error(rows, whole) <= TOLERANCE


def test_the_photo_holds_the_scene_and_no_row_is_grounded(kontext, depth, clip):
    model, latent, sweep = sweep_of(kontext, depth, "1, 15, 30").result
    seen = []

    def watch(executor, x, timestep, context, y, guidance, ref_latents, control, transformer_options, **kwargs):
        seen.append((x.shape[0], transformer_options["bokeh_call"].grounding))
        return executor(x, timestep, context, y, guidance, ref_latents, control, transformer_options, **kwargs)

    model.add_wrapper_with_key("diffusion_model", "test", watch)
    ksample(model, positive(clip, references(kontext), sweep=sweep), latent)
    assert seen == [(3, None)] * 4
    assert (sweep.pivot, sweep.pivot_row, sweep.reference_row) == (None, None, 1)


def test_a_pivot_that_is_asked_for_grounds_all_the_same(kontext, depth, clip):
    plain_model, latent, sweep = sweep_of(kontext, depth, "1, 15, 30").result
    conditioning = positive(clip, references(kontext), sweep=sweep)
    plain = ksample(plain_model, conditioning, latent)
    model, _, grounded_sweep = sweep_of(kontext, depth, "1, 15, 30", pivot=Pivot(15.0, 0.8)).result
    grounded = ksample(model, conditioning, latent)
    assert grounded_sweep.pivot == 15.0
    assert relative_error(grounded[1], plain[1]) <= TOLERANCE
    assert relative_error(grounded[0], plain[0]) > 1e-3


def test_blurs_under_1_are_raised_to_1_with_a_note(kontext, depth, clip):
    output = sweep_of(kontext, depth, "0, 0.25, 8")
    model, latent, sweep = output.result
    assert sweep.values == (1.0, 1.0, 8.0)
    assert output.ui["text"] == ("Blur 0, 0.25 was raised to 1: the adapter knows 1 to 30.",)
    rows = ksample(model, positive(clip, references(kontext), sweep=sweep), latent)
    assert torch.equal(rows[0], rows[1])
    output = slider(kontext, depth, 0.0)
    assert output.ui["text"] == ("Blur 0 was raised to 1: the adapter knows 1 to 30.",)
    alone = ksample(output.result[0], positive(clip, references(kontext), blur=0.0), kontext.latent())
    assert relative_error(rows[:1], alone) <= TOLERANCE


def test_blurs_in_range_are_kept_without_a_note(kontext, depth):
    output = sweep_of(kontext, depth, "1, 30")
    assert output.result[2].values == (1.0, 30.0)
    assert output.ui["text"] == ()
    assert slider(kontext, depth, 1.0).ui["text"] == ()


def test_other_adapters_keep_0_and_their_pivot(golden, adapter):
    output = sweep_of(golden, adapter, "0, 14, 30")
    assert output.result[2].values == (0.0, 14.0, 30.0)
    assert output.result[2].pivot == 14.0
    assert output.ui["text"] == ()
