"""Widgets that the page hides change nothing: the schemas' conditions, tried one by one."""

from __future__ import annotations

import pytest
import torch

from bokeh.nodes.focus import BokehFocus
from bokeh.nodes.render import BokehRender
from bokeh.optics.focus import Focus

SIDE = 32
IMAGE = torch.rand(1, SIDE, SIDE, 3, generator=torch.Generator().manual_seed(1))
RAMP = torch.linspace(1, 3, SIDE).expand(1, SIDE, SIDE)
HALF = (RAMP > 2).float()
# What stands at an input when it is connected.
CONNECTED = {
    "focus": Focus(RAMP, False, torch.tensor([1.5]), torch.tensor([8.0])),
    "mask": HALF,
    "lens_blur": 20.0,
    "aperture": HALF,
}
# Another value than the default, where the schema gives none.
OTHER = {"blurs": "20", "distances": "1.5"}


def cases(node: type) -> list:
    return [
        pytest.param(node, entry, condition, id=f"{node.__name__}-{entry.id}-{condition}")
        for entry in node.define_schema().inputs
        for condition in entry.extra_dict.get("bokeh_idle", ())
    ]


def another(entry) -> object:
    if entry.id in OTHER:
        return OTHER[entry.id]
    if options := getattr(entry, "options", None):
        return options[1]
    return (
        not entry.default if isinstance(entry.default, bool) else entry.min if entry.default != entry.min else entry.max
    )


@pytest.mark.parametrize(("node", "entry", "condition"), [*cases(BokehRender), *cases(BokehFocus)])
def test_what_is_hidden_changes_nothing(node, entry, condition):
    given = {}
    for each in node.define_schema().inputs:
        options = getattr(each, "options", None)
        if options or getattr(each, "default", None) is not None:
            given[each.id] = options[0] if options else each.default
    given |= {"image": IMAGE, "depth": RAMP[..., None]}
    name, _, value = condition.partition("=")
    given[name] = value or CONNECTED[name]
    if node is BokehFocus:
        given |= {"mask": HALF, "f_number": 2.0}
    one, other = (node.execute(**given | changed).result for changed in ({}, {entry.id: another(entry)}))
    for ours, theirs in zip(one, other, strict=True):
        if isinstance(ours, torch.Tensor):
            assert torch.equal(ours, theirs)
        elif not isinstance(ours, Focus):
            assert ours == theirs
