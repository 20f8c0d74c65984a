"""What runs inside the blocks of a network: the attention override and what tells it where it is."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .equations import Grounding, Seeing, add, conditioned_attention, grounded_attention, tiled
from .reach import Picture

CALL = "bokeh_call"
PLACES = "bokeh_places"


class Running(threading.local):
    """The options of the model call that runs on this thread, for blocks whose caller forgot to pass them on."""

    options: dict[str, Any] | None = None

    def __enter__(self) -> None:
        pass

    def __exit__(self, *exception: object) -> None:
        self.options = None


class Call(NamedTuple):
    """What the attention override needs in one call of the model; plain values and ready tensors only.

    Attributes:
        rows: of the batch.
        bias: [rows, 1, C] for every place; None without an adapter.
        grounding: None while there is none.
        inner: another node's attention override.
        reached: collects the places that attention was called at.
        anywhere: which attention is the picture's, in a model whose places no table knows.
        numbers: the row of the run's table that each row of the batch is.
        seeing: who sees whom, where pictures have conditions.
    """

    rows: int
    bias: list[Tensor] | None
    grounding: Grounding | None
    inner: Callable | None
    reached: set[int] | None = None
    anywhere: Picture | None = None
    numbers: tuple[int, ...] = ()
    seeing: Seeing | None = None


def marked(forward: Callable, places: tuple[int | None, ...], running: Running) -> Callable:
    """The forward of a module that calls attention, which tells ``attend`` the places of these calls.

    Packs that write a forward of the network anew call its blocks without the options that the host passes on; then
    those of the running call stand in.
    """
    parameters = inspect.signature(forward).parameters.values()
    names = [parameter.name for parameter in parameters]
    if "transformer_options" not in names and all(parameter.kind != parameter.VAR_KEYWORD for parameter in parameters):
        return lambda *args, **kwargs: forward(*args, **kwargs)
    index = names.index("transformer_options") if "transformer_options" in names else None

    def with_places(*args, **kwargs):
        positional = index is not None and len(args) > index
        options = args[index] if positional else kwargs.get("transformer_options")
        if not options or CALL not in options:
            if running.options is None:
                return forward(*args, **kwargs)
            options = {**running.options, **(options or {})}
        # A copy: its places are counted off by the owner's own attention calls, and nobody else sees them.
        options = {**options, PLACES: places}
        if positional:
            return forward(*args[:index], options, *args[index + 1 :], **kwargs)
        return forward(*args, **{**kwargs, "transformer_options": options})

    return with_places


def attend(func, q, k, v, heads, mask=None, *args, **kwargs):
    """Attention override: grounding where it is on, and the bokeh value added for every token.

    One function for all nodes and runs: what differs arrives in ``transformer_options``, so a compiled model
    finds the same function at every step.
    """
    options = kwargs["transformer_options"]
    call: Call = options[CALL]

    def attention(q, k, v, mask):
        if call.inner is not None:
            return call.inner(func, q, k, v, heads, mask, *args, **kwargs)
        return func(q, k, v, heads, mask, *args, **kwargs)

    # Projections that leave queries, keys and values flat count tokens before heads.
    tokens = 2 if kwargs.get("skip_reshape") else 1
    place, places = None, options.get(PLACES)
    if places:
        # The options are the owner's own copy; its next attention call has the next place.
        place, options[PLACES] = places[0], places[1:]
    elif call.anywhere is not None and call.anywhere.is_seen(q, k, tokens, call.rows):
        place = 0
    if place is None:
        return attention(q, k, v, mask)
    if call.reached is not None and not torch.compiler.is_compiling():
        call.reached.add(place)
    bias = None if call.bias is None else call.bias[place]
    # A node that cuts pictures into tiles for attention alone (HyperTile) gives every row several.
    # Not by divmod: a compiled model whose batch changes, as when a pivot leaves, cannot go through it.
    tiles, odd = q.shape[0] // call.rows, q.shape[0] % call.rows
    if odd or (tiles > 1 and k.shape[0] != call.rows):
        raise ValueError(
            f"Attention was called with {q.shape[0]} rows, but {call.rows} went into the model. Another node adds rows "
            "inside the model (as NAG does) in a way bokeh cannot follow: take that node out."
        )
    if tiles > 1:
        # Its keys and values are whole still: the host's attention cuts them by looking at the queries' batch.
        k, v = (part.reshape(q.shape[0], -1, *part.shape[2:]) for part in (k, v))
        bias = None if bias is None else bias.repeat_interleave(tiles, dim=0)
        if mask is not None and mask.ndim > 2 and mask.shape[0] == call.rows:
            mask = mask.repeat_interleave(tiles, dim=0)
    if call.seeing is not None:
        if mask is not None or tiles > 1:
            raise ValueError(
                "Another node masks or tiles the attention of FLUX (regional prompts and their like), which leaves no "
                "room for the photo that Genfocus shows it. Take that node out."
            )
        return conditioned_attention(attention, q, k, v, call.seeing, tokens)
    if call.grounding is not None:
        out = grounded_attention(attention, q, k, v, tiled(call.grounding, tiles, q.device), mask, tokens)
        return out if bias is None else add(out, bias)
    out = attention(q, k, v, mask)
    if bias is None:
        return out
    # What another pack's override returns may be its own to keep.
    return out + bias if call.inner is not None else add(out, bias)


def row_index(rows: list[int], device: torch.device) -> Tensor | slice:
    """Row numbers as an index: a slice where they follow one another, because that copies nothing."""
    if rows and rows == list(range(rows[0], rows[-1] + 1)):
        return slice(rows[0], rows[-1] + 1)
    return torch.tensor(rows, device=device, dtype=torch.long)
