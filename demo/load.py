"""Loading the demonstration model: MODEL, CLIP and VAE by the host's own classes."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import comfy.model_management
import comfy.model_patcher
import comfy.sd
import torch
from comfy.latent_formats import LatentFormat
from comfy.model_patcher import ModelPatcher
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ..host import new_patcher
from . import FOLDER
from .clip import demo_clip
from .codec import CHANNELS, PatchCodec
from .network import FLUX, Kind, build
from .vae import DemoVAE

CODEC_FILE = "codec.safetensors"
_AGAIN = "It comes with the Bokeh pack: install the pack again, or restore the file in its folder."


class DemoError(ValueError):
    """What is wrong with a file of the demonstration model: what came, what was expected, what to do."""


class Demo(NamedTuple):
    """What the standard nodes take."""

    model: ModelPatcher
    clip: comfy.sd.CLIP
    vae: DemoVAE


def load_demo(folder: Path = FOLDER, report: Callable[[str], None] | None = None, kind: Kind = FLUX) -> Demo:
    """The demonstration model from the files in ``folder``.

    Args:
        folder: holds the network's file (its own tensor names) and codec.safetensors.
        report: called for every text that is encoded, with a sentence on the words that were left out, or "".
        kind: the network.

    Raises:
        DemoError: for a file that is missing, damaged or not of this version of the pack.
    """
    return Demo(_load_model(folder, kind), demo_clip(report), DemoVAE(_load_codec(folder)))


def demo_files(folder: Path, kind: Kind = FLUX) -> tuple[Path, Path]:
    """The files that `load_demo` reads."""
    return folder / kind.file, folder / CODEC_FILE


def _load_codec(folder: Path) -> PatchCodec:
    codec = PatchCodec()
    load_weights(codec, folder / CODEC_FILE)
    return codec


def _load_model(folder: Path, kind: Kind) -> ModelPatcher:
    device = comfy.model_management.get_torch_device()
    dtype = _dtype(device, kind.config.supported_inference_dtypes)
    model = build(kind, dtype, comfy.model_management.unet_offload_device())
    file, _ = demo_files(folder, kind)
    load_weights(model.diffusion_model, file, model.model_config.process_unet_state_dict)
    formats = model.latent_format
    formats.latent_rgb_factors, formats.latent_rgb_factors_bias = _preview_colours(_load_codec(folder), formats)
    return new_patcher(_load_model, folder, kind, module=model.eval())


def _dtype(device: torch.device, supported: list[torch.dtype]) -> torch.dtype:
    """What the host would compute in. Weights are kept in it too: at this size, casting saves nothing."""
    dtype = comfy.model_management.unet_dtype(device, supported_dtypes=supported)
    return comfy.model_management.unet_manual_cast(dtype, device, supported) or dtype


def _preview_colours(codec: PatchCodec, formats: LatentFormat) -> tuple[list[list[float]], list[float]]:
    """Mean colour in -1..1 that each channel adds to a patch, and that of a latent of zeros: the live preview."""
    units = formats.process_out(torch.cat([torch.zeros(1, CHANNELS), torch.eye(CHANNELS)]))
    colours = codec.decode_patches(units[:, :, None, None]).mean((2, 3))
    return (colours[1:] - colours[0]).tolist(), colours[0].tolist()


def load_weights(
    module: nn.Module,
    path: Path,
    rename: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None,
    again: str = _AGAIN,
) -> None:
    """Fill the network or the codec from its file.

    Args:
        module: the network or a ``PatchCodec``.
        path: a safetensors file.
        rename: the host's ``process_unet_state_dict``, for the network: newer hosts give some weights another name.
        again: what to do about a file that is not right.

    Raises:
        DemoError: for a file that is missing, damaged or holds something else.
    """
    try:
        state = load_file(path)
    except FileNotFoundError as error:
        raise DemoError(f"{path}: there is no such file. {again}") from error
    except SafetensorError as error:
        raise DemoError(f"{path}: is damaged or cut off (it has {path.stat().st_size:,} bytes). {again}") from error
    except OSError as error:
        raise DemoError(f"{path}: cannot be read ({error}). Expected a readable file. {again}") from error
    try:
        module.load_state_dict(rename(state) if rename else state)
    except RuntimeError as error:
        reason = textwrap.shorten(str(error), 300)
        raise DemoError(f"{path}: does not fit this version of the pack ({reason}). {again}") from error
