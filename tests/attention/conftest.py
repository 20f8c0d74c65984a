"""The rounding that golden outputs were computed with, and their files of Genfocus."""

from __future__ import annotations

import math
import shutil

import comfy.ldm.flux.model
import pytest
import torch
from flux import Golden, run_node


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


@pytest.fixture
def load_genfocus(adapters_folder):
    """A golden case's file through the loader, under a name that says nothing."""

    def load(golden: Golden):
        (file,) = (golden.folder / "adapter").iterdir()
        shutil.copy(file, adapters_folder / f"{golden.folder.name}.safetensors")
        return run_node("BokehLoadAdapter", adapter=f"{golden.folder.name}.safetensors")[0]

    return load
