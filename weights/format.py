"""A bokeh adapter in memory: recognised by its keys, checked, and given one set of names.

Three families of files hold the same mathematics (Bokeh Diffusion, arXiv 2503.08434, section 3; BokehDepth,
arXiv 2512.12425): the authors' text-to-image adapter (`to_k_bokeh`, `to_v_bokeh`), their image-to-image adapter
(`to_k_dof`, `to_v_dof`) and this pack's own format (`files.py`). Whatever came, an `Adapter` holds

    embedding.0.weight [E, 1]      embedding.0.bias [E]        e = W2 relu(W1 a + c1) + c2, a = blur / 30
    embedding.2.weight [X, E]      embedding.2.bias [X]        X = context width
    blocks.{i}.v.down.weight [r, X]   blocks.{i}.v.up.weight [C, r]      V_b = up(down(e)) * alpha / r
    blocks.{i}.q.down.weight [r, C]   blocks.{i}.q.up.weight [C, r]      q <- q + lora_scale * up(down(q)) * alpha / r
    blocks.{i}.k.down.weight [r, C]   blocks.{i}.k.up.weight [C, r]      the same for k

or, with full matrices, `blocks.{i}.v.weight [C, X]`, `blocks.{i}.q.weight [C, C]`, `blocks.{i}.k.weight [C, C]`,
each with an optional `.bias [C]`. C is the block's own width; where a model has fewer key heads, k has a width of its
own. i is the position in the settings' `blocks`, the names of the adapted blocks in order, in files that name the
`family` of their model; in the authors' files and in older ones of ours it counts all attention blocks of a FLUX model,
double blocks first. The authors' `to_k_bokeh` / `to_k_dof` is checked and dropped: the softmax over one context token
is 1 whatever its key is.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from .settings import (
    FLUX,
    IMAGE_TO_IMAGE,
    TEXT_TO_IMAGE,
    AdapterError,
    AdapterSettings,
    check_against_tensors,
    check_block_names,
    check_listed_names,
    parse_settings,
)

_EXPECTED = (
    'Expected tensors named like "adapter_modules.0.to_v_bokeh.down.weight" (Bokeh Diffusion), '
    '"adapter_modules.0.to_v_dof.down.weight" (BokehDepth) or "blocks.0.v.down.weight" (this pack\'s own format).'
)
_LEAF = r"(down\.weight|up\.weight|weight|bias)"
_AUTHORS_BLOCK = re.compile(rf"(adapter_modules\.)?(\d+)\.(to_[kv]_bokeh|to_[kv]_dof|to_[qk]_adp)\.{_LEAF}")
_AUTHORS_EMBEDDING = re.compile(r"embedding_layer\.([02]\.(?:weight|bias))")
_OWN_BLOCK = re.compile(rf"blocks\.(\d+)\.([vqk])\.{_LEAF}")
_OWN_EMBEDDING = re.compile(r"embedding\.([02]\.(?:weight|bias))")
_EMBEDDING = ("0.weight", "0.bias", "2.weight", "2.bias")
_LORA_MARKS = ("lora", "hada_w", "lokr_w", "dora_scale")
_MODEL_MARKS = ("model.diffusion_model.", "double_blocks.", "transformer_blocks.", "first_stage_model.")
_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


@dataclass(frozen=True, eq=False)
class Adapter:
    """A checked adapter. `tensors` has the canonical names of this module's first lines; `source` is for messages."""

    settings: AdapterSettings
    tensors: dict[str, Tensor]
    source: str

    def width(self, block: int, part: str) -> int | None:
        """Columns that a block's "v", "q" or "k" writes; None where the adapter has no such part."""
        names = (f"blocks.{block}.{part}.{leaf}" for leaf in ("up.weight", "weight"))
        return next((self.tensors[name].shape[0] for name in names if name in self.tensors), None)


