"""Sweeps: the list of values behind a batch of pictures, and the text a user types for it."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from typing import NamedTuple

BLUR_MIN = 0.0
BLUR_MAX = 30.0
MAX_LEVELS = 200
DEFAULT_PIVOT = 15.0
# Characters; 200 values take a hundredth. The list is read before the run, on the thread that serves everybody.
_LONGEST = 200_000
# How many values a range has that does not say it.
RANGE_LEVELS = 7
# Smaller steps than labels and models tell apart.
SMALLEST = 1e-3
_NUMBER = r"(?:[0-9]+\.?[0-9]*|\.[0-9]+)"
_RANGE = re.compile(rf"({_NUMBER})-({_NUMBER})(?:/(.*))?", re.DOTALL)
_F_STOP = re.compile(r"(?<![A-Za-z])[fFƒ]\s*/?\s*[0-9]+(?:[.,][0-9]+)?")
_DECIMAL_COMMA = re.compile(r"[0-9]+,[0-9]+")
# What other keyboards and word processors write.
_OTHER_SIGNS = {
    ord("\N{FULLWIDTH SEMICOLON}"): ";",
    ord("\N{FULLWIDTH COMMA}"): ",",
    ord("\N{IDEOGRAPHIC COMMA}"): ", ",
    ord("\N{FULLWIDTH SOLIDUS}"): "/",
    ord("\N{HORIZONTAL ELLIPSIS}"): "..",
    ord("\N{EN DASH}"): "-",
    ord("\N{EM DASH}"): "-",
    ord("\N{MINUS SIGN}"): "-",
}


class Scale(NamedTuple):
    """What a list of values is about, as the sentences about mistakes in it need it.

    Attributes:
        name: "blur", "alpha", ...
        low, high: the smallest and the largest value.
        example: a list and a range that are right.
        ends: what the two ends mean, a sentence.
    """

    name: str
    low: float
    high: float
    example: tuple[str, str]
    ends: str


BLUR = Scale("blur", BLUR_MIN, BLUR_MAX, ("0, 4, 8, 15, 22, 30", "0..30/7"), "0 is sharp, 30 is the strongest defocus.")


@dataclass(frozen=True)
class Sweep:
    """What a batch of pictures shows: row i of the batch is the scene at ``values[i]``.

    Attributes:
        values: one number a picture, in the order of the batch (blur 0..30 unless ``name`` says otherwise).
        pivot: blur of the pivot picture that holds the scene, None when nothing was grounded.
        name: what the values are, as a label writes it ("blur", "alpha").
        captions: another name for each value ("f/1.4", "f/16"), or none at all.
        decimals: how many every label has; None for as many as its value needs, two at most.
        scenes: how many scenes the batch shows, one after the other, each with the same values; where each has one
            picture only, as photos have, it may be a value of its own.
    """

    values: tuple[float, ...]
    pivot: float | None = None
    name: str = "blur"
    captions: tuple[str, ...] = ()
    decimals: int | None = None
    scenes: int = 1

    def __len__(self) -> int:
        return len(self.values)

    @property
    def levels(self) -> int:
        """Number of pictures of each scene."""
        return len(self) // self.scenes

    @property
    def pivot_row(self) -> int | None:
        """Row of the (first scene's) pivot picture; None when the pivot is not one of the pictures."""
        return self.values.index(self.pivot) if self.pivot in self.values else None

    @property
    def pivot_rows(self) -> tuple[int, ...]:
        """Rows of the pivot pictures, one a scene; none when the pivot is not one of the pictures."""
        first = self.pivot_row
        return () if first is None else tuple(range(first, len(self), self.levels))

    @property
    def reference_row(self) -> int:
        """Row that stands for the (first scene's) pivot: the pivot itself, else the picture nearest to it, else
        the one nearest to the middle of the values."""
        values = self.scene(0).values
        return nearest(values, (min(values) + max(values)) / 2 if self.pivot is None else self.pivot)

    @property
    def sharpest_row(self) -> int:
        """Row of the (first scene's) lowest value."""
        values = self.scene(0).values
        return values.index(min(values))

    @property
    def softest_row(self) -> int:
        """Row of the (first scene's) highest value."""
        values = self.scene(0).values
        return values.index(max(values))

    def scene(self, number: int) -> Sweep:
        """The sweep of one scene alone, counted from 0."""
        rows = slice(number * self.levels, (number + 1) * self.levels)
        return replace(self, values=self.values[rows], captions=self.captions[rows], scenes=1)

    def for_pictures(self, masks):
        """Masks [H, W] or [n, H, W] with one for each picture where they come one for each of several scenes."""
        masks = masks.reshape(-1, *masks.shape[-2:])
        return masks.repeat_interleave(self.levels, 0) if len(masks) == self.scenes > 1 else masks

    def check(self, pictures: int) -> None:
        """Raise ValueError unless there is one picture for each value."""
        if pictures != len(self):
            raise ValueError(
                f"There are {pictures} pictures, but the sweep has {len(self)} values. Connect the pictures "
                "that were sampled with this very sweep, all of them and in their order."
            )

    @property
    def labels(self) -> tuple[str, ...]:
        """One short label a picture: that of its level, of several scenes with its scene's number."""
        if self.scenes == 1:
            return self.level_labels
        return tuple(f"scene {row // self.levels + 1}, {label}" for row, label in enumerate(self.level_labels))

    @property
    def level_labels(self) -> tuple[str, ...]:
        """One short label a picture: its caption, else such as ``blur 12.5``."""
        return self.captions or tuple(f"{self.name} {number}" for number in self.short_labels)

    @property
    def short_labels(self) -> tuple[str, ...]:
        """The labels where the name of the values stands already: the caption, else such as ``12.5``."""
        if self.captions or self.decimals is None:
            return self.captions or tuple(map(format_value, self.values))
        return tuple(f"{value:.{self.decimals}f}" for value in self.values)


def nearest(values: tuple[float, ...], target: float) -> int:
    """Index of the first value with the smallest distance to ``target``."""
    return min(range(len(values)), key=lambda i: abs(values[i] - target))


def format_value(value: float) -> str:
    """A number as people write it: no exponent, no trailing zeros, at most two decimals."""
    return f"{value:.2f}".rstrip("0").rstrip(".") or "0"


def parse_blurs(text: str) -> tuple[float, ...]:
    """``parse_values`` for blurs, 0..30."""
    return parse_values(text, BLUR)


def parse_values(text: str, scale: Scale) -> tuple[float, ...]:
    """Read a list of values: numbers and ranges, separated by commas, semicolons or spaces.

    ``first..last/count`` stands for ``count`` evenly spaced values, both ends included; ``first..last`` steps by one.
    ``first-last`` is seven of them, ``first-last/count`` as many as it says. Where semicolons separate, a comma inside
    a number is a decimal comma. Order and duplicates are kept.

    Raises:
        ValueError: naming the entry that is wrong and what would be right.
    """
    if len(text) > _LONGEST:
        raise ValueError(
            f"The list of {scale.name}s has {len(text):,} characters, expected at most {_LONGEST:,}. Use a shorter one."
        )
    if f_stop := _F_STOP.search(text):
        raise ValueError(
            f"'{_short(f_stop[0])}' is an f-stop, but this list is of {scale.name}s from {scale.low:g} to "
            f"{scale.high:g}. Bokeh Lens tells the blur of an f-stop; write that blur here, and give Bokeh Lens the "
            "sweep to have it labelled with f-stops."
        )
    entries = _entries(text, scale)
    if not entries:
        raise ValueError(
            f"The list of {scale.name}s is empty. Write numbers from {scale.low:g} to {scale.high:g}, for example: "
            f"{scale.example[0]}"
        )
    values: list[float] = []
    for entry in entries:
        values += _expand(entry, scale)
        if len(values) > MAX_LEVELS:
            raise ValueError(
                f"The list of {scale.name}s has more than {MAX_LEVELS} values. Use a shorter list or two sweeps."
            )
    return tuple(values)


def _entries(text: str, scale: Scale) -> list[str]:
    text = re.sub(r"\s*(\.\.|/|(?<=\s)-(?=\s))\s*", r"\1", text.translate(_OTHER_SIGNS).strip())
    if ";" in text:
        parts = [part for part in re.split(r"[;\s]+|,(?=\s)|,$", text) if part]
        wrong = [part for part in parts if re.search(",[0-9]*,", part)]
        parts = [part.replace(",", ".") for part in parts]
    else:
        parts = [part for part in re.split(r"\s*,\s+|\s+", text) if part]
        # "2,5 7,5" and "2,5, 7,5", but not "0,4,8,15": there every comma separates.
        wrong = [part for part in parts if _DECIMAL_COMMA.fullmatch(part)] if len(parts) > 1 else []
        if any(part.count(",") > 1 for part in parts):
            wrong = []
        parts = [entry for part in parts for entry in part.split(",") if entry]
    if wrong:
        raise ValueError(
            f"The commas of '{_short(text)}' can be read in two ways: '{_short(wrong[0])}' as one number or as several "
            f"{scale.name}s. Write a point in numbers, 2.5, and a comma and a space between them."
        )
    return parts


def _expand(entry: str, scale: Scale) -> list[float]:
    first_text, is_range, rest = entry.partition("..")
    if by_dash := _RANGE.fullmatch(entry):
        first_text, last_text, count_text = by_dash.groups()
        count_text = str(RANGE_LEVELS) if count_text is None else count_text
    elif is_range:
        last_text, has_count, count_text = rest.partition("/")
        count_text = count_text if has_count else None
    else:
        return [_value(entry, entry, scale)]
    first, last = _value(first_text, entry, scale), _value(last_text, entry, scale)
    if count_text is None:
        step = math.copysign(1.0, last - first)
        return [first + step * i for i in range(int(abs(last - first)) + 1)]
    count = _count(count_text, entry)
    if count == 1 or (by_dash and first == last):
        return [first]
    # Each value from both ends, so that the last one is exactly `last`.
    return [(first * (count - 1 - i) + last * i) / (count - 1) for i in range(count)]


def _value(text: str, entry: str, scale: Scale) -> float:
    try:
        # Python's own way to write thousands is nobody else's.
        value = float(text.replace("_", "?"))
    except ValueError:
        where = "" if text == entry else f" in '{_short(entry)}'"
        raise ValueError(
            f"'{_short(text)}'{where} is not a number. Write {scale.name}s from {scale.low:g} to {scale.high:g} or "
            f"ranges such as {scale.example[1]}"
        ) from None
    if not scale.low <= value <= scale.high:  # also false for nan
        raise ValueError(
            f"{scale.name.capitalize()} {_short(text)} is outside {scale.low:g} to {scale.high:g}. {scale.ends}"
        )
    if 0 < abs(value) < SMALLEST:
        raise ValueError(
            f"{scale.name.capitalize()} {_short(text)} is too small to be told from 0. Write 0, or at least "
            f"{SMALLEST:g}."
        )
    return value


def _count(text: str, entry: str) -> int:
    # Python refuses to read thousands of digits, and so do people.
    if not text.isdecimal() or (len(text) <= 9 and int(text) < 1):
        raise ValueError(
            f"'{_short(entry)}' asks for '{_short(text)}' values. The count after / must be a whole number from 1 up."
        )
    if len(text) > 9 or int(text) > MAX_LEVELS:
        raise ValueError(
            f"'{_short(entry)}' asks for {_short(text)} values, at most {MAX_LEVELS} are possible. Use a smaller count."
        )
    return int(text)


def _short(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:37]}..."
