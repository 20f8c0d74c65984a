"""What a kind of layer gives to all rows is taken from the pivot's, for as long as grounding lasts."""

from __future__ import annotations

import torch
from torch import nn

from bokeh.demo.network import UNET, build
from bokeh.tools.demo.carriers import PARTS, shared
from bokeh.tools.demo.judge import LEVELS, PIVOT


def test_rows_get_what_the_pivots_row_of_their_own_branch_gets():
    layer, left = nn.Linear(4, 4), [1]
    x = torch.randn(2 * len(LEVELS), 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        plain = layer(x)
        with shared([layer], left):
            held = layer(x)
            left[0] -= 1
            over = layer(x)
        after = layer(x)
    for branch, got in zip(plain.split(len(LEVELS)), held.split(len(LEVELS)), strict=True):
        assert torch.equal(got, branch[LEVELS.index(PIVOT)].expand_as(got))
    assert torch.equal(over, plain)
    assert torch.equal(after, plain)


def test_every_kind_of_layer_is_found():
    network = build(UNET, torch.float32, "cpu").diffusion_model
    found = {name: len(modules(network)) for name, modules in PARTS.items()}
    # Two going down, one or two in the middle, four going up.
    assert found == {"res blocks": 8, "res blocks, small side": 5, "cross-attention": 7, "feed-forward": 7}
