"""The real server for tests, started in a folder of its own with this pack in it.

The server and its client are those of ``tools/``; what a test may do with them is documented there.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

# At the end, so that the host's own modules keep their names in the tests' process.
sys.path.append(str(Path(__file__).resolve().parents[2] / "tools"))

from setup.browser import find_chromium
from setup.client import Graph, HostClient, HostError, Picture
from setup.environment import SetupError
from setup.server import HostProcess

__all__ = ["Graph", "HostClient", "HostError", "HostServer", "Picture", "SetupError", "find_chromium"]


class HostServer(HostProcess):
    """The host at COMFYUI_PATH as a server, run by this Python; a context manager.

    ``with HostServer(tmp_path) as server: server.client.run(graph)``. Models go into ``server.models``.
    """

    def __init__(self, base: Path, **options: Any) -> None:
        """
        Args:
            base: folder for models, results and settings; made if missing.
            options: those of `HostProcess`: port, cpu, model_paths, arguments, environment.
        """
        super().__init__(Path(os.environ["COMFYUI_PATH"]), Path(sys.executable), base, **options)

    def __enter__(self) -> HostServer:
        self.start()
        return self

    @property
    def models(self) -> Path:
        """The server's models folder."""
        return self.base / "models"
