"""The pack in a real server over its HTTP API: refusals before anything loads, interrupts, lists."""

from __future__ import annotations

import copy
import io
import json
import threading
import time

import numpy as np
import pytest
from adapters import official_tensors, write_official
from host_server import HostError
from PIL import Image
from places import DATA, WORKFLOWS

pytestmark = pytest.mark.server

DEMO_SWEEP = json.loads((WORKFLOWS / "api" / "demo_sweep.json").read_text())


def graph(**inputs) -> dict:
    """The demonstration sweep with some inputs changed: ``sweep__blurs="0, 30"``."""
    changed = copy.deepcopy(DEMO_SWEEP)
    for name, value in inputs.items():
        node, _, field = name.partition("__")
        changed[node]["inputs"][field] = value
    return changed


def pictures(server, entry: dict, node: str) -> list[np.ndarray]:
    files = [server.client.download(picture) for picture in server.client.pictures(entry) if picture.node == node]
    return [np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), dtype=float) for data in files]


BLURS = {
    "": "The list of blurs is empty. Write numbers from 0 to 30, for example: 0, 4, 8, 15, 22, 30",
    "sharp": "'sharp' is not a number. Write blurs from 0 to 30 or ranges such as 0..30/7",
    "31": "Blur 31 is outside 0 to 30. 0 is sharp, 30 is the strongest defocus.",
    "-1": "Blur -1 is outside 0 to 30. 0 is sharp, 30 is the strongest defocus.",
    "5..1/0": "'5..1/0' asks for '0' values. The count after / must be a whole number from 1 up.",
    "0..30/500": "'0..30/500' asks for 500 values, at most 200 are possible. Use a smaller count.",
    ", ".join(["5"] * 500): "The list of blurs has more than 200 values. Use a shorter list or two sweeps.",
}


@pytest.mark.parametrize("blurs", BLURS)
def test_bad_lists_of_blurs_are_refused_while_the_graph_is_validated(server, blurs):
    with pytest.raises(HostError) as refused:
        server.client.queue(graph(sweep__blurs=blurs))
    assert BLURS[blurs] in str(refused.value)


def test_a_workflow_that_the_host_would_run_in_part_is_refused(server):
    part = {"picture": {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 0}}}
    part["shown"] = {"class_type": "PreviewImage", "inputs": {"images": ["picture", 0]}}
    part["unlinked"] = {"class_type": "PreviewImage", "inputs": {}}
    with pytest.raises(HostError, match=r"a part of it\n  node unlinked \(PreviewImage\): Required input is missing"):
        server.client.queue(part)


def test_a_missing_adapter_of_a_shared_workflow_is_named(server):
    with pytest.raises(HostError) as refused:
        server.client.queue(graph(adapter__adapter="portraits/soft.safetensors"))
    assert (
        'The adapter "portraits/soft.safetensors" is not on this machine (looked in the model folder bokeh_adapters). '
        "Put the file there, or choose another adapter in the loader's list."
    ) in str(refused.value)


def test_a_batch_of_several_latents_is_as_many_scenes(server):
    few = {"sampler__steps": 2, "sweep__blurs": "0, 15"}
    one = pictures(server, server.client.run(graph(**few), timeout=300), "single")
    two = pictures(server, server.client.run(graph(size__batch_size=2, **few), timeout=300), "single")
    assert (len(one), len(two)) == (2, 4)


def test_an_adapter_for_another_width_is_refused_by_name(server):
    write_official(server.models / "bokeh_adapters" / "small", official_tensors(64, [0, 1]))
    with pytest.raises(HostError) as failed:
        server.client.run(graph(adapter__adapter="small/model.safetensors"), timeout=120)
    assert "is made for a model of width 64, but this model's width is 256." in str(failed.value)


def test_an_interrupt_in_the_middle_leaves_the_next_entry_unharmed(server):
    few = {"sampler__steps": 2, "sweep__blurs": "0, 15, 30"}
    expected = pictures(server, server.client.run(graph(**few), timeout=300), "single")
    sampling = threading.Event()

    def on_wait():
        if "/5000 [" in server.log_tail(1):
            sampling.set()

    def stop():
        assert sampling.wait(120)
        server.client.interrupt()

    stopper = threading.Thread(target=stop)
    stopper.start()
    started = time.monotonic()
    with pytest.raises(HostError, match="interrupted"):
        server.client.run(graph(**few | {"sampler__steps": 5000}), on_wait, timeout=300)
    stopper.join()
    assert time.monotonic() - started < 120
    # Another seed first: the host would hand out the first run's pictures from its cache.
    server.client.run(graph(**few, sampler__seed=7), timeout=300)
    again = pictures(server, server.client.run(graph(**few), timeout=300), "single")
    for ours, before in zip(again, expected, strict=True):
        assert np.array_equal(ours, before)


def test_the_golden_adapters_are_listed_with_their_folders_and_nothing_else(server):
    folder = server.models / "bokeh_adapters"
    (folder / "notes").mkdir(parents=True, exist_ok=True)
    (folder / "notes" / "read me.txt").write_text("not an adapter")
    write_official(folder / "golden", official_tensors(32, [0]))
    (folder / "golden" / "kontext.bin").write_bytes((DATA / "golden/kontext/adapter/bokeh_lora.bin").read_bytes())
    choices = server.client.object_info()["BokehLoadAdapter"]["input"]["required"]["adapter"]
    listed = choices[0] if isinstance(choices[0], list) else choices[1]["options"]
    names = [name.replace("\\", "/") for name in listed]
    assert "golden/model.safetensors" in names
    assert "golden/kontext.bin" in names
    assert not any("read me" in name or "config.json" in name for name in names)
    assert sum(name.startswith("download: ") for name in names) == 5
