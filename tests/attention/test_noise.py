"""However a sampler draws noise, the rows of a scene share it; nothing else is touched."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from bokeh.attention.noise import SharedNoise

DRAWS = {
    "randn": lambda like: torch.randn(like.shape),
    "rand": lambda like: torch.rand(*like.shape),
    "randint": lambda like: torch.randint(0, 1000, like.shape),
    "randn_like": torch.randn_like,
    "randint_like": lambda like: torch.randint_like(like, 1000),
    "one line": lambda like: torch.randn(like.numel()).view_as(like),
    "channels in the rows": lambda like: torch.randn(like.numel() // 8, 8).view_as(like),
    "a line in place": lambda like: torch.empty(like.numel()).normal_().view_as(like),
    "several at once": lambda like: torch.randn(2, *like.shape)[1],
    "VonMises": lambda like: torch.distributions.VonMises(torch.zeros(()), torch.ones(())).sample(like.shape),
    "normal_": lambda like: torch.empty_like(like).normal_(),
    "uniform_": lambda like: torch.empty_like(like).uniform_(-1, 1),
    "exponential_": lambda like: torch.empty_like(like).exponential_(),
    "cauchy_": lambda like: torch.empty_like(like).cauchy_(),
    "log_normal_": lambda like: torch.empty_like(like).log_normal_(),
    "out": lambda like: torch.randn(like.shape, out=torch.empty_like(like)),
    "normal of numbers": lambda like: torch.normal(0.0, 1.0, like.shape),
    "normal of a mean": lambda like: torch.normal(torch.zeros_like(like), 1.0),
    "normal of a spread": lambda like: torch.normal(torch.zeros_like(like), torch.ones_like(like)),
    "poisson": lambda like: torch.poisson(torch.full_like(like, 50.0)),
    "bernoulli": lambda like: torch.bernoulli(torch.full_like(like, 0.5)),
    "Laplace": lambda like: torch.distributions.Laplace(0.0, 1.0).sample(like.shape),
    "StudentT": lambda like: torch.distributions.StudentT(torch.full_like(like, 3.0)).sample(),
    "Gamma": lambda like: torch.distributions.Gamma(torch.ones_like(like), 1.0).sample(),
    "truncated": lambda like: torch.nn.init.trunc_normal_(torch.empty_like(like)),
}


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_however_a_batch_is_drawn_the_rows_of_a_scene_share_it(draw):
    def drawn(source: tuple[int, ...]) -> torch.Tensor:
        like = torch.zeros(len(source), 4, 8)
        torch.manual_seed(3)
        with SharedNoise(source, like.shape):
            return draw(like)

    noise = drawn((0, 0, 1, 1, 0, 1))
    assert noise.shape == (6, 4, 8)
    assert torch.equal(noise[[0, 0, 2, 2, 0, 2]], noise)
    assert not torch.equal(noise[0], noise[2])
    assert torch.equal(drawn((0,) * 6), drawn((0,)).expand(6, 4, 8))


class Passing(TorchDispatchMode):
    """Another pack's mode, which notes what it sees."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen.append(func)
        return func(*args, **(kwargs or {}))


def test_pausing_switches_no_other_mode_off():
    other = Passing()
    with SharedNoise((0, 0, 0)) as shared, torch.device("meta"), other:
        with shared.paused():
            seen = len(other.seen)
            inside = torch.randn(3, 2, device="cpu")
            assert len(other.seen) > seen
            assert torch.empty(1).device.type == "meta"
        assert torch.equal(*torch.randn(3, 2, device="cpu")[:2])
    assert not torch.equal(*inside[:2])
    with SharedNoise((0, 0, 0)) as shared, torch.device("cpu"), shared.paused():
        assert not torch.equal(*torch.randn(3, 2)[:2])


def test_layers_that_may_use_random_numbers_are_no_draws():
    batch = torch.randn(3, 2, 8, 4)
    expected = torch.nn.functional.scaled_dot_product_attention(batch, batch, batch)
    with SharedNoise((0, 0, 0)):
        assert torch.equal(torch.nn.functional.scaled_dot_product_attention(batch, batch, batch), expected)
