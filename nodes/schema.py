"""What the schemas of all nodes share: the socket types, the category and the search words."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import folder_paths
from comfy_api.latest import io

from ..host import make_findable
from ..sweep.values import BLUR_MAX, BLUR_MIN

ADAPTER = io.Custom("BOKEH_ADAPTER")
FOCUS = io.Custom("BOKEH_FOCUS")
PAIRS = io.Custom("BOKEH_PAIRS")
PIVOT = io.Custom("BOKEH_PIVOT")
SWEEP = io.Custom("BOKEH_SWEEP")

IMAGES_TOOLTIP = "The decoded pictures of the sweep, one for each blur, in the sweep's order."
SWEEP_TOOLTIP = "From Bokeh Sweep: says which picture shows which blur."

# Where a node stands in the menu, and the words of photography under which a person looks for it.
_PLACES: dict[str, tuple[str, tuple[str, ...]]] = {
    "BokehBlur": ("blur", ("aperture", "defocus", "background blur", "focus")),
    "BokehLora": ("blur", ("aperture", "depth of field", "slider")),
    "BokehWords": ("blur", ("aperture", "depth of field", "background blur")),
    "BokehSweep": ("blur", ("aperture", "focus stack", "blur levels")),
    "BokehAllInFocus": ("photo", ("deblur", "sharpen", "genfocus")),
    "BokehFocus": ("photo", ("depth of field", "dof", "refocus", "focus", "tap to focus")),
    "BokehInvert": ("photo", ("refocus",)),
    "BokehLens": ("photo", ("aperture", "f-stop", "depth of field", "dof")),
    "BokehPortrait": ("photo", ("portrait mode", "depth of field")),
    "BokehRefocus": ("photo", ("refocus", "genfocus", "focus plane")),
    "BokehRender": ("photo", ("depth of field", "dof", "refocus", "defocus", "lens blur", "focus")),
    "BokehMatchColors": ("results", ()),
    "BokehReport": ("results", ()),
    "BokehSweepGrid": ("results", ()),
    "BokehSweepSave": ("results", ()),
    "BokehSweepView": ("results", ("aperture ring",)),
    "BokehStage": ("semantic", ("background blur",)),
    "BokehStageSweep": ("semantic", ()),
    "BokehPairs": ("training", ()),
    "BokehSaveAdapter": ("training", ()),
    "BokehTrainAdapter": ("training", ()),
}
# Hosts whose search knows names only find these nodes by the words behind their names.
_IN_NAME = {
    "BokehBlur": "aperture, defocus",
    "BokehLens": "f-stop, depth of field",
    "BokehRender": "refocus by depth",
}


def schema(*search_words: str, idle: Mapping[str, Sequence[str]] | None = None, **fields) -> io.Schema:
    """An ``io.Schema`` of this pack, in its subcategory of bokeh, findable under ``search_words`` and under those words
    of photography that are about this node.

    ``idle``: which widgets change nothing when, so that the page hides them: with another input connected ("focus"), or
    with another widget at a value ("blades=round"); one condition is enough.
    """
    for entry in fields["inputs"]:
        if conditions := (idle or {}).get(entry.id):
            entry.extra_dict = {**entry.extra_dict, "bokeh_idle": list(conditions)}
    subcategory, words = _PLACES.get(fields["node_id"], ("blur", ()))
    made = io.Schema(category=f"bokeh/{subcategory}", **fields)
    return make_findable(made, list(dict.fromkeys([*search_words, *words])), _IN_NAME.get(made.node_id))


def blur_slider(id: str, tooltip: str, default: float = 15.0) -> io.Float.Input:
    """The blur slider, 0 (sharp) to 30 (strongest defocus)."""
    return io.Float.Input(
        id,
        default=default,
        min=BLUR_MIN,
        max=BLUR_MAX,
        step=0.1,
        round=0.01,
        display_mode=io.NumberDisplay.slider,
        tooltip=tooltip,
    )


def strength_input() -> io.Float.Input:
    """The strength of an adapter, the same on every node that applies one."""
    return io.Float.Input(
        "strength",
        default=1.0,
        min=0.0,
        max=2.0,
        step=0.05,
        tooltip="How strongly the adapter acts: 1 as it was trained, 0 leaves the model exactly as it came. "
        "Leave it at 1 and use blur for the amount of defocus.",
    )


def validation(check: Callable[..., object], *inputs: object) -> bool | str:
    """For ``validate_inputs``, before the run: True, or the sentence with which ``check`` refuses the inputs. Inputs
    that come over a link are None there; the run itself checks those."""
    if None in inputs:
        return True
    try:
        check(*inputs)
    except ValueError as error:
        return str(error)
    return True


def fingerprint(state: Callable[..., object], *inputs: object) -> object:
    """For ``fingerprint_inputs``: ``state`` of the inputs, what changes when the files behind them do. Inputs that come
    over a link are None there, and what they bring is known to the host; the same for a state that cannot be had. An
    exception, and this node and all behind it would run at every queue."""
    if None in inputs:
        return None
    try:
        return state(*inputs)
    except (OSError, ValueError) as error:
        return str(error)


def without_places(execute: Callable[..., io.NodeOutput]) -> Callable[..., io.NodeOutput]:
    """For an ``execute`` below which sentences name files: they say where in the host's folders a file is, and nothing
    of where on the server these are. Commands, whose person is at home there, get the whole path."""

    @functools.wraps(execute)
    def run(*args, **inputs) -> io.NodeOutput:
        try:
            return execute(*args, **inputs)
        except OSError as error:
            error.filename = error.filename and _placeless(str(error.filename))
            raise
        except ValueError as error:
            error.args = tuple(_placeless(part) if isinstance(part, str) else part for part in error.args)
            raise

    return run


def _placeless(text: str) -> str:
    folders = {
        folder_paths.get_output_directory(): "output",
        folder_paths.get_input_directory(): "input",
        folder_paths.get_temp_directory(): "temp",
        folder_paths.models_dir: "models",
        folder_paths.base_path: "ComfyUI",
        str(Path(__file__).parents[1]): "the Bokeh pack",
    }
    for folder in sorted(folders, key=len, reverse=True):
        for place in (os.path.realpath(folder), os.path.abspath(folder)):
            # Not the root of the disk, which every path has.
            text = text.replace(place, folders[folder]) if os.path.dirname(place) != place else text
    return text
