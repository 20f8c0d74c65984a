"""Prompts of different length and number of rows, and prompts that do not fit together."""

from __future__ import annotations

import functools
import logging
import re

import pytest
import torch
from flux import relative_error
from staged import ALPHA, flux_scene, unet_scene

from bokeh.stages.mixing import Prompt, align, mix


@pytest.fixture(scope="module")
def flux():
    return flux_scene()


@pytest.fixture(scope="module")
def unet():
    return unet_scene()


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# Length


def test_chunks_of_clip_are_repeated_which_changes_nothing(unet):
    """154 and 231 tokens meet at 462; cross-attention over a prompt twice is that over the prompt."""
    long = random(1, 154, 24, seed=1), random(1, 16, seed=2)
    model, staged = unet.staged(0.0, 0.0, local_prompt=unet.conditioning(long))
    ours = unet.sample(model, staged, cfg=4.0)
    assert relative_error(ours, unet.sample(unet.model, unet.conditioning(long), cfg=4.0)) <= 1e-5
    three = Prompt(random(1, 231, 24)), Prompt(long[0])
    ours, theirs = align(*three, repeats=True)
    assert torch.equal(ours.tokens, three[0].tokens.repeat(1, 2, 1))
    assert torch.equal(theirs.tokens, three[1].tokens.repeat(1, 3, 1))


def test_without_a_mask_the_last_token_goes_on(flux):
    local = flux.local_prompt[0]
    short = flux.conditioning((local[:, :-2], flux.local_prompt[1]))
    padded = torch.cat((local[:, :-2], local[:, -3:-2], local[:, -3:-2]), 1)
    model, staged = flux.staged(local_prompt=short)
    other, expected = flux.staged(local_prompt=flux.conditioning((padded, flux.local_prompt[1])))
    assert torch.equal(flux.sample(model, staged), flux.sample(other, expected))


def test_a_longer_local_prompt_leaves_the_layout_stage_as_it_is(flux):
    tokens = torch.cat((flux.local_prompt[0], flux.local_prompt[0]), 1)
    model, staged = flux.staged(layout=0.9, local_prompt=flux.conditioning((tokens, flux.local_prompt[1])))
    seen = []

    def watch(executor, x, t, c_concat=None, c_crossattn=None, *args, **kwargs):
        seen.append(c_crossattn.shape[1])
        return executor(x, t, c_concat, c_crossattn, *args, **kwargs)

    model.add_wrapper_with_key("apply_model", "test", watch)
    flux.sample(model, staged)
    length = flux.global_prompt[0].shape[1]
    assert seen == [length] * 6 + [2 * length]


def test_masked_prompts_are_filled_with_hidden_zeros():
    ours = Prompt(random(1, 5, 8), mask=torch.tensor([[1, 1, 1, 1, 0]]))
    theirs = Prompt(random(1, 3, 8, seed=1))
    mixed = mix(*align(ours, theirs, repeats=False), (ALPHA,))
    assert torch.equal(mixed.mask, torch.tensor([[1, 1, 1, 1, 0]]))
    expected = ALPHA * ours.tokens
    expected[:, :3] += (1 - ALPHA) * theirs.tokens
    torch.testing.assert_close(mixed.tokens, expected)


def test_one_row_a_picture_meets_one_row_for_all():
    ours, theirs = Prompt(random(3, 4, 8), random(3, 5)), Prompt(random(1, 4, 8, seed=1), random(1, 5, seed=1))
    mixed = mix(*align(ours, theirs, repeats=False), (ALPHA,))
    torch.testing.assert_close(mixed.tokens, ALPHA * ours.tokens + (1 - ALPHA) * theirs.tokens)
    torch.testing.assert_close(mixed.pooled, ALPHA * ours.pooled + (1 - ALPHA) * theirs.pooled)


def test_without_two_pooled_vectors_the_global_one_stays():
    ours, theirs = Prompt(random(1, 4, 8), random(1, 5)), Prompt(random(1, 4, 8, seed=1))
    assert torch.equal(mix(*align(ours, theirs, repeats=False), (ALPHA,)).pooled, ours.pooled)


# Refusals


