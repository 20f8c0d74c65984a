"""Contents of conditionings that differ from picture to picture, laid out by the table of rows.

The host spreads a batch of three photos over six rows as 0, 0, 1, 1, 2, 2 and knows nothing of pivots. So it never gets
to: before it makes batches of anything, every conditioning holds one entry for each row, in the table's order.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

from comfy.clip_vision import Output
from comfy.conds import CONDRegular
from comfy.controlnet import ControlBase
from torch import Tensor

from .rows import Rows

# In a conditioning: the blurs that its prompts were written for, one for each of them.
BLURS = "bokeh_blurs"

# Masks of a picture, whose last two sides are height and width; an attention mask is none.
_MASKS = ("mask", "concat_mask", "denoise_mask")

# What nodes put beside a prompt: never one for each blur that there is a prompt for, even where there are as many.
_BESIDE = ("mask", "reference_latents", "concat_", "clip_vision_")


def lay_out(conds: Mapping[str, list[dict]], rows: Rows) -> dict[str, list[dict]]:
    """The guider's conditionings with one entry a row in everything that has one entry a picture.

    What all pictures share (dimension 0 is 1) stays the very same object. A conditioning with ``bokeh_blurs`` gives
    every row, the pivot's included, the prompt for its blur. What has one entry for each of the user's rows, scenes or
    levels goes by that; any other count is first brought to the user's batch as the host would do it.

    Raises:
        ValueError: when a row's blur is not among those that the prompts are for.
    """
    controls: dict[int, ControlBase] = {}
    return {name: [_entry(entry, rows, controls) for entry in entries] for name, entries in conds.items()}


def lay_out_mask(mask: Tensor, rows: Rows, sides: int) -> Tensor:
    """A noise mask [B, ..., H, W] with one entry a row; without a batch of its own it stays as it is.

    Args:
        sides: number of sides of a picture, 2, or 3 for videos, whose masks count frames unless they have 5 dimensions.
    """
    return _picture(mask, "noise_mask", rows, None) if mask.ndim > (2 if sides == 2 else 4) else mask


def _entry(entry: dict[str, Any], rows: Rows, controls: dict[int, ControlBase]) -> dict[str, Any]:
    blurs = entry.get(BLURS)
    laid = {}
    for name, value in entry.items():
        if name == BLURS:
            continue
        if isinstance(value, ControlBase):
            laid[name] = _control(value, rows, controls)
        elif isinstance(value, dict) and name == "model_conds":
            laid[name] = {key: _value(cond, key, rows, blurs) for key, cond in value.items()}
        else:
            laid[name] = _value(value, name, rows, None if name.startswith(_BESIDE) else blurs)
    return laid


def _value(value: Any, name: str, rows: Rows, blurs: tuple[float, ...] | None) -> Any:
    if isinstance(value, Tensor):
        return _picture(value, name, rows, blurs)
    if isinstance(value, list):
        return [_picture(item, name, rows, blurs) if isinstance(item, Tensor) else item for item in value]
    if isinstance(value, CONDRegular | Output):
        changed = copy.copy(value)
        vars(changed).update({key: _value(item, name, rows, blurs) for key, item in vars(value).items()})
        return changed
    return value


def _control(control: ControlBase, rows: Rows, controls: dict[int, ControlBase]) -> ControlBase:
    """A ControlNet and those before it, each with one hint a row; both branches keep sharing one."""
    if id(control) in controls:
        return controls[id(control)]
    hint = control.cond_hint_original
    before = control.previous_controlnet
    laid_hint = _picture(hint, "hint", rows, None) if isinstance(hint, Tensor) else hint
    laid_extra = _value(control.extra_concat_orig, "hint", rows, None)
    laid_before = None if before is None else _control(before, rows, controls)
    same = laid_hint is hint and laid_before is before
    if not same or any(laid is not own for laid, own in zip(laid_extra, control.extra_concat_orig, strict=True)):
        changed = copy.copy(control)
        changed.cond_hint_original, changed.extra_concat_orig = laid_hint, laid_extra
        changed.set_previous_controlnet(laid_before)
    else:
        changed = control
    controls[id(control)] = changed
    return changed


def _picture(value: Tensor, name: str, rows: Rows, blurs: tuple[float, ...] | None) -> Tensor:
    if value.ndim < (3 if name in _MASKS else 2) or value.shape[0] <= 1:
        return value
    places = _places(value.shape[0], name, rows, blurs)
    return value if places == list(range(value.shape[0])) else value[places]


def _places(count: int, name: str, rows: Rows, blurs: tuple[float, ...] | None) -> list[int]:
    """For each row, which of ``count`` entries it shows."""
    if blurs is not None and count in (len(blurs), rows.scenes * len(blurs)):
        block = len(blurs) if count > len(blurs) else 0
        return [row.scene * block + _of_blur(row.blur, blurs) for row in rows.table]
    targets = rows.targets
    if count == len(rows):
        return list(range(count))  # laid out already
    if count != targets and count == rows.scenes:
        return list(rows.column("scene"))
    if count != targets and count == rows.levels:
        return list(rows.column("level"))
    sources = rows.column("source")
    if count == targets:
        return list(sources)
    if name.startswith("concat_") and targets > 1:
        # As comfy.utils.resize_to_batch_size spreads them.
        if count > targets:
            scale = (count - 1) / (targets - 1)
            return [min(round(source * scale), count - 1) for source in sources]
        return [min(math.floor((source + 0.5) * count / targets), count - 1) for source in sources]
    return [source % count for source in sources]


def _of_blur(blur: float, blurs: tuple[float, ...]) -> int:
    for place, known in enumerate(blurs):
        if math.isclose(known, blur, abs_tol=1e-6):
            return place
    raise ValueError(
        f"The prompts are written for the blurs {', '.join(f'{known:g}' for known in blurs)}, but a picture of this "
        f"run has blur {blur:g}. Write the prompts with the sweep that is being sampled, its pivot included."
    )
