"""What changes with the blur: without any such thing a sweep would be one picture many times."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from comfy.controlnet import ControlBase
from torch import Tensor

from .rows import Rows

# In transformer_options: of every LoRA whose strength follows the blur, its strengths at blur 0 and at blur 30.
LORA = "bokeh_lora"


def check_dial(
    conds: Mapping[str, list[dict[str, Any]]], latent: Tensor, rows: Rows, options: dict[str, Any], worded: bool
) -> None:
    """Check, for a run without an adapter, that something else changes with the blur.

    Known only here, before sampling: prompts meet the model in the guider.

    Args:
        conds: the guider's conditionings as the table of rows has laid them out.
        latent: the latents of the user's rows.
        options: transformer_options of the model.
        worded: whether a conditioning came with prompts for blurs, of which a single blur takes one.

    Raises:
        ValueError: when neither a LoRA nor prompts nor anything else differs between the levels of a scene.
    """
    if any(sharp != blurred for sharp, blurred in options.get(LORA, ())) or (worded and rows.levels == 1):
        return
    if any(_differs(entry, rows) for entries in conds.values() for entry in entries) or _levels_differ(latent, rows):
        return
    raise ValueError(
        "Nothing changes with the blur in this run: there is no adapter, no LoRA whose strength follows the blur, and "
        "one prompt for every picture. Connect one of them: an adapter (Load Bokeh Adapter) to the node of the blur, "
        "the prompts of Bokeh Words to the sampler, or Bokeh LoRA to the model."
    )


def _differs(entry: dict[str, Any], rows: Rows) -> bool:
    # Prompts that take over on the way (Bokeh Stage) do not stand in the entry itself yet.
    staged = [getattr(cond, "stages", None) for cond in entry.get("model_conds", {}).values()]
    if any(stages.differs for stages in staged if stages is not None):
        return True
    for value in entry.values():
        tensors = [part for part in (value if isinstance(value, list) else [value]) if isinstance(part, Tensor)]
        if any(len(part.shape) > 1 and _levels_differ(part, rows) for part in tensors):
            return True
        if isinstance(value, ControlBase) and getattr(value.cond_hint_original, "shape", (1,))[0] > 1:
            return True
    return False


def _levels_differ(value: Tensor, rows: Rows) -> bool:
    """Whether what has one entry a row differs between the levels of the first scene."""
    first = [number for number, row in enumerate(rows.table) if row.scene == 0 and number < len(value)]
    return len(value) > 1 and any(not torch.equal(value[number], value[first[0]]) for number in first)
