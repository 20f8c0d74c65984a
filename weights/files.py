"""Adapter files on disk: reading every known format, writing this pack's own.

The own format, version 2, is a public contract. It is one safetensors file (ending `.safetensors`):

- tensors: exactly the canonical names of `format.py`, all of one file in whatever of float32, bfloat16, float16
  was asked for. `to_k_bokeh` / `to_k_dof` is not stored.
- metadata: `format` = "comfyui-bokeh-adapter", `format_version` = "2", `settings` = a JSON object with `family` (of the
  models that it fits: "flux", "unet", ...), `blocks` (the names of the adapted blocks; the tensors' numbers are
  positions in this list) and keys of the authors' config.json: `attn_hidden_dim` (where all blocks are of one width),
  `bokeh_context_dim`, `bokeh_hidden_dim`, `bokeh_input_dim` (1), `bokeh_scale`, `lora_alpha`
  (null = no scaling), `lora_rank` (null = full matrices), `lora_scale`, `unfreeze_k`, `unfreeze_q`; and `variant`
  ("text-to-image" or "image-to-image").

Version 1 has no `family`: it is for FLUX.1, its tensors' numbers count the model's blocks, double blocks first, and
`blocks` is null where the original gave no names. Adapters that came so are written so.

For any file the settings come from a `config.json` beside it, else from its metadata (`settings` as above, or one
JSON value under each key), else from the tensors. A config.json with none of these keys belongs to something
else and is left alone; one that disagrees with the metadata is an error.
"""

from __future__ import annotations

import errno
import json
import os
import pickle
import re
import zipfile
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..files import whole_file
from .format import Adapter, AdapterError, build_adapter, is_finite
from .settings import SETTING_KEYS

FORMAT = "comfyui-bokeh-adapter"
FORMAT_VERSIONS = ("1", "2")
# EFBIG: a file-size limit is a full disk as far as the user is concerned.
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_LONGEST_HEADER = 100_000_000  # bytes; the limit of the safetensors format
_AGAIN = "Get the file again."


def read_adapter(path: str | os.PathLike[str]) -> Adapter:
    """Read and check an adapter file; its kind is found from its first bytes, never from its name.

    The tensors are views of the memory-mapped file: no second copy exists. A PyTorch file is opened with
    `weights_only=True`, so nothing in it can run. Raises AdapterError.
    """
    path = Path(path)
    head = _head(path)
    metadata: dict[str, str] = {}
    # Before the pickle, whose one byte 0x80 may be the lowest of a header's length as well.
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= _LONGEST_HEADER:
        tensors, metadata = _read_safetensors(path)
    elif head.startswith((b"PK\x03\x04", b"\x80")):
        tensors = _read_pytorch(path, zipped=head.startswith(b"PK"))
    else:
        raise AdapterError(
            f"{path}: is neither a safetensors nor a PyTorch file (it begins with {head[:16]!r}). "
            f"Often that is a web page or a pointer saved in the file's place. {_AGAIN}"
        )
    return build_adapter(tensors, _settings(path, metadata), str(path))


