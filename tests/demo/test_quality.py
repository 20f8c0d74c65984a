"""The demonstration model as it ships: a few of the cases that `tools/demo judge` measures in full."""

from __future__ import annotations

import pytest
import torch

from bokeh.attention.rows import Pivot
from bokeh.demo import ADAPTERS, FOLDER
from bokeh.demo.load import demo_files, load_demo
from bokeh.demo.network import KINDS, UNET
from bokeh.tools.demo.judge import GROUNDING, LEVELS, PIVOT, Painter, Verdict, cases, judge
from bokeh.training.scenes import Props
from bokeh.weights.files import read_adapter

CASES = cases(6, seed=1)
GROUNDED = Pivot(PIVOT, GROUNDING)


@pytest.fixture(scope="module")
def sweeps():
    """Of all cases with grounding, and of the first three without."""
    painter, adapter = Painter(*load_demo()), read_adapter(FOLDER / "adapter.safetensors")
    grounded = [painter.paint(case, LEVELS, adapter, GROUNDED) for case in CASES]
    return grounded, [painter.paint(case, LEVELS, adapter) for case in CASES[:3]]


def test_blur_follows_and_the_scene_stays(sweeps):
    props = Props()
    each, free = (
        [judge(pictures, case, props) for pictures, case in zip(part, CASES[: len(part)], strict=True)]
        for part in sweeps
    )
    grounded, ungrounded = Verdict.mean(each), Verdict.mean(free)
    assert grounded.lvcorr_reference > 0.9
    assert ungrounded.lvcorr_reference > 0.9
    assert grounded.score > 0.8
    assert grounded.order > 0.85
    # One of these six is of the few prompts whose object the model draws at some blurs only.
    assert grounded.overlap > 0.9
    assert sum(verdict.overlap > 0.95 for verdict in each) >= 5
    assert Verdict.mean(each[:3]).scene_change < ungrounded.scene_change / 3
    assert grounded.render_psnr > 25


def test_the_pivot_is_the_same_with_and_without_grounding(sweeps):
    middle = LEVELS.index(PIVOT)
    for grounded, ungrounded in zip(sweeps[0][:3], sweeps[1], strict=True):
        torch.testing.assert_close(grounded[middle], ungrounded[middle], atol=1e-4, rtol=0)


def test_the_unet_follows_the_blur_too_and_keeps_what_is_behind_the_object():
    painter, adapter, props = Painter(*load_demo(kind=UNET)), read_adapter(FOLDER / ADAPTERS[UNET.adapter]), Props()
    found = Verdict.mean([judge(painter.paint(case, LEVELS, adapter, GROUNDED), case, props) for case in cases(4)])
    assert found.lvcorr_reference > 0.8
    assert found.lvcorr_background > 0.9
    assert found.order > 0.85
    # Not of every prompt: docs/measurements.md says how many objects move.
    assert found.overlap > 0.9
    assert found.cells_kept > 0.95
    assert found.render_psnr > 25


def test_everything_fits_into_34_megabytes():
    files = list(FOLDER.glob("*.safetensors"))
    networks = {file.name for kind in KINDS.values() for file in demo_files(FOLDER, kind)}
    assert {file.name for file in files} == networks | set(ADAPTERS.values())
    assert sum(file.stat().st_size for file in files) < 33.5e6
