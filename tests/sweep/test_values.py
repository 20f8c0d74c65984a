"""The list of values as people type it: in other languages, with other signs, and as nobody should."""

# ruff: noqa: RUF001 - signs that look like others are what this is about
from __future__ import annotations

import math
import random
from contextlib import suppress

import pytest

from bokeh.sweep.values import BLUR, MAX_LEVELS, Scale, parse_blurs, parse_values

SEVEN = (0.0, 5.0, 10.0, 15.0, 20.0, 25.0, 30.0)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("2,5; 7,5", (2.5, 7.5)),
        ("2,5;7,5;", (2.5, 7.5)),
        ("2,5；7,5", (2.5, 7.5)),
        ("2，5；7，5", (2.5, 7.5)),
        ("0,5..2,5/3; 4", (0.5, 1.5, 2.5, 4)),
        ("0, 4; 8", (0, 4, 8)),
        ("0,4,8,15", (0, 4, 8, 15)),
        ("0，4，8", (0, 4, 8)),
        ("0、4、8", (0, 4, 8)),
        ("0；4；8", (0, 4, 8)),
        ("0-30", SEVEN),
        ("0 - 30", SEVEN),
        ("0–30", SEVEN),
        ("30-0", SEVEN[::-1]),
        ("0-30/3, 2.5", (0, 15, 30, 2.5)),
        ("0 .. 30 / 7", SEVEN),
        ("0…3", (0, 1, 2, 3)),
        ("5-5", (5,)),
        ("1e1 .5", (10, 0.5)),
    ],
)
def test_what_people_type_is_understood(text, values):
    assert parse_blurs(text) == values


@pytest.mark.parametrize("text", ["2,5 7,5", "2,5, 7,5", "0,4,8; 15", "0, 2,5, 5"])
def test_commas_that_can_be_read_in_two_ways_are_refused(text):
    with pytest.raises(ValueError, match=r"can be read in two ways.*Write a point in numbers"):
        parse_blurs(text)


@pytest.mark.parametrize("text", ["f/1.4, f/2.8", "F2.8", "0, f 4", "ƒ/2", "f/1,4; f/2,8"])
def test_f_stops_point_to_the_lens(text):
    with pytest.raises(ValueError, match=r"is an f-stop.*Bokeh Lens"):
        parse_blurs(text)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("nan", "Blur nan is outside 0 to 30"),
        ("inf", "Blur inf is outside 0 to 30"),
        ("1_0", "'1_0' is not a number"),
        ("1e-300", "Blur 1e-300 is too small to be told from 0"),
        ("9" * 5000, "is outside 0 to 30"),
        ("0..30/" + "9" * 5000, "at most 200 are possible"),
        ("0-30/" + "0" * 5000, "at most 200 are possible"),
        ("-5", "Blur -5 is outside 0 to 30"),
        ("0-1e1", "'0-1e1' is not a number"),
        ("x" * 100_000, "is not a number"),
        ("x" * 10_000_000, "10,000,000 characters, expected at most 200,000"),
        ("[" * 5000, "is not a number"),
        ("0..30/²", "must be a whole number"),
    ],
)
def test_what_nobody_should_type_gets_a_short_sentence(text, sentence):
    with pytest.raises(ValueError, match=sentence) as refused:
        parse_blurs(text)
    assert len(str(refused.value)) < 300


def test_any_text_gives_values_of_the_scale_or_a_value_error():
    draw = random.Random(0)
    signs = [
        "0",
        "1",
        "7.5",
        "2,5",
        "30",
        "..",
        "-",
        "/",
        ",",
        ";",
        " ",
        "e",
        "nan",
        "f",
        "；",
        "，",
        "9" * 400,
        "\0",
        "²",
    ]
    scale = Scale("alpha", 0.0, 2.0, ("0, 1", "0..1/5"), "1 is the whole prompt.")
    for _ in range(3000):
        text = "".join(draw.choices(signs, k=draw.randint(0, 8)))
        for chosen in (BLUR, scale):
            with suppress(ValueError):
                values = parse_values(text, chosen)
                assert 0 < len(values) <= MAX_LEVELS
                assert all(chosen.low <= value <= chosen.high and math.isfinite(value) for value in values), text
