"""Download of the public adapters, against a real HTTP server in the hub's place."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import safetensors.torch
import torch
from adapter_files import official_config, official_tensors
from hub_server import HubServer

from bokeh.weights.files import read_adapter
from bokeh.weights.folder import DEMO_ADAPTERS, PUBLIC_ADAPTERS

LABELS = [entry.label for entry in PUBLIC_ADAPTERS]
REPOSITORY, KONTEXT_REPOSITORY = (entry.repository for entry in PUBLIC_ADAPTERS[:2])
NAME = os.path.join("BokehDiffusion", "model.safetensors")
FOLDER = "bokeh_adapters/BokehDiffusion"
GOLDEN = Path(__file__).parents[1] / "data" / "golden"

TENSORS = official_tensors(width=256, rank=32)
CONTENT = safetensors.torch.save(TENSORS)
CONFIG = json.dumps(
    official_config([f"transformer_blocks.{i}" for i in range(3)], attn_hidden_dim=256, lora_rank=32, lora_alpha=8)
).encode()
WHOLE = [f"{FOLDER}/{name}" for name in ("config.json", "model.safetensors")]
BY_HAND = (
    "Or get it by hand: download model.safetensors and config.json from the Hugging Face repository "
    f'"atfortes/BokehDiffusion" and put them into the model folder {FOLDER}.'
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

    def begin(self, models: Path, **job: object) -> None:
        self.process.stdin.write(json.dumps({"models": str(models), **job}) + "\n")
        self.process.stdin.flush()

    def download(self, models: Path, **job: object) -> dict:
        self.begin(models, **job)
        answer = json.loads(self.process.stdout.readline())
        assert answer["children"] == [], "the process that downloads goes on"
        return answer

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
    yield server
    server.pace, server.endless = None, False


@pytest.fixture
def worker(_server_and_worker, hub) -> Worker:
    return _server_and_worker[1]


def everything_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())


def starts(hub: HubServer) -> list[int]:
    return [first for name, first, _ in hub.ranges if name == "model.safetensors"]


def test_download_lands_whole_and_is_offered_until_then(hub, worker, tmp_path):
    hub.pace = 200_000
    answer = worker.download(tmp_path)
    path = tmp_path / "bokeh_adapters" / NAME
    assert answer["path"] == str(path)
    assert path.read_bytes() == CONTENT
    assert path.with_name("config.json").read_bytes() == CONFIG
    assert read_adapter(path).settings.lora_alpha == 8.0
    assert everything_below(tmp_path) == WHOLE
    assert answer["before"] == answer["during"] == [*LABELS, *DEMO_ADAPTERS]
    assert answer["after"] == [NAME, *LABELS[1:], *DEMO_ADAPTERS]
    done = [now for now, of in answer["progress"] if of == len(CONTENT) + len(CONFIG)]
    assert done == sorted(done)
    assert done[-1] == len(CONTENT) + len(CONFIG)
    assert len(set(done)) >= 4
    hub.requests.clear()
    assert worker.download(tmp_path)["path"] == str(path)
    assert hub.requests == [], "what is there is not fetched again"


@pytest.mark.parametrize("how", ["cut", "interrupted", "killed"])
def test_download_goes_on_where_it_stopped(hub, worker, tmp_path, how):
    hub.pace = 100_000
    if how == "cut":
        hub.cut_after = len(CONTENT) // 2
    elif how == "interrupted":
        answer = worker.download(tmp_path, stop_at=len(CONTENT) // 3)
        assert answer["stopped"] < 2
        assert answer["after"] == [*LABELS, *DEMO_ADAPTERS]
    else:
        other = Worker(tmp_path / "home", HF_ENDPOINT=hub.url)
        other.begin(tmp_path)
        staging = tmp_path / FOLDER / ".download"
        while sum(path.stat().st_size for path in staging.glob("model*.partial")) < len(CONTENT) // 3:
            assert other.process.poll() is None
            time.sleep(0.1)
        other.process.kill()
        other.process.wait()
    hub.pace = 1e9
    path = Path(worker.download(tmp_path)["path"])
    assert path.read_bytes() == CONTENT
    assert starts(hub)[0] == 0
    assert starts(hub)[-1] > len(CONTENT) // 4
    assert [file for file in everything_below(tmp_path) if "home/" not in file] == WHOLE


def test_two_processes_at_once_both_end_with_the_one_file(hub, worker, tmp_path):
    hub.pace = 200_000
    other = Worker(tmp_path / "home", HF_ENDPOINT=hub.url)
    with ThreadPoolExecutor() as pool:
        answers = list(pool.map(lambda one: one.download(tmp_path / "models"), (worker, other)))
    other.close()
    assert {answer.get("path") for answer in answers} == {str(tmp_path / "models/bokeh_adapters" / NAME)}
    assert everything_below(tmp_path / "models") == WHOLE
    assert starts(hub) == [0]


def test_what_an_older_version_left_unfinished_is_dropped(hub, worker, tmp_path):
    hub.pace = 100_000
    worker.download(tmp_path, stop_at=len(CONTENT) // 3)
    hub.pace = None
    changed = safetensors.torch.save({key: value + 1 for key, value in TENSORS.items()})
    hub.repositories[REPOSITORY]["model.safetensors"] = changed
    assert Path(worker.download(tmp_path)["path"]).read_bytes() == changed
    assert everything_below(tmp_path) == WHOLE


def test_image_to_image_adapter_lands_in_its_own_folder(hub, worker, tmp_path):
    content = (GOLDEN / "kontext/adapter/bokeh_lora.bin").read_bytes()
    hub.repositories = {KONTEXT_REPOSITORY: {"bokeh_lora.bin": content}}
    path = Path(worker.download(tmp_path, adapter=1)["path"])
    assert path == tmp_path / "bokeh_adapters" / "BokehDepth" / "bokeh_lora.bin"
    assert path.read_bytes() == content


NAMES = "model.safetensors"
LORA = safetensors.torch.save({"lora_unet_input_blocks_4_1_proj_in.lora_down.weight": torch.zeros(4, 4)})
TOKEN = (
    "If HF_TOKEN is set or you are logged in, check that the token is valid; if the repository asks for it, accept its "
    "conditions on its page and set HF_TOKEN."
)
HASH = "[0-9a-f]{64}"
WRONG = r"what came is not what the hub announced \(.+\), and was removed\. Try again\."
FAILED = r"the download failed \(.+\)\. Check the network connection and try again; it goes on where it stopped\."
SLOW = r"hardly anything comes: less than 10 kB a second for 2 seconds\. Check the network connection and HF_ENDPOINT, "
SLOW += r"and try again; it goes on where it stopped\."
# What the server does -> what the sentence says, behind the repository's name.
HOSTILE = [
    ({"status": 401}, re.escape(f"the hub refuses access (401). {TOKEN}")),
    ({"status": 403}, re.escape(f"the hub refuses access (403). {TOKEN}")),
    (
        {"status": 404},
        r"the hub does not have it \(404\): it was moved or withdrawn, or HF_ENDPOINT names a hub without ",
    ),
    ({"status": 500}, r"the hub answered with an error \(500\)\. Try again later\."),
    ({"damaged": {NAMES}}, rf"model\.safetensors arrived damaged \(its checksum is {HASH}, expected {HASH}\) and was "),
    ({"pace": 1}, SLOW),
    ({"silent": True}, f"{SLOW}|{FAILED}"),
    ({"endless": True}, WRONG),
    ({"endless": True, "announced": {NAMES: 10**9}, "pace": 1}, SLOW),
    ({"announced": {NAMES: 0}}, WRONG),
    ({"announced": {NAMES: len(CONTENT) - 1}}, WRONG),
    ({"announced": {NAMES: len(CONTENT) + 1}}, f"{WRONG}|{FAILED}|{SLOW}"),
    ({"lengths": {NAMES: len(CONTENT) + 1}}, f"{WRONG}|{FAILED}|{SLOW}"),
    ({"lengths": {NAMES: len(CONTENT) - 1}}, f"{WRONG}|{FAILED}|{SLOW}"),
    ({"etags": {NAMES: ""}}, f"{WRONG}|{FAILED}"),
    ({"etags": {NAMES: "../../x"}, "page": True}, f"{WRONG}|{FAILED}"),
    ({"page": True}, WRONG),
    ({"loop": "hub"}, f"{FAILED}|{WRONG}|{SLOW}"),
    ({"loop": "storage"}, FAILED),
    (
        {"repositories": {REPOSITORY: {NAMES: LORA, "config.json": CONFIG}}},
        r"what it holds now is not an adapter that ",
    ),
    ({"repositories": {REPOSITORY: {NAMES: CONTENT, "config.json": b" " * 2**20}}}, WRONG),
    ({"repositories": {REPOSITORY: {NAMES: CONTENT}}}, r"the hub does not have it \(404\)"),
]


@pytest.mark.parametrize(("behaviour", "sentence"), HOSTILE, ids=lambda value: str(value)[:40])
def test_bad_hub_leads_to_a_sentence_in_time_and_no_file(hub, worker, tmp_path, behaviour, sentence):
    for name, value in behaviour.items():
        setattr(hub, name, value)
    answer = worker.download(tmp_path, patience=2)
    assert re.match(rf"atfortes/BokehDiffusion: ({sentence})", answer["error"])
    assert "Or get it by hand: " in answer["error"] or "is not an adapter" in answer["error"]
    assert str(tmp_path) not in answer["error"]
    assert answer["seconds"] < 40
    assert answer["after"] == [*LABELS, *DEMO_ADAPTERS]
    if "was removed" in answer["error"]:
        hub.reset({REPOSITORY: {NAMES: CONTENT, "config.json": CONFIG}})
        assert Path(worker.download(tmp_path)["path"]).read_bytes() == CONTENT, "something of it is left in the way"


@pytest.mark.parametrize("behaviour", ["silent", "pace", "endless"])
def test_interrupt_acts_at_once(hub, worker, tmp_path, behaviour):
    hub.announced = {NAMES: 4 * 10**9} if behaviour == "endless" else {}
    setattr(hub, behaviour, True)
    answer = worker.download(tmp_path, stop_after=1)
    assert answer["seconds"] < 4
    assert answer["stopped"] < 2


@pytest.mark.parametrize("behaviour", [{"ignore_ranges": True}, {"etags": {NAMES: "no-hash"}}, {"cut_after": 200_000}])
def test_clumsy_hub_is_served_from(hub, worker, tmp_path, behaviour):
    for name, value in behaviour.items():
        setattr(hub, name, value)
    assert Path(worker.download(tmp_path)["path"]).read_bytes() == CONTENT


def test_too_little_free_disk_is_refused_before_anything_is_written(hub, worker, tmp_path):
    hub.announced = {NAMES: 10**18}
    assert re.fullmatch(
        rf"{FOLDER}: 1,000,000,000,000 MB are needed for model\.safetensors, but only [\d,]+ MB are free on this disk"
        r"\. Free some space and try again\.",
        worker.download(tmp_path)["error"],
    )
    assert everything_below(tmp_path) == []


def test_disk_that_fills_up_during_the_download_leaves_nothing(hub, worker, tmp_path):
    # The kernel's own "no space left on device", without a file system of our own, which would take root.
    hub.pace = 100_000
    worker.download(tmp_path, stop_at=len(CONTENT) // 3)
    hub.pace = None
    (partial,) = (tmp_path / FOLDER / ".download").glob("model*.partial")
    partial.unlink()
    partial.symlink_to("/dev/full")
    assert worker.download(tmp_path)["error"] == (
        f"{FOLDER}: the disk is full (No space left on device). Nothing was left behind; free some space and try "
        f"again. {BY_HAND}"
    )
    assert everything_below(tmp_path) == []


def test_read_only_model_folder(hub, worker, tmp_path):
    assert worker.download(tmp_path, read_only=True)["error"] == (
        f"{FOLDER}: cannot be written (Permission denied). Make the folder writable or choose another one; nothing was "
        f"left behind. {BY_HAND}"
    )
    assert list(tmp_path.iterdir()) == []


def test_token_goes_to_the_hub_alone(hub, tmp_path):
    """The storage of the stand-in refuses a request that carries a token; the list of processes is for everybody."""
    hub.token, hub.pace = "hf_secret", 100_000
    worker = Worker(tmp_path / "home", HF_ENDPOINT=hub.url, HF_TOKEN="hf_secret")
    worker.begin(tmp_path / "models")
    while not starts(hub):
        assert worker.process.poll() is None
        time.sleep(0.05)
    lines = [file.read_bytes() for file in Path("/proc").glob("[0-9]*/cmdline") if file.parent.is_dir()]
    assert any(b"fetch.py" in line for line in lines)
    assert not any(b"hf_secret" in line for line in lines)
    assert json.loads(worker.process.stdout.readline())["path"].endswith(NAME)
    worker.close()


def test_offline_says_which_file_to_put_where(hub, tmp_path):
    worker = Worker(tmp_path / "home", HF_ENDPOINT=hub.url, HF_HUB_OFFLINE="1")
    answer = worker.download(tmp_path)
    worker.close()
    assert answer["error"] == (
        f"atfortes/BokehDiffusion: cannot be downloaded because HF_HUB_OFFLINE is set. Unset it. {BY_HAND}"
    )
    assert hub.requests == []


def test_no_network_says_which_file_to_put_where(tmp_path):
    with HubServer({}) as gone:
        url = gone.url
    worker = Worker(tmp_path / "home", HF_ENDPOINT=url)
    answer = worker.download(tmp_path)
    worker.close()
    assert re.fullmatch(rf"atfortes/BokehDiffusion: {FAILED} {re.escape(BY_HAND)}", answer["error"])
