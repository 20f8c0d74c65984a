"""Packs that stand between the host and its blocks: bokeh acts all the same, or the run stops with a sentence.

The stand-ins do what such packs do; each is a kind.
"""

from __future__ import annotations

import logging

import pytest
import torch
from families import KINDS, build_case, prompt_a_row, random_adapter
from flux import relative_error, run_node

from bokeh.attention.install import install, network_places
from bokeh.attention.rows import Pivot, Plan

BLURS = (3.0, 15.0, 27.0)
SWEEP = Plan(BLURS, Pivot(15.0, 0.5), one_scene=True)


@pytest.fixture(scope="module", params=list(KINDS))
def case(request):
    return build_case(request.param)


def owners_of(model) -> list[str]:
    return list(dict.fromkeys(place.owner for place in network_places(model)[1]))


def forgetful(model, how: str):
    """A pack whose own forward calls blocks without the host's options, or with options of its own."""
    clone = model.clone()

    def without(original):
        def forward(*args, **kwargs):
            kwargs.pop("transformer_options")
            if how == "its own":
                kwargs["transformer_options"] = {"block_index": 0}
            return original(*args, **kwargs)

        return forward

    for owner in owners_of(model):
        name = f"diffusion_model.{owner}.forward"
        clone.add_object_patch(name, without(clone.get_model_object(name)))
    return clone


@pytest.mark.parametrize(("how", "with_adapter"), [("none", True), ("its own", False)])
def test_blocks_called_without_the_hosts_options_get_those_of_the_running_call(case, how, with_adapter):
    adapter = random_adapter(case.model) if with_adapter else None
    swept = install(case.model, adapter, SWEEP)
    prompts = prompt_a_row(case, 3)
    expected = case.run(swept, 3, 4.0, positive=prompts)
    assert torch.equal(case.run(forgetful(swept, how), 3, 4.0, positive=prompts), expected)
    assert torch.equal(case.run(swept, 3, 4.0, positive=prompts), expected)


def test_options_that_come_by_position_are_found():
    case = build_case("flux")
    adapter = random_adapter(case.model)
    expected = case.run(install(case.model, adapter, SWEEP), 3)
    swept = install(case.model, adapter, SWEEP)

    def by_position(original):
        def forward(x, vec, pe, attn_mask=None, modulation_dims=None, transformer_options=None):
            return original(x, vec, pe, attn_mask, modulation_dims, transformer_options)

        return forward

    for index in range(3):
        name = f"diffusion_model.single_blocks.{index}.forward"
        swept.add_object_patch(name, by_position(swept.get_model_object(name)))
    assert torch.equal(case.run(swept, 3), expected)


def attention_of_its_own(model):
    """A pack whose blocks reckon attention themselves."""
    clone = model.clone()
    for owner in owners_of(model):
        clone.add_object_patch(f"diffusion_model.{owner}.forward", lambda x, *args, **kwargs: x)
    return clone


def class_of_its_own(model):
    """A pack that gives the shared network's modules another class."""
    for owner in owners_of(model):
        module = model.model.diffusion_model.get_submodule(owner)
        module.__class__ = type("Theirs", (type(module),), {"forward": lambda self, x, *args, **kwargs: x})
    return model


def network_of_its_own(model):
    """A pack that calls the network around the host's apply_model."""
    clone = model.clone()

    def call(apply_model, args):
        network = clone.model.diffusion_model
        context = args["c"]["c_crossattn"].to(args["input"])
        return network(args["input"], args["timestep"], context=context, transformer_options={})

    clone.set_model_unet_function_wrapper(call)
    return clone


@pytest.mark.parametrize("pack", [attention_of_its_own, class_of_its_own, network_of_its_own])
@pytest.mark.parametrize("with_adapter", [True, False])
def test_a_run_that_reaches_no_attention_stops_and_says_what_to_take_out(pack, with_adapter):
    case = build_case("sd15")
    adapter = random_adapter(case.model) if with_adapter else None
    swept = install(pack(case.model), adapter, SWEEP)
    with pytest.raises(ValueError, match="Bokeh did not get to the attention of UNetModel") as stopped:
        case.run(swept, 3, 4.0, positive=prompt_a_row(case, 3))
    assert "What is on the model comes from: tests." in str(stopped.value)
    assert "Take that node out" in str(stopped.value)


def test_blocks_that_another_node_runs_itself_are_named_in_the_log(caplog):
    case = build_case("sd15")
    swept = install(case.model, random_adapter(case.model), SWEEP)
    guided = run_node("SelfAttentionGuidance", model=swept, scale=0.5, blur_sigma=2.0)[0]
    with caplog.at_level(logging.INFO):
        case.run(guided, 3, 4.0)
    (line,) = (record.getMessage() for record in caplog.records if record.getMessage().startswith("Bokeh:"))
    assert "1 of 7 blocks" in line
    assert line.endswith("middle_block.1.transformer_blocks.0.attn1")


def test_attention_that_is_replaced_in_every_block_stops_the_run():
    case = build_case("sd15")
    swept = install(case.model, random_adapter(case.model), SWEEP)
    for kind, number in (("input", 1), ("input", 3), ("middle", 0), *(("output", n) for n in range(4))):
        swept.set_model_attn1_replace(lambda q, k, v, extra: v, kind, number)
    with pytest.raises(ValueError, match="Bokeh did not get to the attention"):
        case.run(swept, 3, 4.0)


def test_a_run_that_stopped_leaves_the_model_clean():
    case = build_case("sd15")
    plain = case.run(case.model, 1, 4.0)
    swept = install(attention_of_its_own(case.model), random_adapter(case.model), SWEEP)
    with pytest.raises(ValueError, match="Bokeh"):
        case.run(swept, 3, 4.0)
    assert relative_error(case.run(case.model, 1, 4.0), plain) == 0
