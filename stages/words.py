"""Blur by words: the prompt of a scene, with a wording of the blur for every level of a sweep.

No adapter, no download, any model. Grounding holds the scene, which a change of words would move.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..sweep.prompts import Conditioning, encode_rows
from ..sweep.values import BLUR_MAX, Sweep
from .mixing import Prompt, mix

# For photographs, from blur 0 to blur 30. Each says how the picture looks and what makes it so.
DEFAULT_WORDINGS = """\
everything in sharp focus from front to back, deep depth of field, f/22
slightly soft background, f/8
blurred background, f/4
strongly blurred background, shallow depth of field, f/2
extremely blurred creamy background, very shallow depth of field, large bokeh, f/1.2"""


def read_wordings(text: str) -> tuple[str, ...]:
    """The lines of a ladder, sharp first. Raises ValueError for fewer than two."""
    lines = tuple(line.strip() for line in text.splitlines() if line.strip())
    if len(lines) < 2:
        raise ValueError(
            f"The wordings are {len(lines)} line{'' if len(lines) == 1 else 's'}, expected two at least: how the "
            "picture is called when everything is sharp, and, on the last line, when it is blurred most."
        )
    return lines


def levels(sweep: Sweep) -> tuple[float, ...]:
    """The blurs that need a prompt: a sweep's, each once, and its pivot's.

    Raises ValueError for a sweep of something else.
    """
    if sweep.name != "blur":
        raise ValueError(f"This is a sweep of {sweep.name}, but words are about blur. Connect a Bokeh Sweep.")
    pivot = () if sweep.pivot is None else (sweep.pivot,)
    return tuple(dict.fromkeys((*sweep.values, *pivot)))


def place(blur: float, count: int) -> float:
    """Where on a ladder of ``count`` wordings, evenly spaced from blur 0 to 30, a blur stands: 0 .. count - 1."""
    return min(max(blur / BLUR_MAX, 0.0), 1.0) * (count - 1)


def texts(prompt: str, wordings: Sequence[str], blurs: Sequence[float]) -> tuple[str, ...]:
    """The scene's prompt with the nearest wording for each blur."""
    return tuple(_with(prompt, wordings[int(place(blur, len(wordings)) + 0.5)]) for blur in blurs)


def encode_words(
    clip,
    prompt: str,
    wordings: Sequence[str],
    blurs: Sequence[float],
    blend: bool,
    on_encoded: Callable[[int, int], None] | None = None,
) -> Conditioning:
    """One conditioning with a row for each blur.

    Args:
        clip: a CLIP of the host.
        wordings: from blur 0 to blur 30, evenly spaced.
        blend: True: the embeddings of the two wordings next to a blur, mixed by how near they are; all blurs differ.
            False: the nearest wording; the words are ones that the text encoder knows.
        on_encoded: called with the number of texts done and of all.

    Raises:
        ValueError: without a text encoder, and for one that gives the texts different token counts.
    """
    if not blend:
        return encode_rows(clip, texts(prompt, wordings, blurs), on_encoded, emphasis=True)
    # Two at least stand next to any blur, so all are encoded.
    rows = encode_rows(clip, [_with(prompt, wording) for wording in wordings], on_encoded, emphasis=True)
    return [_blend(entry, [place(blur, len(wordings)) for blur in blurs]) for entry in rows]


def _with(prompt: str, wording: str) -> str:
    return ", ".join(part for part in (prompt.strip().rstrip(".,"), wording) if part)


def _blend(entry: list, places: Sequence[float]) -> list:
    tokens, extra = entry
    count = len(tokens)
    lower = [min(int(at), count - 2) for at in places]
    nearest = [int(at + 0.5) for at in places]

    def prompt(numbers: Sequence[int]) -> Prompt:
        index = list(numbers)
        parts = (tokens, extra.get("pooled_output"), extra.get("attention_mask"))
        return Prompt(*(None if part is None else part[index] for part in parts))

    mixed = mix(
        prompt(lower), prompt([at + 1 for at in lower]), [1 - at + low for at, low in zip(places, lower, strict=True)]
    )
    # What else an encoder hands on (layers, sizes) belongs to one text.
    rest = {name: _rows(value, nearest, count) for name, value in extra.items()}
    parts = {"pooled_output": mixed.pooled, "attention_mask": mixed.mask}
    return [mixed.tokens, rest | {name: part for name, part in parts.items() if part is not None}]


def _rows(value: object, numbers: list[int], count: int) -> object:
    is_batch = isinstance(value, Tensor) and value.ndim > 0 and value.shape[0] == count
    return value[torch.tensor(numbers)] if is_batch else value