def build_adapter(tensors: Mapping[str, Tensor], settings: Mapping[str, object] | None, source: str) -> Adapter:
    """Check the tensors of a file against each other and against its settings, and name them canonically.

    tensors: what the file holds, under the file's own keys. settings: the keys of the authors' config.json
    (`lora_alpha`, `blocks`, ...; plus `variant` for the own format), each optional; None infers everything.
    No tensor is copied. Raises AdapterError, one sentence that starts with `source`, for anything that is not
    a complete and consistent adapter of finite numbers.
    """
    layout = _recognise(tensors, source)
    given = parse_settings(settings or {}, source)
    _check_completeness(layout, source)
    sizes = _check_shapes(layout, source)
    for key, tensor in tensors.items():
        _check_finite(key, tensor, source)

    unfreeze_q, unfreeze_k = ("q" in layout.parts), ("k" in layout.parts)
    variant = layout.variant or given.get("variant")
    if variant is None:
        raise AdapterError(
            f"{source}: the file is in this pack's own format but its settings are missing (lora_alpha, variant, ...): "
            "its metadata was lost. Convert the original adapter again."
        )
    actual = {
        "bokeh_input_dim": 1,
        "bokeh_hidden_dim": sizes.hidden,
        "bokeh_context_dim": sizes.context,
        "lora_rank": sizes.rank,
        "unfreeze_q": unfreeze_q,
        "unfreeze_k": unfreeze_k,
        "variant": variant,
    }
    if len(set(sizes.widths)) == 1:
        actual["attn_hidden_dim"] = sizes.widths[0]
    check_against_tensors(given, actual, source)
    indices = tuple(sorted(layout.blocks))
    names = given.get("blocks")
    by_name = "family" in given
    if by_name:
        check_listed_names(names, indices, source)
    elif names is not None:
        check_block_names(names, indices, source)
    return Adapter(
        settings=AdapterSettings(
            family=given.get("family", FLUX),
            by_name=by_name,
            widths=sizes.widths,
            context_dim=sizes.context,
            blocks=indices,
            block_names=names,
            rank=sizes.rank,
            # The authors scale low-rank pairs only; for full matrices an alpha has no meaning.
            lora_alpha=given.get("lora_alpha") if sizes.rank is not None else None,
            lora_scale=given.get("lora_scale", 1.0),
            bokeh_scale=given.get("bokeh_scale", 1.0),
            unfreeze_q=unfreeze_q,
            unfreeze_k=unfreeze_k,
            variant=variant,
        ),
        tensors=_canonical_tensors(layout, indices),
        source=source,
    )


def check_names(names: Iterable[object], source: str) -> None:
    """Raise AdapterError for a file whose keys are not those of an adapter; before its tensors are read."""
    names = list(names)
    unknown = [str(name) for name in names if _place(name)[0] is None]
    if unknown:
        raise AdapterError(_describe_unknown(unknown, len(names) - len(unknown), source))


@dataclass(frozen=True)
class _Sizes:
    widths: tuple[int, ...]
    context: int
    hidden: int
    rank: int | None


@dataclass(frozen=True)
class _Layout:
    """The file's tensors sorted by place: embedding leaf, and block -> part -> leaf -> tensor."""

    variant: str | None
    prefix: str
    embedding: dict[str, Tensor]
    blocks: dict[int, dict[str, dict[str, Tensor]]]

    @property
    def parts(self) -> set[str]:
        """The parts of the first block, which every other block must have as well."""
        return set(self.blocks[min(self.blocks)])

    def key(self, index: int, part: str, leaf: str) -> str:
        """The key under which this file's family stores a tensor."""
        if self.variant is None:
            return f"blocks.{index}.{part}.{leaf}"
        suffix = "bokeh" if self.variant == TEXT_TO_IMAGE else "dof"
        module = {"v": f"to_v_{suffix}", "context_k": f"to_k_{suffix}", "q": "to_q_adp", "k": "to_k_adp"}[part]
        return f"{self.prefix}{index}.{module}.{leaf}"

    def embedding_key(self, leaf: str) -> str:
        return f"embedding.{leaf}" if self.variant is None else f"embedding_layer.{leaf}"


