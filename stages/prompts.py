"""From the host's conditionings to prompts in two stages: checks, and entries that carry both stages with them."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any, NoReturn

import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from .mixing import ALPHA_MAX, LAYOUT_LEAST, Prompt, Stages, align, mix

# Under this name the stages travel among an entry's encoded conditions, which the host copies along with them.
STAGES = "bokeh_stages"

Conditioning = list[list[Any]]


class StagedCondition:
    """An entry's stages on their way to the sampling run, where they are taken out before the model is called."""

    def __init__(self, stages: Stages):
        self.stages = stages

    def process_cond(self, **_: Any) -> NoReturn:
        """Reached only when nothing took the stages out: the model of this run knows nothing about them."""
        raise ValueError(
            "The positive prompt of this sampler comes from Bokeh Stage, but its model does not. Connect the model "
            "output of the same node to the sampler as well."
        )


def stage_prompt(
    model: ModelPatcher,
    global_prompt: Conditioning,
    local_prompt: Conditioning,
    alphas: Sequence[float],
    layouts: Sequence[float],
    rows: int | None = None,
) -> Conditioning:
    """The global prompt with the mixed prompt of the focus stage attached to each of its entries.

    Everything besides token embeddings, their mask and the pooled vector is the global prompt's in both stages.

    Args:
        model: the model that will sample; its kind says how prompts of different length meet (``align``).
        global_prompt: the whole scene; each entry is staged.
        local_prompt: the thing to keep sharp, one entry.
        alphas: weight of the global prompt in the focus stage, 0..2; one, or one a row of a sweep.
        layouts: fraction of the steps in the layout stage, 0..1; likewise.
        rows: number of rows of a sweep, None when every picture of a batch is treated alike.

    Raises:
        ValueError: a number out of range, an empty conditioning, prompts that do not fit together.
    """
    for alpha in alphas:
        _check("alpha", alpha, ALPHA_MAX, "1 is the global prompt alone, 0 the local prompt alone.")
    for layout in layouts:
        _check("layout", layout, 1.0, "It is the fraction of the steps that hold the layout; 0.8 is a good value.")
    for name, prompt in (("global_prompt", global_prompt), ("local_prompt", local_prompt)):
        if not prompt:
            raise ValueError(f"{name} is an empty conditioning. Connect the output of a CLIP Text Encode node.")
    if len(local_prompt) > 1:
        raise ValueError(
            f"local_prompt has {len(local_prompt)} entries, as Conditioning (Combine) makes them, but one thing is "
            "kept sharp: connect one CLIP Text Encode node. Only global_prompt may have several entries."
        )
    if min(layouts) < LAYOUT_LEAST:
        logging.getLogger(__name__).warning(
            "Bokeh Stage: layout %.2f is under %.1f, where objects of the two prompts begin to mix.",
            min(layouts),
            LAYOUT_LEAST,
        )
    repeats = isinstance(model.get_model_object("diffusion_model"), UNetModel)
    local = _read("local_prompt", local_prompt[0])
    staged = []
    for tokens, extra in global_prompt:
        prompt = _read("global_prompt", (tokens, extra))
        _check_widths(prompt, local)
        layout, other = align(prompt, local, repeats)
        if rows is not None and len(layout.tokens) > 1:
            raise ValueError(
                f"A sweep makes one row for each of its values, but a prompt already has {len(layout.tokens)} rows. "
                "Use a prompt of one row."
            )
        grown = layout.tokens.shape[1] != tokens.shape[1]
        if grown and "attention_mask" in extra and prompt.mask is None:
            raise ValueError(
                f"The global prompt has {tokens.shape[1]} tokens and an attention mask for that number (from Apply "
                f"Style Model, say), but the local prompt has {local.tokens.shape[1]}. Shorten the local prompt."
            )
        if grown and len(layouts) > 1 and layout.mask is None and not repeats:
            # Some rows are still in the layout stage while others need the longer prompt, and the model sees padding.
            raise ValueError(
                f"In a sweep over layouts the local prompt must not be longer than the global prompt, but it has "
                f"{local.tokens.shape[1]} tokens and the global prompt {tokens.shape[1]}. Shorten the local prompt."
            )
        stages = Stages(tokens, layout, mix(layout, other, alphas), tuple(layouts), rows)
        conditions = {**extra.get("model_conds", {}), STAGES: StagedCondition(stages)}
        staged.append([tokens, {**extra, "model_conds": conditions}])
    return staged


def with_prompt(entry: dict[str, Any], prompt: Prompt) -> dict[str, Any]:
    """An entry of a running guider with another prompt in it."""
    parts = {"cross_attn": prompt.tokens, "pooled_output": prompt.pooled, "attention_mask": prompt.mask}
    return {**entry, **{name: part for name, part in parts.items() if part is not None}}


def is_changed(tokens: Tensor | None, stages: Stages) -> bool:
    """Whether a node behind ours has put other token embeddings into an entry."""
    if tokens is stages.tokens:
        return False
    return tokens is None or not torch.equal(tokens.to(stages.tokens.device), stages.tokens)


def _read(name: str, entry: Sequence[Any]) -> Prompt:
    tokens, extra = entry
    if tokens is None or tokens.ndim != 3:
        shape = "none" if tokens is None else " x ".join(map(str, tokens.shape))
        raise ValueError(
            f"{name} should hold token embeddings (rows x tokens x width), but it holds {shape}. "
            "Connect the output of a CLIP Text Encode node of this model."
        )
    mask = extra.get("attention_mask")
    # Masks over text and picture together (Apply Style Model) say nothing about single tokens.
    by_token = mask is not None and mask.ndim == 2 and mask.shape[1] == tokens.shape[1]
    return Prompt(tokens, extra.get("pooled_output"), mask if by_token else None)


def _check(name: str, value: float, highest: float, hint: str) -> None:
    if not (math.isfinite(value) and 0 <= value <= highest):
        raise ValueError(f"{name} must be a number from 0 to {highest:g}, but {value:g} came. {hint}")


def _check_widths(ours: Prompt, theirs: Prompt) -> None:
    parts = [("token embeddings", ours.tokens, theirs.tokens)]
    if ours.pooled is not None and theirs.pooled is not None:
        parts.append(("pooled vector", ours.pooled, theirs.pooled))
    for part, one, other in parts:
        if one.shape[-1] != other.shape[-1]:
            raise ValueError(
                f"The width of the local prompt's {part} is {other.shape[-1]}, that of the global prompt's "
                f"{one.shape[-1]}: they come from the text encoders of two model families. Encode both prompts with "
                "the text encoder of this model."
            )