def write_adapter(adapter: Adapter, path: str | os.PathLike[str], dtype: torch.dtype | None = None) -> Path:
    """Write `adapter` in the own format, its tensors converted to `dtype` if one is given; returns the path.

    The file appears under its name complete or not at all. Raises AdapterError for a path that does not end in
    .safetensors, values that do not fit `dtype`, a folder that cannot be written and a full disk.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise AdapterError(f"{path}: an adapter is saved as safetensors. Give it a name that ends in .safetensors.")
    tensors = {}
    for name, tensor in adapter.tensors.items():
        tensors[name] = tensor.to(dtype or tensor.dtype).contiguous()
        if not is_finite(tensors[name]):
            raise AdapterError(
                f"{path}: values of {name} are too large for {str(dtype).removeprefix('torch.')}. "
                "Choose bfloat16 or float32."
            )
    version = FORMAT_VERSIONS[adapter.settings.by_name]
    metadata = {"format": FORMAT, "format_version": version, "settings": json.dumps(_own_settings(adapter))}
    try:
        with whole_file(path) as unfinished:
            save_file(tensors, unfinished, metadata=metadata)
    except (OSError, SafetensorError) as error:
        raise AdapterError(f"{path}: {write_failure(error)}") from error
    return path


def write_failure(error: Exception) -> str:
    """Why a file could not be written, as the end of a sentence; `error` comes from Python or from safetensors."""
    # safetensors reports the system's error number in its text only.
    found = re.search(r"os error (\d+)", str(error))
    number = int(found[1]) if found else getattr(error, "errno", None)
    if number in DISK_FULL:
        return f"the disk is full ({os.strerror(number)}). Nothing was left behind; free some space and try again."
    reason = os.strerror(number) if number else str(error)
    return f"cannot be written ({reason}). Make the folder writable or choose another one; nothing was left behind."


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except FileNotFoundError as error:
        raise AdapterError(f"{path}: there is no such file. Put it there, or choose another adapter.") from error
    except OSError as error:
        raise AdapterError(f"{path}: cannot be read ({error.strerror}). Expected a readable adapter file.") from error
    if not head:
        raise AdapterError(f"{path}: is empty. {_AGAIN}")
    return head


def _damaged(path: Path) -> AdapterError:
    return AdapterError(f"{path}: is damaged or cut off (it has {path.stat().st_size:,} bytes). {_AGAIN}")


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise _damaged(path) from error


def _read_pytorch(path: Path, zipped: bool) -> dict[str, Tensor]:
    if zipped and not zipfile.is_zipfile(path):
        raise _damaged(path)
    try:
        # Files from before torch 1.6 are bare pickles, which cannot be mapped.
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError as error:
        raise AdapterError(
            f"{path}: holds more than plain tensors (a pickle that could run code when opened) or is damaged, so it "
            "was not opened. Expected a dictionary of tensors: use the file as its authors published it."
        ) from error
    except Exception as error:  # torch keeps no closed list of what a damaged file raises
        raise _damaged(path) from error
    if not isinstance(content, dict):
        raise AdapterError(
            f"{path}: holds a {type(content).__name__}, expected a dictionary of tensors. "
            "Use the file as its authors published it."
        )
    return content


def _settings(path: Path, metadata: dict[str, str]) -> dict[str, object]:
    own = _metadata_settings(path, metadata)
    config_path = path.with_name("config.json")
    config = _config_settings(config_path)
    for key in sorted(own.keys() & config.keys()):
        if own[key] != config[key]:
            raise AdapterError(
                f"{path}: its metadata says {key} = {json.dumps(own[key])}, but {config_path} says "
                f"{json.dumps(config[key])}. Move the adapter into a folder of its own, or remove that config.json."
            )
    return own | config


def _config_settings(path: Path) -> dict[str, object]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise AdapterError(f"{path}: cannot be read ({error.strerror}). Make it readable, or remove it.") from error
    except ValueError as error:
        raise AdapterError(
            f"{path}: is not valid JSON ({error}). "
            "Replace it by the config.json that belongs to the adapter, or remove it."
        ) from error
    if not isinstance(content, dict):
        return {}
    return {key: content[key] for key in SETTING_KEYS & content.keys()}


def _metadata_settings(path: Path, metadata: dict[str, str]) -> dict[str, object]:
    if metadata.get("format") == FORMAT and metadata.get("format_version") not in FORMAT_VERSIONS:
        raise AdapterError(
            f"{path}: is version {metadata.get('format_version')} of this pack's format, "
            f"expected version {' or '.join(FORMAT_VERSIONS)}. Update the pack."
        )
    try:
        if "settings" in metadata:
            content = json.loads(metadata["settings"])
        else:
            content = {key: json.loads(metadata[key]) for key in SETTING_KEYS & metadata.keys()}
    except ValueError as error:
        raise AdapterError(f"{path}: the settings in its metadata are not valid JSON ({error}). {_AGAIN}") from error
    if not isinstance(content, dict):
        raise AdapterError(
            f"{path}: the settings in its metadata are a {type(content).__name__}, expected a JSON object. {_AGAIN}"
        )
    return {key: content[key] for key in SETTING_KEYS & content.keys()}


def _own_settings(adapter: Adapter) -> dict[str, object]:
    settings = adapter.settings
    own: dict[str, object] = {"family": settings.family} if settings.by_name else {}
    if len(set(settings.widths)) == 1:
        own["attn_hidden_dim"] = settings.width
    return own | {
        "blocks": settings.block_names and list(settings.block_names),
        "bokeh_context_dim": settings.context_dim,
        "bokeh_hidden_dim": adapter.tensors["embedding.0.weight"].shape[0],
        "bokeh_input_dim": 1,
        "bokeh_scale": settings.bokeh_scale,
        "lora_alpha": settings.lora_alpha,
        "lora_rank": settings.rank,
        "lora_scale": settings.lora_scale,
        "unfreeze_k": settings.unfreeze_k,
        "unfreeze_q": settings.unfreeze_q,
        "variant": settings.variant,
    }
