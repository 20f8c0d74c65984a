"""Pictures that cannot be what was asked for are said to be so, by the report and by the view."""

from __future__ import annotations

import pytest
import torch

from bokeh.nodes.report import BokehReport
from bokeh.nodes.view import BokehSweepView
from bokeh.sweep.remarks import identical, remarks
from bokeh.sweep.values import Sweep

SWEEP = Sweep((0.0, 10.0, 20.0), 10.0)
QUESTION = "These pictures are identical: is the model output of Bokeh Sweep connected?"


def pictures() -> torch.Tensor:
    return torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(1)).expand(3, -1, -1, -1).clone()


def test_identical_pictures_are_said_to_be_identical():
    images = pictures()
    assert remarks(images, SWEEP)[0].startswith(QUESTION)
    (shown,) = BokehSweepView.execute(images, SWEEP).ui["bokeh_sweep"]
    assert shown["remarks"][0].startswith(QUESTION)
    report = BokehReport.execute(images, SWEEP)
    assert report.ui["bokeh_report"][0]["verdict"].startswith(QUESTION)
    assert report.result[1].startswith(f"**{QUESTION}")


def test_rounding_of_a_row_is_no_difference_and_one_other_picture_is():
    images = pictures()
    images[1] += 1e-4
    assert identical(images, SWEEP)
    images[2, :8, :8] += 0.1
    assert not identical(images, SWEEP)
    assert remarks(images, SWEEP) == ()


def test_scenes_of_identical_pictures_are_said_to_be_identical_though_the_scenes_differ():
    images, sweep = torch.cat([pictures(), 1 - pictures()]), Sweep(SWEEP.values * 2, 10.0, scenes=2)
    assert remarks(images, sweep)[0].startswith(QUESTION)
    images[4, :8, :8] += 0.1
    assert remarks(images, sweep) == ()
    # Photos, each at a blur of its own.
    assert remarks(images[::3], Sweep((5.0, 20.0), scenes=2)) == ()


def test_pictures_that_are_to_be_the_same_are_no_mistake():
    assert remarks(pictures(), Sweep((5.0, 5.0, 5.0))) == ()
    assert remarks(pictures()[:1], Sweep((5.0,))) == ()


def test_other_sweeps_do_not_ask_for_bokeh_sweep():
    (remark,) = remarks(pictures(), Sweep((0.0, 0.5, 1.0), name="alpha"))
    assert "alpha differs" in remark
    assert "Bokeh Sweep" not in remark


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_broken_pictures_are_counted(bad):
    images = pictures()
    images[2, 3, 3] = bad
    assert remarks(images, SWEEP)[0].startswith("1 of 3 pictures have NaN or infinite values")
