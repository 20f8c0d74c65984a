"""Adapter files of people who mean no good, and files that change under the hand: a sentence soon, in little memory."""

from __future__ import annotations

import io
import json
import os
import pickle
import resource
import struct
import time
import zipfile
from pathlib import Path

import pytest
import safetensors.torch
import torch
from adapter_files import official_tensors

from bokeh.weights.files import read_adapter
from bokeh.weights.format import AdapterError, build_adapter

KEY = "embedding_layer.0.bias"
STAGED = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu"


def packed(path: Path, change=lambda name, content: content, compression=zipfile.ZIP_STORED) -> None:
    """A .bin made by torch and packed again, each entry as ``change`` makes it."""
    whole = io.BytesIO()
    torch.save(official_tensors(), whole)
    with zipfile.ZipFile(whole) as given, zipfile.ZipFile(path, "w", compression) as made:
        for name in given.namelist():
            made.writestr(name, change(name, given.read(name)))


def pickled(path: Path, content: bytes) -> None:
    """A .bin whose pickle is ``content``."""
    packed(path, lambda name, old: content if name.endswith("data.pkl") else old)


def one_tensor(offset: int, shape: tuple[int, ...], stride: tuple[int, ...], length: int = 8) -> bytes:
    """A pickle of {KEY: a tensor} as torch writes it, saying whatever it likes of itself."""

    return b"".join(
        (
            b"\x80\x02}X" + struct.pack("<I", len(KEY)) + KEY.encode(),
            b"ctorch._utils\n_rebuild_tensor_v2\n(",
            STAGED + pickle.dumps(length, 2)[2:-1] + b"tQ",
            *(pickle.dumps(part, 2)[2:-1] for part in (offset, shape, stride)),
            b"\x89ccollections\nOrderedDict\n)RtRs.",
        )
    )


def header(path: Path, content: bytes, data: bytes = b"") -> None:
    path.write_bytes(len(content).to_bytes(8, "little") + content + data)


def claim(*names: str, shape=(4,), end=16) -> bytes:
    return json.dumps({name: {"dtype": "F32", "shape": shape, "data_offsets": [0, end]} for name in names}).encode()


def damaged_zip(path: Path) -> None:
    torch.save(official_tensors(), path)
    content = bytearray(path.read_bytes())
    weight = official_tensors()["adapter_modules.1.to_v_bokeh.up.weight"].numpy().tobytes()
    content[content.index(weight) + 40] ^= 8
    path.write_bytes(content)


