"""The losses of a training run as a picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from ..sweep.figure import AMBER, BLUE, INK, QUIET, blank_figure, plain_axes, to_image

# Lengths in inches.
WIDTH, HEIGHT = 10.0, 5.2
PALE = "#c9d7e3"
# Steps that the smooth line averages: a fiftieth of the run.
WINDOWS = 50
MOST_POINTS = 2000


def draw_losses(losses: Sequence[float], held_out: Sequence[tuple[int, float]], steps: int) -> Tensor:
    """Losses over steps: each step, their moving average, and what was measured on held-out pictures.

    Args:
        losses: of the steps done, from the first.
        held_out: steps and losses measured after them.
        steps: steps of the whole run; the right end of the axis.

    Returns:
        [1, height, width, 3] float32 in 0..1.
    """
    figure = blank_figure(WIDTH, HEIGHT)
    axes = figure.add_axes((0.08, 0.12, 0.89, 0.68))
    plain_axes(axes, 11)
    figure.text(0.08, 0.93, "Training loss", size=15, weight="bold", color=INK)
    figure.text(0.08, 0.865, _headline(losses, held_out, steps), size=12, color=QUIET)
    axes.set_xlim(0, max(1, steps))
    axes.set_xlabel("step", size=11.5, color=QUIET)
    if losses:
        _draw_steps(axes, np.asarray(losses), max(2, steps // WINDOWS))
    if held_out:
        axes.plot(*zip(*held_out, strict=True), color=AMBER, marker="o", markersize=5, linewidth=1.6, label="held out")
        best = min(held_out, key=lambda point: point[1])
        axes.plot(*best, color=AMBER, marker="o", markersize=11, fillstyle="none", linestyle="none", label="best")
    if losses or held_out:
        axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=4, frameon=False, fontsize=11, labelcolor=INK)
    return to_image(figure)


def _draw_steps(axes, losses: np.ndarray, window: int) -> None:
    done = np.arange(1, len(losses) + 1)
    every = -(-len(losses) // MOST_POINTS)
    axes.plot(done[::every], losses[::every], color=PALE, linewidth=1, label="each step")
    sums = np.cumsum(np.concatenate([[0.0], losses]))
    first = np.maximum(0, done - window)
    average = (sums[done] - sums[first]) / (done - first)
    axes.plot(done[::every], average[::every], color=BLUE, linewidth=2.4, label=f"mean of {window} steps")
    # A few wild steps must not flatten everything else; the average stays in the picture whole.
    low, high = min(np.quantile(losses, 0.005), average.min()), max(np.quantile(losses, 0.995), average.max())
    axes.set_ylim(max(0.0, low - 0.1 * (high - low)), high + 0.1 * (high - low) or 1.0)


def _headline(losses: Sequence[float], held_out: Sequence[tuple[int, float]], steps: int) -> str:
    parts = [f"{len(losses)} of {steps} steps"]
    if losses:
        parts.append(f"loss {losses[-1]:.4f}")
    if held_out:
        step, loss = min(held_out, key=lambda point: point[1])
        parts.append(f"best held-out loss {loss:.4f} after step {step}")
    return " · ".join(parts)
