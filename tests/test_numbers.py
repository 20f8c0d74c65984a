"""Numbers that mean nothing, from a script or over a link: every node names them before it does anything."""

from __future__ import annotations

import inspect

import nodes as host_nodes
import pytest
from comfy_api.latest import io

import bokeh

NODES = [node for node in host_nodes.NODE_CLASS_MAPPINGS.values() if node.__module__.startswith(f"{bokeh.__name__}.")]
NUMBERS = [
    (node, entry)
    for node in NODES
    for entry in node.GET_SCHEMA().inputs
    if isinstance(entry, io.Float.Input | io.Int.Input)
]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1e300, 10**5000], ids=["nan", "inf", "low", "long"])
def test_a_number_that_means_nothing_is_named_before_anything_else(value):
    assert len(NUMBERS) > 30
    for node, entry in NUMBERS:
        # Nothing else is there: a node that looked at another input first would fail on it.
        inputs = dict.fromkeys(list(inspect.signature(node.execute).parameters))
        with pytest.raises(ValueError, match=rf"^{entry.id} is .*, expected a number.*\. Change it") as refused:
            node.EXECUTE_NORMALIZED(**{**inputs, entry.id: value})
        assert len(str(refused.value)) < 200


def test_tiny_numbers_are_named_where_they_would_be_divided_by():
    for node, entry in NUMBERS:
        inputs = dict.fromkeys(list(inspect.signature(node.execute).parameters))
        if (entry.min or 0) > 0:
            with pytest.raises(ValueError, match=f"^{entry.id} is 1e-300, expected"):
                node.EXECUTE_NORMALIZED(**{**inputs, entry.id: 1e-300})