def long_table(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as made:
        for number in range(50_000):
            made.writestr(zipfile.ZipInfo(f"{number:0160}"), b"")


def many_views(path: Path) -> None:
    shared = torch.zeros(1000, 1000)
    torch.save({f"{i}.to_v_bokeh.up.weight": shared for i in range(5000)}, path)


def dag(levels: int) -> bytes:
    """A tuple of twice the same tuple of ..., as a key: its hash takes 2**levels steps."""
    return b"\x80\x02})" + b"".join(b"q%c" % i + b"h%c" % i + b"\x86" for i in range(levels)) + b"K\x01s."


def deep_config(path: Path) -> None:
    safetensors.torch.save_file(official_tensors(), path)
    path.with_name("config.json").write_text('{"lora_rank": ' + "[" * 400_000 + "]" * 400_000 + "}")


def config(text: str):
    def make(path: Path) -> None:
        safetensors.torch.save_file(official_tensors(), path)
        path.with_name("config.json").write_text(text)

    return make


HOSTILE = {
    "stride 0": lambda path: pickled(path, one_tensor(0, (2**31,), (0,))),
    "longer than stored": lambda path: pickled(path, one_tensor(4, (8,), (1,))),
    "storage that is not there": lambda path: pickled(path, one_tensor(0, (2**40,), (1,), 2**40)),
    "negative": lambda path: pickled(path, one_tensor(-4, (8,), (1,))),
    "one storage, five thousand tensors": many_views,
    "flipped bit": damaged_zip,
    "bomb": lambda path: packed(
        path, lambda name, old: old + bytes(2**28 if name.endswith("data/1") else 0), zipfile.ZIP_DEFLATED
    ),
    "table of contents": long_table,
    "memory for an index": lambda path: pickled(path, b"\x80\x02}r\xff\xff\xff\xff."),
    "buffer from a number": lambda path: pickled(
        path, b"\x80\x02c__builtin__\nbytearray\n\x8a\x06" + b"\1" * 6 + b"\x85R."
    ),
    "nested": lambda path: pickled(path, b"\x80\x02" + b"]" * 1_000_000 + b"a" * 999_999 + b"."),
    "key without end": lambda path: pickled(path, dag(60)),
    "long pickle": lambda path: pickled(path, b"\x80\x02" + b"N0" * 5_000_000 + b"N."),
    "old kind without data": lambda path: path.write_bytes(pickle.dumps(0x1950A86A20F9469CFC6C, 2)),
    "header longer than the file": lambda path: path.write_bytes(b"\xff\xff\xff\xff\xff\0\0\0{}"),
    "long header": lambda path: header(path, b'{"a":1' + b" " * 50_000_000 + b"}"),
    "nested header": lambda path: header(path, b'{"a":' + b"[" * 3_000_000 + b"]" * 3_000_000 + b"}"),
    "tensors on one another": lambda path: header(path, claim("a", "b"), bytes(16)),
    "tensor past the end": lambda path: header(path, claim("a", shape=(2**40,), end=2**42), bytes(16)),
    "pipe": lambda path: os.mkfifo(path),
    "device": lambda path: path.symlink_to("/dev/ptmx"),
    "config nested": deep_config,
    "config long": config("[" + "1," * 2_000_000 + "1]"),
    "config of many digits": config('{"lora_alpha": 1' + "0" * 5000 + "}"),
    "config of no number": config('{"lora_alpha": NaN}'),
    "config of lists": config('{"blocks": [["a"], ["b"]]}'),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_file_is_refused_with_a_sentence_soon_and_in_little_memory(kind, tmp_path):
    path = tmp_path / "model.bin"
    HOSTILE[kind](path)
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    with pytest.raises(AdapterError) as error:
        read_adapter(path, "bokeh_adapters/model.bin")
    assert time.monotonic() - started < 3
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400_000, "kB"
    text = str(error.value)
    assert text.startswith("bokeh_adapters/")
    assert text.endswith((".", "remove it."))
    assert len(text) < 600
    assert str(tmp_path) not in text


def test_pipe_in_place_of_the_config(tmp_path):
    safetensors.torch.save_file(official_tensors(), tmp_path / "model.safetensors")
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(AdapterError, match=r"config\.json: cannot be read \(it is a pipe or a device\)"):
        read_adapter(tmp_path / "model.safetensors")


def test_packed_bin_gives_the_same_weights(tmp_path):
    packed(tmp_path / "model.bin", compression=zipfile.ZIP_DEFLATED)
    expected = build_adapter(official_tensors(), None, "").tensors
    found = read_adapter(tmp_path / "model.bin").tensors
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_state_of_a_module_is_a_dictionary_of_tensors(tmp_path):
    """With the attribute that PyTorch's modules put on theirs."""
    state = torch.nn.Linear(2, 2).state_dict()
    state.clear()
    state.update(official_tensors())
    torch.save(state, tmp_path / "model.bin")
    assert read_adapter(tmp_path / "model.bin").settings.rank == 4


@pytest.mark.parametrize("how", ["overwritten", "cut", "removed"])
@pytest.mark.parametrize("name", ["model.safetensors", "model.bin"])
def test_file_that_changes_while_it_is_loaded_changes_nothing(tmp_path, name, how):
    """A mapping of it would give other weights, or end the process with a bus error."""
    path = tmp_path / name
    (torch.save if name.endswith("bin") else safetensors.torch.save_file)(official_tensors(), path)
    adapter = read_adapter(path)
    if how == "removed":
        path.unlink()
    else:
        with path.open("r+b") as file:
            file.truncate(0) if how == "cut" else file.write(b"\xff" * path.stat().st_size)
    for key, tensor in build_adapter(official_tensors(), None, "").tensors.items():
        assert torch.equal(adapter.tensors[key], tensor)
    assert str(path) not in Path("/proc/self/maps").read_text()
