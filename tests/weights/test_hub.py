"""Download of the public adapters, against a real HTTP server in the hub's place."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from adapter_files import official_config, official_tensors
from hub_server import HubServer

from bokeh.weights.files import read_adapter
from bokeh.weights.folder import DEMO, PUBLIC_ADAPTERS

LABEL, KONTEXT_LABEL = (entry.label for entry in PUBLIC_ADAPTERS)
REPOSITORY, KONTEXT_REPOSITORY = (entry.repository for entry in PUBLIC_ADAPTERS)
NAME = os.path.join("BokehDiffusion", "model.safetensors")
GOLDEN = Path(__file__).parents[1] / "data" / "golden"

# Large enough for several blocks: the first is 1 MiB.
TENSORS = official_tensors(blocks=(0, 1, 2, 3), width=1024, rank=32)
CONTENT = safetensors.torch.save(TENSORS)
CONFIG = json.dumps(
    official_config([f"transformer_blocks.{i}" for i in range(4)], attn_hidden_dim=1024, lora_rank=32, lora_alpha=8)
).encode()


CHECK_TOKEN = (
    "If HF_TOKEN is set or you are logged in, check that the token is valid; if the repository asks for it, accept its "
    "conditions on its page and set HF_TOKEN."
)


class Worker:
    """A process that downloads; see support/hub_worker.py."""

    def __init__(self, home: Path, **environment: str) -> None:
        env = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
        script = Path(__file__).parents[1] / "support" / "hub_worker.py"
        self.process = subprocess.Popen(
            [sys.executable, str(script)],
            env=env | {"HF_HOME": str(home)} | environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def download(self, models: Path, **job: object) -> dict:
        self.process.stdin.write(json.dumps({"models": str(models), **job}) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self) -> None:
        self.process.stdin.close()
        assert self.process.wait(timeout=60) == 0


@pytest.fixture(scope="module")
def _server_and_worker(tmp_path_factory):
    with HubServer({}) as server:
        worker = Worker(tmp_path_factory.mktemp("home"), HF_ENDPOINT=server.url)
        yield server, worker
        worker.close()


@pytest.fixture
def hub(_server_and_worker) -> HubServer:
    server, _ = _server_and_worker
    server.reset({REPOSITORY: {"model.safetensors": CONTENT, "config.json": CONFIG}})
    return server


@pytest.fixture
def worker(_server_and_worker, hub) -> Worker:
    return _server_and_worker[1]


def by_hand(models: Path) -> str:
    return (
        "Or get it by hand: download model.safetensors and config.json from the Hugging Face repository "
        f'"atfortes/BokehDiffusion" and put them into {models}/bokeh_adapters/BokehDiffusion.'
    )


def everything_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())


def test_download_survives_a_connection_cut_half_way(hub, worker, tmp_path):
    hub.cut_after = len(CONTENT) // 2
    answer = worker.download(tmp_path)
    path = tmp_path / "bokeh_adapters" / NAME
    assert answer["path"] == str(path)
    assert path.read_bytes() == CONTENT
    assert path.with_name("config.json").read_bytes() == CONFIG
    assert read_adapter(path).settings.lora_alpha == 8.0
    assert everything_below(tmp_path) == [
        f"bokeh_adapters/BokehDiffusion/{name}" for name in ("config.json", "model.safetensors")
    ]
    starts = [first for name, first, _ in hub.ranges if name == "model.safetensors"]
    assert hub.cut_after is None, "the server never cut"
    assert starts.count(0) == 1, "it began again from the first byte"
    assert len(starts) > len(set(starts)), "the block that was cut came whole"


def test_progress_counts_bytes_of_all_files_up_to_the_end(hub, worker, tmp_path):
    progress = worker.download(tmp_path)["progress"]
    total = len(CONTENT) + len(CONFIG)
    assert {of for _, of in progress} == {total}
    done = [value for value, _ in progress]
    assert done == sorted(done)
    assert done[0] == 0
    assert done[-1] == total
    assert len(set(done)) >= 4


def test_list_offers_the_download_until_the_file_is_there(hub, worker, tmp_path):
    answer = worker.download(tmp_path)
    assert answer["before"] == [LABEL, KONTEXT_LABEL, DEMO]
    assert answer["during"] == [LABEL, KONTEXT_LABEL, DEMO]
    assert answer["after"] == [NAME, KONTEXT_LABEL, DEMO]


def test_file_that_is_there_is_not_downloaded_again(hub, worker, tmp_path):
    worker.download(tmp_path)
    hub.requests.clear()
    assert worker.download(tmp_path)["path"] == str(tmp_path / "bokeh_adapters" / NAME)
    assert hub.requests == []


def test_interrupted_download_lists_nothing_and_goes_on_where_it_stopped(hub, worker, tmp_path):
    answer = worker.download(tmp_path, stop_at=len(CONFIG) + 1)
    assert answer.get("stopped")
    assert answer["after"] == [LABEL, KONTEXT_LABEL, DEMO]
    (partial,) = (tmp_path / "bokeh_adapters/BokehDiffusion/.download").glob("model*.partial")
    reached = partial.stat().st_size
    assert 0 < reached < len(CONTENT)
    hub.ranges.clear()
    assert "path" in worker.download(tmp_path)
    assert next(first for name, first, _ in hub.ranges if name == "model.safetensors") == reached
    assert (tmp_path / "bokeh_adapters" / NAME).read_bytes() == CONTENT


def test_what_an_older_version_left_unfinished_is_dropped(hub, worker, tmp_path):
    worker.download(tmp_path, stop_at=len(CONFIG) + 1)
    changed = safetensors.torch.save({key: value + 1 for key, value in TENSORS.items()})
    hub.repositories[REPOSITORY]["model.safetensors"] = changed
    path = worker.download(tmp_path)["path"]
    assert Path(path).read_bytes() == changed


def test_server_that_ignores_ranges_is_served_from(hub, worker, tmp_path):
    hub.ignore_ranges = True
    assert Path(worker.download(tmp_path)["path"]).read_bytes() == CONTENT


def test_image_to_image_adapter_lands_in_its_own_folder(hub, worker, tmp_path):
    content = (GOLDEN / "kontext/adapter/bokeh_lora.bin").read_bytes()
    hub.repositories = {KONTEXT_REPOSITORY: {"bokeh_lora.bin": content}}
    path = Path(worker.download(tmp_path, adapter=1)["path"])
    assert path == tmp_path / "bokeh_adapters" / "BokehDepth" / "bokeh_lora.bin"
    assert path.read_bytes() == content


def test_damaged_file_is_removed(hub, worker, tmp_path):
    hub.damaged = frozenset({"model.safetensors"})
    answer = worker.download(tmp_path)
    checksum = r"[0-9a-f]{64}"
    assert re.fullmatch(
        rf"atfortes/BokehDiffusion: model\.safetensors arrived damaged \(its checksum is {checksum}, expected "
        rf"{checksum}\) and was removed\. Try again\. {re.escape(by_hand(tmp_path))}",
        answer["error"],
    )
    assert answer["after"] == [LABEL, KONTEXT_LABEL, DEMO]
    assert not any("model" in name for name in everything_below(tmp_path))


def test_intact_file_that_is_no_adapter_is_removed(hub, worker, tmp_path):
    hub.repositories[REPOSITORY]["model.safetensors"] = safetensors.torch.save(
        {"lora_unet_input_blocks_4_1_proj_in.lora_down.weight": torch.zeros(4, 4)}
    )
    error = worker.download(tmp_path)["error"]
    assert error.startswith(
        "atfortes/BokehDiffusion: what it holds now is not an adapter that this version can read, and was removed. "
        "Update the pack. The reason: "
    )
    assert "this is a LoRA" in error
    assert everything_below(tmp_path) == []


@pytest.mark.parametrize(
    ("status", "sentence"),
    [
        (401, f"the hub refuses access (401). {CHECK_TOKEN}"),
        (403, f"the hub refuses access (403). {CHECK_TOKEN}"),
        (
            404,
            "the hub does not have it (404): it was moved or withdrawn, or HF_ENDPOINT names a hub without it.",
        ),
        (500, "the hub answered with an error (500). Try again later."),
    ],
)
def test_refusal_says_what_to_do(hub, worker, tmp_path, status, sentence):
    hub.status = status
    assert worker.download(tmp_path)["error"] == f"atfortes/BokehDiffusion: {sentence} {by_hand(tmp_path)}"
    assert everything_below(tmp_path) == []


def test_too_little_free_disk_is_refused_before_anything_is_written(hub, worker, tmp_path):
    hub.announced = {"model.safetensors": 10**18}
    error = worker.download(tmp_path)["error"]
    assert re.fullmatch(
        rf"{re.escape(str(tmp_path))}/bokeh_adapters/BokehDiffusion: 1,000,000,000,000 MB are needed for "
        r"model\.safetensors, but only [\d,]+ MB are free on this disk\. Free some space and try again\.",
        error,
    )
    assert list(tmp_path.iterdir()) == []


def test_disk_that_fills_up_during_the_download_leaves_nothing(hub, worker, tmp_path):
    worker.download(tmp_path, stop_at=len(CONFIG) + 1)
    (partial,) = (tmp_path / "bokeh_adapters/BokehDiffusion/.download").glob("model*.partial")
    partial.unlink()
    # The kernel's own "no space left on device", without a file system of our own, which would take root.
    partial.symlink_to("/dev/full")
    answer = worker.download(tmp_path)
    assert answer["error"] == (
        f"{tmp_path}/bokeh_adapters/BokehDiffusion: the disk is full (No space left on device). Nothing was left "
        f"behind; free some space and try again. {by_hand(tmp_path)}"
    )
    assert everything_below(tmp_path) == []


def test_read_only_model_folder(hub, worker, tmp_path):
    answer = worker.download(tmp_path, read_only=True)
    assert answer["error"] == (
        f"{tmp_path}/bokeh_adapters/BokehDiffusion: cannot be written (Permission denied). Make the folder writable or "
        f"choose another one; nothing was left behind. {by_hand(tmp_path)}"
    )
    assert list(tmp_path.iterdir()) == []


def test_token_goes_to_the_hub_and_not_to_its_storage(hub, tmp_path):
    hub.token = "hf_secret"
    worker = Worker(tmp_path / "home", HF_ENDPOINT=hub.url, HF_TOKEN="hf_secret")
    answer = worker.download(tmp_path / "models")
    worker.close()
    # The storage of the stand-in refuses a request that carries a token.
    assert answer["path"].endswith(NAME)


def test_offline_says_which_file_to_put_where(hub, tmp_path):
    worker = Worker(tmp_path / "home", HF_ENDPOINT=hub.url, HF_HUB_OFFLINE="1")
    answer = worker.download(tmp_path)
    worker.close()
    assert answer["error"] == (
        "atfortes/BokehDiffusion: cannot be downloaded because HF_HUB_OFFLINE is set. Unset it. " + by_hand(tmp_path)
    )
    assert hub.requests == []


def test_no_network_says_which_file_to_put_where(tmp_path):
    with HubServer({}) as gone:
        url = gone.url
    worker = Worker(tmp_path / "home", HF_ENDPOINT=url)
    answer = worker.download(tmp_path)
    worker.close()
    assert re.fullmatch(
        r"atfortes/BokehDiffusion: the download failed \(\w+: .+\)\. Check the network connection and try again; it "
        rf"goes on where it stopped\. {re.escape(by_hand(tmp_path))}",
        answer["error"],
    )
