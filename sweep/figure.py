"""The figure of a report: sharpness and consistency over what was asked for."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .report import Report
from .table import headline
from .trend import FLAT
from .values import Sweep, format_value

# Lengths in inches.
WIDTH, DPI = 10.0, 120
LEFT, RIGHT = 0.95, 0.4
INK, QUIET, RULE = "#1f2328", "#6e7781", "#e4e7eb"
BLUE, GREY, AMBER, GREEN, PURPLE = "#1d6fa5", "#8c959f", "#d97706", "#2a8f6d", "#8250a0"
MOST_THUMBNAILS, FEWEST_SLOTS = 9, 5
THUMBNAIL_PIXELS = 256


def draw(report: Report, images: Tensor) -> Tensor:
    """The report as one figure: sharpness and consistency over the requested blur, with thumbnails.

    Args:
        report: from ``measure_sweep``.
        images: the pictures that were measured, [B, H, W, 3 or more]; of several scenes, those of the first.

    Returns:
        [1, height, 1200, 3] float32 in 0..1.
    """
    report.sweep.check(len(images))
    shown = _evenly_picked(report.sweep)
    slot = (WIDTH - LEFT - RIGHT) / max(len(shown), FEWEST_SLOTS)
    thumbnail = 0.92 * slot, min(0.92 * slot * images.shape[1] / images.shape[2], 1.5 * slot)
    figure = blank_figure(WIDTH, 8.65 + thumbnail[1])

    count = len(images)
    title = f"{report.sweep.name.capitalize()} sweep, {count} {'level' if count == 1 else 'levels'}"
    if report.scenes:
        title += f", mean of {len(report.scenes)} scenes"
    height = figure.get_figheight()
    figure.text(LEFT / WIDTH, 1 - 0.55 / height, title, size=17, weight="bold", color=INK)
    figure.text(LEFT / WIDTH, 1 - 0.88 / height, headline(report), size=13, color=QUIET)
    _draw_sharpness(_panel(figure, 2.0, 2.5), report)
    _draw_consistency(lower := _panel(figure, 5.55, 1.7), report)
    centres = _apart([lower.transLimits.transform((report.sweep.values[row], 0))[0] for row in shown], slot)
    for row, centre in zip(shown, centres, strict=True):
        frame = _panel(figure, 7.9, thumbnail[1], LEFT + centre - thumbnail[0] / 2, thumbnail[0])
        _draw_thumbnail(frame, lower, report.sweep, row, images[row])
    middle = (LEFT + WIDTH - RIGHT) / 2 / WIDTH
    figure.text(middle, 0.2 / height, f"requested {report.sweep.name}", size=13, color=QUIET, ha="center")
    return to_image(figure)


def blank_figure(width: float, height: float):
    """A white figure, in inches at ``DPI``, that `to_image` can draw."""
    # Late, because the host starts without it; the object interface leaves pyplot's global state alone.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure((width, height), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def to_image(figure) -> Tensor:
    """A figure as an IMAGE: [1, height, width, 3] float32 in 0..1."""
    figure.canvas.draw()
    return torch.from_numpy(np.asarray(figure.canvas.buffer_rgba())[..., :3].astype(np.float32) / 255)[None]


def plain_axes(axes, size: float) -> None:
    """Nothing but a baseline, level rules and quiet numbers of ``size`` points."""
    axes.set_facecolor("none")
    axes.grid(True, axis="y", color=RULE, linewidth=1)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(GREY)
    axes.tick_params(labelsize=size, colors=QUIET, length=0, pad=6)


def _panel(figure, top: float, height: float, left: float = LEFT, width: float = WIDTH - LEFT - RIGHT):
    whole = figure.get_figheight()
    return figure.add_axes((left / WIDTH, 1 - (top + height) / whole, width / WIDTH, height / whole))


def _draw_sharpness(axes, report: Report) -> None:
    _style(axes, "Measured sharpness", "variance of the Laplacian", report.sweep)
    colours = {"picture": GREY, "subject": GREEN, report.followed.area: BLUE}
    lowest, highest = math.inf, -math.inf
    curves = [(area, area.laplacian, colours[area.area], area.area) for area in report.areas]
    if report.followed.reference is not None:
        curves.append((None, report.followed.reference, PURPLE, "rendered"))
    for area, variances, colour, label in curves:
        numbers = [max(x, FLAT) for x in variances]
        _line(axes, report.sweep, numbers, colour, label, main=area is report.followed)
        lowest, highest = min(lowest, *numbers), max(highest, *numbers)
    # Whole decades, so that equal pictures are a level line and not magnified rounding.
    bottom, top = math.floor(math.log10(lowest)), math.ceil(math.log10(highest))
    axes.set_yscale("log")
    axes.set_ylim(0.8 * 10.0**bottom, 1.25 * 10.0 ** max(top, bottom + 1))
    axes.minorticks_off()
    axes.tick_params(labelbottom=False)
    if len(curves) > 1:
        _legend(axes)


def _draw_consistency(axes, report: Report) -> None:
    sweep = report.sweep
    reference = sweep.labels[sweep.reference_row]
    nearest = sweep.pivot is not None and sweep.pivot_row is None
    title = f"Consistency with {reference}{', the nearest to the pivot' if nearest else ''}"
    _style(axes, title, "1 = equal", sweep)
    _line(axes, sweep, report.ms_ssim, GREY, "MS-SSIM")
    _line(axes, sweep, report.alignment, BLUE, "alignment", main=True)
    axes.set_ylim(min(0.0, *report.alignment) - 0.05, 1.05)
    axes.set_yticks((0, 0.25, 0.5, 0.75, 1), ("0", "", "0.5", "", "1"))
    _legend(axes)
    low, high = axes.get_xlim()
    if sweep.pivot is not None and low <= sweep.pivot <= high:
        side = 1 if sweep.pivot < low + 0.9 * (high - low) else -1
        axes.annotate(
            "pivot",
            (sweep.pivot, 0),
            (6 * side, 6),
            axes.get_xaxis_transform(),
            textcoords="offset points",
            ha="left" if side > 0 else "right",
            color=AMBER,
            size=11.5,
        )


def _style(axes, title: str, quantity: str, sweep: Sweep) -> None:
    low, high = min(sweep.values), max(sweep.values)
    margin = 0.02 * (high - low) or 1.0
    axes.set_xlim(low - margin, high + margin)
    axes.xaxis.set_major_formatter(lambda value, _: format_value(value))
    if low == high:
        axes.set_xticks((low,))
    plain_axes(axes, 12)
    axes.set_title(title, loc="left", size=13.5, weight="bold", color=INK, pad=34)
    axes.annotate(quantity, (0, 1), (0, 16), "axes fraction", textcoords="offset points", color=QUIET, size=11.5)
    if sweep.pivot is not None and low - margin <= sweep.pivot <= high + margin:
        axes.axvline(sweep.pivot, color=AMBER, linewidth=1.4, linestyle=(0, (4, 3)), zorder=1)


def _line(axes, sweep: Sweep, numbers: Sequence[float], colour: str, label: str, main: bool = False) -> None:
    points = sorted(zip(sweep.values, numbers, strict=True), key=lambda point: point[0])
    # Markers while they stay apart; a line alone reads better for a long sweep.
    size = 0 if len(points) > 60 else 6.5 if main else 5
    axes.plot(*zip(*points, strict=True), color=colour, label=label, linewidth=2.6 if main else 1.8, marker="o")
    axes.lines[-1].set(markersize=size, zorder=3)


def _legend(axes) -> None:
    axes.legend(
        loc="lower right",
        bbox_to_anchor=(1.0, 1.0),
        borderaxespad=0.3,
        ncols=4,
        columnspacing=1.6,
        handlelength=1.4,
        frameon=False,
        fontsize=12,
        labelcolor=INK,
    )


def _draw_thumbnail(frame, plot, sweep: Sweep, row: int, image: Tensor) -> None:
    from matplotlib.patches import ConnectionPatch
    from matplotlib.transforms import ScaledTranslation

    marked = sweep.values[row] == sweep.pivot
    colour = AMBER if marked else QUIET
    rgb = image[..., :3].float().movedim(-1, 0)[None].clamp(0, 1)
    scale = min(1.0, THUMBNAIL_PIXELS / max(rgb.shape[2:]))
    size = [max(1, round(scale * side)) for side in rgb.shape[2:]]
    frame.imshow(F.interpolate(rgb, size=size, mode="area")[0].movedim(0, -1).cpu().numpy())
    frame.set(xticks=(), yticks=(), anchor="N")
    for spine in frame.spines.values():
        spine.set(color=colour, linewidth=2.5 if marked else 0.8)
    caption = sweep.short_labels[row] + (" · pivot" if marked else "")
    frame.set_xlabel(caption, size=12, color=colour, labelpad=6, weight="bold" if marked else "normal")
    under_ticks = plot.get_xaxis_transform() + ScaledTranslation(0, -0.32, frame.figure.dpi_scale_trans)
    leader = ConnectionPatch((0.5, 1.0), (sweep.values[row], 0.0), frame.transAxes, under_ticks)
    leader.set(color=colour, linewidth=0.9)
    frame.figure.add_artist(leader)


def _apart(places: list[float], slot: float) -> list[float]:
    """Centres in inches of thumbnails ``slot`` wide, as near to ``places`` (0..1, rising) as they fit."""
    length = WIDTH - LEFT - RIGHT
    centres: list[float] = []
    for place in places:
        centres.append(max(place * length, centres[-1] + slot if centres else slot / 2))
    for i in reversed(range(len(centres))):
        centres[i] = min(centres[i], length - slot / 2 - (len(centres) - 1 - i) * slot)
    return centres


def _evenly_picked(sweep: Sweep) -> list[int]:
    """At most nine rows, evenly spread over the sweep in the order of their values, the reference among them."""
    order = sorted(range(len(sweep)), key=lambda row: sweep.values[row])
    count = min(MOST_THUMBNAILS, len(order))
    places = [round(i * (len(order) - 1) / max(1, count - 1)) for i in range(count)]
    reference = order.index(sweep.reference_row)
    places[min(range(count), key=lambda i: abs(places[i] - reference))] = reference
    return [order[place] for place in places]
