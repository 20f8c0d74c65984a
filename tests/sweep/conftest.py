"""What several tests of a sweep share."""

from __future__ import annotations

from pathlib import Path

import folder_paths
import pytest


@pytest.fixture
def output(tmp_path) -> Path:
    """The host's output folder, empty."""
    before = folder_paths.get_output_directory()
    folder = tmp_path / "output"
    folder.mkdir()
    folder_paths.set_output_directory(str(folder))
    yield folder
    folder_paths.set_output_directory(before)
