"""A report's numbers as one sentence."""

from __future__ import annotations

import math

from .remarks import remarks
from .report import Report
from .values import format_value

# What a person calls it, from what number on: correlation by rank, kept sharpness, consistency. docs/measurements.md
# says why there; `tools/demo verdicts` prints the numbers of good and of broken sweeps.
FOLLOWS = (
    (0.9, "follows the request"),
    (0.5, "roughly follows the request"),
    (-math.inf, "hardly follows the request"),
)
KEEPS = ((0.5, ""), (0.25, "the subject loses sharpness"), (-math.inf, "everything is blurred, the subject too"))
STAYS = ((0.95, "the scene stays"), (0.8, "the scene changes a little"), (-math.inf, "the scene changes"))


def verdict(report: Report, images) -> str:
    """What the report says of its pictures, in words: does the blur follow, does the scene stay, which level is off.

    Args:
        images: the pictures that were measured, [B, H, W, 3 or more].
    """
    sweep, followed = report.sweep, report.followed.by_rank
    if wrong := remarks(images, sweep):
        return wrong[0]
    parts = []
    if followed is not None and sweep.name == "blur":
        parts.append(f"the blur {word(FOLLOWS, followed)}")
    elif followed is not None:
        direction = "grows" if followed > 0 else "falls"
        parts.append(f"the blur {direction} with the {sweep.name}")
    # Where the scene changes, what was sharp in one picture is elsewhere in another.
    if report.kept_sharpness is not None and (report.consistency or 0) >= STAYS[0][0]:
        parts.append(word(KEEPS, report.kept_sharpness))
    if report.consistency is not None:
        parts.append(word(STAYS, report.consistency))
        others = [row for row in range(len(sweep)) if row not in (sweep.reference_row, report.plain_row)]
        least = min(others, key=lambda row: report.alignment[row])
        if len(others) > 1:
            name = sweep.captions[least] if sweep.captions else format_value(sweep.values[least])
            parts.append(f"{name} is the least alike")
    gain, _ = report.gains(report.focused)
    if gain is not None:
        parts.append(f"the {report.focused.area} is {gain:.2f} times as sharp as in the plain picture")
    sentence = "; ".join(filter(None, parts)) or "one picture says nothing about a sweep"
    return f"{sentence[0].upper()}{sentence[1:]}."


def word(scale: tuple[tuple[float, str], ...], number: float) -> str:
    """What a number is called."""
    return next(words for least, words in scale if number >= least)
