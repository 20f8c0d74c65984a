"""The nodes that read and write adapters, and what all nodes share about files: fingerprints and sentences."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from pathlib import Path

import comfy.model_management
import comfy.utils
import execution
import folder_paths
import nodes as host_nodes
import pytest
import safetensors.torch
from adapter_files import official_tensors
from comfy_execution.caching import BasicCache
from comfy_execution.graph import DynamicPrompt
from flux import run_node
from hub_server import HubServer

from bokeh.nodes.schema import without_places
from bokeh.weights.files import read_adapter
from bokeh.weights.folder import MODEL_FOLDER, PUBLIC_ADAPTERS
from bokeh.weights.format import AdapterError, build_adapter

LOADER, SAVER = (host_nodes.NODE_CLASS_MAPPINGS[name] for name in ("BokehLoadAdapter", "BokehSaveAdapter"))


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """The only model folder of adapters, empty."""
    monkeypatch.setitem(folder_paths.folder_names_and_paths, MODEL_FOLDER, ([str(tmp_path)], {".safetensors", ".bin"}))
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    return tmp_path


def is_changed(**inputs) -> object:
    """What the host's own cache is told of a loader."""
    prompt = {"1": {"class_type": "BokehLoadAdapter", "inputs": inputs}}
    changed = execution.IsChangedCache("x", DynamicPrompt(prompt), BasicCache)
    return asyncio.run(changed.get("1"))


def test_replaced_files_are_read_again_and_links_do_not_switch_caching_off(folder):
    path = folder / "mine.safetensors"
    safetensors.torch.save_file(official_tensors(), path)
    first = is_changed(adapter="mine.safetensors")
    assert is_changed(adapter="mine.safetensors") == first
    (folder / "config.json").write_text('{"lora_scale": 0.5}')
    second = is_changed(adapter="mine.safetensors")
    safetensors.torch.save_file(official_tensors(rank=8), path)
    third = is_changed(adapter="mine.safetensors")
    assert len({str(first), str(second), str(third)}) == 3
    # NaN, which a node without an answer gets, is never equal to itself.
    for inputs in ({"adapter": ["2", 0]}, {"adapter": "gone.safetensors"}, {"adapter": "a\0b"}):
        assert is_changed(**inputs) == is_changed(**inputs)


FINGERPRINTS = [
    name
    for name, node in host_nodes.NODE_CLASS_MAPPINGS.items()
    if name.startswith("Bokeh") and execution.first_real_override(node, "fingerprint_inputs")
]


@pytest.mark.parametrize("name", FINGERPRINTS)
def test_any_input_may_come_over_a_link(name):
    node = host_nodes.NODE_CLASS_MAPPINGS[name]
    given = {entry.id: getattr(entry, "default", None) for entry in node.define_schema().inputs}
    for linked in [*([key] for key in given), list(given)]:
        inputs = given | dict.fromkeys(linked)
        assert node.fingerprint_inputs(**inputs) == node.fingerprint_inputs(**inputs)


def test_save_names_no_place_of_the_server_and_takes_no_name_twice(folder):
    adapter = build_adapter(official_tensors(), None, "")
    for expected in ("portrait", "portrait_2"):
        output = SAVER.EXECUTE_NORMALIZED(adapter=adapter, name="mine/portrait", dtype="as it is")
        assert output.ui["text"] == (f"Saved bokeh_adapters/mine/{expected}.safetensors",)
        assert read_adapter(folder / f"mine/{expected}.safetensors").tensors.keys() == adapter.tensors.keys()
    for name in ("../x", "BokehDiffusion/model", "x" * 300):
        assert "cannot be the name of an adapter file" in SAVER.validate_inputs(name=name)


def test_sentences_about_a_file_name_no_place_of_the_server(folder):
    (folder / "mine.safetensors").write_bytes(b"")
    (folder / "file").write_bytes(b"")
    adapter = build_adapter(official_tensors(), None, "")
    with pytest.raises(AdapterError) as read:
        run_node("BokehLoadAdapter", adapter="mine.safetensors")
    with pytest.raises(AdapterError) as written:
        SAVER.EXECUTE_NORMALIZED(adapter=adapter, name="file/x", dtype="as it is")
    assert str(read.value) == "bokeh_adapters/mine.safetensors: is empty. Get the file again."
    assert str(written.value).startswith("bokeh_adapters/file/x.safetensors: cannot be written (")


def test_interrupt_stops_a_download_at_once_and_the_next_queue_goes_on(folder, monkeypatch):
    content = safetensors.torch.save(official_tensors(width=256, rank=32))
    label = PUBLIC_ADAPTERS[0].label
    assert "not a known download" in LOADER.validate_inputs(adapter=f"{label}!")
    with HubServer({PUBLIC_ADAPTERS[0].repository: {"model.safetensors": content, "config.json": b"{}"}}) as hub:
        hub.pace = 100_000
        for name, value in {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_HOME": str(folder / "home")}.items():
            monkeypatch.setenv(name, value)
        told = []

        def interrupt():
            while not any(0 < done < total for done, total in told):
                time.sleep(0.1)
            told.append(time.monotonic())
            comfy.model_management.interrupt_current_processing()

        def on_progress(done, total, preview, node_id=None):
            if not told or isinstance(told[-1], tuple):
                told.append((done, total))

        monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", on_progress)
        thread = threading.Thread(target=interrupt)
        thread.start()
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            run_node("BokehLoadAdapter", adapter=label)
        thread.join()
        assert time.monotonic() - told[-1] < 2
        hub.pace = None
        (adapter,) = run_node("BokehLoadAdapter", adapter=label)
    assert adapter.source == "bokeh_adapters/BokehDiffusion/model.safetensors"
    assert sorted(path.name for path in (folder / "BokehDiffusion").iterdir()) == ["config.json", "model.safetensors"]


@pytest.mark.parametrize("kind", [ValueError, OSError])
def test_errors_from_below_a_node_name_files_by_the_hosts_folders(kind):
    file = os.path.join(folder_paths.get_output_directory(), "runs", "a.safetensors")

    @without_places
    def execute():
        raise (
            ValueError(f"{file}: is damaged.") if kind is ValueError else PermissionError(13, "Permission denied", file)
        )

    with pytest.raises(kind) as error:
        execute()
    assert str(error.value) in (
        "output/runs/a.safetensors: is damaged.",
        "[Errno 13] Permission denied: 'output/runs/a.safetensors'",
    )
