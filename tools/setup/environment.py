"""What a set-up is made of: steps with markers, a lock, commands with a log, a check of installed packages.

Standard library only.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

LOG_TAIL_LINES = 25
HEARTBEAT_SECONDS = 30.0
# Far behind anything written, because Windows does not let others read a locked byte.
LOCKED_BYTE = 1 << 20


class SetupError(RuntimeError):
    """A set-up or a run that failed; the message says what failed and what to do."""


class Step(NamedTuple):
    """One step: ``run`` does it, ``intact`` says whether what it left is still whole."""

    name: str
    title: str
    run: Callable[[], None]
    intact: Callable[[], bool]


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write beside ``path`` and rename, so that nobody ever reads half a file. (The pack's own way to do it is not at
    hand before there is a host.)"""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.write_bytes(content.encode() if isinstance(content, str) else content)
    os.replace(part, path)


def tail(path: Path, lines: int = LOG_TAIL_LINES) -> str:
    """The last lines of a log file, indented; a sentence when there is none."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "    (no log was written)"
    last = [line.rstrip() for line in text.replace("\r", "\n").splitlines() if line.strip()][-lines:]
    return "\n".join(f"    {line}" for line in last) or "    (the log is empty)"


class StatusLine:
    """One line that is rewritten in a terminal and written out now and then everywhere else."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._start = time.monotonic()
        self._terminal = sys.stdout.isatty()
        self._last = self._start
        self._width = 0
        if not self._terminal:
            print(f"{label} ...", flush=True)

    def tick(self, detail: str = "") -> None:
        now = time.monotonic()
        line = f"{self._label} ... {now - self._start:.0f} s" + (f", {detail}" if detail else "")
        if self._terminal:
            self._show(line)
        elif now - self._last >= HEARTBEAT_SECONDS:
            self._last = now
            print(line, flush=True)

    def finish(self, word: str = "done") -> None:
        line = f"{self._label}: {word} after {time.monotonic() - self._start:.0f} s"
        if self._terminal:
            self._show(line)
            print(flush=True)
        else:
            print(line, flush=True)

    def _show(self, line: str) -> None:
        print("\r" + line.ljust(self._width), end="", flush=True)
        self._width = len(line)


def clean_environment() -> dict[str, str]:
    """The caller's environment without what would lead another Python or its pip astray."""
    astray = {"PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "PYTHONPLATLIBDIR", "__PYVENV_LAUNCHER__"}
    astray |= {"PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_USER", "PIP_REQUIRE_VIRTUALENV", "PIP_NO_DEPS"}
    environment = {name: value for name, value in os.environ.items() if name not in astray}
    environment.update(PYTHONDONTWRITEBYTECODE="1", PYTHONUNBUFFERED="1", PYTHONIOENCODING="utf-8")
    return environment


def run_logged(command: list[str], log: Path, status: StatusLine, cwd: Path) -> None:
    """Run a command with its output going to ``log``.

    Raises:
        SetupError: the command failed; with its exit code and the log's last lines.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as stream:
        stream.write(f"\n$ {' '.join(command)}\n")
        stream.flush()
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                cwd=cwd,
                env=clean_environment(),
                # The lock's file is the only inheritable one: a command that outlives us still holds the lock.
                close_fds=os.name == "nt",
            )
        except OSError as error:
            raise SetupError(f"could not start {command[0]}: {error}") from error
        try:
            while process.poll() is None:
                status.tick()
                time.sleep(0.2)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    if process.returncode:
        raise SetupError(
            f"{Path(command[0]).name} ended with exit code {process.returncode}.\nLast lines of {log}:\n{tail(log)}"
        )


def run_steps(steps: Iterable[Step], folder: Path, report: Callable[[str], None] = print) -> bool:
    """Do the first step that is missing or damaged and every one after it; True when any was done.

    A step's marker is written after it, beside and renamed, and taken away before it is done again: whatever
    kills a set-up, the next one starts again at the step that was under way.

    Raises:
        SetupError: a step failed; with its name and what to do.
    """
    steps = list(steps)
    markers = folder / "done"
    first = next(
        (i for i, step in enumerate(steps) if not (markers / step.name).is_file() or not step.intact()),
        len(steps),
    )
    if first == len(steps):
        return False
    if any((markers / step.name).exists() for step in steps) or (folder / "venv").exists():
        report(f"The set-up in {folder} is incomplete or damaged: repairing it from '{steps[first].title}'.")
    else:
        report(f"Setting up in {folder}. This is done once and takes some minutes.")
    for step in steps[first:]:
        (markers / step.name).unlink(missing_ok=True)
    for number, step in enumerate(steps[first:], start=first + 1):
        try:
            step.run()
        except SetupError as error:
            raise SetupError(f"Set-up step {number} of {len(steps)}, '{step.title}', failed: {error}") from error
        except OSError as error:
            raise SetupError(f"Set-up step {number} of {len(steps)}, '{step.title}', failed: {error}") from error
        write_atomically(markers / step.name, json.dumps({"finished": time.time()}))
    return True


def _damaged(info: Path) -> bool:
    """Whether a file that an installed distribution lists is missing or has another size."""
    try:
        with (info / "RECORD").open(newline="", encoding="utf-8") as stream:
            for name, _, size in csv.reader(stream):
                # Byte code may be rewritten by any run; everything else stays as it was installed.
                if not name.endswith(".pyc") and size and (info.parent / name).stat().st_size != int(size):
                    return True
        return not (info / "METADATA").is_file()
    except (OSError, ValueError):
        return True


def damaged_packages(site: Path) -> list[Path]:
    """The `.dist-info` folders (and pip's leftovers) in a site-packages folder whose files are not all there."""
    leftovers = [path for path in site.glob("~*") if path.is_dir()]
    return sorted(leftovers + [info for info in site.glob("*.dist-info") if _damaged(info)])


def remove_damaged_packages(site: Path) -> None:
    """Make pip forget packages that were installed by half, so that it installs them again."""
    for path in damaged_packages(site):
        shutil.rmtree(path)


class SetupLock:
    """Lets one set-up at a time into a folder; the others wait.

    The operating system holds the lock and drops it with the process, so a killed set-up leaves none behind.
    """

    def __init__(self, path: Path, report: Callable[[str], None] = print) -> None:
        self._path = path
        self._report = report

    def __enter__(self) -> SetupLock:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._path.open("a+", encoding="utf-8")
        told = False
        while not self._try():
            if not told:
                self._file.seek(0)
                self._report(
                    f"Another set-up (process {self._file.read().strip() or 'unknown'}) is at work in "
                    f"{self._path.parent}: waiting for it."
                )
                told = True
            time.sleep(0.5)
        if os.name != "nt":
            os.set_inheritable(self._file.fileno(), True)
        self._file.truncate(0)
        self._file.write(str(os.getpid()))
        self._file.flush()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._file.close()

    def _try(self) -> bool:
        try:
            if os.name == "nt":
                import msvcrt

                self._file.seek(LOCKED_BYTE)
                msvcrt.locking(self._file.fileno(), msvcrt.LK_NBLCK, 1)
                self._file.seek(0)
            else:
                import fcntl

                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True
