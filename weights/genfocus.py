"""Genfocus' files: LoRAs as diffusers saves them, which act on what a picture is made from and never on the picture.

    transformer.<module>.lora_A.weight [r, in], lora_B.weight [out, r]; scale 1 whatever the rank, but where there is a
    transformer.<module>.alpha: alpha / r

Which modules a file holds is read from the file. What tells it from an ordinary LoRA for FLUX: it adapts
``x_embedder``, which conditions enter by, or the modulation of the picture's tokens, and nothing of the text's.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from safetensors.torch import save_file
from torch import Tensor

from ..files import whole_file
from .settings import AdapterError

_KEY = re.compile(r"transformer\.(.+)\.(lora_[AB](\.default)?\.weight|alpha)")
_PAIRS = [[f"lora_{part}{middle}.weight" for part in "AB"] for middle in ("", ".default")]
_OWN = re.compile(r"x_embedder|transformer_blocks\.\d+\.norm1\.linear|single_transformer_blocks\.\d+\.norm\.linear")
_TEXT = re.compile(r"(context_embedder|norm1_context|add_[qkv]_proj|to_add_out|ff_context)")


@dataclass(frozen=True, eq=False)
class Genfocus:
    """A file of Genfocus: its tensors by their names in the file, in the order of pairs."""

    tensors: Mapping[str, Tensor]
    source: str


def is_genfocus(names: Iterable[object]) -> bool:
    """Whether a file with these keys is one of Genfocus'."""
    names = list(names)
    modules = {found[1] for name in names if (found := _KEY.fullmatch(str(name)))}
    return (
        bool(names)
        and all(_KEY.fullmatch(str(name)) for name in names)
        and any(_OWN.fullmatch(module) for module in modules)
        and not any(_TEXT.search(module) for module in modules)
    )


def build_genfocus(tensors: Mapping[str, Tensor], source: str) -> Genfocus:
    """A file's tensors, checked for pairs that fit each other. Raises AdapterError."""
    modules: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        # In a type that has the operation, as those of a byte have not.
        if not tensor.float().isfinite().all():
            raise AdapterError(f"{source}: {name[:200]} holds NaN or infinite values. Get the file again.")
        found = _KEY.fullmatch(name)
        modules.setdefault(found[1], {})[found[2]] = tensor
    for module, parts in modules.items():
        alpha = parts.pop("alpha", None)
        if alpha is not None and alpha.numel() != 1:
            raise AdapterError(
                f"{source}: the alpha of {module[:200]} is {list(alpha.shape)} numbers, expected one. Get the file "
                "again."
            )
        down, up = (parts[name] for name in sorted(parts)) if sorted(parts) in _PAIRS else (None, None)
        if down is None or down.ndim != 2 or up.ndim != 2 or down.shape[0] != up.shape[1]:
            held = ", ".join(f"{name} {list(parts[name].shape)}" for name in sorted(parts)) or "an alpha alone"
            raise AdapterError(
                f"{source}: for {module[:200]} it holds {held}, expected a lora_A of [r, in] and a lora_B of [out, r]. "
                "Get the file again."
            )
    return Genfocus(dict(tensors), source)


def write_genfocus(genfocus: Genfocus, path: str | os.PathLike[str], dtype: torch.dtype) -> None:
    """Write such a file under its own names; pairs that are zero act on nothing and are left out.

    The file appears under its name complete or not at all. Raises OSError when the disk refuses.
    """
    idle = {name for name, tensor in genfocus.tensors.items() if ".lora_B" in name and not tensor.any()}
    idle |= {name.replace(".lora_B", ".lora_A") for name in idle}
    kept = {name: tensor.to(dtype).contiguous() for name, tensor in genfocus.tensors.items() if name not in idle}
    with whole_file(path) as unfinished:
        save_file(kept, unfinished)
