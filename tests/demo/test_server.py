"""The demonstration model in the real server: the sweep of the first command, and training in between."""

from __future__ import annotations

import io
import json
import re

import pytest
import torch
from host_server import HostError
from PIL import Image
from places import WORKFLOWS

from sweep import measured

pytestmark = pytest.mark.server

SWEEP = json.loads((WORKFLOWS / "api" / "demo_sweep.json").read_text(encoding="utf-8"))


def pictures(server, entry, node: str) -> list[Image.Image]:
    found = [picture for picture in server.client.pictures(entry) if picture.node == node]
    return [Image.open(io.BytesIO(server.client.download(picture))).convert("RGB") for picture in found]


def short(**sampler) -> dict:
    """The sweep with as many levels and steps as tell one picture from another."""
    graph = json.loads(json.dumps(SWEEP))
    graph["sweep"]["inputs"]["blurs"] = "0, 15, 30"
    graph["sampler"]["inputs"] |= {"steps": 6, **sampler}
    return graph


def training(name: str, steps: int, **changes) -> dict:
    inputs = {
        "model": ["demo", 0],
        "clip": ["demo", 1],
        "vae": ["demo", 2],
        "pairs": ["pairs", 0],
        "name": name,
        "steps": steps,
        "batch": 4,
        "rank": 4,
        "learning_rate": 1e-3,
        "seed": 0,
        "show_every": 2,
        **changes,
    }
    pairs = {"source": "procedural scenes", "path": "", "size": 128, "keep_aspect": False, "held_out": 0.05}
    return {
        "demo": {"class_type": "BokehDemoModel", "inputs": {}},
        "pairs": {"class_type": "BokehPairs", "inputs": pairs},
        "train": {"class_type": "BokehTrainAdapter", "inputs": inputs},
    }


def test_the_sweep_of_the_first_command_is_true_bokeh(server):
    entry = server.client.run(SWEEP, timeout=300)
    sheet, singles = pictures(server, entry, "sheet"), pictures(server, entry, "single")
    assert len(sheet) == 1
    assert [single.size for single in singles] == [(128, 128)] * 7
    lines = measured(entry)
    numbers = {name: float(value) for name, value in (re.match(r"(.+?) (-?\d\.\d+)", line).groups() for line in lines)}
    assert list(numbers) == ["Bokeh score", "Kept sharpness", "LVCorr (K)", "Consistency"]
    assert numbers["Bokeh score"] > 0.7
    assert numbers["Consistency"] > 0.9


def test_training_in_the_server_leaves_the_model_as_it_was(server):
    before = pictures(server, server.client.run(short(seed=21), timeout=300), "single")
    server.client.run(training("kept/clean", 4), timeout=300)
    folder = server.base / "output" / "bokeh_training" / "kept" / "clean"
    assert {"checkpoint.safetensors", "best.safetensors"} <= {path.name for path in folder.iterdir()}
    # Another seed first, so that nothing of the second run comes from the host's cache.
    server.client.run(short(seed=22), timeout=300)
    after = pictures(server, server.client.run(short(seed=21), timeout=300), "single")
    assert [picture.tobytes() for picture in before] == [picture.tobytes() for picture in after]


def test_training_goes_on_by_name_and_refuses_other_settings(server):
    server.client.run(training("on", 2), timeout=300)
    entry = server.client.run(training("on", 4), timeout=300)
    assert pictures(server, entry, "train")
    with pytest.raises(HostError, match="rank"):
        server.client.run(training("on", 6, rank=8), timeout=300)


def test_the_trained_adapter_is_sampled_with_in_the_same_graph(server):
    graph = {**short(), **training("used", 2)}
    graph["sweep"]["inputs"]["adapter"] = ["train", 0]
    del graph["adapter"]
    singles = pictures(server, server.client.run(graph, timeout=300), "single")
    values = torch.stack([torch.frombuffer(bytearray(single.tobytes()), dtype=torch.uint8) for single in singles])
    assert values.float().std() > 10
