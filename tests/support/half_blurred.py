"""A sweep whose left half stays sharp, and what every report of pictures must hold."""

from __future__ import annotations

import re

import pytest
import torch

from bokeh.sweep.figure import draw
from bokeh.sweep.table import markdown
from bokeh.sweep.values import Sweep

LEVELS = (0.0, 10.0, 20.0, 30.0)
SWEEP = Sweep(LEVELS, pivot=10.0)


def pictures(count: int = 4, height: int = 96, width: int = 128) -> torch.Tensor:
    """Noise, smoother from picture to picture in its right half."""
    sharp = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(1))
    images = []
    for i in range(count):
        size = 2 * (i % 8) + 1
        soft = torch.nn.functional.avg_pool2d(sharp, size, stride=1, padding=size // 2, count_include_pad=False)
        images.append(torch.cat([sharp[..., : width // 2], soft[..., width // 2 :]], -1))
    return torch.cat(images).movedim(1, -1)


def left_half(height: int = 96, width: int = 128) -> torch.Tensor:
    mask = torch.zeros(height, width)
    mask[:, : width // 2] = 1
    return mask


def plain_picture() -> torch.Tensor:
    return 0.25 + 0.5 * pictures(1)


def check_text_and_figure(report, images) -> None:
    assert not re.search(r"\b(nan|inf|None)\b", markdown(report))
    figure = draw(report, images)
    assert figure.isfinite().all()
    assert figure.std() > 0.01


def assert_refused(call, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        call()
