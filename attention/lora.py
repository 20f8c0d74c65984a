"""LoRAs whose strength is a row's own: one batch with a scene at several strengths, grounded like any other.

A LoRA adds s up(down(x)) alpha / rank to what a layer gives; merged into the weights, as the host does it, s is one
number for all rows. Here it stays beside the layer, so GGUF and fp8 weights need nothing special either.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import comfy.lora
import comfy.lora_convert
import comfy.ops
import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from comfy.weight_adapter import LoRAAdapter
from torch import Tensor, nn

from ..host import CLONED, new_patcher
from ..sweep.values import BLUR_MAX
from ..weights.format import is_finite
from .attend import CALL
from .dials import LORA
from .install import KEY, compute_dtype
from .patches import follow, put
from .rows import Row
from .run import RUN

_ops = comfy.ops.manual_cast
_CONVOLUTIONS = {1: _ops.Conv1d, 2: _ops.Conv2d, 3: _ops.Conv3d}
_TEXT_ENCODER = re.compile(
    r"(lora_te\d?_|lora_prior_te_|text_encoders?[._\d]|text_model\.|te\d?\.|clip_[lgh]\.|conditioner\.)"
)
# Mixtures of experts, such as HiDream's.
_EXPERT = re.compile(r"\.experts\.\d+\.")
_WHAT_FITS = "Bokeh LoRA needs products of two matrices, as most LoRAs are; use this one with Load LoRA instead."


class Piece(NamedTuple):
    """One low-rank product on a layer: ``up`` [out, r] times ``down`` [r, in, *kernel], alpha / r in ``up``.

    Attributes:
        module: name of the layer in the network.
        columns: first of the layer's output columns that it acts on, and their number; None for all.
    """

    module: str
    down: Tensor
    up: Tensor
    columns: tuple[int, int] | None


def read_pieces(tensors: Mapping[str, Tensor], model: ModelPatcher, name: str) -> tuple[list[Piece], tuple[str, ...]]:
    """The products of a LoRA file on the layers of a model, and notes about what is left out.

    Args:
        tensors: of the file, in any of the formats that the host's loader reads. name: of the file, for messages.

    Raises:
        ValueError: when nothing in it is for this model, and for anything that is no product of two matrices.
    """
    texts = [key for key in tensors if _TEXT_ENCODER.match(key)]
    with _in_sentences(name):
        converted = comfy.lora_convert.convert_lora({key: tensors[key] for key in tensors if key not in set(texts)})
    for key, alpha in converted.items():
        if key.endswith(".alpha") and alpha.numel() != 1:
            raise ValueError(f"The LoRA {name} holds {list(alpha.shape)} numbers in {key}, expected one. Get it again.")
    # The host's names are those of all models of a kind, and it passes over what this one lacks.
    there = model.model.state_dict().keys()
    targets = {
        key: target
        for key, target in comfy.lora.model_lora_keys_unet(model.model, {}).items()
        if (target if isinstance(target, str) else target[0]) in there
    }
    with _in_sentences(name):
        patches = comfy.lora.load_lora(converted, targets)
    if not patches:
        kind = type(model.model).__name__
        raise ValueError(
            f"The LoRA {name} changes nothing in this model ({kind}): none of its {len(tensors)} tensors belongs to "
            "one of the model's layers. Choose a LoRA that was trained for this model."
        )
    network = model.model.diffusion_model
    pieces = [_piece(target, patch, network, name) for target, patch in patches.items()]
    notes = [f"{len(texts)} tensors of {name} are for text encoders and are left out."] if texts else []
    if left := converted.keys() - set().union(*(patch.loaded_keys for patch in patches.values())):
        notes.append(
            f"{len(left)} tensors of {name} belong to no layer of this model, or are half a product, and are left out: "
            f"{min(left)}{', ...' if len(left) > 1 else ''}."
        )
    return pieces, tuple(notes)


@contextmanager
def _in_sentences(name: str) -> Iterator[None]:
    """What the host's readers raise for a LoRA that lacks a tensor, or the second side of one, as ValueError."""
    try:
        yield
    except KeyError as missing:
        raise ValueError(
            f"The LoRA {name} has one of two matrices only: it holds no {missing.args[0]}. Get it again."
        ) from None
    except IndexError:
        raise ValueError(f"The LoRA {name} holds a tensor of one side only, expected a matrix. Get it again.") from None


