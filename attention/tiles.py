"""A large photo through the network in tiles, as Genfocus' own program sends it (its ``generate``).

Every tile is a picture of 512 px of its own, positions included: that is what the LoRAs were trained at. Tiles overlap
by an eighth, and where they do their results count by exp(-(x^2 + y^2)), with x and y from -2 to 2 over a tile.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from comfy.model_management import throw_exception_if_processing_interrupted
from comfy.utils import ProgressBar
from torch import Tensor

# Latent pixels of a tile's side, 512 px, and of a token's.
SIDE = 64
_TOKEN = 2
_STRIDE = SIDE - SIDE // 8


def corners(height: int, width: int) -> list[tuple[int, int]]:
    """Top and left of every tile of a latent of this size; none where it is smaller than a tile."""
    if min(height, width) < SIDE:
        return []

    def starts(length: int) -> list[int]:
        found = list(range(0, length - SIDE + 1, _STRIDE))
        return found if found[-1] + SIDE == length else [*found, length - SIDE]

    return [(top, left) for top in starts(height) for left in starts(width)]


def in_tiles(run: Callable[..., Tensor], inputs: tuple, on_tile: Callable[[int, int], None]) -> Tensor:
    """What ``run`` makes of a model call's inputs, one tile after the other.

    Args:
        run: takes inputs such as these.
        inputs: latents [B, C, h, w], timesteps, what is concatenated to the latents, prompt, ControlNets' output.
        on_tile: called before each tile with its number and how many there are.
    """
    x, t, concat, context, control = inputs
    height, width = x.shape[-2:]
    places = corners(height, width)
    line = torch.linspace(-2, 2, SIDE // _TOKEN, device=x.device).square().neg().exp().repeat_interleave(_TOKEN)
    weights = line[:, None] * line
    total, weight = torch.zeros_like(x, dtype=torch.float32), x.new_zeros(height, width, dtype=torch.float32)
    for number, corner in enumerate(places):
        on_tile(number, len(places))
        tile, beside, added = (_cut(value, corner, height, width) for value in (x, concat, control))
        found = run((tile, t, beside, context, added))
        _window(total, corner).add_(found * weights)
        _window(weight, corner).add_(weights)
    return (total / weight).to(found)


def report(options: dict[str, Any], sigma: float) -> Callable[[int, int], None]:
    """Shows how far a step at ``sigma`` is, tile by tile, and stops when the user says so."""
    sigmas = options.get("sample_sigmas")
    step = 0 if sigmas is None else int((sigmas > sigma).sum())
    steps = 1 if sigmas is None else len(sigmas) - 1

    def on_tile(number: int, count: int) -> None:
        throw_exception_if_processing_interrupted()
        if number:
            ProgressBar(steps * count).update_absolute(step * count + number)

    return on_tile


def _window(value: Tensor, corner: tuple[int, int]) -> Tensor:
    top, left = corner
    return value[..., top : top + SIDE, left : left + SIDE]


def _cut(value: Any, corner: tuple[int, int], height: int, width: int) -> Any:
    """The tile's part of everything with one entry for each latent pixel or each token of the picture."""
    if isinstance(value, dict):
        return {name: _cut(entry, corner, height, width) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_cut(entry, corner, height, width) for entry in value)
    if not isinstance(value, Tensor):
        return value
    if value.ndim > 3 and value.shape[-2:] == (height, width):
        return _window(value, corner)
    rows, columns = -(-height // _TOKEN), -(-width // _TOKEN)
    if value.ndim == 3 and value.shape[1] == rows * columns:
        top, left, side = corner[0] // _TOKEN, corner[1] // _TOKEN, SIDE // _TOKEN
        return value.unflatten(1, (rows, columns))[:, top : top + side, left : left + side].flatten(1, 2)
    return value
