"""Sets up a host and passes the tests: `python tools/test.py [pytest arguments]`.

Standard library only. The linter's and pytest's caches go to the cache folder, not into the checkout.
"""

from __future__ import annotations

import os
import subprocess
import sys

from setup.browser import find_chromium
from setup.command import command
from setup.environment import SetupError, clean_environment
from setup.host import CHECKOUT, ensure_host


def main(arguments: list[str]) -> int:
    """Run the formatter's and the linter's check and pytest; the exit code is pytest's, or theirs if it is 0."""
    try:
        host = ensure_host(for_tests=True)
    except SetupError as error:
        print(error, file=sys.stderr)
        return 1
    environment = clean_environment()
    environment["COMFYUI_PATH"] = str(host.code)
    environment["RUFF_CACHE_DIR"] = str(host.folder / "ruff")
    try:
        environment["CHROMIUM_PATH"] = str(find_chromium())
    except FileNotFoundError as error:
        print(f"{error}\nThe tests that need it will fail.", file=sys.stderr)

    # All tests in two workers, each with servers of its own; single ones without, where a debugger can reach them.
    workers = arguments or ["-n", "2", "--dist", "loadscope"]
    if not arguments:
        environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 2) // 2)))
        environment["BOKEH_TESTS_DEALT_OUT"] = "1"

    def run(*command: str) -> int:
        return subprocess.run([str(host.python), "-m", *command], cwd=CHECKOUT, env=environment).returncode

    unclean = [words for words in (("check",), ("format", "--check")) if run("ruff", *words, ".")]
    sys.stdout.flush()
    code = run("pytest", "-o", f"cache_dir={host.folder / 'pytest'}", *workers)
    for words in unclean:
        print(f"'ruff {' '.join(words)} .' found something: see above the tests.", file=sys.stderr)
    return code or (1 if unclean else 0)


if __name__ == "__main__":
    command(main)
