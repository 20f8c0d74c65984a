"""The model folder `bokeh_adapters`, as the host sees it."""

from __future__ import annotations

import os
from pathlib import Path

import folder_paths
import pytest
import utils.extra_config

from bokeh.nodes.adapter import BokehSaveAdapter
from bokeh.weights.folder import (
    DEMO_ADAPTERS,
    MODEL_FOLDER,
    PUBLIC_ADAPTERS,
    adapter_choices,
    adapter_path,
    new_adapter_path,
    register_folder,
)
from bokeh.weights.format import AdapterError
from bokeh.weights.hub import download, is_download

LABELS = [entry.label for entry in PUBLIC_ADAPTERS]


@pytest.fixture
def models(tmp_path, monkeypatch) -> Path:
    """An empty models folder, with `bokeh_adapters` as the only thing that will be registered in it."""
    monkeypatch.setattr(folder_paths, "models_dir", str(tmp_path / "models"))
    monkeypatch.setattr(folder_paths, "folder_names_and_paths", dict(folder_paths.folder_names_and_paths))
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    folder_paths.folder_names_and_paths.pop(MODEL_FOLDER, None)
    return tmp_path / "models" / MODEL_FOLDER


def put(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


def test_lists_adapter_files_of_all_subfolders_and_nothing_else(models):
    register_folder()
    put(models, "b.safetensors", "a.bin", "mine/deep/c.safetensors", "config.json", "d.ckpt", "e.pt", "readme.txt")
    assert adapter_choices() == [
        "a.bin",
        "b.safetensors",
        os.path.join("mine", "deep", "c.safetensors"),
        *LABELS,
        *DEMO_ADAPTERS,
    ]


def test_registering_twice_changes_nothing_and_leaves_other_folders_alone(models):
    loras = folder_paths.folder_names_and_paths["loras"]
    endings = set(folder_paths.supported_pt_extensions)
    register_folder()
    entry = folder_paths.folder_names_and_paths[MODEL_FOLDER]
    register_folder()
    assert folder_paths.folder_names_and_paths[MODEL_FOLDER] is entry
    assert entry == ([str(models)], {".safetensors", ".bin"})
    assert folder_paths.folder_names_and_paths["loras"] is loras
    assert folder_paths.supported_pt_extensions == endings


@pytest.mark.parametrize("when", ["before", "after"])
def test_extra_model_paths_are_honoured_whenever_they_are_read(models, tmp_path, when):
    yaml = tmp_path / "extra_model_paths.yaml"
    yaml.write_text(f"other_place:\n    base_path: {tmp_path}/other\n    {MODEL_FOLDER}: adapters\n")
    if when == "after":
        register_folder()
    utils.extra_config.load_extra_path_config(str(yaml))
    register_folder()
    put(models, "here.safetensors")
    put(tmp_path / "other" / "adapters", "there.safetensors", "there.txt")
    assert adapter_choices() == ["here.safetensors", "there.safetensors", *LABELS, *DEMO_ADAPTERS]
    assert adapter_path("there.safetensors") == tmp_path / "other" / "adapters" / "there.safetensors"


def test_public_adapter_on_disk_is_no_longer_offered(models):
    register_folder()
    put(models, "BokehDiffusion/model.safetensors")
    assert adapter_choices() == [os.path.join("BokehDiffusion", "model.safetensors"), *LABELS[1:], *DEMO_ADAPTERS]
    assert download(LABELS[0]) == models / "BokehDiffusion" / "model.safetensors"


def test_name_from_a_workflow_saved_on_windows(models):
    register_folder()
    put(models, "mine/c.safetensors")
    assert adapter_path("mine\\c.safetensors") == models / "mine" / "c.safetensors"


def test_missing_file_named_in_a_shared_workflow(models, tmp_path):
    register_folder()
    folder_paths.add_model_folder_path(MODEL_FOLDER, str(tmp_path / "second"))
    with pytest.raises(AdapterError) as caught:
        adapter_path("gone.safetensors")
    assert str(caught.value) == (
        'The adapter "gone.safetensors" is not on this machine (looked in the model folder bokeh_adapters). '
        "Put the file there, or choose another adapter in the loader's list."
    )


def test_name_cannot_lead_out_of_the_folder(models):
    register_folder()
    put(models.parent, "secret.safetensors")
    with pytest.raises(AdapterError, match="is not on this machine"):
        adapter_path("../secret.safetensors")


def test_unknown_download_names_the_known_ones(models):
    assert is_download("download: Other")
    with pytest.raises(AdapterError) as caught:
        download("download: Other")
    known = ", ".join(f'"{label}"' for label in LABELS)
    assert str(caught.value) == (
        f'"download: Other" is not a known download. Expected one of {known}: choose one, or update the pack.'
    )


def test_new_adapter_takes_no_published_adapters_place(models):
    register_folder()
    assert new_adapter_path("mine/portrait") == models / "mine" / "portrait.safetensors"
    for name in ("BokehDiffusion/model", "bokehdiffusion/mine", "BokehDepth\\x.safetensors"):
        with pytest.raises(AdapterError, match=r"is for the published adapter\. Expected a name such as"):
            new_adapter_path(name)


@pytest.mark.parametrize(
    ("name", "what"),
    [("a\0b", "holds characters"), ("\ud800", "holds characters"), ("x" * 300, "is too long: at most 200")],
)
def test_new_adapter_has_a_name_that_a_file_can_have(models, name, what):
    register_folder()
    with pytest.raises(AdapterError, match=f"cannot be the name of an adapter file: it {what}"):
        new_adapter_path(name)
    assert "cannot be the name" in BokehSaveAdapter.validate_inputs(name=name)


@pytest.mark.parametrize("name", ["", "  ", "../out", "/etc/out", "mine//x", "C:/x", "..", "mine/"])
def test_new_adapter_stays_in_the_folder(models, name):
    register_folder()
    with pytest.raises(AdapterError) as caught:
        new_adapter_path(name)
    assert str(caught.value) == (
        f'"{name}" cannot be the name of an adapter file. Expected a name such as "portrait" or "mine/portrait".'
    )
