"""The rounding that golden outputs were computed with."""

from __future__ import annotations

import math

import comfy.ldm.flux.model
import pytest
import torch


@pytest.fixture
def reference_rounding(monkeypatch):
    """exp() rounded to nearest, but for number 13, which was one bit higher where the golden outputs were made."""
    exponents = -math.log(10000) * torch.arange(128, dtype=torch.float32) / 128
    frequencies = exponents.double().exp().float()
    frequencies[13] = torch.nextafter(frequencies[13], torch.tensor(math.inf))

    def timestep_embedding(t, dim, max_period=10000, time_factor=1000.0):
        assert (dim, max_period) == (256, 10000)
        angles = (time_factor * t).float()[:, None] * frequencies
        return torch.cat((angles.cos(), angles.sin()), dim=-1)

    monkeypatch.setattr(comfy.ldm.flux.model, "timestep_embedding", timestep_embedding)
