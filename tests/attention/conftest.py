"""Golden cases of Genfocus."""

from __future__ import annotations

import shutil

import pytest
from flux import Golden, run_node


@pytest.fixture
def load_genfocus(adapters_folder):
    """A golden case's file through the loader, under a name that says nothing."""

    def load(golden: Golden):
        (file,) = (golden.folder / "adapter").iterdir()
        shutil.copy(file, adapters_folder / f"{golden.folder.name}.safetensors")
        return run_node("BokehLoadAdapter", adapter=f"{golden.folder.name}.safetensors")[0]

    return load
