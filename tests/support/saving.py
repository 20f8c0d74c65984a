"""Saving a sweep through the node, as the host calls it."""

from __future__ import annotations

import json
from pathlib import Path

import nodes
import numpy as np
import torch
from comfy_api.latest import io
from PIL import Image

NODE = "9"
PROMPT = {
    "3": {"class_type": "KSampler", "inputs": {"seed": 2**60 + 1, "steps": 20, "model": ["4", 0]}},
    "8": {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0], "vae": ["4", 2]}},
    NODE: {"class_type": "BokehSweepSave", "inputs": {"images": ["8", 0], "filename_prefix": "bokeh/sweep"}},
}
EXTRA = {"workflow": {"nodes": [{"id": 9, "title": "Schärfe"}]}, "author": "x"}


def pictures(count: int, height: int = 40, width: int = 56, channels: int = 3) -> torch.Tensor:
    """Pictures that differ in every pixel, each flatter than the one before, all on 8-bit values."""
    noise = torch.rand(height, width, channels, generator=torch.Generator().manual_seed(0)) - 0.5
    levels = torch.stack([0.5 + noise / (1 + i) for i in range(count)])
    return (levels * 255).round() / 255


def scenes(count: int, size: int = 96) -> torch.Tensor:
    """Smooth pictures, each darker than the one before, that a lossy format keeps well."""
    ramp = torch.linspace(0, 0.5, size)
    scene = torch.stack(
        [ramp[:, None].expand(size, size), ramp.expand(size, size), ramp.flip(0).expand(size, size)], -1
    )
    return torch.stack([scene + 0.5 - 0.4 * i / max(1, count - 1) for i in range(count)])


def clone(prompt, extra):
    """The node for one run, as the host makes it."""
    hidden = {io.Hidden.prompt: prompt, io.Hidden.extra_pnginfo: extra, io.Hidden.unique_id: NODE}
    # Older hosts hand over the values themselves, newer ones a dict that holds them.
    return nodes.NODE_CLASS_MAPPINGS["BokehSweepSave"].PREPARE_CLASS_CLONE({**hidden, "hidden_inputs": hidden})


def save(images, sweep, *, prompt=PROMPT, extra=EXTRA, filename_prefix="bokeh/sweep", animation=True, fps=6.0) -> dict:
    """Run the node as the host does; returns what it shows."""
    result = clone(prompt, extra).EXECUTE_NORMALIZED(
        images=images, sweep=sweep, filename_prefix=filename_prefix, animation=animation, frames_per_second=fps
    )
    assert result.result is None
    return result.ui


def listing(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def description(folder: Path) -> dict:
    def refuse(constant: str):
        raise AssertionError(f"{constant} is no JSON")

    return json.loads((folder / "sweep.json").read_text(encoding="utf-8"), parse_constant=refuse)


def film(path: Path) -> tuple[list[np.ndarray], list[int]]:
    """Frames and their durations in ms."""
    frames, durations = [], []
    with Image.open(path) as animation:
        assert animation.info["loop"] == 0 or not animation.is_animated, "it repeats for ever"
        for i in range(animation.n_frames):
            animation.seek(i)
            frames.append(np.asarray(animation.convert("RGB"), dtype=np.float32) / 255)
            durations.append(animation.info.get("duration"))
    return frames, durations
