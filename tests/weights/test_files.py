"""Adapter files on disk: every known format in, the own format out, and what is refused."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from adapter_files import official_config, official_tensors
from read_only import read_only
from safetensors import safe_open

from bokeh.weights.files import read_adapter, write_adapter
from bokeh.weights.format import AdapterError, build_adapter

GOLDEN = Path(__file__).parents[1] / "data" / "golden"
SUPPORT = Path(__file__).parents[1] / "support"
THREE = ["transformer_blocks.0", "transformer_blocks.1", "single_transformer_blocks.0"]


def save(path: Path, tensors: dict | None = None, metadata: dict[str, str] | None = None) -> Path:
    safetensors.torch.save_file(official_tensors() if tensors is None else tensors, path, metadata=metadata)
    return path


def write_config(folder: Path, **changes: object) -> None:
    (folder / "config.json").write_text(json.dumps(official_config(THREE, **changes)))


def error_of(path: Path) -> str:
    with pytest.raises(AdapterError) as caught:
        read_adapter(path)
    return str(caught.value)


def assert_same(first, second) -> None:
    assert first.settings == second.settings
    assert first.tensors.keys() == second.tensors.keys()
    for name, tensor in first.tensors.items():
        assert tensor.dtype == second.tensors[name].dtype
        assert torch.equal(tensor, second.tensors[name]), name


def test_golden_text_to_image_adapter():
    adapter = read_adapter(GOLDEN / "all_blocks" / "adapter" / "model.safetensors")
    settings = adapter.settings
    assert settings.blocks == (0, 1, 2, 3, 4)
    assert settings.block_names[4] == "single_transformer_blocks.2"
    assert (settings.width, settings.context_dim, settings.rank, settings.lora_alpha) == (32, 12, 4, None)
    assert (settings.unfreeze_q, settings.unfreeze_k, settings.variant) == (True, True, "text-to-image")


def test_golden_image_to_image_adapter_is_the_same_from_bin_and_from_safetensors():
    folder = GOLDEN / "kontext" / "adapter"
    from_bin = read_adapter(folder / "bokeh_lora.bin")
    assert from_bin.settings.variant == "image-to-image"
    assert_same(from_bin, read_adapter(folder / "bokeh_lora.safetensors"))


def test_kind_is_found_by_content_not_by_name(tmp_path):
    named_bin = save(tmp_path / "adapter.bin")
    named_safetensors = tmp_path / "adapter.safetensors"
    torch.save(official_tensors(), named_safetensors)
    assert_same(read_adapter(named_bin), read_adapter(named_safetensors))


def test_header_length_that_looks_like_the_start_of_a_pickle(tmp_path):
    for padding in range(300):
        path = save(tmp_path / "model.safetensors", metadata={"note": "x" * padding})
        if path.read_bytes()[0] == 0x80:
            assert_same(read_adapter(path), build_adapter(official_tensors(), None, ""))
            return
    raise AssertionError("no such header was made")


def test_bin_from_before_torch_1_6(tmp_path):
    torch.save(official_tensors(), tmp_path / "old.bin", _use_new_zipfile_serialization=False)
    assert_same(read_adapter(tmp_path / "old.bin"), build_adapter(official_tensors(), None, ""))


def test_settings_come_from_the_config_beside_the_file(tmp_path):
    write_config(tmp_path, lora_alpha=16, lora_scale=0.5)
    settings = read_adapter(save(tmp_path / "model.safetensors")).settings
    assert (settings.lora_alpha, settings.lora_scale, settings.block_names) == (16.0, 0.5, tuple(THREE))


@pytest.mark.parametrize(
    "metadata", [{"settings": '{"lora_alpha": 16, "bokeh_scale": 0.5}'}, {"lora_alpha": "16", "bokeh_scale": "0.5"}]
)
def test_settings_come_from_the_metadata_without_a_config(tmp_path, metadata):
    settings = read_adapter(save(tmp_path / "model.safetensors", metadata=metadata)).settings
    assert (settings.lora_alpha, settings.bokeh_scale) == (16.0, 0.5)


def test_config_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "config.json").write_text('{"_class_name": "FluxTransformer2DModel", "num_layers": 19}')
    assert read_adapter(save(tmp_path / "model.safetensors")).settings.lora_alpha is None


def test_config_that_contradicts_the_metadata_names_both(tmp_path):
    write_config(tmp_path, lora_alpha=8)
    path = save(tmp_path / "model.safetensors", metadata={"lora_alpha": "16"})
    assert error_of(path) == (
        f"{path}: its metadata says lora_alpha = 16, but {tmp_path}/config.json says 8. "
        "Move the adapter into a folder of its own, or remove that config.json."
    )


def test_config_that_contradicts_the_tensors_names_both(tmp_path):
    write_config(tmp_path, lora_rank=128)
    path = save(tmp_path / "model.safetensors")
    assert error_of(path) == (
        f"{path}: its settings say lora_rank = 128, but its tensors have lora_rank = 4. "
        "Use the config.json that belongs to this file, or remove it."
    )


def test_broken_config_is_named(tmp_path):
    (tmp_path / "config.json").write_text('{"lora_rank": 4,')
    assert error_of(save(tmp_path / "model.safetensors")).startswith(f"{tmp_path}/config.json: is not valid JSON (")


@pytest.mark.parametrize("rank", [4, None])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_own_format_gives_back_identical_tensors(tmp_path, rank, dtype):
    tensors = {key: value.to(dtype) for key, value in official_tensors(kind="dof", rank=rank, bias=True).items()}
    names = {"lora_alpha": 8, "blocks": THREE, "lora_scale": 0.25}
    adapter = build_adapter(tensors, names, "FILE")
    assert_same(read_adapter(write_adapter(adapter, tmp_path / "own.safetensors")), adapter)


def test_own_format_is_as_documented(tmp_path):
    adapter = build_adapter(official_tensors(), official_config(THREE, lora_alpha=8), "FILE")
    with safe_open(write_adapter(adapter, tmp_path / "own.safetensors"), framework="pt") as file:
        assert sorted(file.keys()) == sorted(adapter.tensors)
        metadata = file.metadata()
    assert json.loads(metadata.pop("settings")) == official_config(THREE, lora_alpha=8.0) | {"variant": "text-to-image"}
    assert metadata == {"format": "comfyui-bokeh-adapter", "format_version": "1"}


@pytest.mark.parametrize("name", ["all_blocks/adapter/model.safetensors", "kontext/adapter/bokeh_lora.bin"])
def test_conversion_to_bfloat16_rounds_each_value_once(tmp_path, name):
    adapter = read_adapter(GOLDEN / name)
    converted = read_adapter(write_adapter(adapter, tmp_path / "new/own.safetensors", torch.bfloat16))
    assert converted.settings == adapter.settings
    for key, tensor in adapter.tensors.items():
        assert torch.equal(converted.tensors[key], tensor.bfloat16())


def test_file_can_be_written_over_by_its_own_adapter(tmp_path):
    path = write_adapter(build_adapter(official_tensors(), None, ""), tmp_path / "own.safetensors")
    adapter = read_adapter(path)
    write_adapter(adapter, path, torch.bfloat16)
    assert read_adapter(path).tensors["embedding.0.bias"].dtype == torch.bfloat16
    assert adapter.tensors["embedding.0.bias"].dtype == torch.float32
    assert os.listdir(tmp_path) == ["own.safetensors"]


def _write_many(folder: str) -> None:
    adapter = build_adapter(official_tensors(), None, "")
    for _ in range(20):
        write_adapter(adapter, Path(folder, "own.safetensors"), replace=False)


def test_two_processes_lose_no_new_file(tmp_path):
    processes = [
        multiprocessing.get_context("fork").Process(target=_write_many, args=(str(tmp_path),)) for _ in range(2)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert sorted(os.listdir(tmp_path)) == sorted(f"own{'' if i == 1 else f'_{i}'}.safetensors" for i in range(1, 41))
    assert all(read_adapter(path) for path in tmp_path.iterdir())


def test_whoever_may_read_other_new_files_may_read_a_written_one(tmp_path):
    (tmp_path / "other").touch()
    path = write_adapter(build_adapter(official_tensors(), None, ""), tmp_path / "own.safetensors")
    assert path.stat().st_mode == (tmp_path / "other").stat().st_mode


def test_values_too_large_for_float16_are_refused(tmp_path):
    tensors = official_tensors()
    tensors["embedding_layer.2.bias"][3] = 1e6
    path = tmp_path / "own.safetensors"
    with pytest.raises(AdapterError) as caught:
        write_adapter(build_adapter(tensors, None, ""), path, torch.float16)
    assert str(caught.value) == (
        f"{path}: values of embedding.2.bias are too large for float16. Choose bfloat16 or float32."
    )
    assert os.listdir(tmp_path) == []


def test_name_without_the_ending_is_refused(tmp_path):
    with pytest.raises(AdapterError) as caught:
        write_adapter(build_adapter(official_tensors(), None, ""), tmp_path / "own.bin")
    assert str(caught.value) == (
        f"{tmp_path}/own.bin: an adapter is saved as safetensors. Give it a name that ends in .safetensors."
    )


def test_writing_into_a_read_only_folder(tmp_path):
    adapter = build_adapter(official_tensors(), None, "")
    with read_only(tmp_path), pytest.raises(AdapterError) as caught:
        write_adapter(adapter, tmp_path / "own.safetensors")
    assert str(caught.value) == (
        f"{tmp_path}/own.safetensors: cannot be written (Permission denied). "
        "Make the folder writable or choose another one; nothing was left behind."
    )
    assert os.listdir(tmp_path) == []


def test_writing_to_a_disk_that_fills_up_leaves_nothing(tmp_path):
    # A file-size limit fails in the middle of the file, as a full disk does, and takes no root to set up.
    script = f"""
