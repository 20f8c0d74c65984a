"""Runs a tool inside a host's environment, and loads the pack there. Standard library only."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType

CHECKOUT = Path(__file__).resolve().parents[1]


def run_inside(script: str, arguments: list[str], mark: str) -> int:
    """Run ``script`` with a host's interpreter; the exit code.

    The host is set up first. Where the pack was installed without what sets one up, it is the one whose custom_nodes
    the pack lies in, and its interpreter the one at work. The script finds the variable ``mark`` set, and the host's
    folder in COMFYUI_PATH.
    """
    if (Path(__file__).parent / "setup").is_dir():
        from setup.environment import SetupError, clean_environment
        from setup.host import ensure_host

        try:
            host = ensure_host()
        except SetupError as error:
            print(error, file=sys.stderr)
            return 1
        code, python, environment = host.code, host.python, clean_environment()
    else:
        code, python, environment = CHECKOUT.parents[1], sys.executable, dict(os.environ)
        if not (code / "main.py").is_file() or importlib.util.find_spec("torch") is None:
            print(
                f"There is no ComfyUI around {CHECKOUT}, or {python} is not its Python. Run this with ComfyUI's own "
                "Python from the pack's folder in ComfyUI/custom_nodes.",
                file=sys.stderr,
            )
            return 1
    environment |= {"COMFYUI_PATH": str(code), mark: "1"}
    process = subprocess.Popen([str(python), script, *arguments], env=environment)
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
