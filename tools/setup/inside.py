"""Runs a tool inside the host's environment, and loads the pack there. Standard library only."""

from __future__ import annotations

import importlib.util
import signal
import subprocess
import sys
from types import ModuleType

from setup.environment import SetupError, clean_environment
from setup.host import CHECKOUT, ensure_host


def run_inside(script: str, arguments: list[str], mark: str) -> int:
    """Set up the host and run ``script`` with its interpreter; the exit code.

    The script finds the variable ``mark`` set, and the host's folder in COMFYUI_PATH.
    """
    try:
        host = ensure_host()
    except SetupError as error:
        print(error, file=sys.stderr)
        return 1
    environment = clean_environment() | {"COMFYUI_PATH": str(host.code), mark: "1"}
    process = subprocess.Popen([str(host.python), script, *arguments], env=environment)
    # A terminal sends Ctrl-C to both, and only the one at work knows what to do about it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return process.wait()


def load_pack() -> ModuleType:
    """The checkout as the package ``bokeh``, whatever its folder is called."""
    spec = importlib.util.spec_from_file_location(
        "bokeh", CHECKOUT / "__init__.py", submodule_search_locations=[str(CHECKOUT)]
    )
    package = sys.modules["bokeh"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(package)
    return package