def _piece(target: str | tuple, patch: object, network: nn.Module, name: str) -> Piece:
    key, (offset, function) = (
        (target, (None, None)) if isinstance(target, str) else (target[0], (*target[1:], None)[:2])
    )
    module_name, leaf = key.removeprefix("diffusion_model.").rpartition(".")[::2]
    if not isinstance(patch, LoRAAdapter):
        what = getattr(patch, "name", None) or (patch[0] if isinstance(patch, tuple) else type(patch).__name__)
        raise ValueError(f"The LoRA {name} holds a {_FORMATS.get(what, what)} for {key}. {_WHAT_FITS}")
    up, down, alpha, mid, dora, reshape = patch.weights
    for part, what in ((mid, "Tucker product"), (dora, "DoRA scale"), (reshape, "change of the layer's size")):
        if part is not None:
            raise ValueError(f"The LoRA {name} holds a {what} for {key}. {_WHAT_FITS}")
    try:
        layer = network.get_submodule(module_name)
    except AttributeError:
        layer = None
    is_convolution = isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d) and layer.groups == 1
    if _EXPERT.search(key):
        raise ValueError(
            f"The LoRA {name} changes {key}, a part of the network that gets some tokens of some pictures, all in one "
            "heap, so that no picture can have a strength of its own there. Use this LoRA with Load LoRA instead."
        )
    # The host's linear layers for quantised weights are no ``nn.Linear``, but have its attributes.
    if leaf != "weight" or not (is_convolution or hasattr(layer, "in_features")):
        raise ValueError(
            f"The LoRA {name} changes {key}, which is no weight of a linear layer or convolution. {_WHAT_FITS}"
        )
    if offset is not None and offset[0] != 0:
        raise ValueError(f"The LoRA {name} changes some inputs of {key} only. {_WHAT_FITS}")
    if min(up.ndim, down.ndim) < 2 or not (up.numel() and down.numel()):
        shapes = f"{list(up.shape)} and {list(down.shape)}"
        raise ValueError(f"The LoRA {name} holds tensors of {shapes} for {key}, expected two matrices. Get it again.")
    rank = down.shape[0]
    up = up.flatten(1).float() * (1.0 if alpha is None else alpha / rank)
    if not (is_finite(up) and is_finite(down.float())):
        raise ValueError(f"The LoRA {name} holds NaN or infinite values for {key}. Get it again, or choose another.")
    inputs, kernel = (layer.in_channels, layer.kernel_size) if is_convolution else (layer.in_features, ())
    outputs = offset[2] if offset else (layer.out_channels if is_convolution else layer.out_features)
    down = down.flatten(1)
    expected = inputs * (torch.Size(kernel).numel() if kernel else 1)
    if tuple(up.shape) != (outputs, rank) or down.shape[1] != expected:
        raise ValueError(
            f"The LoRA {name} holds {down.shape[1]} inputs and {up.shape[0]} outputs for {key}, but this model's layer "
            f"has {expected} and {outputs}. Choose a LoRA that was trained for this model."
        )
    if function is not None:
        # The host's reordering of a weight's rows, for files that store them in another order.
        up = function(up)
    return Piece(
        module_name, down.reshape(rank, inputs, *kernel), up, None if offset is None else (offset[1], offset[2])
    )


_FORMATS = {
    "loha": "LoHa product",
    "lokr": "LoKr product",
    "glora": "GLoRA product",
    "oft": "rotation (OFT)",
    "boft": "rotation (BOFT)",
    "diff": "whole weight difference",
    "set": "whole weight",
}