def _recognise(tensors: Mapping[str, Tensor], source: str) -> _Layout:
    check_names(tensors, source)
    placed: dict[tuple[int | None, str, str], str] = {}
    variants: dict[str | None, str] = {}
    prefix = ""
    for key, tensor in tensors.items():
        place, variant = _place(key)
        if not isinstance(tensor, Tensor):
            raise AdapterError(f'{source}: "{key}" holds a {type(tensor).__name__}, expected a tensor. {_EXPECTED}')
        if place in placed:
            raise AdapterError(
                f'{source}: "{placed[place]}" and "{key}" are the same weight twice. Remove one of them.'
            )
        placed[place] = key
        if variant != "":
            variants.setdefault(variant, key)
        if key.startswith("adapter_modules."):
            prefix = "adapter_modules."
    if len(variants) > 1:
        first, second = list(variants.values())[:2]
        raise AdapterError(
            f'{source}: "{first}" and "{second}" belong to different kinds of adapter. Expected one kind in one file; '
            "use the file as its authors published it."
        )
    embedding: dict[str, Tensor] = {}
    blocks: dict[int, dict[str, dict[str, Tensor]]] = {}
    for (index, part, leaf), key in placed.items():
        if index is None:
            embedding[leaf] = tensors[key]
        else:
            blocks.setdefault(index, {}).setdefault(part, {})[leaf] = tensors[key]
    if not blocks:
        raise AdapterError(f"{source}: holds {len(placed)} tensors but no adapted block. {_EXPECTED}")
    return _Layout(next(iter(variants), TEXT_TO_IMAGE), prefix, embedding, blocks)


def _place(key: str) -> tuple[tuple[int | None, str, str] | None, str | None]:
    """Where a key belongs, and the variant it gives away: None = own format, "" = says nothing."""
    if not isinstance(key, str):
        return None, ""
    if match := _AUTHORS_BLOCK.fullmatch(key):
        index, module, leaf = int(match[2]), match[3], match[4]
        if module.endswith("_adp"):
            return (index, module[3], leaf), ""
        part = "v" if module[3] == "v" else "context_k"
        return (index, part, leaf), TEXT_TO_IMAGE if module.endswith("bokeh") else IMAGE_TO_IMAGE
    if match := _OWN_BLOCK.fullmatch(key):
        return (int(match[1]), match[2], match[3]), None
    if match := _AUTHORS_EMBEDDING.fullmatch(key):
        return (None, "", match[1]), ""
    if match := _OWN_EMBEDDING.fullmatch(key):
        return (None, "", match[1]), None
    return None, ""


def _describe_unknown(unknown: list[str], known: int, source: str) -> str:
    first = f'its first key is "{unknown[0]}"'
    if known:
        return (
            f'{source}: {len(unknown)} of its tensors belong to no bokeh adapter, the first is "{unknown[0]}". '
            "Use the file as its authors published it."
        )
    if any(mark in key.lower() for key in unknown for mark in _LORA_MARKS):
        return (
            f"{source}: this is a LoRA ({first}), not a bokeh adapter. "
            f"Load it with a LoRA loader node, and choose a bokeh adapter here. {_EXPECTED}"
        )
    if any(mark in key for key in unknown for mark in _MODEL_MARKS):
        return (
            f"{source}: this is a whole model or checkpoint ({first}), not a bokeh adapter. "
            f"Load it with a model loader node, and choose a bokeh adapter here. {_EXPECTED}"
        )
    return f"{source}: this is not a bokeh adapter ({first}). {_EXPECTED}"


def _check_completeness(layout: _Layout, source: str) -> None:
    missing = [layout.embedding_key(leaf) for leaf in _EMBEDDING if leaf not in layout.embedding]
    if missing:
        raise AdapterError(
            f"{source}: the blur embedding lacks {', '.join(missing)}. The file is incomplete: get it again."
        )
    first = min(layout.blocks)
    wanted = layout.parts | {"v"} | ({"context_k"} if layout.variant else set())
    full = "weight" in next(iter(layout.blocks[first].values()))
    needed = ("weight",) if full else ("down.weight", "up.weight")
    for index, parts in sorted(layout.blocks.items()):
        for part in sorted(parts.keys() - wanted):
            raise AdapterError(
                f'{source}: block {index} has "{layout.key(index, part, next(iter(parts[part])))}", but block {first} '
                "has nothing of the kind. Expected all adapted blocks alike: the file is incomplete, get it again."
            )
        for part in sorted(wanted):
            leaves = parts.get(part, {})
            for leaf in needed:
                if leaf not in leaves:
                    raise AdapterError(
                        f'{source}: "{layout.key(index, part, leaf)}" is missing. Expected all adapted blocks alike '
                        f"({'full matrices' if full else 'low-rank pairs'}): the file is incomplete, get it again."
                    )
            for leaf in sorted(leaves.keys() - set(needed) - ({"bias"} if full else set())):
                raise AdapterError(
                    f'{source}: "{layout.key(index, part, leaf)}" does not belong to an adapter of '
                    f"{'full matrices' if full else 'low-rank pairs'}. Use the file as its authors published it."
                )


