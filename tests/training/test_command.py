"""The training command: alone, launched as two processes, and stopped by a signal."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from commands import run_each
from demo_files import write_demo
from PIL import Image
from places import CHECKOUT

from bokeh.training.checkpoint import load_checkpoint
from bokeh.training.session import PREVIEW
from bokeh.training.trainer import BEST, CHECKPOINT
from bokeh.weights.files import read_adapter

COMMAND = CHECKOUT / "tools" / "train.py"
SMALL = ("--rank", "4", "--context-dim", "16", "--warmup", "1", "--held-out-units", "2", "--no-checkpointing")
LAUNCH = "-m accelerate.commands.launch --multi_gpu --num_processes 2 --num_machines 1 --main_process_port 0 "
LAUNCH += "--mixed_precision no --dynamo_backend no"


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> Path:
    return write_demo(tmp_path_factory.mktemp("demo"))


def start(*arguments: object, launch: str = "") -> subprocess.Popen:
    """The command in a process of its own, on the CPU."""
    environment = os.environ | {"COMFYUI_BOKEH_TRAIN": "1", "ACCELERATE_USE_CPU": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *launch.split(), str(COMMAND), *map(str, arguments), "--cpu", *SMALL]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(process: subprocess.Popen) -> str:
    said, _ = process.communicate(timeout=600)
    assert process.returncode == 0, said
    return said


def test_two_launched_processes_train_as_one_with_the_doubled_batch(demo, tmp_path):
    common = ("--demo", demo, "--steps", 3, "--measure-every", 3)
    said = finish(start(*common, "--batch", 8, "--out", tmp_path / "one"))
    assert "step 3/3  loss " in said
    assert "held out " in said
    launched = start(*common, "--batch", 4, "--out", tmp_path / "two", "--no-samples", launch=LAUNCH)
    assert finish(launched).count("step 3/3") == 1
    one, two = (load_checkpoint(tmp_path / name / CHECKPOINT) for name in ("one", "two"))
    assert one[1] == two[1]
    torch.testing.assert_close(two[0]["losses"], one[0]["losses"], rtol=1e-6, atol=0)
    torch.testing.assert_close(two[0]["held_out"], one[0]["held_out"], rtol=1e-6, atol=0)
    # A curve over a sweep.
    with Image.open(tmp_path / "one" / PREVIEW) as picture:
        assert picture.width == 1200
        assert picture.height > 700


def test_a_signal_stops_after_the_step_and_the_same_command_goes_on(demo, tmp_path):
    arguments = ("--demo", demo, "--out", tmp_path / "run", "--no-samples", "--measure-every", 2, "--save-every", 2)
    process = start(*arguments, "--steps", 100000)
    deadline = time.monotonic() + 300
    while not (tmp_path / "run" / CHECKPOINT).exists():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    said = finish(process)
    assert "The same command goes on from there." in said
    done = load_checkpoint(tmp_path / "run" / CHECKPOINT)[1]["step"]
    assert f"Stopped after {done} of 100000 steps." in said
    said = finish(start(*arguments, "--steps", done + 1))
    assert f"step {done + 1}/{done + 1}" in said
    assert read_adapter(tmp_path / "run" / BEST).settings.rank == 4


def test_either_network_of_the_demonstration_model_is_trained_on(tmp_path):
    once = ("--steps", 1, "--measure-every", 1, "--batch", 4, "--no-samples")
    assert "step 1/1" in finish(start("--demo", "--family", "unet", *once, "--out", tmp_path))
    assert read_adapter(tmp_path / BEST).settings.family == "unet"


def test_what_is_missing_or_wrong_is_said_before_anything_is_loaded(tmp_path):
    files = ("--unet", "a", "--clip", "b", "--vae", "c", "--pairs", "d", "--clip-type", "none")
    refused = [
        (
            ("--unet", "flux.safetensors"),
            2,
            "give --demo, or --pairs with --checkpoint or all of --unet, --clip and --vae",
        ),
        (("--demo", "--batch", "3"), 1, "A batch of 3 pictures cannot be made of groups of 4."),
        (
            ("--demo", "--preset", "BokehDepth", "--batch", "2"),
            1,
            "A batch of 2 pictures cannot be made of groups of 4.",
        ),
        (("--demo", "--blocks", "widest"), 1, 'blocks is "widest". Choose "deep", or the numbers of blocks.'),
        (files, 1, "--clip-type is none, which this ComfyUI does not have. It has: "),
    ]
    commands = [["--out", tmp_path, *arguments, "--cpu", *SMALL] for arguments, _, _ in refused]
    found = run_each(COMMAND, commands, COMFYUI_BOKEH_TRAIN="1", ACCELERATE_USE_CPU="1")
    for (_, code, words), (ended, said) in zip(refused, found, strict=True):
        assert words in said
        assert ended == code