class LoraModule(nn.Module):
    """The weights of a LoRA, for the host to load, count and offload, and the strengths of the rows that run now.

    Attributes:
        rows: of the batch in the model, those from the first to the last that have a strength: number of the first,
            how many they are, and how many the batch has; None while LoRAs are off.
        strengths: theirs; None where all are 1.
        has_references: whether the pictures have references, which some hosts give timesteps of their own.
    """

    def __init__(self, pieces: list[Piece], network: nn.Module, dtype: torch.dtype):
        super().__init__()
        self.rows: tuple[int, int, int] | None = None
        self.strengths: Tensor | None = None
        self.has_references = False
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for piece in pieces:
            layer = network.get_submodule(piece.module)
            self.down.append(_layer(piece.down, layer, dtype))
            self.up.append(_layer(piece.up.reshape(*piece.up.shape, *[1] * (piece.down.ndim - 2)), None, dtype))

    def add(self, pieces: Sequence[tuple[int, tuple[int, int] | None]], x: Tensor, out: Tensor) -> Tensor:
        """The pieces of a layer (number and columns of each) on its input ``x`` [B, ...], added to what the layer gave:
        over it, but with gradients and where one row has served all of the batch."""
        strengths, (first, count, rows) = self.strengths, self.rows
        if self.has_references and x.ndim == 2 and x.shape[0] == 2 * rows:
            # The timesteps of all pictures, then those of their references.
            halves = zip(x.split(rows), out.split(rows), strict=True)
            return torch.cat([self.add(pieces, *half) for half in halves])
        if x.shape[0] % rows:
            x, out = x.expand(rows, *x.shape[1:]), out.expand(rows, *out.shape[1:]).clone()
        tiles = x.shape[0] // rows
        acting = first * tiles, count * tiles
        if strengths is not None and tiles > 1:
            strengths = strengths.repeat_interleave(tiles)
        x = x.narrow(0, *acting)

        def low(number: int) -> Tensor:
            product = self.down[number](x)
            if strengths is None:
                return product
            return product * strengths.to(product).view(-1, *[1] * (product.ndim - 1))

        if torch.is_grad_enabled():
            # Parts of a split join again at less cost than parts that are written over.
            before, own, after = out.split((acting[0], acting[1], out.shape[0] - sum(acting)))
            return torch.cat([before, self._added(low, pieces, own), after])
        for number, columns in pieces:
            self._add_over(low(number), self.up[number], columns, out.narrow(0, *acting))
        return out

    def _added(self, low: Callable[[int], Tensor], pieces: Sequence, own: Tensor) -> Tensor:
        """The same on rows that all have a strength, as a new tensor."""
        parts, end = [], 0
        axis = -1 if isinstance(self.up[pieces[0][0]], nn.Linear) else 1
        for number, columns in sorted(pieces, key=lambda piece: piece[1] or (0, 0)):
            start, width = columns or (0, own.shape[axis])
            if start != end:
                parts.append(own.new_zeros(()).expand(own.narrow(axis, end, start - end).shape))
            parts.append(self.up[number](low(number)).to(own))
            end = start + width
        if end < own.shape[axis]:
            parts.append(own.new_zeros(()).expand(own.narrow(axis, end, own.shape[axis] - end).shape))
        return own + (parts[0] if len(parts) == 1 else torch.cat(parts, dim=axis))

    @staticmethod
    def _add_over(low: Tensor, up: nn.Module, columns: tuple[int, int] | None, out: Tensor) -> None:
        weight = up.weight
        in_place = isinstance(up, nn.Linear) and out.is_contiguous() and weight.device == low.device
        if in_place and weight.dtype == low.dtype == out.dtype:
            # One pass over the output, where a product of its own would take three.
            flat = out.view(-1, out.shape[-1])
            flat = flat if columns is None else flat.narrow(1, *columns)
            flat.addmm_(low.flatten(0, -2), weight.t())
            return
        target = out if columns is None else out.narrow(-1 if isinstance(up, nn.Linear) else 1, *columns)
        target.add_(up(low).to(out))


def _layer(weight: Tensor, like: nn.Module | None, dtype: torch.dtype) -> nn.Module:
    """A layer of the host's with this weight, its steps over the input as those of ``like``."""
    if weight.ndim == 2:
        made = _ops.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    else:
        steps = {} if like is None else {name: getattr(like, name) for name in ("stride", "padding", "dilation")}
        kind = _CONVOLUTIONS[weight.ndim - 2]
        made = kind(weight.shape[1], weight.shape[0], weight.shape[2:], bias=False, device="meta", **steps)
    made.weight = nn.Parameter(weight.to(dtype).contiguous(), requires_grad=False)
    return made


