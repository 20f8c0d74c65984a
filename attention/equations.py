"""The mathematics of Bokeh Diffusion (Fortes et al., arXiv 2503.08434) on plain tensors.

Imports nothing of a host, so that it can be read beside the paper. Notation: B rows, H heads, L tokens, D head
width, C = H * D.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..sweep.values import BLUR_MAX

NO_ANNOTATION = -1.0

Attention = Callable[[Tensor, Tensor, Tensor, "Tensor | None"], Tensor]


class Grounding(NamedTuple):
    """Which rows of a batch borrow the scene of which pivot rows.

    ``targets[i]`` is grounded in row ``pivots[i]``, or all of them in the one row that ``pivots`` names;
    ``others`` are the remaining rows (pivots, negative branch), which attend as usual. Each is a slice, or
    int64 [n] on the batch's device. ``with_keys`` is True for adapters that adapt the keys too
    (``unfreeze_k``).
    """

    targets: Tensor | slice
    pivots: Tensor | slice
    others: Tensor | slice
    with_keys: bool


class Seeing(NamedTuple):
    """Which rows of a batch see the keys of which others (Genfocus: pictures and what they are made from).

    The batch is made of ``parts`` that follow one another, each of all its pictures, the first condition of each, the
    second of each, ... Pictures see themselves and all their conditions; a condition sees its picture's text, the
    picture and itself.

    Attributes:
        parts: of the batch.
        kinds: 1 + the number of conditions of a picture.
        text: tokens of text before the picture's.
    """

    parts: int
    kinds: int
    text: int


def annotation(blur: float) -> float:
    """Blur 0..30 -> the number the adapter was trained on, a = blur / 30 (paper, section 3.2)."""
    return blur / BLUR_MAX


def add(x: Tensor, delta: Tensor, scale: float = 1.0) -> Tensor:
    """x + scale * delta, written over ``x`` unless gradients are on: new memory for it would cost more time than
    the sum itself."""
    if torch.is_grad_enabled():
        return torch.add(x, delta, alpha=scale)
    return x.add_(delta, alpha=scale)


def adapt_columns(x: Tensor, parts: Sequence[tuple[int, int, Callable[[Tensor], Tensor]]], scale: float) -> Tensor:
    """Query and key adapters on the output of a projection: x + scale * project(x) on some of its columns, written over
    ``x`` unless gradients are on.

    Args:
        x: [B, L, columns], before norm and rotary embedding.
        parts: first column, number of columns C and ``project``, [B, L, C] -> [B, L, C], of each adapter; in rising
            order of the columns.
        scale: lora_scale times the user's strength.
    """
    if not torch.is_grad_enabled():
        for start, width, project in parts:
            columns = x[..., start : start + width]
            columns.add_(project(columns), alpha=scale)
        return x
    pieces, end = [], 0
    for start, width, project in parts:
        columns = x[..., start : start + width]
        pieces += [x[..., end:start], torch.add(columns, project(columns), alpha=scale)]
        end = start + width
    return torch.cat((*pieces, x[..., end:]), dim=-1)


def grounded_attention(
    attention: Attention,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    grounding: Grounding,
    mask: Tensor | None = None,
    tokens: int = 2,
) -> Tensor:
    """Grounded self-attention (paper, section 3.3): targets see the scene through their pivot's queries.

    For a target t with pivot p: Q = Q_p, K = [K_t ; K_p], V = [V_t ; V_t]; without key adapters only
    Q = Q_p. The other rows attend as usual, which for a pivot is the same as duplicating its keys.

    Args:
        attention: (q, k, v, mask) -> [B, L, C], the host's attention.
        q, k, v: after norm and rotary embedding, each of a shape that ``attention`` takes.
        mask: additive or boolean, [L, L], [B or 1, L, L] or [B or 1, H or 1, L, L].
        tokens: their axis of tokens: 2 of [B, H, L, D]; 1 of [B, L, C] and of [B, L, H, D], which may come together.

    Returns:
        [B, L, C], rows in the order of q.
    """
    targets, pivots, others, with_keys = grounding
    # The keys come from both rows, so each half keeps the mask of the row it comes from.
    target_mask = mask_rows(mask, targets)
    keys, values = k[targets], v[targets]
    if with_keys:
        keys = torch.cat((keys, k[pivots].expand_as(keys)), dim=tokens)
        values = torch.cat((values, values), dim=tokens)
        if target_mask is not None:
            target_mask = torch.cat((target_mask, mask_rows(mask, pivots).expand_as(target_mask)), dim=-1)
    # A copy for each row: attention kernels of other packs may not know rows that share memory.
    queries = q[pivots].expand(keys.shape[0], *q.shape[1:]).contiguous()
    grounded = attention(queries, keys, values, target_mask)
    plain = attention(q[others], k[others], v[others], mask_rows(mask, others))
    out = grounded.new_empty((q.shape[0], *grounded.shape[1:]))
    out[targets] = grounded
    out[others] = plain
    return out


def tiled(grounding: Grounding, tiles: int, device: torch.device) -> Grounding:
    """The same for a batch of which every row has been cut into ``tiles`` rows that follow one another."""
    if tiles == 1:
        return grounding

    def cut(rows: Tensor | slice) -> Tensor:
        if isinstance(rows, slice):
            rows = torch.arange(rows.start, rows.stop, device=device)
        return (rows[:, None] * tiles + torch.arange(tiles, device=device)).flatten()

    targets, pivots, others, with_keys = grounding
    targets, pivots, others = cut(targets), cut(pivots), cut(others)
    return Grounding(targets, pivots.repeat(len(targets) // len(pivots)), others, with_keys)


def conditioned_attention(
    attention: Attention, q: Tensor, k: Tensor, v: Tensor, seeing: Seeing, tokens: int = 2
) -> Tensor:
    """Attention in which pictures see their conditions and conditions their pictures (Genfocus, section 3.2).

    Args:
        attention: (q, k, v, mask) -> [B, L, C], the host's attention.
        q, k, v: [B, H, L, D] after norm and rotary embedding; or [B, L, C] with ``tokens`` = 1.

    Returns:
        [B, L, C], rows in the order of q.
    """

    parts, kinds, text = seeing
    queries, keys, values = (
        [kind.flatten(0, 1) for kind in x.unflatten(0, (parts, kinds, -1)).unbind(1)] for x in (q, k, v)
    )

    def with_picture(x: list[Tensor], conditions: list[Tensor]) -> Tensor:
        # A condition's text is nobody's to see.
        own = [each.split((text, each.shape[tokens] - text), dim=tokens)[1] for each in conditions]
        return torch.cat([x[0], *own], dim=tokens)

    out = [attention(queries[0], with_picture(keys, keys[1:]), with_picture(values, values[1:]), None)]
    for number in range(1, kinds):
        seen = (with_picture(x, x[number : number + 1]) for x in (keys, values))
        own = queries[number].split((text, queries[number].shape[tokens] - text), dim=tokens)[1]
        # Nobody sees a condition's text, so it need not look.
        out.append(torch.nn.functional.pad(attention(own, *seen, None), (0, 0, text, 0)))
    return torch.stack([each.unflatten(0, (parts, -1)) for each in out], dim=1).flatten(0, 2)


def mask_rows(mask: Tensor | None, rows: Tensor | slice) -> Tensor | None:
    """The part of an attention mask that belongs to these rows; masks shared by all rows pass through."""
    if mask is None or mask.ndim < 3 or mask.shape[0] == 1:
        return mask
    return mask[rows]
