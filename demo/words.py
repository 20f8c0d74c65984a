"""The text side of the demonstration model: plain words, one vector each.

The model knows the words of the procedural scenes and some that mean the same; order and filling words do not
matter to it. A word's vector is its own axis, so nothing here is trained.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor

WORDS = (
    *("red", "orange", "yellow", "green", "blue", "pink"),
    *("disc", "square", "diamond", "heart"),
    *("grey", "brown", "teal", "olive", "plum", "navy"),
    *("stripes", "checks", "lights", "tiles"),
    *("sharp", "blurred", "slightly", "strongly", "completely"),
)
SAME = {
    **dict.fromkeys(("circle", "ball", "disk", "coin", "dot"), "disc"),
    **dict.fromkeys(("box", "cube"), "square"),
    **dict.fromkeys(("rhombus", "kite"), "diamond"),
    **dict.fromkeys(("magenta", "rose"), "pink"),
    **dict.fromkeys(("gray", "silver"), "grey"),
    **dict.fromkeys(("purple", "violet"), "plum"),
    **dict.fromkeys(("turquoise", "cyan"), "teal"),
    **dict.fromkeys(("khaki",), "olive"),
    **dict.fromkeys(("stripe", "lines", "bars"), "stripes"),
    **dict.fromkeys(("check", "checkered", "chequered", "checkerboard", "chess"), "checks"),
    **dict.fromkeys(("light", "lamps", "lamp", "bulbs", "bokeh"), "lights"),
    **dict.fromkeys(("tile", "tiled", "grid"), "tiles"),
    **dict.fromkeys(("crisp", "focused"), "sharp"),
    **dict.fromkeys(("blurry", "defocused"), "blurred"),
    **dict.fromkeys(("very", "heavily"), "strongly"),
    **dict.fromkeys(("totally", "fully"), "completely"),
}
FILLERS = frozenset(
    (
        *("a", "an", "the", "of", "in", "on", "at", "by", "to", "and", "with"),
        *("before", "behind", "front", "against", "background", "photo", "picture"),
        # Of the prompts of Genfocus.
        *("everything", "focus", "excellent", "large", "aperture"),
    )
)
TOKENS = 8
WIDTH = 32
# A vector with one entry of this size has a root mean square of 1, as the transformer's input layers expect.
SCALE = WIDTH**0.5


def split(text: str) -> tuple[list[str], list[str]]:
    """Words of a prompt: those the model knows, in its own spelling and in order, and those it does not."""
    known, unknown = [], []
    for word in re.findall(r"[a-z]+", text.lower()):
        name = SAME.get(word, word)
        if name in WORDS:
            known.append(name)
        elif word not in FILLERS:
            unknown.append(word)
    return known, unknown


def embed(numbers: list[int], weights: list[float] | None = None) -> tuple[Tensor, Tensor]:
    """Word numbers (places in ``WORDS``) -> token vectors [8, 32] and the pooled vector [32], their sum.

    Words after the eighth are left out, missing ones are zeros. ``weights`` scales each word's vector.
    """
    tokens = torch.zeros(TOKENS, WIDTH)
    for place, number in enumerate(numbers[:TOKENS]):
        tokens[place, number] = SCALE * (1.0 if weights is None else weights[place])
    return tokens, tokens.sum(0)
