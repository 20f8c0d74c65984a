"""Runs a tool again inside the host's environment, where torch is at hand. Standard library only."""

from __future__ import annotations

import signal
import subprocess
import sys

from host import ensure_host
from steps import SetupError, clean_environment


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