class _Added(NamedTuple):
    """The pieces of one layer: number and columns of each."""

    pieces: tuple[tuple[int, tuple[int, int] | None], ...]
    key: str
    rank = 0

    def around(self, forward: Callable, module: LoraModule) -> Callable:
        def with_lora(x, *args, **kwargs):
            out = forward(x, *args, **kwargs)
            if module.rows is not None:
                out = module.add(self.pieces, x, out)
            return out

        return with_lora


class _Strengths(NamedTuple):
    """Round the whole network: the strength of every row that goes through it."""

    of: Callable[[Row], float]
    key: str
    rank = 0

    def around(self, forward: Callable, module: LoraModule) -> Callable:
        def with_strengths(x, *args, **kwargs):
            options = kwargs.get("transformer_options") or {}
            if CALL not in options:
                return forward(x, *args, **kwargs)
            rows = options[RUN].rows
            strengths = [self.of(rows[number]) for number in options[CALL].numbers]
            acting = [place for place, strength in enumerate(strengths) if strength]
            if acting:
                own = strengths[acting[0] : acting[-1] + 1]
                module.rows = acting[0], len(own), len(strengths)
                module.strengths = None if set(own) == {1.0} else torch.tensor(own, device=x.device)
                module.has_references = bool(kwargs.get("ref_latents"))
            try:
                return forward(x, *args, **kwargs)
            finally:
                module.rows = None

        return with_strengths


def install_lora(model: ModelPatcher, pieces: list[Piece], sharp: float, blurred: float) -> ModelPatcher:
    """A LoRA on a clone of a model, its strength of every row by the row's blur.

    Args:
        pieces: from ``read_pieces``.
        sharp, blurred: its strength at blur 0 and at blur 30; 0 at both returns ``model``.
    """
    if sharp == blurred == 0:
        return model
    clone = model.clone()
    options = clone.model_options["transformer_options"]
    options[LORA] = (*options.get(LORA, ()), (sharp, blurred))
    key = f"{LORA}_{len(options[LORA])}"

    def at(row: Row) -> float:
        return sharp + (blurred - sharp) * row.blur / BLUR_MAX

    clone = add_pieces(clone, pieces, at, key)
    clone.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, key, _check_blur)
    return clone


def add_pieces(clone: ModelPatcher, pieces: list[Piece], strength: Callable[[Row], float], key: str) -> ModelPatcher:
    """Put a LoRA on ``clone``; ``strength`` is that of a row, ``key`` tells it from others on the same model."""
    patcher = _new_patcher(pieces, clone.model.diffusion_model, compute_dtype(clone))
    clone.set_additional_models(key, [patcher])
    by_layer: dict[str, list[tuple[int, tuple[int, int] | None]]] = {}
    for number, piece in enumerate(pieces):
        by_layer.setdefault(piece.module, []).append((number, piece.columns))
    for layer, numbers in by_layer.items():
        put(clone, layer, _Added(tuple(numbers), key), patcher.model)
    put(clone, "", _Strengths(strength, key), patcher.model)
    for kind in CLONED:
        clone.add_callback_with_key(kind, key, follow)
    return clone


def _new_patcher(pieces: list[Piece], network: nn.Module, dtype: torch.dtype) -> ModelPatcher:
    # Not of the clone: that holds this patcher, and both would wait for the garbage collector.
    return new_patcher(_new_patcher, pieces, network, dtype, module=LoraModule(pieces, network, dtype))


def _check_blur(executor, *args, **kwargs):
    wrappers = executor.class_obj.model_patcher.get_wrappers(WrappersMP.OUTER_SAMPLE, KEY)
    if not wrappers:
        raise ValueError(
            "Bokeh LoRA is on this model, but no Bokeh Blur or Bokeh Sweep, so its strength has no blur to follow. Put "
            "one of these nodes between it and the sampler, or use Load LoRA for one strength."
        )
    return executor(*args, **kwargs)
