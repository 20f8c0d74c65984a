"""Loads the real host and, in it, the pack, the way the host does.

Needs COMFYUI_PATH (``tools/test.py`` sets it). The pack's modules are then importable as ``bokeh.*``.
"""

from __future__ import annotations

import asyncio
import atexit
import functools
import gc
import importlib
import math
import os
import pkgutil
import shutil
import sys
import tempfile
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parent.parent
DATA = CHECKOUT / "tests" / "data"
LAYERS = ("attention", "demo", "nodes", "optics", "stages", "sweep", "tools/demo", "training", "weights")


def _load_host() -> None:
    host = os.environ.get("COMFYUI_PATH")
    if not host or not Path(host, "main.py").is_file():
        pytest.exit(f"COMFYUI_PATH is {host!r}, expected a folder with ComfyUI. Run: python tools/test.py", 2)
    # `python -m pytest` puts the checkout there, whose folders hide tools/sweep.py and the host's nodes.py.
    sys.path[:] = [path for path in sys.path if Path(path or os.curdir).resolve() != CHECKOUT]
    sys.path.insert(0, host)
    sys.path.insert(0, str(CHECKOUT / "tests" / "support"))
    import torch
    from comfy.cli_args import args

    base = Path(tempfile.mkdtemp(prefix="bokeh-tests-"))
    atexit.register(shutil.rmtree, base, ignore_errors=True)
    for folder in ("custom_nodes", "models", "input", "output", "temp"):
        (base / folder).mkdir()
    args.cpu = not torch.cuda.is_available()
    args.base_directory = str(base)
    torch.set_grad_enabled(False)
    # Convolutions of a GPU keep 10 bits otherwise, and equal pictures are apart by more than the tests allow.
    torch.backends.cudnn.allow_tf32 = False
    # Before `nodes`, which puts the host's inner folder with a module of the same name on the path.
    importlib.import_module("utils.extra_config")
    import nodes

    asyncio.run(nodes.init_extra_nodes(init_custom_nodes=False, init_api_nodes=False))


def _load_pack() -> None:
    import nodes

    assert asyncio.run(nodes.load_custom_node(str(CHECKOUT))), "the host did not accept the pack"
    package = str(CHECKOUT).replace(".", "_x_")
    for layer in LAYERS:
        for found in pkgutil.iter_modules([str(CHECKOUT / layer)]):
            if found.name != "__main__":
                importlib.import_module(f"{package}.{layer.replace('/', '.')}.{found.name}")
    for name, module in list(sys.modules.items()):
        if name == package or name.startswith(f"{package}."):
            sys.modules["bokeh" + name[len(package) :]] = module


# What deals all tests out to workers (tools/test.py) runs none itself.
if "BOKEH_TESTS_DEALT_OUT" not in os.environ or "PYTEST_XDIST_WORKER" in os.environ:
    _load_host()
    _load_pack()


@functools.cache
def group_of(file: str) -> str:
    """Which tests share a worker: those of the page one server, all other server tests the other, else each file its
    models."""
    path = CHECKOUT / file
    if "pytest.mark.server" not in path.read_text(encoding="utf-8"):
        return file
    return "page" if path.parent.name == "web" else "server"


# What takes longest comes first, so that no worker has much left when the other has nothing more.
LONGEST = (
    "page",
    "server",
    "tests/weights/test_hub.py",
    "tests/tools/test_demo_base.py",
    "tests/training/test_command.py",
    "tests/demo/test_quality.py",
    "tests/attention/test_family_compose.py",
)


def rank_of(item: pytest.Item) -> tuple:
    """Where a test stands. Of the page's tests those that can go on in one page follow one another: by the page's
    rendering, then those that visit it in a way of their own."""
    group = group_of(item.nodeid.partition("::")[0])
    if group != "page":
        return (LONGEST.index(group) if group in LONGEST else len(LONGEST),)
    parameters = item.callspec.params.values() if hasattr(item, "callspec") else ()
    return 0, "vue" in parameters, "touch" in item.name, not {"page", "canvas_page"} & {*item.fixturenames}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=rank_of)


# pytest-xdist's own groups by marks are lost with the newest pytest.
@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log):
    """Deals out the groups in their order."""
    from xdist.scheduler import LoadScopeScheduling

    class Groups(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group_of(nodeid.partition("::")[0])

    config.option.loadscopereorder = False
    return Groups(config, log)


def pytest_collection_finish() -> None:
    """The host collects garbage in every sampling run: looking through all that is loaded by then took most of it."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _every_report(monkeypatch):
    """Newer hosts leave out reports of progress that come soon after another."""
    import comfy.utils

    for name in ("PROGRESS_THROTTLE_MIN_INTERVAL", "PROGRESS_THROTTLE_MIN_PERCENT"):
        monkeypatch.setattr(comfy.utils, name, 0, raising=False)


@pytest.fixture(scope="session")
def adapters_folder() -> Path:
    """The host's models/bokeh_adapters, with the golden adapters in it (``all_blocks/model.safetensors``, ...)."""
    import folder_paths

    folder = Path(folder_paths.models_dir, "bokeh_adapters")
    for case in (DATA / "golden").iterdir():
        if (case / "adapter").is_dir():
            shutil.copytree(case / "adapter", folder / case.name, dirs_exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def golden():
    """The golden case in which every block is adapted, with a model of its own for each test file."""
    from flux import Golden

    return Golden("all_blocks")


@pytest.fixture
def reference_rounding(monkeypatch):
    """exp() rounded to nearest, but for number 13, which was one bit higher where the golden outputs were made."""
    import comfy.ldm.flux.model
    import torch

    exponents = -math.log(10000) * torch.arange(128, dtype=torch.float32) / 128
    frequencies = exponents.double().exp().float()
    frequencies[13] = torch.nextafter(frequencies[13], torch.tensor(math.inf))

    def timestep_embedding(t, dim, max_period=10000, time_factor=1000.0):
        assert (dim, max_period) == (256, 10000)
        angles = (time_factor * t).float()[:, None] * frequencies.to(t.device)
        return torch.cat((angles.cos(), angles.sin()), dim=-1)

    monkeypatch.setattr(comfy.ldm.flux.model, "timestep_embedding", timestep_embedding)


@pytest.fixture(scope="module")
def adapter():
    """A random adapter for that model, strong enough to change pictures visibly."""
    from adapters import official_tensors

    from bokeh.weights.format import build_adapter

    return build_adapter(official_tensors(32, [0, 1, 2, 3, 4]), None, "random adapter")


@pytest.fixture(scope="module")
def browser():
    """Chromium for the page tests of a file. No longer than that: playwright keeps the thread's event loop running,
    and what calls ``asyncio.run`` fails beside it."""
    from page import chromium

    with chromium() as browser:
        yield browser


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """The real server with this pack in it, one for all tests; its models folder starts empty."""
    from comfy.cli_args import args
    from host_server import HostServer

    # Offline: a test that downloads brings a hub of its own.
    offline = {"HF_HUB_OFFLINE": "1"}
    with HostServer(tmp_path_factory.mktemp("server"), cpu=args.cpu, environment=offline) as server:
        yield server


@pytest.fixture(scope="session")
def sweep_server(tmp_path_factory):
    """A server with ready pictures in its input folder and a node that makes sweeps, for page tests without models."""
    from host_server import HostServer
    from sweep_view import prepare

    base = tmp_path_factory.mktemp("sweep_server")
    prepare(base)
    with HostServer(base, cpu=True, arguments=["--preview-method", "latent2rgb"]) as server:
        yield server
