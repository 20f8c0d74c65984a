"""The mathematics against statements of the equations written out row by row."""

from __future__ import annotations

import threading

import pytest
import torch

from bokeh.attention.equations import Grounding, adapt_columns, grounded_attention
from bokeh.attention.noise import SharedNoise
from bokeh.attention.rows import Pivot, Plan, arrange, grounding_steps

B, H, L, D = 5, 3, 7, 4


def tensors(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(B, H, L, D, generator=generator, dtype=torch.float64) for _ in range(3))


def plain_attention(q, k, v, mask):
    if mask is not None and mask.ndim == 3:
        mask = mask[:, None]
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)


def grounding(with_keys: bool) -> Grounding:
    # Rows 0 and 3 follow row 4, row 1 follows row 2.
    return Grounding(torch.tensor([0, 1, 3]), torch.tensor([4, 2, 4]), torch.tensor([2, 4]), with_keys)


PIVOT_OF = [4, 2, 2, 4, 4]


@pytest.mark.parametrize("with_keys", [True, False])
def test_grounded_attention_equals_the_equation(with_keys):
    q, k, v = tensors()
    ours = grounded_attention(plain_attention, q, k, v, grounding(with_keys))
    for t, p in enumerate(PIVOT_OF):
        own = torch.exp(q[p] @ k[t].transpose(1, 2) / D**0.5)
        shared = torch.exp(q[p] @ k[p].transpose(1, 2) / D**0.5) if with_keys else torch.zeros_like(own)
        z = (own + shared).sum(-1, keepdim=True)
        expected = ((own + shared) @ v[t] / z).transpose(0, 1).flatten(1)
        torch.testing.assert_close(ours[t], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", ["shared", "per row"])
def test_masks_are_doubled_along_the_keys(shape):
    q, k, v = tensors()
    generator = torch.Generator().manual_seed(1)
    mask = torch.rand(*((L, L) if shape == "shared" else (B, L, L)), generator=generator) > 0.3
    mask[..., 0] = True
    ours = grounded_attention(plain_attention, q, k, v, grounding(True), mask)
    for t, p in enumerate(PIVOT_OF):
        mask_t, mask_p = (mask, mask) if shape == "shared" else (mask[t], mask[p])
        own = torch.exp(q[p] @ k[t].transpose(1, 2) / D**0.5) * mask_t
        both = own + torch.exp(q[p] @ k[p].transpose(1, 2) / D**0.5) * mask_p
        expected = (both @ v[t] / both.sum(-1, keepdim=True)).transpose(0, 1).flatten(1)
        torch.testing.assert_close(ours[t], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("gradients", [False, True])
def test_adapters_act_on_their_columns_of_a_projection_alone(gradients):
    x = torch.randn(2, L, 12, dtype=torch.float64)
    weights = [torch.randn(width, width, dtype=torch.float64) for width in (4, 3)]
    expected = x.clone()
    expected[..., 2:6] += 0.5 * x[..., 2:6] @ weights[0].T
    expected[..., 7:10] += 0.5 * x[..., 7:10] @ weights[1].T
    before = x.clone()
    parts = [(2, 4, lambda part: part @ weights[0].T), (7, 3, lambda part: part @ weights[1].T)]
    with torch.set_grad_enabled(gradients):
        ours = adapt_columns(x, parts, 0.5)
    torch.testing.assert_close(ours, expected)
    # Training needs the input as it was; sampling saves the memory.
    assert torch.equal(x, before) == gradients


def test_flat_tokens_are_joined_along_the_tokens_not_along_the_heads():
    """SD3 hands flat queries and keys beside values [B, L, H, D], whose second last axis is the heads'."""
    q, k, v = tensors()
    expected = grounded_attention(plain_attention, q, k, v, grounding(True))

    def flat_attention(q, k, v, mask):
        q, k = (x.unflatten(2, (H, D)).transpose(1, 2) for x in (q, k))
        return plain_attention(q, k, v.transpose(1, 2), mask)

    flat_q, flat_k = (x.transpose(1, 2).flatten(2) for x in (q, k))
    ours = grounded_attention(flat_attention, flat_q, flat_k, v.transpose(1, 2), grounding(True), tokens=1)
    torch.testing.assert_close(ours, expected)


def test_one_pivot_row_serves_a_sweep_and_none_is_added_when_the_pivot_is_listed():
    outside = arrange(Plan((0.0, 8.0, 30.0), Pivot(15.0), one_scene=True), 3)
    assert outside.column("blur") == (0.0, 8.0, 30.0, 15.0)
    assert outside.column("pivot") == (3, 3, 3, 3)
    assert outside.column("scene") == outside.noise == (0, 0, 0, 0)
    # The nearest blur stands in for the contents of the pivot's row.
    assert outside.column("source") == (0, 1, 2, 1)
    assert outside.column("shown") == (True, True, True, False)
    inside = arrange(Plan((0.0, 15.0, 30.0, 15.0), Pivot(15.0), one_scene=True), 4)
    assert inside.column("blur") == (0.0, 15.0, 30.0, 15.0)
    assert inside.column("pivot") == (1, 1, 1, 1)


def test_a_slider_batch_gets_a_pivot_for_every_picture():
    rows = arrange(Plan((25.0,), Pivot(15.0)), 3)
    assert rows.column("blur") == (25.0, 25.0, 25.0, 15.0, 15.0, 15.0)
    assert rows.column("pivot") == (3, 4, 5, 3, 4, 5)
    assert rows.column("source") == rows.noise == (0, 1, 2, 0, 1, 2)
    assert len(arrange(Plan((15.0,), Pivot(15.0)), 3)) == 3
    assert arrange(Plan((15.0,)), 2).noise == (0, 1)


def test_scenes_stand_one_after_the_other_each_with_its_pivot():
    rows = arrange(Plan((0.0, 30.0), Pivot(14.0), one_scene=True), 4)
    assert rows.column("blur") == (0.0, 30.0, 0.0, 30.0, 14.0, 14.0)
    assert rows.column("scene") == (0, 0, 1, 1, 0, 1)
    assert rows.column("level") == (0, 1, 0, 1, 0, 0)
    assert rows.column("source") == (0, 1, 2, 3, 0, 2)
    assert rows.column("pivot") == (4, 4, 5, 5, 4, 5)
    assert rows.noise == (0, 0, 2, 2, 0, 2)
    assert (rows.targets, rows.scenes, rows.levels) == (4, 2, 2)


def test_turns_cover_every_row_and_bring_its_pivot():
    rows = arrange(Plan((0.0,) * 7, Pivot(15.0), one_scene=True), 7)
    assert rows.turns(3) == [[0, 1, 2, 7], [3, 4, 5, 7], [6, 7]]
    assert rows.turns(0) == rows.turns(7) == [list(range(8))]
    inside = arrange(Plan((0.0, 8.0, 15.0, 30.0), Pivot(15.0), one_scene=True), 4)
    assert inside.turns(2) == [[0, 1, 2], [2, 3]]
    free = arrange(Plan((15.0,)), 3)
    assert free.turns(2) == [[0, 1], [2]]


def test_grounded_steps_are_rounded_to_the_nearest():
    assert [grounding_steps(0.8, steps) for steps in (1, 2, 5, 30)] == [1, 2, 4, 24]
    assert [grounding_steps(part, 8) for part in (0.0, 0.75, 1.0)] == [0, 6, 8]


def test_shared_noise_draws_one_row_for_a_scene_whatever_the_batch():
    def draw(rows: int, source: tuple[int, ...]):
        generator = torch.Generator().manual_seed(3)
        like = torch.zeros(rows, 4, 2)
        with SharedNoise(source):
            first = torch.randn(rows, 4, 2, generator=generator)
            torch.manual_seed(5)
            return first, torch.randn(like.size(), dtype=like.dtype), torch.randn_like(like)

    for of_six, of_two in zip(draw(6, (0,) * 6), draw(2, (0,) * 2), strict=True):
        assert torch.equal(of_six, of_two[:1].expand(6, 4, 2))
    for noise in draw(4, (0, 1, 0, 1)):
        assert torch.equal(noise[:2], noise[2:])
        assert not torch.equal(noise[0], noise[1])


def test_shared_noise_can_be_paused_from_another_thread():
    """Hosts with several GPUs call the model from threads of their own."""
    drawn = []

    def call_the_model():
        with shared.paused():
            drawn.append(torch.randn(3, 2))

    with SharedNoise((0, 0, 0)) as shared:
        thread = threading.Thread(target=call_the_model)
        thread.start()
        thread.join()
        assert torch.equal(*torch.randn(3, 2)[:2])
    assert not torch.equal(*drawn[0][:2])


def test_shared_noise_leaves_other_draws_and_paused_calls_alone():
    with SharedNoise((0, 0, 0)) as shared:
        vector, other = torch.randn(3), torch.randn(5, 2)
        with shared.paused():
            paused = torch.randn(3, 2)
    assert len(set(vector.tolist())) == 3
    assert len(set(other[:, 0].tolist())) == 5
    assert not torch.equal(paused[0], paused[1])