def _check_shapes(layout: _Layout, source: str) -> _Sizes:
    def expect(key: str, tensor: Tensor, *shape: int | None) -> None:
        fits = tensor.dim() == len(shape) and all(
            have > 0 and want in (None, have) for have, want in zip(tensor.shape, shape, strict=True)
        )
        if not fits:
            wanted = ", ".join("any" if want is None else str(want) for want in shape)
            raise AdapterError(
                f'{source}: "{key}" has shape {list(tensor.shape)}, expected [{wanted}] to fit the tensors before it. '
                "Use the file as its authors published it."
            )

    embedding = layout.embedding
    expect(layout.embedding_key("0.weight"), embedding["0.weight"], None, 1)
    hidden = embedding["0.weight"].shape[0]
    expect(layout.embedding_key("0.bias"), embedding["0.bias"], hidden)
    expect(layout.embedding_key("2.weight"), embedding["2.weight"], None, hidden)
    context = embedding["2.weight"].shape[0]
    expect(layout.embedding_key("2.bias"), embedding["2.bias"], context)

    first = min(layout.blocks)
    value = layout.blocks[first]["v"]
    full = "weight" in value
    for leaf in ("weight",) if full else ("down.weight", "up.weight"):
        expect(layout.key(first, "v", leaf), value[leaf], None, None)
    widths = []
    rank = None if full else value["down.weight"].shape[0]
    for index, parts in sorted(layout.blocks.items()):
        width = parts["v"]["weight" if full else "up.weight"].shape[0]
        widths.append(width)
        for part, leaves in sorted(parts.items(), key=lambda item: item[0] != "v"):
            own = width
            if part == "k" and layout.variant is None:
                own = leaves["weight" if full else "up.weight"].shape[0]
            came_in = own if part in ("q", "k") else context
            shapes = {
                "down.weight": (rank, came_in),
                "up.weight": (own, rank),
                "weight": (own, came_in),
                "bias": (own,),
            }
            for leaf, tensor in leaves.items():
                expect(layout.key(index, part, leaf), tensor, *shapes[leaf])
    return _Sizes(widths=tuple(widths), context=context, hidden=hidden, rank=rank)


def _check_finite(key: str, tensor: Tensor, source: str) -> None:
    if tensor.dtype not in _DTYPES or tensor.layout != torch.strided:
        raise AdapterError(
            f'{source}: "{key}" is stored as {str(tensor.dtype).removeprefix("torch.")}, expected float32, bfloat16 '
            "or float16. Use the file as its authors published it."
        )
    if not is_finite(tensor):
        what = "NaN" if tensor.isnan().any() else "infinite"
        raise AdapterError(
            f'{source}: "{key}" holds {what} values, expected finite numbers. '
            "The file is damaged or its training diverged: get it again or use another adapter."
        )


def is_finite(tensor: Tensor) -> bool:
    """Whether a floating-point tensor has neither NaN nor infinite values."""
    # min and max carry a NaN through and need no copy of the tensor, unlike isfinite.
    low, high = torch.aminmax(tensor.detach())
    return math.isfinite(low.item()) and math.isfinite(high.item())


def _canonical_tensors(layout: _Layout, indices: tuple[int, ...]) -> dict[str, Tensor]:
    tensors = {f"embedding.{leaf}": layout.embedding[leaf].detach() for leaf in _EMBEDDING}
    for index in indices:
        for part in ("v", "q", "k"):
            for leaf, tensor in sorted(layout.blocks[index].get(part, {}).items()):
                tensors[f"blocks.{index}.{part}.{leaf}"] = tensor.detach()
    return tensors
