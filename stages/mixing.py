"""The mathematics of GBSD (Deng et al., arXiv 2306.08251) on plain tensors: prompts mixed, steps split into stages.

The layout stage is conditioned on the global prompt g alone; the focus stage, which follows it, on
alpha * emb(g) + (1 - alpha) * emb(l) with the local prompt l, the thing to keep sharp. Imports torch alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

ALPHA_MAX = 2.0
# Below this fraction the paper's objects mix: the layout is not settled when the focus stage begins.
LAYOUT_LEAST = 0.7

# Samplers that go through log(sigma) come back a few units in the last place beside it. Neighbouring steps are
# at least 3e-4 apart, even in schedules of a thousand steps.
ROUNDING = 1e-5


class Prompt(NamedTuple):
    """What a text encoder makes of a prompt.

    Attributes:
        tokens: embeddings [n, L, C], n = 1 or one row a picture.
        pooled: the pooled vector [n, P], None where the encoder has none.
        mask: [n, L], 0 for padding that the model must not see; None where the model sees every token.
    """

    tokens: Tensor
    pooled: Tensor | None = None
    mask: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Stages:
    """One prompt in its two stages.

    Attributes:
        tokens: the global prompt's embeddings as they came.
        layout: the global prompt, at one length with ``focus``.
        focus: the mixed prompt, one row or one a picture.
        layouts: for every row of a sweep (else once) the fraction of the steps in the layout stage, 0..1.
        rows: number of pictures in a sweep; None for a prompt that serves every picture of a batch alike.
    """

    tokens: Tensor
    layout: Prompt
    focus: Prompt
    layouts: tuple[float, ...]
    rows: int | None = None

    @property
    def differs(self) -> bool:
        """Whether the pictures of a batch get different prompts, or the same at different steps."""
        tokens = self.focus.tokens
        return len(set(self.layouts)) > 1 or (len(tokens) > 1 and not torch.equal(tokens, tokens[:1].expand_as(tokens)))

    def switches(self, sigmas: Sequence[float]) -> tuple[float, ...]:
        """``switch_sigma`` of each of ``layouts``."""
        return tuple(switch_sigma(layout, sigmas) for layout in self.layouts)

    def prompt(self, in_focus: tuple[bool, ...]) -> Prompt:
        """The prompt for rows of which some, as ``in_focus`` says for each of ``layouts``, are in the focus stage."""
        if all(in_focus):
            return self.focus
        rows = torch.tensor(in_focus)

        def choose(focus: Tensor | None, layout: Tensor | None) -> Tensor | None:
            if focus is None or layout is None:
                return layout
            return torch.where(rows.to(focus.device).view(-1, *[1] * (focus.ndim - 1)), focus, layout)

        return Prompt(*map(choose, self.focus, self.layout))


def switch_sigma(layout: float, sigmas: Sequence[float]) -> float:
    """Noise level at which the focus stage begins: that of step round(layout * steps) of the steps that run.

    Args:
        layout: fraction of the steps in the layout stage, 0..1.
        sigmas: noise levels of the run, falling, one more than there are steps.

    Returns:
        A sigma; inf when every step is in the focus stage, -inf when none is.
    """
    steps = len(sigmas) - 1
    first = int(layout * steps + 0.5)
    if first == 0:
        return math.inf
    return float(sigmas[first]) if first < steps else -math.inf


def in_focus(sigma: float, switch: float) -> bool:
    """Whether a model call at ``sigma`` belongs to the focus stage that begins at ``switch``.

    By sigma and not by count, so that it holds for samplers that call the model several times a step.
    """
    return sigma <= switch * (1 + ROUNDING)


def mix(layout: Prompt, local: Prompt, alphas: Sequence[float]) -> Prompt:
    """alpha * layout + (1 - alpha) * local, for tokens and pooled vector alike (paper, section 3).

    Args:
        layout, local: the global and the local prompt, brought to one size by ``align``.
        alphas: weight of the global prompt, one or one a row.

    Returns:
        One row for each alpha, or the prompts' rows for a single alpha. What either prompt has unmasked is
        unmasked. Without a pooled vector on both sides the global prompt's stays.
    """

    def blend(ours: Tensor, theirs: Tensor) -> Tensor:
        weight = torch.tensor(alphas, device=ours.device).view(-1, *[1] * (ours.ndim - 1))
        rest = torch.tensor([1 - alpha for alpha in alphas], device=ours.device).view_as(weight)
        return (weight * ours.float() + rest * theirs.to(ours.device).float()).to(ours.dtype)

    pooled = layout.pooled
    if pooled is not None and local.pooled is not None:
        pooled = blend(pooled, local.pooled)
    mask = layout.mask
    if mask is not None and local.mask is not None:
        mask = torch.maximum(mask, local.mask.to(mask))
    return Prompt(blend(layout.tokens, local.tokens), pooled, mask)


def align(ours: Prompt, theirs: Prompt, repeats: bool) -> tuple[Prompt, Prompt]:
    """Two prompts with the same number of rows and of tokens.

    Tokens are added the way the model's own text encoder and batching do it:

    - ``repeats`` (Stable Diffusion and SDXL, CLIP's chunks of 77): both prompts are repeated to a common
      multiple, as the host does to batch them. Cross-attention over repeated tokens changes nothing.
    - with a mask on either side (T5 of LTXV, PixArt, AuraFlow; Gemma, LLaMA, Qwen): zeros, masked out.
    - without one (T5 of FLUX, SD3 and Wan, which see the padding): the last token goes on. That is the
      encoder's padding in a prompt that it has padded itself, zeros in Wan's case.
    """
    if ours.mask is not None or theirs.mask is not None:
        ours, theirs = (
            prompt if prompt.mask is not None else prompt._replace(mask=prompt.tokens.new_ones(prompt.tokens.shape[:2]))
            for prompt in (ours, theirs)
        )
    lengths = ours.tokens.shape[1], theirs.tokens.shape[1]
    length = math.lcm(*lengths) if repeats else max(lengths)
    rows = math.lcm(*(len(part) for prompt in (ours, theirs) for part in prompt if part is not None))
    return _extend(ours, rows, length, repeats), _extend(theirs, rows, length, repeats)


def _extend(prompt: Prompt, rows: int, length: int, repeats: bool) -> Prompt:
    tokens, pooled, mask = (
        None if part is None else part.repeat(rows // len(part), *[1] * (part.ndim - 1)) for part in prompt
    )
    times, missing = length // tokens.shape[1], length - tokens.shape[1]
    if not missing:
        return Prompt(tokens, pooled, mask)
    if repeats:
        return Prompt(tokens.repeat(1, times, 1), pooled, None if mask is None else mask.repeat(1, times))
    if mask is None:
        return Prompt(torch.cat((tokens, tokens[:, -1:].expand(-1, missing, -1)), 1), pooled)
    padding = torch.nn.functional.pad
    return Prompt(padding(tokens, (0, 0, 0, missing)), pooled, padding(mask, (0, missing)))
