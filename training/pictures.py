"""What the trainer learns from: pictures of known blur, as a dataset shows them and as the model sees them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol

import torch
from torch import Tensor


class Pictures(NamedTuple):
    """Pictures of known blur; rows of one scene follow one another.

    Attributes:
        images: [n, H, W, 3] float32 sRGB in 0..1.
        captions: one for each scene.
        blurs: [n], each 0..30; n = scenes * pictures of a scene.
    """

    images: Tensor
    captions: list[str]
    blurs: Tensor


# What tells one data set from another. Tensors need only be near each other: another device computes them a little
# differently.
Identity = Mapping[str, "str | int | float | bool | Tensor"]


class Dataset(Protocol):
    """Where pictures come from. ``groups``: one scene can be drawn at several blurs; ``singles``: scenes can be
    drawn once."""

    groups: bool
    singles: bool

    def draw(self, generator: torch.Generator, scenes: int, per_scene: int, held_out: bool = False) -> Pictures:
        """``scenes`` scenes at ``per_scene`` blurs each, settled by ``generator`` (CPU) alone.

        ``held_out`` draws from the part that is kept for measuring, if the dataset has one.
        """

    def identity(self) -> Identity:
        """What is another as soon as a generator may draw other pictures or captions; no tensors."""


class Text(NamedTuple):
    """A caption as its text encoder gives it, at its own length; or n captions of one length, with n in front.

    Attributes:
        context: tokens [L, D].
        pooled: [P], or None where the encoder gives none.
        mask: [L], 0 where a token is padding, or None.
    """

    context: Tensor
    pooled: Tensor | None = None
    mask: Tensor | None = None


class Draw(NamedTuple):
    """Pictures as the model sees them.

    Attributes:
        latents: [n, C, ..., h, w] float32 in the model's own scale (``process_latent_in`` done).
        texts: one for each scene.
        blurs: [n], each 0..30.
    """

    latents: Tensor
    texts: list[Text]
    blurs: Tensor


class LatentDataset(Protocol):
    """Where the trainer's latents and texts come from. ``groups`` and ``singles`` as in ``Dataset``."""

    groups: bool
    singles: bool

    def draw(self, generator: torch.Generator, scenes: int, per_scene: int, held_out: bool = False) -> Draw:
        """As ``Dataset.draw``, encoded."""

    def empty(self) -> Text:
        """The empty caption."""

    def identity(self) -> Identity:
        """As ``Dataset.identity``, and what latents and texts are made with."""
