"""The command for the paper's protocol: in a real server with the demonstration model, and what it refuses."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import pytest
from host_server import SetupError
from PIL import Image

sys.path.append(str(Path(__file__).resolve().parents[2] / "tools"))

import paper

import sweep


def test_the_prompts_are_twenty_and_each_its_own():
    for path in (paper.DEMO, paper.FLUX):
        prompts = paper.read_prompts(path.with_suffix(".txt"))
        assert len(set(prompts)) == 20


def test_prompts_that_are_none_are_named(tmp_path):
    with pytest.raises(SetupError, match=r"cannot be read .* Give a text file, one prompt a line"):
        paper.read_prompts(tmp_path / "none.txt")
    empty = tmp_path / "empty.txt"
    empty.write_text("\n  \n")
    with pytest.raises(SetupError, match=r"^There is no prompt in .* Write one a line"):
        paper.read_prompts(empty)


def test_a_workflow_without_a_report_is_refused():
    with pytest.raises(SetupError, match=r"^The workflow has 0 Bokeh Report nodes at work, expected one"):
        paper.report_of({"outputs": {"7": {"images": []}}})


def test_files_of_flux_go_to_its_own_loaders_alone():
    graph = sweep.read_workflow(paper.FLUX)
    files = {"unet_name": "a.gguf", "clip_name1": "b", "clip_name2": "c", "vae_name": "flux/ae.sft"}
    sweep.put_files(graph, files)
    assert graph["unet"]["inputs"]["unet_name"] == "a.gguf"
    assert graph["vae"]["inputs"]["vae_name"] == "flux/ae.sft"
    assert (graph["clip"]["inputs"]["clip_name1"], graph["clip"]["inputs"]["clip_name2"]) == ("b", "c")
    assert graph["lotus"]["inputs"]["unet_name"] == "lotus-depth-d-v1-1.safetensors"
    assert graph["lotus_vae"]["inputs"]["vae_name"] == "vae-ft-mse-840000-ema-pruned.safetensors"


def test_what_was_not_measured_is_said():
    level = {"value": 0.0, "laplacian": {"picture": 0.1}, "rendered": {}}
    report = dict.fromkeys(paper.NUMBERS, None) | {"score": 0.5, "levels": [level]}
    rows = [paper.row_of("one", 1, report), paper.row_of("two", 2, report | {"lvcorr_k": 0.9, "score": 0.7})]
    first, *lines = paper.summary(rows)
    assert first == "2 prompts x 1 levels, 2 pictures; mean (standard deviation)"
    assert any(line.split() == ["Bokeh", "score", "0.600", "(0.100)"] for line in lines)
    assert "not defined for 1" in next(line for line in lines if "(K)" in line)
    published = next(line for line in lines if "(reference)" in line)
    assert "not measured" in published
    assert published.endswith("Bokeh Diffusion with FLUX.1-dev: 0.917")


@pytest.mark.server
def test_every_node_of_the_graphs_is_the_hosts_own_or_ours(server):
    known = server.client.object_info()
    for path in (paper.DEMO, paper.FLUX):
        for name, node in sweep.read_workflow(path).items():
            required = known[node["class_type"]]["input"].get("required", {})
            assert set(required) <= set(node["inputs"]), name


@pytest.mark.server
def test_a_model_is_measured_on_a_running_server(server, tmp_path, capsys):
    prompts = tmp_path / "prompts.txt"
    # At its seed the demonstration model draws no square, so there is nothing that a depth could be made of.
    prompts.write_text('a red "heart" before teal lights\n\nan orange square before plum tiles\n', encoding="utf-8")
    options = ["--running", str(server.port), "--prompts", str(prompts), "--output", str(tmp_path / "out")]
    assert paper.main(options) == 0
    said, left_out = capsys.readouterr()
    assert left_out.startswith("Left out: an orange square before plum tiles: ")
    assert "there is no depth to render a blur from" in left_out
    folder = tmp_path / "out" / "protocol-1"
    with (folder / paper.CSV).open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["prompt"], row["seed"]) for row in rows] == [('a red "heart" before teal lights', "1")]
    for row in rows:
        assert float(row["lvcorr_reference"]) > 0.9
        assert float(row["laplacian 0"]) > float(row["laplacian 30"])
        assert float(row["rendered 0"]) == pytest.approx(float(row["laplacian 0"]), rel=1e-3)
    assert "1 prompts x 5 levels, 5 pictures" in said
    assert "0.917" in said
    with Image.open(folder / paper.FIGURE) as figure:
        assert figure.width == 1200


@pytest.mark.server
def test_inputs_that_the_workflow_lacks_are_named(server, tmp_path, capsys):
    graph = tmp_path / "graph.json"
    graph.write_text(json.dumps({"1": {"class_type": "EmptyLatentImage", "inputs": {"width": 64}}}), encoding="utf-8")
    assert paper.main(["--running", str(server.port), "--workflow", str(graph), "--output", str(tmp_path)]) == 1
    assert "'prompt' fits no node. The workflow has: 1 (EmptyLatentImage)." in capsys.readouterr().err
