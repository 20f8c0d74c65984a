"""Checkpoints: one safetensors file with everything that a run needs to go on as if it had never stopped."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ..files import whole_file
from ..weights.files import write_failure

FORMAT = "comfyui-bokeh-training"
FORMAT_VERSION = 2
# Relative. A VAE in bfloat16 is off by half of it.
NEAR = 0.02
_MARKS = ("img_in.weight", "txt_in.weight", "final_layer.linear.weight")


class TrainingError(ValueError):
    """Why training cannot start or go on: what came, what was expected, what to do."""


def check_writable(folder: Path) -> None:
    """Raise TrainingError when no file can be made in a folder; it is made where it is missing."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise TrainingError(f"{folder}: {write_failure(error)}") from error


def save_checkpoint(path: Path, tensors: Mapping[str, Tensor], info: Mapping[str, Any]) -> None:
    """Write a checkpoint; the file appears under its name complete or not at all.

    tensors: names to tensors. info: what JSON can hold. Raises TrainingError when the disk refuses.
    """
    metadata = {"format": FORMAT, "info": json.dumps({**info, "format_version": FORMAT_VERSION})}
    own = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    try:
        with whole_file(path) as unfinished:
            save_file(own, unfinished, metadata)
    except (OSError, SafetensorError) as error:
        raise TrainingError(f"{path}: {write_failure(error)}") from error


def load_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and info of a checkpoint. Raises TrainingError for a file that is not one of this version."""
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata = file.metadata() or {}
            info = json.loads(metadata.get("info", "{}"))
            # Copies: the file is replaced while the run goes on.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError) as error:
        raise TrainingError(
            f"{path}: cannot be read as a checkpoint ({error}). Remove the file or choose another name to start anew."
        ) from error
    if metadata.get("format") != FORMAT or info.get("format_version") != FORMAT_VERSION:
        raise TrainingError(
            f"{path}: is not a training checkpoint of version {FORMAT_VERSION}. "
            "Remove the file or choose another name to start anew."
        )
    return tensors, info


def check_same(path: Path, saved: Mapping[str, Any], now: Mapping[str, Any], what: str) -> None:
    """Raise TrainingError naming every value of ``saved`` that is another one in ``now``."""
    names = [name for name in sorted(saved.keys() | now.keys()) if saved.get(name) != now.get(name)]
    if names:
        changes = ", ".join(f"{name} {saved.get(name)} there and {now.get(name)} here" for name in names)
        raise TrainingError(
            f"{path}: was made with another {what}: {changes}. Go on with the {what} of the checkpoint, or choose "
            "another name to start anew."
        )


def check_near(path: Path, saved: Mapping[str, Tensor], now: Mapping[str, Tensor]) -> None:
    """Raise TrainingError naming what of ``now`` is farther from ``saved`` than two devices compute apart."""
    for name, tensor in now.items():
        there = saved.get(name)
        same = there is not None and there.shape == tensor.shape
        if not same or not (there - tensor).norm() <= NEAR * tensor.norm():
            raise TrainingError(
                f"{path}: was made with another {name}. Go on with the {name} of the checkpoint, or choose another "
                "name to start anew."
            )


def fingerprint(network: nn.Module) -> dict[str, str]:
    """What tells one network from another: its kind, and those of its weights that LoRAs leave alone: the vectors, and
    FLUX's first and last matrices."""
    digest, count = hashlib.sha256(), 0
    for name, weight in network.named_parameters():
        if weight.ndim == 1 or name in _MARKS:
            count += 1
            values = weight.detach().to("cpu", torch.float32).contiguous()
            digest.update(f"{name} {tuple(values.shape)}".encode())
            digest.update(values.numpy().tobytes())
    return {"network": f"{type(network).__name__} with {count} vectors", "weights": digest.hexdigest()[:16]}
