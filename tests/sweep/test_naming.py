"""Where a sweep may be saved, and what stands in a prefix."""

from __future__ import annotations

import os
from datetime import datetime

import nodes
import pytest
from saving import PROMPT, pictures, save

from bokeh.sweep.export import ExportError
from bokeh.sweep.values import Sweep


@pytest.mark.parametrize("prefix", ["../sweep", "/sweep", "bokeh/../../sweep", "..", "bokeh/../../output2/sweep"])
def test_a_prefix_that_leads_outside(output, prefix):
    expected = f'The filename prefix "{prefix}" leads outside the output folder. Write a name inside it, '
    expected += 'such as "bokeh/sweep".'
    with pytest.raises(ExportError) as error:
        save(pictures(1), Sweep((0.0,)), filename_prefix=prefix)
    assert str(error.value) == expected
    assert nodes.NODE_CLASS_MAPPINGS["BokehSweepSave"].validate_inputs(filename_prefix=prefix) == expected
    assert os.listdir(output) == []
    assert os.listdir(output.parent) == ["output"]


@pytest.mark.parametrize("prefix", ["", "  ", ".", "bokeh/.."])
def test_a_prefix_that_names_nothing(output, prefix):
    expected = (
        f'The filename prefix "{prefix}" names no folder. Write a name such as "bokeh/sweep"; every save makes '
        "a new folder of that name with a number."
    )
    with pytest.raises(ExportError) as error:
        save(pictures(1), Sweep((0.0,)), filename_prefix=prefix)
    assert str(error.value) == expected
    assert nodes.NODE_CLASS_MAPPINGS["BokehSweepSave"].validate_inputs(filename_prefix=prefix) == expected
    assert os.listdir(output) == []


@pytest.mark.parametrize(
    ("prefix", "what"), [("a\0b", "holds characters"), ("x" * 300, "is too long"), ("\ud800", "holds")]
)
def test_a_prefix_that_is_no_name(output, prefix, what):
    sentence = nodes.NODE_CLASS_MAPPINGS["BokehSweepSave"].validate_inputs(filename_prefix=prefix)
    assert what in sentence
    assert sentence.endswith('Write a name such as "bokeh/sweep".')
    with pytest.raises(ExportError) as error:
        save(pictures(1), Sweep((0.0,)), filename_prefix=prefix)
    assert str(error.value) == sentence


WORKFLOW = {"nodes": [{"id": 3, "type": "KSampler", "title": "Mine", "properties": {"Node name for S&R": "Sampler"}}]}


@pytest.mark.parametrize(
    ("prefix", "folder"),
    [
        ("%date:yyyy-MM-dd%/%KSampler.steps%", lambda now: f"{now:%Y-%m-%d}/20"),
        ("%date:yy.M.d hh%", lambda now: f"{now:%y}.{now.month}.{now.day} {now:%H}"),
        ("a/%Sampler.seed%_%Mine.steps%", f"a/{2**60 + 1}_20"),
        ("%BokehSweepSave.filename_prefix%", "bokeh_sweep"),
        ("%KSampler.model%-%nobody.x%-%KSampler.nothing%", "%KSampler.model%-%nobody.x%-%KSampler.nothing%"),
        ("%Trap.up%/%Trap.out%", "_/.._.._x"),
        ("%width%x%Trap.yes%", "56xtrue"),
        ("%date:yyyy/MM:dd%", lambda now: f"{now:%Y/%m_%d}"),
        ("100%/x_5.0%", "100%/x_5.0%"),
        ("%Trap.long%", "y" * 60),
    ],
)
def test_prefix_takes_what_the_page_fills_for_the_hosts_own_nodes(output, prefix, folder):
    """Here without the page: it fills them for the host's nodes only, and a program that queues a graph for none."""
    trap = {"class_type": "Trap", "inputs": {"up": "..", "out": "../../x", "yes": True, "long": "y" * 5000}}
    assert nodes.NODE_CLASS_MAPPINGS["BokehSweepSave"].validate_inputs(filename_prefix=prefix) is True
    before = datetime.now()
    save(
        *(pictures(1), Sweep((0.0,))),
        prompt={**PROMPT, "5": trap},
        extra={"workflow": WORKFLOW},
        filename_prefix=prefix,
        animation=False,
    )
    # The hour may have changed meanwhile.
    folders = [folder(now) if callable(folder) else folder for now in (before, datetime.now())]
    assert any((output / f"{name}_00001_" / "sweep.json").is_file() for name in folders)


@pytest.mark.parametrize("prefix", ["bokeh/sweep", None])
def test_a_good_or_linked_prefix_is_accepted(output, prefix):
    assert nodes.NODE_CLASS_MAPPINGS["BokehSweepSave"].validate_inputs(filename_prefix=prefix) is True
