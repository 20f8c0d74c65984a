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
import re
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from ..files import new_file, open_regular, whole_file
from .format import Adapter, AdapterError, build_adapter, check_names, is_finite
from .genfocus import Genfocus, build_genfocus, is_genfocus
from .settings import SETTING_KEYS
from .stored import AGAIN, read_stored

FORMAT = "comfyui-bokeh-adapter"
FORMAT_VERSIONS = ("1", "2")
# EFBIG: a file-size limit is a full disk as far as the user is concerned.
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_CONFIG = "config.json"
_LONGEST_SETTINGS = 1_000_000  # bytes; an adapter of all blocks of FLUX has 3,000


def read_adapter(path: str | os.PathLike[str], called: str | None = None) -> Adapter | Genfocus:
    """Read and check an adapter file; its kind is found from its first bytes, never from its name.

    The tensors are in memory of their own: the file may be replaced or removed. Nothing in it can run. called: what
    sentences call the file, its path by default. Raises AdapterError.
    """
    path = Path(path)
    called = called or str(path)
    tensors, metadata = read_stored(path, called, lambda names: is_genfocus(names) or check_names(names, called))
    if is_genfocus(tensors):
        return build_genfocus(tensors, called)
    return build_adapter(tensors, _settings(path, called, metadata), called)


def write_adapter(
    adapter: Adapter,
    path: str | os.PathLike[str],
    dtype: torch.dtype | None = None,
    replace: bool = True,
    called: str | None = None,
) -> Path:
    """Write `adapter` in the own format, its tensors converted to `dtype` if one is given; returns the path.

    The file appears under its name complete or not at all; without `replace` it takes no other's place, and a number is
    added to a name that is taken. called: what sentences call the file, its path by default. Raises AdapterError for a
    path that does not end in .safetensors, values that do not fit `dtype`, a disk that is full or refuses.
    """
    path = Path(path)
    called = called or str(path)
    if path.suffix != ".safetensors":
        raise AdapterError(f"{called}: an adapter is saved as safetensors. Give it a name that ends in .safetensors.")
    tensors = {}
    for name, tensor in adapter.tensors.items():
        tensors[name] = tensor.to(dtype or tensor.dtype).contiguous()
        if not is_finite(tensors[name]):
            raise AdapterError(
                f"{called}: values of {name} are too large for {str(dtype).removeprefix('torch.')}. "
                "Choose bfloat16 or float32."
            )
    version = FORMAT_VERSIONS[adapter.settings.by_name]
    metadata = {"format": FORMAT, "format_version": version, "settings": json.dumps(_own_settings(adapter))}
    try:
        if not replace:
            return new_file(path, lambda unfinished: save_file(tensors, unfinished, metadata=metadata))
        with whole_file(path) as unfinished:
            save_file(tensors, unfinished, metadata=metadata)
    except (OSError, SafetensorError) as error:
        raise AdapterError(f"{called}: {write_failure(error)}") from error
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


def _settings(path: Path, called: str, metadata: dict[str, str]) -> dict[str, object]:
    own = _metadata_settings(called, metadata)
    config_called = os.path.join(os.path.dirname(called), _CONFIG)
    config = _config_settings(path.with_name(_CONFIG), config_called)
    for key in sorted(own.keys() & config.keys()):
        if own[key] != config[key]:
            raise AdapterError(
                f"{called}: its metadata says {key} = {json.dumps(own[key])}, but {config_called} says "
                f"{json.dumps(config[key])}. Move the adapter into a folder of its own, or remove that config.json."
            )
    return own | config


def _config_settings(path: Path, called: str) -> dict[str, object]:
    try:
        with open_regular(path) as file:
            text = file.read(_LONGEST_SETTINGS + 1)
    except FileNotFoundError:
        return {}
    except OSError as error:
        reason = error.strerror or error
        raise AdapterError(f"{called}: cannot be read ({reason}). Make it readable, or remove it.") from error
    what = "Replace it by the config.json that belongs to the adapter, or remove it."
    content = _json(text, called, "", what)
    return _known(content, called, what) if isinstance(content, dict) else {}


def _metadata_settings(called: str, metadata: dict[str, str]) -> dict[str, object]:
    if metadata.get("format") == FORMAT and metadata.get("format_version") not in FORMAT_VERSIONS:
        raise AdapterError(
            f"{called}: is version {metadata.get('format_version')!s:.20} of this pack's format, "
            f"expected version {' or '.join(FORMAT_VERSIONS)}. Update the pack."
        )
    where = "the settings in its metadata are "
    if "settings" in metadata:
        content = _json(metadata["settings"].encode(errors="replace"), called, where, AGAIN)
    else:
        texts = {key: metadata[key].encode(errors="replace") for key in SETTING_KEYS & metadata.keys()}
        content = {key: _json(text, called, where, AGAIN) for key, text in texts.items()}
    if not isinstance(content, dict):
        raise AdapterError(
            f"{called}: the settings in its metadata are a {type(content).__name__}, expected a JSON object. {AGAIN}"
        )
    return _known(content, called, AGAIN)


def _json(text: bytes, called: str, where: str, advice: str) -> object:
    """where: what of the file it is, as the beginning of a sentence; "" for all of it."""
    if len(text) > _LONGEST_SETTINGS:
        raise AdapterError(
            f"{called}: {where or 'is '}longer than {_LONGEST_SETTINGS:,} bytes, which no adapter's settings are. "
            f"{advice}"
        )
    try:
        # Numbers of thousands of digits take Python minutes, or are refused in words of its own.
        return json.loads(text, parse_int=lambda digits: int(digits) if len(digits) < 20 else float(digits))
    except RecursionError as error:
        raise AdapterError(f"{called}: {where or 'is '}nested too deeply to be settings. {advice}") from error
    except ValueError as error:
        raise AdapterError(f"{called}: {where or 'is '}not valid JSON ({error}). {advice}") from error


def _known(content: dict[str, object], called: str, advice: str) -> dict[str, object]:
    """The adapter's own keys. Values are plain, or lists of plain ones: what is nested takes for ever to compare."""
    known = {key: content[key] for key in SETTING_KEYS & content.keys()}
    for key, value in sorted(known.items()):
        parts = value if isinstance(value, list) else [value]
        if any(isinstance(part, list | dict) for part in parts) or len(parts) > 1000 or len(str(value)) > 50_000:
            raise AdapterError(f"{called}: {key} holds more than any adapter has. {advice}")
    return known


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
