"""The method on a tiny random model of every family, against two rows a target with the equations written out."""

from __future__ import annotations

import comfy.model_management
import pytest
import torch
from families import KINDS, build_case, prompt_a_row, random_adapter
from flux import relative_error
from two_rows import two_rows

from bokeh.attention.families import find
from bokeh.attention.install import install, network_places, uninstall
from bokeh.attention.rows import Pivot, Plan

BLURS = (3.0, 15.0, 27.0)


@pytest.fixture(scope="module", params=list(KINDS))
def case(request):
    return build_case(request.param)


def test_a_sweep_with_one_pivot_row_equals_two_rows_a_target(case):
    # Whether there is a negative branch is a matter of the batch, not of the family.
    for cfg in (1.0, 4.0) if case.name in ("flux", "sd15") else (4.0,):
        expect_two_rows(case, cfg)


def expect_two_rows(case, cfg: float) -> None:
    adapter = random_adapter(case.model)
    grounded = Pivot(10.0, 0.5)
    rows = case.run(install(case.model, adapter, Plan(BLURS, grounded, one_scene=True)), 3, cfg)
    free = case.run(install(case.model, adapter, Plan(BLURS, None, one_scene=True)), 3, cfg)
    for row, blur in zip(rows, BLURS, strict=True):
        assert relative_error(row[None], two_rows(case, adapter, blur, 10.0, cfg)) <= 1e-5
    assert relative_error(rows, free) > 1e-4
    turns = case.run(install(case.model, adapter, Plan(BLURS, grounded, one_scene=True, rows_at_once=1)), 3, cfg)
    assert relative_error(turns, rows) <= 1e-5


def test_some_places_of_a_model_may_stay_plain(case):
    places = len(case.kind.projections)
    chosen = [1, places - 1]
    adapter = random_adapter(case.model, choose=chosen)
    rows = case.run(install(case.model, adapter, Plan(BLURS, Pivot(15.0, 0.5), one_scene=True)), 3, 4.0)
    for row, blur in zip(rows, BLURS, strict=True):
        assert relative_error(row[None], two_rows(case, adapter, blur, 15.0, 4.0, chosen)) <= 1e-5


def test_without_an_adapter_grounding_shares_queries_and_keys(case):
    prompts = prompt_a_row(case, 2)
    swept = install(case.model, None, Plan((0.0, 15.0), Pivot(15.0, 0.5), one_scene=True))
    rows = case.run(swept, 2, 4.0, positive=prompts)
    expected = two_rows(case, None, 0.0, 15.0, 4.0, positive=prompts)
    assert relative_error(rows[:1], expected) <= 1e-5
    assert relative_error(rows[:1], case.run(case.model, 2, 4.0, positive=prompts)[:1]) > 1e-4
    # The pivot is the picture that its own prompt gives.
    assert relative_error(rows[1:], case.run(case.model, 1, 4.0)) <= 1e-5


def test_nothing_is_changed_by_zero_weights_and_nothing_stays_behind(case):
    plain = case.run(case.model, 1, 4.0)
    assert torch.equal(
        case.run(install(case.model, random_adapter(case.model, scale=0.0), Plan((7.0,))), 1, 4.0), plain
    )
    adapter = random_adapter(case.model)
    assert install(case.model, adapter, Plan((7.0,)), 0.0) is case.model
    swept = install(case.model, adapter, Plan(BLURS, Pivot(15.0, 0.6), one_scene=True))
    assert relative_error(case.run(swept, 3, 4.0)[:1], plain) > 1e-3
    assert torch.equal(case.run(uninstall(swept), 1, 4.0), plain)
    assert torch.equal(case.run(case.model, 1, 4.0), plain)


def test_places_are_the_self_attentions_in_the_order_in_which_they_run(case):
    family, places = network_places(case.model)
    assert find(case.model.model.diffusion_model) is family
    listed = [(place.q.module, place.q.start, place.k.module, place.k.start) for place in places]
    assert listed == case.kind.projections
    assert len({place.name for place in places}) == len(places)


def test_an_interrupt_in_the_midst_of_a_call_stops_it_there_and_leaves_nothing_behind(case):
    plain = case.run(case.model, 1, 4.0)
    swept = install(case.model, random_adapter(case.model), Plan(BLURS, Pivot(10.0, 0.5), one_scene=True))
    whole = case.run(swept, 3, 4.0)
    network = case.model.model.diffusion_model
    queries = network.get_submodule(case.kind.projections[1][0])
    calls, later = [], []

    def press(*_) -> None:
        calls.append(1)
        if len(calls) == 2:
            comfy.model_management.interrupt_current_processing()

    handles = [queries.register_forward_pre_hook(press)]
    handles += [module.register_forward_hook(lambda *_: later.extend(calls[1:])) for module in network.modules()]
    try:
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            case.run(swept, 3, 4.0)
    finally:
        for handle in handles:
            handle.remove()
    assert len(calls) == 2
    assert not later
    assert torch.equal(case.run(swept, 3, 4.0), whole)
    assert torch.equal(case.run(case.model, 1, 4.0), plain)
