"""Does the blur follow the request, and what stays sharp: numbers from variances of the Laplacian.

A variance is that of `measures.laplacian_variance`; it falls as the blur grows. Every correlation is None where one
side does not vary. The names say whose definition it is:

- LVCorr (reference): Bokeh Diffusion, arXiv 2503.08434. Pearson's correlation of the variances with those of a
  physically rendered reference of the same scene at the same blurs; the reference itself scores 1.
- LVCorr (K): Genfocus, arXiv 2512.16923. Pearson's correlation of the variances with the blur K, turned so that 1 is
  right. The variances of perfect pictures fall ever more slowly, so even these do not reach 1.

Neither sees that the subject is lost: a Gaussian over everything has nearly the same trend. So the sharpness that the
subject keeps stands beside them, and the bokeh score is its product with the correlation by rank. That one is of the
sharpness of windows, since the variance of a whole picture is that of its sharpest part: beside a sharp subject no
blur of what is behind it shows in the variance.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from scipy.stats import rankdata
from torch import Tensor

from .measures import laplacian

# Variances that differ by this part of themselves are equal: float32 sums are good to about this.
SAME = 1e-5
# What is flatter has no sharpness to keep: a thousandth of a step of 8 bits, squared.
FLAT = (1e-3 / 255) ** 2
# Windows along the longer side, from what part of their mean sharpness they have structure and not mere
# grain, and how many of these count as what is in focus where there is no mask.
WINDOWS = 16
STRUCTURED = 0.1
IN_FOCUS = 0.03
# Added to the sharpness of a window before the logarithm, so that flat ones do not count: a step of 8 bits, squared.
STEP = (1 / 255) ** 2


def windows_sharpness(images: Tensor, area: Tensor | None = None) -> Tensor:
    """Mean over windows of ln(mean square of the Laplacian), [B]; over those in ``area`` (booleans [1 or B, H, W])."""
    squares = laplacian(images).square()
    inside = torch.ones_like(squares[:1]) if area is None else area.to(squares)
    # No pixel is left out: an area may lie in the last rows alone.
    side = _side(squares)
    spare = (0, -squares.shape[2] % side, 0, -squares.shape[1] % side)
    squares, inside = F.pad(squares, spare), F.pad(inside, spare)
    total, share = _windows(squares * inside, side), _windows(inside, side)
    logarithms = (total / share.clamp(min=1e-6) + STEP).log() * share
    return logarithms.sum((1, 2)) / share.sum((1, 2))


def _windows(maps: Tensor, side: int) -> Tensor:
    """Means [B, rows, columns] over windows."""
    return F.avg_pool2d(maps[:, None], side)[:, 0]


def _side(maps: Tensor) -> int:
    """Of windows: a sixteenth of the longer side in px, but no more than the shorter one."""
    return max(1, min(round(max(maps.shape[1:]) / WINDOWS), *maps.shape[1:]))


def lvcorr_k(values: Sequence[float], variances: Sequence[float]) -> float | None:
    """LVCorr (K), -1..1: Pearson's correlation of ``values`` with the variances, times -1."""
    found = _pearson(values, variances)
    return None if found is None else -found


def lvcorr_reference(reference: Sequence[float], variances: Sequence[float]) -> float | None:
    """LVCorr (reference), -1..1: Pearson's correlation of the variances with those of the reference."""
    return _pearson(reference, variances)


def by_rank(values: Sequence[float], sharpness: Sequence[float]) -> float | None:
    """Spearman's correlation of ``values`` with the measured blur, -1..1; ties share their mean rank."""
    if _level(sharpness):
        return None
    found = _pearson(rankdata(values), rankdata(sharpness))
    return None if found is None else -found


def in_order(values: Sequence[float], sharpness: Sequence[float]) -> float | None:
    """Share of neighbouring requests, 0..1, that are in the right order: softer where more blur was asked for. Pictures
    of one request count as one, by their mean. None with fewer than two different requests."""
    groups: dict[float, list[float]] = {}
    for value, number in zip(values, sharpness, strict=True):
        groups.setdefault(value, []).append(number)
    means = [math.fsum(groups[value]) / len(groups[value]) for value in sorted(groups)]
    if len(means) < 2:
        return None
    return sum(after < before and not _level((before, after)) for before, after in pairwise(means)) / (len(means) - 1)


def _pearson(first: Sequence[float], second: Sequence[float]) -> float | None:
    if _level(first) or _level(second):
        return None
    return torch.corrcoef(torch.tensor([list(first), list(second)], dtype=torch.float64))[0, 1].item()


def _level(numbers: Sequence[float]) -> bool:
    return max(numbers) - min(numbers) <= max(FLAT, SAME * max(abs(number) for number in numbers))


def kept_sharpness(variances: Sequence[float], sharpest: int) -> list[float] | None:
    """What the subject keeps of its sharpness at each level, 0..1: its variance over that of the picture ``sharpest``;
    more counts as 1. None for a subject without any structure."""
    whole = variances[sharpest]
    return [min(1.0, variance / whole) for variance in variances] if whole > FLAT else None


def part_in_focus(sharpest: Tensor, softest: Tensor) -> Tensor | None:
    """What keeps the most of its sharpness from picture to picture [H, W, 3]: booleans [H, W], None for a flat one.

    Stands in for a mask of the subject: whatever a lens blurs, something stays in focus, and under a Gaussian over
    everything nothing does. Of windows a sixteenth of the longer side wide, with structure, those that change least.
    """
    squares = laplacian(torch.stack([sharpest, softest])).square()
    side = _side(squares)
    before, after = _windows(squares, side)
    structured = before > max(FLAT, STRUCTURED * before.mean().item())
    if not structured.any():
        return None
    # Discs of light from elsewhere make windows sharper: what is in focus changes in neither direction.
    ratio = after.clamp(min=FLAT) / before.clamp(min=FLAT)
    kept = torch.where(structured, torch.minimum(ratio, 1 / ratio), -1.0)
    count = max(1, round(IN_FOCUS * int(structured.sum())))
    found = structured & (kept >= kept.flatten().topk(count).values[-1])
    area = torch.zeros_like(squares[0], dtype=torch.bool)
    rows, columns = (side * count for count in found.shape)
    area[:rows, :columns] = found.repeat_interleave(side, 0).repeat_interleave(side, 1)
    return area
