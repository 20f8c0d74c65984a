"""The bokeh value in cross-attention, for comparison."""

from __future__ import annotations

import torch
from families import build_case, random_adapter
from flux import relative_error

from bokeh.attention.equations import annotation
from bokeh.attention.install import block_places, install
from bokeh.attention.module import AdapterModule
from bokeh.attention.rows import Pivot, Plan
from bokeh.tools.demo.ablate import value_in_cross

BLUR = 12.0


def test_the_value_is_added_before_the_last_layer_of_cross_attention():
    with torch.no_grad():
        case = build_case("sd15")
        adapter = random_adapter(case.model, q=False, k=False)
        moved = case.run(value_in_cross(install(case.model, adapter, Plan((BLUR,))), adapter), 1)
        plain = case.run(case.model, 1)
        values = AdapterModule(adapter, torch.float32).values(torch.tensor([annotation(BLUR)]))
        scale = adapter.settings.bokeh_scale
        network, handles = case.model.model.diffusion_model, []
        for place, value in zip(block_places(case.model, adapter), values, strict=True):
            layer = network.get_submodule(place.name.removesuffix("attn1") + "attn2").to_out[0]
            added = scale * value[:, None]
            handles.append(layer.register_forward_pre_hook(lambda _, args, added=added: (args[0] + added,)))
        expected = case.run(case.model, 1)
        for handle in handles:
            handle.remove()
    assert relative_error(expected, plain) > 1e-3
    assert relative_error(moved, expected) < 1e-5


def test_grounding_stays_in_self_attention():
    with torch.no_grad():
        case = build_case("sd15")
        adapter = random_adapter(case.model)

        def sweep(pivot: Pivot | None) -> torch.Tensor:
            return case.run(value_in_cross(install(case.model, adapter, Plan((0.0, 30.0), pivot, True)), adapter), 2)

        held, free = sweep(Pivot(30.0, 1.0)), sweep(None)
    assert relative_error(held[1:], free[1:]) < 1e-5
    assert relative_error(held[:1], free[:1]) > 1e-4
