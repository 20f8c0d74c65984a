"""A tool's command several times in one process: loading torch and the host takes longer than most of what it says."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from places import CHECKOUT

TOOLS = CHECKOUT / "tools"
_PROGRAM = """
import json, runpy, sys
sys.path[0], script, commands = sys.argv[1:]
main = runpy.run_path(script)["main"]
for arguments in json.loads(commands):
    try:
        code = main(arguments)
    except SystemExit as end:
        code = end.code
    print(f"exit code {code}", file=sys.stderr, flush=True)
"""


def run_each(script: Path, commands: list[list[object]], **environment: str) -> list[tuple[int, str]]:
    """Exit code and standard error of ``script`` with each of these arguments, one after the other."""
    listed = json.dumps([list(map(str, arguments)) for arguments in commands])
    program = [sys.executable, "-c", _PROGRAM, TOOLS, script, listed]
    ended = subprocess.run(
        list(map(str, program)), env=os.environ | environment, capture_output=True, text=True, timeout=600
    )
    *said, rest = re.split(r"^exit code (\d+)\n", ended.stderr, flags=re.MULTILINE)
    assert len(said) == 2 * len(commands), ended.stderr
    assert not rest, rest
    return [(int(code), text) for text, code in zip(said[::2], said[1::2], strict=True)]
