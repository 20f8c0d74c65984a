"""Defocus of a photo by its depth map."""

from __future__ import annotations

import comfy.model_management
import torch
from comfy.utils import ProgressBar
from comfy_api.latest import io, ui
from torch import Tensor

from ..optics.check import BLADES
from ..optics.defocus import disc_radius
from ..optics.depth import disparity_of, focus_at, focus_in
from ..optics.render import render_depth
from ..sweep.values import Sweep, format_value, parse_blurs
from .schema import SWEEP, schema, validation

_POINT, _VALUE = "point", "value"
_ROUND = "round"
# Steps of the progress bar for a picture.
_STEPS = 100


class BokehRender(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "depth map",
            "lens blur",
            "refocus",
            "portrait mode",
            node_id="BokehRender",
            display_name="Bokeh Render",
            description="Blurs a sharp picture by its depth map the way a lens does: fast, exact and without a model. "
            "One blur or a whole sweep.",
            inputs=[
                io.Image.Input("image", tooltip="The picture, sharp everywhere. A batch is possible with one blur."),
                io.Image.Input("depth", tooltip="Its depth map in grey, from any depth node."),
                io.Combo.Input(
                    "near",
                    options=["bright", "dark"],
                    tooltip="Whether near things are bright or dark in the depth map. Depth Anything and MiDaS make "
                    "them bright.",
                ),
                io.String.Input(
                    "blurs",
                    default="15",
                    tooltip="One blur from 0 (sharp) to 30 (strongest), or several as in Bokeh Sweep: 0, 4, 8, 15, 30 "
                    "or 0..30/7, which means seven values evenly spaced from 0 to 30. One picture is made for each.",
                ),
                io.Combo.Input(
                    "focus_by",
                    options=[_POINT, _VALUE],
                    tooltip="What is sharp: what lies at the point below, or the depth of the value below. A mask goes "
                    "before both.",
                ),
                _slider("focus_x", 0.5, 1.0, "The point to focus on: 0 = left edge of the picture, 1 = right edge."),
                _slider("focus_y", 0.5, 1.0, "The point to focus on: 0 = upper edge of the picture, 1 = lower edge."),
                _slider("focus", 0.5, 1.0, "For focus by value: 0 = the farthest thing, 1 = the nearest one."),
                io.Combo.Input(
                    "blades",
                    options=[_ROUND, *(str(count) for count in BLADES if count)],
                    tooltip="Shape of the aperture, and so of blurred lights: round, or a polygon of that many blades.",
                ),
                _slider("rotation", 0.0, 90.0, "Turns the polygon, in degrees."),
                _slider(
                    "cats_eye",
                    0.0,
                    1.0,
                    "How much blurred lights are squeezed towards the corners, as by the barrel of a fast lens: "
                    "0 = not at all.",
                ),
                _slider(
                    "highlight",
                    0.0,
                    10.0,
                    "Makes blurred lights glow: how much brighter than white a white pixel is taken to have been, in "
                    "times of white. 0 = off; 1 to 4 suit lamps and reflections.",
                ),
                io.Float.Input(
                    "gamma",
                    default=2.2,
                    min=1.0,
                    max=4.0,
                    step=0.1,
                    tooltip="How pixel values become light: 2.2 is right for ordinary pictures, 1 blurs the values "
                    "themselves, which makes blurred lights dull.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="White on what is to be sharp; the median of its depth is the focus.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="images", tooltip="The rendered pictures, one for each blur."),
                SWEEP.Output(
                    display_name="sweep",
                    tooltip="Which picture shows which blur; for the sweep's view, grid, report and files.",
                ),
            ],
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(cls, blurs: str | None) -> bool | str:
        return validation(parse_blurs, blurs)

    @classmethod
    def execute(
        cls,
        image,
        depth,
        near: str,
        blurs: str,
        focus_by: str,
        focus_x: float,
        focus_y: float,
        focus: float,
        blades: str,
        rotation: float,
        cats_eye: float,
        highlight: float,
        gamma: float,
        mask=None,
    ) -> io.NodeOutput:
        values, count = parse_blurs(blurs), len(image)
        if count > 1 and len(values) > 1:
            raise ValueError(
                f"{count} pictures came and {len(values)} blurs were asked for, but a sweep is one scene. Connect one "
                "picture, or ask for one blur."
            )
        device = comfy.model_management.get_torch_device()
        disparity, notes = disparity_of(depth.to(device), near == "bright", count, tuple(image.shape[1:3]))
        if mask is not None:
            plane, mask_notes = focus_in(disparity, mask)
            notes += mask_notes
        else:
            plane = focus_at(disparity, focus_x, focus_y) if focus_by == _POINT else disparity.new_full((count,), focus)
        lens = {"blades": 0 if blades == _ROUND else int(blades), "rotation": rotation, "cats_eye": cats_eye}
        images = _render(image[..., :3], disparity, plane, values, {**lens, "highlight": highlight, "gamma": gamma})
        sweep = Sweep(values * count)
        text = "\n".join(f"- {line}" for line in (_in_words(disparity, plane, max(values)), *notes))
        return io.NodeOutput(images, sweep, ui=ui.PreviewText(text))


def _slider(id: str, default: float, last: float, tooltip: str) -> io.Float.Input:
    return io.Float.Input(
        id,
        default=default,
        min=0.0,
        max=last,
        step=last / 100,
        round=0.001,
        display_mode=io.NumberDisplay.slider,
        tooltip=tooltip,
    )


def _render(image: Tensor, disparity: Tensor, focus: Tensor, blurs: tuple[float, ...], lens: dict) -> Tensor:
    """One picture for each blur, or for each of several pictures; on the image's device, work on the disparity's."""
    jobs = [(blur, row) for blur in blurs for row in range(len(image))]
    bar = ProgressBar(len(jobs) * _STEPS)

    def render(job: int, blur: float, row: int) -> Tensor:
        def on_part(done: int, parts: int) -> None:
            bar.update_absolute((job * parts + done) * _STEPS // parts)
            comfy.model_management.throw_exception_if_processing_interrupted()

        rows = slice(row, row + 1)
        source = image[rows].to(disparity.device)
        return render_depth(source, disparity[rows], focus[rows], blur, **lens, on_part=on_part).to(image.device)

    # One at a time: the maps of a long batch together may not fit into the memory.
    return torch.cat([render(job, blur, row) for job, (blur, row) in enumerate(jobs)])


def _in_words(disparity: Tensor, focus: Tensor, blur: float) -> str:
    defocus = (disparity - focus[:, None, None]).abs().max()
    radius = disc_radius(blur, defocus, min(disparity.shape[1:])).item()
    planes = sorted({format_value(value) for value in focus.tolist()}, key=float)
    between = planes[0] if len(planes) == 1 else f"{planes[0]} to {planes[-1]}"
    return f"focus at {between} (0 = far, 1 = near); the largest disc has a radius of {radius:.1f} px"