import resource, sys
sys.path[:0] = [{str(SUPPORT)!r}]
import types
pack = sys.modules["bokeh"] = types.ModuleType("bokeh")
pack.__path__ = [{str(SUPPORT.parents[1])!r}]
from adapter_files import official_tensors
from bokeh.weights.format import AdapterError, build_adapter
from bokeh.weights.files import write_adapter
adapter = build_adapter(official_tensors(width=256), None, "")
resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))
try:
    write_adapter(adapter, {str(tmp_path / "own.safetensors")!r})
except AdapterError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == (
        f"{tmp_path}/own.safetensors: the disk is full (File too large). "
        "Nothing was left behind; free some space and try again."
    )
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("size", [7, 12, 2000, -1])
def test_truncated_safetensors(tmp_path, size):
    path = save(tmp_path / "model.safetensors")
    path.write_bytes(path.read_bytes()[:size])
    size = path.stat().st_size
    if size == 7:
        assert error_of(path).startswith(f"{path}: is neither a safetensors nor a PyTorch file (it begins with ")
    else:
        assert error_of(path) == f"{path}: is damaged or cut off (it has {size:,} bytes). Get the file again."


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("share", [0.3, 0.999])
def test_truncated_bin(tmp_path, zipped, share):
    path = tmp_path / "bokeh_lora.bin"
    torch.save(official_tensors(), path, _use_new_zipfile_serialization=zipped)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    assert error_of(path) == (
        f"{path}: is damaged or cut off (it has {path.stat().st_size:,} bytes). Get the file again."
    )


