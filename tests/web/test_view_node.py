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
    assert shown.pop("remarks")
    assert shown == {"name": "alpha", "pivot": 12.5, "reference": 1, "scenes": 1, "height": 8, "width": 24}
    assert [(level["value"], level["label"]) for level in levels] == [(0.0, "alpha 0"), (12.5, "alpha 12.5")]
    with pytest.raises(ValueError, match="There are 3 pictures, but the sweep has 2 values"):
        BokehSweepView.execute(torch.zeros(3, 8, 8, 3), sweep)


def test_the_chosen_level_leaves_alone():
    images = torch.rand(3, 8, 8, 3)
    sweep = Sweep((30.0, 0.0, 12.5), 12.5)
    for level, row in ((-1.0, 2), (0.0, 1), (28.0, 0), (12.5, 2)):
        image, blur = BokehSweepView.execute(images, sweep, level).result
        assert torch.equal(image, images[row : row + 1])
        assert blur == sweep.values[row]
    scenes = Sweep((30.0, 0.0, 12.5) * 2, 12.5, scenes=2)
    images = torch.rand(6, 8, 8, 3)
    image, blur = BokehSweepView.execute(images, scenes, 0.0).result
    assert torch.equal(image, images[[1, 4]])
    assert blur == 0
    (shown,) = BokehSweepView.execute(images, scenes).ui["bokeh_sweep"]
    assert shown["scenes"] == 2
    assert [level["label"] for level in shown["levels"][3:]] == ["blur 30", "blur 0", "blur 12.5"]
    with pytest.raises(ValueError, match="level is nan, expected a number from -1"):
        BokehSweepView.execute(images, sweep, float("nan"))


def test_search_words_are_about_the_node():
    from bokeh.nodes.blur import BokehBlur
    from bokeh.nodes.lens import BokehLens
    from bokeh.nodes.report import BokehReport

    assert "aperture" in BokehBlur.define_schema().search_aliases
    assert "aperture" not in BokehReport.define_schema().search_aliases
    assert BokehReport.define_schema().category == "bokeh/results"
    lens = BokehLens.define_schema()
    assert "f-stop" in [*lens.search_aliases, lens.display_name]
