"""Pictures that a picture is made from, as rows of its batch (Genfocus, arXiv 2512.16923): a photo, a defocus map.

Each condition is a row of the same network with timestep 0 and guidance 1 of its own, which follows a given latent; a
LoRA acts on these rows alone. A picture sees its text, itself and all its conditions; a condition sees the picture's
text, the picture and itself. So it is the machinery of grounding, rows that look at each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .checks import sides_of
from .rows import Row, Rows
from .tiles import corners

# The guidance that the reference gives to conditions (`c_guidance`).
GUIDANCE = 1.0


@dataclass(frozen=True, eq=False)
class Conditions:
    """What every picture of a run is made from.

    Attributes:
        latents: for each condition [1 or n, C, h, w] for n pictures, clean, as the VAE gives them.
        offsets: for each condition how many tokens down and to the right of the picture's its own positions stand.
        levels: how many pictures show the same scene, which starts from one noise.
        tiled: whether large pictures go through the model in tiles.
    """

    latents: tuple[Tensor, ...]
    offsets: tuple[tuple[int, int], ...]
    levels: int = 1
    tiled: bool = False

    def arrange(self, pictures: int) -> Rows:
        """The pictures, then the first condition of each, the second of each, ...

        Raises:
            ValueError: for another number of conditions than pictures.
        """
        for latent in self.latents:
            if latent.shape[0] not in (1, pictures):
                raise ValueError(
                    f"The sampler got a batch of {pictures} latents, but {latent.shape[0]} photos condition it. "
                    "Connect the latent output of the same node to the sampler."
                )
        places = [divmod(picture, self.levels) for picture in range(pictures)]
        table = [Row(0.0, *place, picture, picture) for picture, place in enumerate(places)]
        for number in range(len(self.latents)):
            start = len(table)
            table += [
                Row(0.0, *place, picture, start + picture, shown=False, condition=number)
                for picture, place in enumerate(places)
            ]
        return Rows(tuple(table), pinned=True)

    def in_tiles(self, latent: Sequence[int]) -> bool:
        """Whether latents of the shape [..., h, w] go through the model in tiles."""
        return self.tiled and bool(corners(*latent[-2:]))

    def given(self, pictures: int) -> Tensor:
        """The latents of the rows that ``arrange`` adds."""
        return torch.cat([latent.expand(pictures, *latent.shape[1:]) for latent in self.latents])

    def check(self, noise: Tensor) -> None:
        """Raise ValueError unless every condition has the size of the pictures."""
        for latent in self.latents:
            if latent.shape[1:] != noise.shape[1:]:
                raise ValueError(
                    f"The photo's latent is {sides_of(latent)} (channels x height x width), but the graph samples "
                    f"{sides_of(noise)}. Connect the latent output of the same node to the sampler."
                )


def at_conditions(value: Any, rows: Rows, numbers: tuple[int, ...], to: float) -> Any:
    """A tensor with one entry a row of the batch, in lists and dicts too, with ``to`` where a row is a condition."""
    if isinstance(value, dict):
        return {name: at_conditions(entry, rows, numbers, to) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(at_conditions(entry, rows, numbers, to) for entry in value)
    if not isinstance(value, Tensor) or value.ndim == 0:
        return value
    places = [place for place, number in enumerate(numbers) if rows[number].condition is not None]
    value = value.expand(len(numbers), *value.shape[1:]).clone()
    value[places] = to
    return value
