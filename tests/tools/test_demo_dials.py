"""The demonstration model's other dials: a slider LoRA that its own words teach, and words alone, as the judge takes
them."""

from __future__ import annotations

import pytest
import torch
from flux import relative_error
from safetensors.torch import save_file

from bokeh.attention.rows import Pivot
from bokeh.demo import FOLDER
from bokeh.demo.load import load_demo
from bokeh.sweep import measures
from bokeh.tools.demo.dials import LoraPainter, WordsPainter
from bokeh.tools.demo.judge import GROUNDING, LEVELS, PIVOT, Verdict, cases, judge
from bokeh.tools.demo.slider import SliderRecipe, finished, train_slider
from bokeh.training.scenes import Props

CASES = 2


@pytest.fixture(scope="module")
def demo():
    with torch.no_grad():
        return load_demo()


def verdict(painter, pivot: Pivot | None) -> Verdict:
    props = Props()
    with torch.no_grad():
        return Verdict.mean([judge(painter.paint(case, LEVELS, None, pivot), case, props) for case in cases(CASES)])


def test_words_alone_change_the_blur_and_grounding_holds_the_scene(demo):
    painter = WordsPainter(*demo)
    free, held = verdict(painter, None), verdict(painter, Pivot(PIVOT, GROUNDING))
    assert min(free.lvcorr_background, held.lvcorr_background) > 0.85
    assert held.scene_change < free.scene_change / 6
    assert held.overlap > 0.98


def test_with_a_layout_stage_the_words_come_later(demo):
    (case,) = cases(1)
    late = WordsPainter(*demo, layout=1.0)
    with torch.no_grad():
        pictures = late.paint(case, LEVELS[::3])
        plain = late.paint(case)
    for picture in pictures:
        torch.testing.assert_close(picture, plain[0], atol=1e-4, rtol=0)
    late.layout = 0.4
    with torch.no_grad():
        pictures = late.paint(case, LEVELS[::3])
    assert relative_error(pictures[0], plain[0]) > 0.01


def test_a_slider_lora_sharpens_and_blurs(demo, tmp_path):
    base = finished(FOLDER, "flux")
    before = {name: weight.clone() for name, weight in base.network.state_dict().items()}
    with torch.enable_grad():
        tensors = train_slider(base, SliderRecipe(steps=16, batch=8), lambda step, loss: None)
    for name, weight in base.network.state_dict().items():
        assert torch.equal(weight, before[name]), name
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, tmp_path / "slider.safetensors")
    painter = LoraPainter(*demo, file=tmp_path / "slider.safetensors")
    (case,) = cases(1)
    with torch.no_grad():
        sharp, blurred = measures.laplacian_variance(painter.paint(case, (0.0, 30.0))).tolist()
    assert sharp > 1.05 * blurred
