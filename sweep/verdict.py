"""A report's numbers as one sentence."""

from __future__ import annotations

from .remarks import remarks
from .report import Report
from .values import format_value

# What a person calls it, from what number on: LVCorr, and consistency.
FOLLOWS = ((0.75, "follows the request"), (0.4, "roughly follows the request"), (-1.0, "hardly follows the request"))
STAYS = ((0.85, "the scene stays"), (0.6, "the scene changes a little"), (-1.0, "the scene changes"))


def verdict(report: Report, images) -> str:
    """What the report says of its pictures, in words: does the blur follow, does the scene stay, which level is off.

    Args:
        images: the pictures that were measured, [B, H, W, 3 or more].
    """
    sweep = report.sweep
    if wrong := remarks(images, sweep):
        return wrong[0]
    parts = []
    if report.lvcorr is not None and sweep.name == "blur":
        parts.append(f"the blur {_word(FOLLOWS, report.lvcorr)}")
    elif report.lvcorr is not None:
        direction = "grows" if report.lvcorr > 0 else "falls"
        parts.append(f"the blur {direction} with the {sweep.name}")
    if report.consistency is not None:
        parts.append(_word(STAYS, report.consistency))
        others = [row for row in range(len(sweep)) if row not in (sweep.reference_row, report.plain_row)]
        least = min(others, key=lambda row: report.alignment[row])
        if len(others) > 1:
            name = sweep.captions[least] if sweep.captions else format_value(sweep.values[least])
            parts.append(f"{name} is the least alike")
    gain, _ = report.gains(report.focused)
    if gain is not None:
        parts.append(f"the {report.focused.area} is {gain:.2f} times as sharp as in the plain picture")
    sentence = "; ".join(parts) or "one picture says nothing about a sweep"
    return f"{sentence[0].upper()}{sentence[1:]}."


def _word(scale: tuple[tuple[float, str], ...], number: float) -> str:
    return next(word for least, word in scale if number >= least)