class RunsCode:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("how", ["zip", "old", "pickle"])
def test_pickle_that_would_run_code_does_not_run(tmp_path, how):
    marker, path = tmp_path / "ran", tmp_path / "bokeh_lora.bin"
    content = official_tensors() | {"extra": RunsCode(marker)}
    if how == "pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=how == "zip")
    assert error_of(path) == (
        f"{path}: holds more than plain tensors (a pickle that could run code when opened) or is damaged, so it was "
        "not opened. Expected a dictionary of tensors: use the file as its authors published it."
    )
    assert not marker.exists()
    torch.load(path, weights_only=False) if how != "pickle" else pickle.loads(path.read_bytes())
    assert marker.exists(), "the file was harmless, so the test proved nothing"


def test_bin_that_holds_no_dictionary(tmp_path):
    path = tmp_path / "bokeh_lora.bin"
    torch.save([torch.zeros(2)], path)
    assert error_of(path) == (
        f"{path}: holds a list, expected a dictionary of tensors. Use the file as its authors published it."
    )


def test_checkpoint_of_a_training_run(tmp_path):
    path = tmp_path / "bokeh_lora.bin"
    torch.save({"state_dict": official_tensors(), "epoch": 3}, path)
    assert error_of(path).startswith(f'{path}: this is not a bokeh adapter (its first key is "state_dict").')


def test_lora_for_sdxl(tmp_path):
    key = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q.lora_down.weight"
    path = save(
        tmp_path / "sdxl.safetensors", {key: torch.zeros(8, 640), key.replace("down", "up"): torch.zeros(640, 8)}
    )
    assert error_of(path).startswith(
        f'{path}: this is a LoRA (its first key is "{key}"), not a bokeh adapter. '
        "Load it with a LoRA loader node, and choose a bokeh adapter here."
    )


def test_nan_weights(tmp_path):
    tensors = official_tensors()
    tensors["adapter_modules.1.to_v_bokeh.up.weight"][5, 2] = float("nan")
    path = save(tmp_path / "model.safetensors", tensors)
    assert error_of(path) == (
        f'{path}: "adapter_modules.1.to_v_bokeh.up.weight" holds NaN values, expected finite numbers. '
        "The file is damaged or its training diverged: get it again or use another adapter."
    )


def test_missing_file_folder_empty_file_and_web_page(tmp_path):
    path = tmp_path / "model.safetensors"
    assert error_of(path) == f"{path}: there is no such file. Put it there, or choose another adapter."
    assert error_of(tmp_path) == f"{tmp_path}: cannot be read (Is a directory). Expected a readable adapter file."
    path.write_bytes(b"")
    assert error_of(path) == f"{path}: is empty. Get the file again."
    path.write_text("<!DOCTYPE html><html></html>")
    assert error_of(path) == (
        f"{path}: is neither a safetensors nor a PyTorch file (it begins with b'<!DOCTYPE html><'). "
        "Often that is a web page or a pointer saved in the file's place. Get the file again."
    )


def test_newer_version_of_the_own_format(tmp_path):
    metadata = {"format": "comfyui-bokeh-adapter", "format_version": "3", "settings": "{}"}
    path = save(tmp_path / "own.safetensors", metadata=metadata)
    assert error_of(path) == f"{path}: is version 3 of this pack's format, expected version 1 or 2. Update the pack."
