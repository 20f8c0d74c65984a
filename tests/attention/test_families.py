"""The method on a tiny random model of every family, against two rows a target with the equations written out."""

from __future__ import annotations

import pytest
import torch
from families import KINDS, build_case, random_adapter
from flux import relative_error

from bokeh.attention.families import find
from bokeh.attention.install import install, network_places, uninstall
from bokeh.attention.rows import Pivot, Plan

BLURS = (3.0, 15.0, 27.0)
STEPS = 2  # grounded ones, of 4


@pytest.fixture(scope="module", params=list(KINDS))
def case(request):
    return build_case(request.param)


def two_rows(case, adapter, blur: float, pivot: float, cfg: float, chosen=None, with_keys=True) -> torch.Tensor:
    """The picture of one target, in a batch of [target, pivot]: q/k adapters by torch's own hooks on the projections
    that the case lists, attention told apart by the order of its calls."""
    model = case.model.clone()
    network = model.model.diffusion_model
    tensors = {} if adapter is None else adapter.tensors
    chosen = list(range(len(case.kind.projections))) if chosen is None else chosen
    state = {"call": 0}
    handles = [network.register_forward_pre_hook(lambda *_: state.update(call=0))]

    def low_rank(name: str, x: torch.Tensor) -> torch.Tensor:
        return x @ tensors[f"{name}.down.weight"].T @ tensors[f"{name}.up.weight"].T

    def value(number: int, a: float) -> torch.Tensor:
        e = torch.relu(torch.tensor([[a]]) @ tensors["embedding.0.weight"].T + tensors["embedding.0.bias"])
        return low_rank(f"blocks.{number}.v", e @ tensors["embedding.2.weight"].T + tensors["embedding.2.bias"])

    def adapt(number: int, part: str, module: str, start: int) -> None:
        width = tensors[f"blocks.{number}.{part}.up.weight"].shape[0]

        def hook(module, inputs, output):
            output = output.clone()
            output[..., start : start + width] += low_rank(
                f"blocks.{number}.{part}", output[..., start : start + width].clone()
            )
            return output

        handles.append(network.get_submodule(module).register_forward_hook(hook))

    for number, place in enumerate(chosen if tensors else ()):
        q, q_start, k, k_start = case.kind.projections[place]
        adapt(number, "q", q, q_start)
        adapt(number, "k", k, k_start)

    def soft(q, k, v):
        return (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1) @ v

    def override(func, q, k, v, heads, mask=None, *args, skip_reshape=False, transformer_options, **kwargs):
        place = case.kind.calls[state["call"]]
        state["call"] += 1
        if place not in chosen:
            return func(q, k, v, heads, mask, *args, skip_reshape=skip_reshape, **kwargs)
        number = chosen.index(place)
        if not skip_reshape:
            q, k, v = (x.flatten(2).unflatten(2, (heads, -1)).transpose(1, 2) for x in (q, k, v))
        on = float(transformer_options["sigmas"][0]) > float(case.kind.sigmas[STEPS])
        out = []
        for chunk, role in enumerate(transformer_options["cond_or_uncond"]):
            target, held = 2 * chunk, 2 * chunk + 1
            for row, shown in ((target, blur), (held, pivot)):
                queries, keys, values = q[row], k[row], v[row]
                if on and role == 0 and row == target:
                    queries = q[held]
                    if with_keys:
                        keys, values = torch.cat((keys, k[held]), 1), torch.cat((values, values), 1)
                picture = soft(queries, keys, values).transpose(0, 1).flatten(1)
                out.append(picture + value(number, -1.0 if role else shown / 30) if tensors else picture)
        return torch.stack(out)

    model.model_options["transformer_options"]["optimized_attention_override"] = override
    try:
        out = case.run(model, 2, cfg)
    finally:
        for handle in handles:
            handle.remove()
    assert state["call"] == len(case.kind.calls)
    return out[:1]


@pytest.mark.parametrize("cfg", [1.0, 4.0])
def test_a_sweep_with_one_pivot_row_equals_two_rows_a_target(case, cfg):
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
    other = [[case.positive[0][0].flip(1), case.positive[0][1]]]
    prompts = [torch.cat((case.positive[0][0], other[0][0]))]
    extras = {name: value.repeat(2, 1) for name, value in case.positive[0][1].items()}
    swept = install(case.model, None, Plan((0.0, 15.0), Pivot(15.0, 0.5), one_scene=True))
    rows = case.run(swept, 2, 4.0, positive=[[prompts[0], extras]])
    mine = build_case(case.name)
    mine.model, mine.positive = case.model, [[prompts[0], extras]]
    assert relative_error(rows[:1], two_rows(mine, None, 0.0, 15.0, 4.0)) <= 1e-5
    # The pivot is the picture that its own prompt gives.
    assert relative_error(rows[1:], case.run(case.model, 1, 4.0, positive=other)) <= 1e-5


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
