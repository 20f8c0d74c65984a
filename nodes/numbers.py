"""The check of a node's numbers and pictures before it runs."""

from __future__ import annotations

import functools
import inspect

from comfy_api.latest import io
from torch import Tensor

# Above every seed.
HUGE = 1e20


def checked(node: type[io.ComfyNode]) -> type[io.ComfyNode]:
    """``node``, which refuses numbers that mean nothing (NaN, infinity, 1e300, 1e-300) before it does anything, and
    pictures without a pixel or of a form that no picture has.

    The host compares with < and >, which NaN passes, and looks at no number that comes over a link. What is merely out
    of range the nodes say themselves, in their own terms.
    """
    execute = node.execute.__func__
    signature = inspect.signature(execute)
    # Not GET_SCHEMA: the host runs a locked clone of the class, which cannot keep what that makes.
    schema = functools.cache(node.define_schema)

    @functools.wraps(execute)
    def run(cls: type[io.ComfyNode], *args: object, **inputs: object) -> io.NodeOutput:
        _check(schema(), signature.bind(cls, *args, **inputs).arguments)
        return execute(cls, *args, **inputs)

    node.execute = classmethod(run)
    return node


def _check(schema: io.Schema, inputs: dict[str, object]) -> None:
    for entry in schema.inputs:
        value = inputs.get(entry.id)
        if isinstance(value, Tensor):
            _check_picture(entry, value)
        if not isinstance(entry, io.Float.Input | io.Int.Input) or not isinstance(value, int | float):
            continue
        # Also false for NaN.
        if -HUGE < value < HUGE and not 0 < value < (entry.min or 0):
            continue
        expected = "a number" if entry.min is None else f"a number from {entry.min:g} to {entry.max:g}"
        # Python writes no integer of thousands of digits.
        shown = value if isinstance(value, float) else "a number of very many digits"
        raise ValueError(f"{entry.id} is {shown}, expected {expected}. Change it, or what is connected to it.")


def _check_picture(entry: io.Input, value: Tensor) -> None:
    """Of a mask and of depth, which may be grey, only that something is there."""
    is_picture = isinstance(entry, io.Image.Input)
    is_colour = is_picture and entry.id != "depth"
    if value.numel() and not (is_picture and value.ndim != 4) and not (is_colour and value.shape[-1] not in (3, 4)):
        return
    expected = f"[B, H, W, {'3 or 4' if is_colour else 'C'}]" if is_picture else "[B, H, W]"
    what = "an IMAGE" if is_picture else "a MASK"
    raise ValueError(
        f"{entry.id} has the shape {list(value.shape)}, expected {expected}, none of them 0. Connect {what} output "
        "with pictures in it."
    )
