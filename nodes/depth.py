"""What the nodes that take a depth map share: the questions about it, its reading, and what they tell of the blur."""

from __future__ import annotations

from collections.abc import Callable

import comfy.model_management
from comfy_api.latest import io
from torch import Tensor

from ..optics.depth import SHARED, disparity_of, metric_disparity_of

BRIGHT, DARK, METRES, INVERSE = "near is bright", "near is dark", "metres", "1/m"


def depth_is_input(more: str) -> io.Combo.Input:
    """What the depth map shows; ``more`` ends the tooltip."""
    return io.Combo.Input(
        "depth_is",
        options=[BRIGHT, DARK, METRES, INVERSE],
        tooltip="What the depth map shows: grey with near things bright (Depth Anything, MiDaS) or dark, or real "
        f"distances, in metres or their inverse in 1/m. {more}",
    )


def slider(id: str, default: float, last: float, tooltip: str) -> io.Float.Input:
    """A number from 0 to ``last``."""
    return io.Float.Input(
        id,
        default=default,
        min=0.0,
        max=last,
        step=last / 100,
        round=0.0001,
        display_mode=io.NumberDisplay.slider,
        tooltip=tooltip,
    )


def check_within(name: str, value: float, last: float) -> None:
    """Raise ValueError unless a number, which may come over a link, is from 0 to ``last``."""
    if not 0 <= value <= last:
        raise ValueError(f"{name} is {value:g}, expected 0 to {last:g}. Change it, or what is connected to it.")


def focus_point() -> list[io.Float.Input]:
    """Where in the picture the focus is."""
    return [
        slider("focus_x", 0.5, 1.0, "The point to focus on: 0 = left edge of the picture, 1 = right edge."),
        slider("focus_y", 0.5, 1.0, "The point to focus on: 0 = upper edge of the picture, 1 = lower edge."),
    ]


def defocus_outputs() -> list[io.Mask.Output]:
    """How far each pixel is out of focus."""
    return [
        io.Mask.Output(
            display_name="defocus",
            tooltip="The radius of each pixel's disc of light in pixels: above 0 before the plane of focus, below 0 "
            "behind it.",
        ),
        io.Mask.Output(display_name="in_focus", tooltip="White where the picture looks sharp."),
    ]


def read_disparity(
    depth: Tensor,
    depth_is: str,
    count: int,
    size: tuple[int, int],
    span: str = SHARED,
    on_map: Callable[[], None] | None = None,
    pictures: Tensor | None = None,
) -> tuple[Tensor, bool, list[str]]:
    """Disparity [count, H, W] of a depth map, whether it is in 1/m, and sentences for the user (see `optics.depth`).

    With the ``pictures`` [count, H, W, C] the maps are repaired."""
    repair = pictures, comfy.model_management.throw_exception_if_processing_interrupted
    if depth_is in (METRES, INVERSE):
        disparity, notes = metric_disparity_of(depth, depth_is == METRES, count, size, on_map, *repair)
        return disparity, True, notes
    disparity, notes = disparity_of(depth, depth_is == BRIGHT, count, size, span, on_map, *repair)
    return disparity, False, notes
