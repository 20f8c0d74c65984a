"""What the sweep view's node sends to the page."""

from __future__ import annotations

import pytest
import torch

from bokeh.nodes.view import BokehSweepView
from bokeh.sweep.values import Sweep


def test_payload_and_errors_of_the_node():
    sweep = Sweep((0.0, 12.5), 12.5, "alpha")
    (shown,) = BokehSweepView.execute(torch.zeros(2, 8, 24, 3), sweep).ui["bokeh_sweep"]
    levels = shown.pop("levels")
    assert shown == {"name": "alpha", "pivot": 12.5, "reference": 1, "height": 8, "width": 24}
    assert [(level["value"], level["label"]) for level in levels] == [(0.0, "alpha 0"), (12.5, "alpha 12.5")]
    with pytest.raises(ValueError, match="There are 3 pictures, but the sweep has 2 values"):
        BokehSweepView.execute(torch.zeros(3, 8, 8, 3), sweep)