def assert_refused(call, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        call()


def test_numbers_out_of_range(flux):
    hints = {
        "alpha": "1 is the global prompt alone, 0 the local prompt alone.",
        "layout": "It is the fraction of the steps that hold the layout; 0.8 is a good value.",
    }
    # NaN and infinity never get here: every node refuses them (tests/test_numbers.py).
    for inputs, message in (
        ({"alpha": -0.1}, "alpha must be a number from 0 to 2, but -0.1 came. "),
        ({"alpha": 2.5}, "alpha must be a number from 0 to 2, but 2.5 came. "),
        ({"layout": 1.01}, "layout must be a number from 0 to 1, but 1.01 came. "),
    ):
        assert_refused(functools.partial(flux.staged, **inputs), message + hints[next(iter(inputs))])


def test_empty_prompts(flux):
    for name in ("global_prompt", "local_prompt"):
        message = f"{name} is an empty conditioning. Connect the output of a CLIP Text Encode node."
        assert_refused(functools.partial(flux.staged, **{name: []}), message)
        assert_refused(
            functools.partial(flux.staged, **{name: [[None, {}]]}),
            f"{name} should hold token embeddings (rows x tokens x width), but it holds none. "
            "Connect the output of a CLIP Text Encode node of this model.",
        )


def test_several_local_prompts(flux):
    assert_refused(
        lambda: flux.staged(local_prompt=flux.local() * 2),
        "local_prompt has 2 entries, as Conditioning (Combine) makes them, but one thing is kept sharp: connect one "
        "CLIP Text Encode node. Only global_prompt may have several entries.",
    )


def test_a_local_prompt_of_another_model_family(flux, unet):
    width = flux.global_prompt[0].shape[2]
    tokens = [[random(1, 77, width + 8), {"pooled_output": flux.local_prompt[1]}]]
    assert_refused(
        lambda: flux.staged(local_prompt=tokens),
        f"The width of the local prompt's token embeddings is {width + 8}, that of the global prompt's {width}: they "
        "come from the text encoders of two model families. Encode both prompts with the text encoder of this model.",
    )
    pooled = [[flux.local_prompt[0], {"pooled_output": random(1, 3)}]]
    assert_refused(
        lambda: flux.staged(local_prompt=pooled),
        f"The width of the local prompt's pooled vector is 3, that of the global prompt's "
        f"{flux.global_prompt[1].shape[1]}: they come from the text encoders of two model families. Encode both "
        "prompts with the text encoder of this model.",
    )


def test_a_longer_local_prompt_where_that_cannot_be(flux):
    length = flux.global_prompt[0].shape[1]
    longer = flux.conditioning((flux.local_prompt[0].repeat(1, 2, 1), flux.local_prompt[1]))
    assert_refused(
        lambda: flux.swept("0.7, 0.9", "layout", local_prompt=longer),
        "In a sweep over layouts the local prompt must not be longer than the global prompt, but it has "
        f"{2 * length} tokens and the global prompt {length}. Shorten the local prompt.",
    )
    mask = {"attention_mask": torch.zeros(1, length + 16, length + 16)}
    assert_refused(
        lambda: flux.staged(global_prompt=flux.positive(**mask), local_prompt=longer),
        f"The global prompt has {length} tokens and an attention mask for that number (from Apply Style Model, say), "
        f"but the local prompt has {2 * length}. Shorten the local prompt.",
    )


def test_a_sweep_over_prompts_of_several_rows(flux):
    rows = flux.conditioning(tuple(part.repeat(2, *[1] * (part.ndim - 1)) for part in flux.global_prompt))
    assert_refused(
        lambda: flux.swept("0.3, 0.7", global_prompt=rows),
        "A sweep makes one row for each of its values, but a prompt already has 2 rows. Use a prompt of one row.",
    )


def test_a_short_layout_stage_is_warned_of(flux, caplog):
    with caplog.at_level(logging.WARNING):
        flux.staged(layout=0.7)
        assert not caplog.text
        flux.staged(layout=0.5)
    assert "layout 0.50 is under 0.7, where objects of the two prompts begin to mix" in caplog.text
