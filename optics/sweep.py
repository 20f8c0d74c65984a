"""Sweeps: the list of blur values behind a batch of pictures, and the text a user types for it."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

BLUR_MIN = 0.0
BLUR_MAX = 30.0
MAX_LEVELS = 200
DEFAULT_PIVOT = 15.0


@dataclass(frozen=True)
class Sweep:
    """What a batch of pictures shows: row i of the batch is the scene at ``values[i]``.

    Attributes:
        values: one number a picture, in the order of the batch (blur 0..30 unless ``name`` says otherwise).
        pivot: blur of the pivot picture that holds the scene, None when nothing was grounded.
        name: what the values are, as a label writes it ("blur", "alpha").
    """

    values: tuple[float, ...]
    pivot: float | None = None
    name: str = "blur"

    def __len__(self) -> int:
        return len(self.values)

    @property
    def pivot_row(self) -> int | None:
        """Row of the pivot picture; None when the pivot is not one of the pictures."""
        return self.values.index(self.pivot) if self.pivot in self.values else None

    @property
    def reference_row(self) -> int:
        """Row that stands for the pivot: the pivot itself, else the picture nearest to it, else the
        one nearest to the middle of the values."""
        target = self.pivot if self.pivot is not None else (min(self.values) + max(self.values)) / 2
        return nearest(self.values, target)

    def check(self, pictures: int) -> None:
        """Raise ValueError unless there is one picture for each value."""
        if pictures != len(self):
            raise ValueError(
                f"There are {pictures} pictures, but the sweep has {len(self)} values. Connect the pictures "
                "that were sampled with this very sweep, all of them and in their order."
            )

    @property
    def labels(self) -> tuple[str, ...]:
        """One short label a picture, such as ``blur 12.5``."""
        return tuple(f"{self.name} {format_value(value)}" for value in self.values)


def nearest(values: tuple[float, ...], target: float) -> int:
    """Index of the first value with the smallest distance to ``target``."""
    return min(range(len(values)), key=lambda i: abs(values[i] - target))


def format_value(value: float) -> str:
    """A number as people write it: no exponent, no trailing zeros, at most two decimals."""
    return f"{value:.2f}".rstrip("0").rstrip(".") or "0"


def parse_blurs(text: str) -> tuple[float, ...]:
    """Read a list of blur values: numbers and ranges, separated by commas, semicolons or spaces.

    ``first..last/count`` stands for ``count`` evenly spaced values, both ends included;
    ``first..last`` steps by one. Order and duplicates are kept.

    Raises:
        ValueError: naming the entry that is wrong and what would be right.
    """
    entries = [entry for entry in re.split(r"[,;\s]+", text.strip()) if entry]
    if not entries:
        raise ValueError("The list of blurs is empty. Write numbers from 0 to 30, for example: 0, 4, 8, 15, 22, 30")
    values: list[float] = []
    for entry in entries:
        values += _expand(entry)
        if len(values) > MAX_LEVELS:
            raise ValueError(f"The list of blurs has more than {MAX_LEVELS} values. Use a shorter list or two sweeps.")
    return tuple(values)


def _expand(entry: str) -> list[float]:
    first_text, is_range, rest = entry.partition("..")
    if not is_range:
        return [_blur(entry, entry)]
    last_text, has_count, count_text = rest.partition("/")
    first, last = _blur(first_text, entry), _blur(last_text, entry)
    if not has_count:
        step = math.copysign(1.0, last - first)
        return [first + step * i for i in range(int(abs(last - first)) + 1)]
    count = _count(count_text, entry)
    if count == 1:
        return [first]
    # Each value from both ends, so that the last one is exactly `last`.
    return [(first * (count - 1 - i) + last * i) / (count - 1) for i in range(count)]


def _blur(text: str, entry: str) -> float:
    try:
        value = float(text)
    except ValueError:
        where = "" if text == entry else f" in '{entry}'"
        raise ValueError(
            f"'{text}'{where} is not a number. Write blurs from 0 to 30 or ranges such as 0..30/7"
        ) from None
    if not BLUR_MIN <= value <= BLUR_MAX:  # also false for nan
        raise ValueError(f"Blur {text} is outside 0 to 30. 0 is sharp, 30 is the strongest defocus.")
    return value


def _count(text: str, entry: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"'{entry}' asks for '{text}' values. The count after / must be a whole number from 1 up.")
    if int(text) > MAX_LEVELS:
        raise ValueError(f"'{entry}' asks for {text} values, at most {MAX_LEVELS} are possible. Use a smaller count.")
    return int(text)
