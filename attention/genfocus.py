"""Genfocus on a host model: its conditions as rows, its LoRA on them alone, and where they stand."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from comfy.model_patcher import ModelPatcher
from torch import Tensor, nn

from ..optics.lens import REFERENCE_SIZE
from .attend import CALL
from .conditions import Conditions
from .families import find
from .install import KEY, hooks_on, install
from .lora import Piece, add_pieces
from .patches import put
from .rows import Plan, Row
from .run import RUN

CONDITIONS = "bokeh_conditions"
# The radius that is white in a defocus map (MAX_COC of the reference).
_WHITE = 100.0


class _Positions(NamedTuple):
    """Round what gives a network's tokens their positions: the offsets of the conditions that run now."""

    offsets: tuple[tuple[int, int], ...]
    key = KEY
    rank = 0

    def around(self, forward: Callable, module: nn.Module | None) -> Callable:
        def with_offsets(x, *args, **kwargs):
            tokens, ids = forward(x, *args, **kwargs)
            options = kwargs.get("transformer_options") or {}
            # What stands beside the pictures (reference latents) comes with an index.
            if CALL in options and "index" not in kwargs:
                ids, rows = ids.clone(), options[RUN].rows
                for place, number in enumerate(options[CALL].numbers):
                    condition = rows[number].condition
                    if condition is not None:
                        down, right = self.offsets[condition]
                        # Axis 0 counts pictures, 1 rows of tokens and 2 columns.
                        ids[place, :, 1] += down
                        ids[place, :, 2] += right
            return tokens, ids

        return with_offsets


def check_model(model: ModelPatcher) -> None:
    """Raise ValueError for a model that is no FLUX, or has a bokeh node on it already."""
    family = find(getattr(model.model, "diffusion_model", None))
    if family is None or family.name != "flux":
        raise ValueError(
            f"Genfocus works on FLUX.1-dev, but this model is {type(model.model).__name__}. Connect a FLUX.1-dev model."
        )
    if hooks_on(model) is not None:
        raise ValueError(
            "This model has a bokeh node on it already. Genfocus makes the blur by itself: connect the model from "
            "before that node."
        )


def install_conditions(model: ModelPatcher, pieces: list[Piece], conditions: Conditions) -> ModelPatcher:
    """Conditions on a clone of a native FLUX model, and the LoRA that acts on their rows.

    Args:
        pieces: of the LoRA, from ``lora.read_pieces``.

    Raises:
        ValueError: as ``check_model``.
    """
    check_model(model)
    clone = install(model, None, Plan((0.0,), conditions=conditions))
    if any(any(offset) for offset in conditions.offsets):
        put(clone, "", _Positions(conditions.offsets), None, "process_img")
    return add_pieces(clone, pieces, _of_condition, CONDITIONS)


def _of_condition(row: Row) -> float:
    return float(row.condition is not None)


def defocus_map(radius: Tensor) -> Tensor:
    """The defocus as the reference shows it to its VAE, |K (d - p)| / 100 in 0..1, as an IMAGE [1, H, W, 3].

    The reference encodes these numbers as they are; the host's VAE takes pictures in 0..1 to -1..1 first.

    Args:
        radius: of each pixel's disc of light in px of the picture, [H, W], of either sign.
    """
    at_512 = radius.abs() * REFERENCE_SIZE / min(radius.shape)
    return ((at_512 / _WHITE).clamp(0, 1)[None, :, :, None].expand(-1, -1, -1, 3) + 1) / 2
