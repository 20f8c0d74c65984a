"""The settings of a bokeh adapter: the keys of the authors' config.json, checked for type and against the tensors."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

TEXT_TO_IMAGE = "text-to-image"
IMAGE_TO_IMAGE = "image-to-image"
FLUX = "flux"

_KINDS = {
    "attn_hidden_dim": "count",
    "blocks": "names",
    "bokeh_context_dim": "count",
    "bokeh_hidden_dim": "count",
    "bokeh_input_dim": "count",
    "bokeh_scale": "number",
    "family": "text",
    "lora_alpha": "number or null",
    "lora_rank": "count or null",
    "lora_scale": "number",
    "unfreeze_k": "true or false",
    "unfreeze_q": "true or false",
    "variant": "variant",
}
SETTING_KEYS = frozenset(_KINDS)
_WORDS = {
    "count": "a whole number of at least 1",
    "count or null": "a whole number of at least 1, or null",
    "names": "a list of block names, or null",
    "number": "a number",
    "number or null": "a number, or null",
    "text": "a text",
    "true or false": "true or false",
    "variant": f'"{TEXT_TO_IMAGE}" or "{IMAGE_TO_IMAGE}"',
}
_BLOCK_NAME = re.compile(r"(single_)?transformer_blocks\.(\d+)")


class AdapterError(ValueError):
    """What is wrong with an adapter file or its download: what came, what was expected, what to do."""


@dataclass(frozen=True, kw_only=True)
class AdapterSettings:
    """What an adapter's tensors mean.

    family: of the models that it fits ("flux", "unet", ...). by_name: whether block_names says which blocks they are,
    in the order of blocks; else blocks counts those of a FLUX model. widths: attention width C of each block.
    context_dim: width X of the embedding. blocks: the numbers i of the tensors; gaps only where they count blocks of
    FLUX, double blocks first. block_names: also the authors' names ("transformer_blocks.0",
    "single_transformer_blocks.3") where a config.json gave them; only with them can the depth of the model be checked.
    rank: None for full matrices. lora_alpha: None means a factor of 1, otherwise every low-rank pair (v, q and k) is
    scaled by lora_alpha / rank. lora_scale: factor on q and k. bokeh_scale: factor on v. variant: "text-to-image" or
    "image-to-image".
    """

    family: str = FLUX
    by_name: bool = False
    widths: tuple[int, ...]
    context_dim: int
    blocks: tuple[int, ...]
    block_names: tuple[str, ...] | None
    rank: int | None
    lora_alpha: float | None
    lora_scale: float = 1.0
    bokeh_scale: float = 1.0
    unfreeze_q: bool
    unfreeze_k: bool
    variant: str

    @property
    def width(self) -> int:
        """The first block's attention width; of FLUX, every block's."""
        return self.widths[0]


def parse_settings(settings: Mapping[str, object], source: str) -> dict[str, object]:
    """The adapter's own keys among `settings`, numbers as float, names as a tuple; other keys are left out.

    Raises AdapterError naming the key and the value that has the wrong type.
    """
    parsed: dict[str, object] = {}
    for key in sorted(SETTING_KEYS & settings.keys()):
        value, kind = settings[key], _KINDS[key]
        if not _fits(value, kind):
            raise AdapterError(
                f"{source}: its settings say {key} = {value!r}, expected {_WORDS[kind]}. "
                "Use the config.json that belongs to this file, or remove it."
            )
        if kind.startswith("number") and value is not None:
            value = float(value)
        if kind == "names" and value is not None:
            value = tuple(value)
        parsed[key] = value
    return parsed


def _fits(value: object, kind: str) -> bool:
    if value is None:
        return kind.endswith("or null") or kind == "names"
    # bool is an int in Python, but `lora_rank: true` is a mistake.
    is_bool = isinstance(value, bool)
    if kind == "true or false":
        return is_bool
    if kind.startswith("count"):
        return isinstance(value, int) and not is_bool and value >= 1
    if kind.startswith("number"):
        return isinstance(value, int | float) and not is_bool and math.isfinite(value)
    if kind == "text":
        return isinstance(value, str)
    if kind == "variant":
        return value in (TEXT_TO_IMAGE, IMAGE_TO_IMAGE)
    return isinstance(value, list | tuple) and len(value) > 0 and all(isinstance(name, str) for name in value)


def check_against_tensors(given: Mapping[str, object], actual: Mapping[str, object], source: str) -> None:
    """Raise AdapterError naming both values where a setting contradicts what the tensors show."""
    for key, value in actual.items():
        if key in given and given[key] != value:
            raise AdapterError(
                f"{source}: its settings say {key} = {_show(given[key])}, but its tensors have {key} = {_show(value)}. "
                "Use the config.json that belongs to this file, or remove it."
            )


def check_listed_names(names: tuple[str, ...] | None, indices: tuple[int, ...], source: str) -> None:
    """Check that every block has one name of its own. Raises AdapterError with both counts."""
    count = len(set(names or ()))
    if names is None or count != len(names) or indices != tuple(range(count)):
        raise AdapterError(
            f"{source}: its settings name {count} different blocks, but its tensors adapt {len(indices)} blocks, "
            f"numbered {_join(indices)}. Expected one name for each, numbered from 0: get the file again."
        )


def check_block_names(names: tuple[str, ...], indices: tuple[int, ...], source: str) -> None:
    """Check the authors' block names against the indices of the tensors, as far as that needs no model.

    Double block n has index n. Single block m has index d + m, with one unknown depth d for all of them.
    Raises AdapterError naming both sides.
    """
    advice = "Use the config.json that belongs to this file, or remove it."
    matches = {name: _BLOCK_NAME.fullmatch(name) for name in names}
    for name, match in matches.items():
        if match is None:
            raise AdapterError(
                f'{source}: its settings name the block "{name}", expected names like "transformer_blocks.0" or '
                f'"single_transformer_blocks.0". {advice}'
            )
    if len(matches) != len(names) or len(names) != len(indices):
        raise AdapterError(
            f"{source}: its settings name {len(matches)} different blocks, but its tensors adapt {len(indices)} "
            f"blocks. {advice}"
        )
    doubles = {int(match[2]) for match in matches.values() if match[1] is None}
    for number in sorted(doubles - set(indices)):
        raise AdapterError(
            f'{source}: its settings name the block "transformer_blocks.{number}", but it has no tensors of block '
            f"{number} (it has {_join(indices)}). {advice}"
        )
    singles = sorted(int(match[2]) for match in matches.values() if match[1] is not None)
    rest = [index for index in indices if index not in doubles]
    depths = {index - number for index, number in zip(rest, singles, strict=True)}
    if len(depths) > 1 or any(depth <= max(doubles, default=-1) for depth in depths):
        raise AdapterError(
            f"{source}: its settings name the single blocks {_join(singles)}, but its tensors have the indices "
            f"{_join(rest)} after the double blocks, which no model fits. {advice}"
        )


def _show(value: object) -> str:
    if value is None:
        return "null (full matrices)"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _join(numbers: tuple[int, ...] | list[int]) -> str:
    return ", ".join(map(str, numbers))
