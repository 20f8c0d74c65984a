"""The files of a demonstration model with random weights."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

from bokeh.demo.codec import PatchCodec
from bokeh.demo.load import demo_files
from bokeh.demo.network import FLUX, build
from bokeh.training.scenes import Scenes


def write_demo(folder: Path) -> Path:
    """A network of the real size whose weights are random, and the codec of the procedural scenes."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(3)
    state = {}
    for name, weight in build(FLUX, torch.float32, "cpu").diffusion_model.state_dict().items():
        noise = torch.randn(weight.shape, generator=generator)
        norm = name.endswith(("norm.scale", "norm.weight"))
        state[name] = (1 + 0.1 * noise if norm else 0.3 * noise / weight.shape[-1] ** 0.5).half()
    codec = PatchCodec()
    codec.fit(2 * Scenes().draw(generator, 32, 1).images.movedim(-1, 1) - 1)
    network_file, codec_file = demo_files(folder)
    save_file(state, network_file)
    save_file(codec.state_dict(), codec_file)
    return folder
