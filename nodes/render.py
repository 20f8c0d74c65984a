"""Defocus of a photo by its depth map."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import comfy.model_management
import torch
from comfy.utils import ProgressBar
from comfy_api.latest import io, ui
from torch import Tensor

from ..optics.check import BLADES, STRONGEST
from ..optics.depth import AS_IS, EACH, SHARED, focus_at, focus_in
from ..optics.discs import drawn_aperture
from ..optics.focus import Focus, in_words
from ..optics.render import bytes_for, render_defocus
from ..sweep.values import Scale, Sweep, parse_values
from .depth import INVERSE, METRES, check_within, defocus_outputs, depth_is_input, focus_point, read_disparity, slider
from .device import where_it_fits
from .schema import FOCUS, SWEEP, schema, validation

_POINT, _VALUE = "point", "value"
_ROUND = "round"
# Steps of the progress bar for a picture.
_STEPS = 100
_BLURS = Scale("blur", 0.0, STRONGEST, ("0, 4, 8, 15, 30", "0..30/7"), "0 is sharp, 30 a strong defocus.")


class BokehRender(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "depth map",
            "lens blur",
            "refocus",
            "portrait mode",
            idle={
                "depth_is": ["focus"],
                "depth_range": ["focus", f"depth_is={METRES}", f"depth_is={INVERSE}"],
                "repair": ["focus"],
                "blurs": ["focus", "lens_blur"],
                "focus_by": ["focus", "mask"],
                "focus_x": ["focus", "mask", f"focus_by={_VALUE}"],
                "focus_y": ["focus", "mask", f"focus_by={_VALUE}"],
                "focus_value": ["focus", "mask", f"focus_by={_POINT}"],
                "blades": ["aperture"],
                "rotation": ["aperture", f"blades={_ROUND}"],
            },
            node_id="BokehRender",
            display_name="Bokeh Render",
            description="Blurs a sharp picture by its depth map the way a lens does: fast, exact and without a model. "
            "One blur, a whole sweep, or what Bokeh Focus chose.",
            inputs=[
                io.Image.Input("image", tooltip="The picture, sharp everywhere. A batch is possible with one blur."),
                io.Image.Input(
                    "depth",
                    optional=True,
                    tooltip="Its depth map in grey, from any depth node. Not needed with the focus of Bokeh Focus.",
                ),
                FOCUS.Input(
                    "focus",
                    optional=True,
                    tooltip="From Bokeh Focus: depth, plane of focus, sharp range and blur. Everything below down to "
                    "focus_value is not used then.",
                ),
                depth_is_input("With real distances the blur K of a lens gives its true discs."),
                io.Combo.Input(
                    "depth_range",
                    options=[SHARED, EACH, AS_IS],
                    tooltip="What the farthest and the nearest thing of a grey map are: those of the whole batch, so "
                    "that a clip does not pump; those of each picture; or black and white themselves.",
                ),
                io.Boolean.Input(
                    "repair",
                    default=True,
                    tooltip="Make the soft edges of the depth map hard, for between two things there is no third one; "
                    "a map much smaller than the picture takes its edges from the picture. Off: the map as it came.",
                ),
                io.String.Input(
                    "blurs",
                    default="15",
                    tooltip="One blur, 0 = sharp, 30 = strong, or several as in Bokeh Sweep: 0, 4, 8, 15, 30 or "
                    "0..30/7, which means seven values evenly spaced from 0 to 30. One picture is made for each.",
                ),
                io.Float.Input(
                    "lens_blur",
                    optional=True,
                    force_input=True,
                    tooltip="K of Bokeh Lens, which goes before blurs: pixels for each 1/m, for a depth map in metres "
                    "or 1/m.",
                ),
                io.Combo.Input(
                    "focus_by",
                    options=[_POINT, _VALUE],
                    tooltip="What is sharp: what lies at the point below, or the depth of the value below. A mask goes "
                    "before both.",
                ),
                *focus_point(),
                slider("focus_value", 0.5, 1.0, "For focus by value: 0 = the farthest thing, 1 = the nearest one."),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="White on what is to be sharp; the median of its depth is the focus.",
                ),
                io.Combo.Input(
                    "blades",
                    options=[_ROUND, *(str(count) for count in BLADES if count)],
                    tooltip="Shape of the aperture, and so of blurred lights: round, or a polygon of that many blades.",
                ),
                slider("rotation", 0.0, 90.0, "Turns the polygon, in degrees."),
                io.Mask.Input(
                    "aperture",
                    optional=True,
                    tooltip="A drawn shape, white where light passes, in place of blades and rotation: a heart, a "
                    "star, a ring, the oval of an anamorphic lens.",
                ),
                slider(
                    "cats_eye",
                    0.0,
                    1.0,
                    "How much blurred lights are squeezed towards the corners, as by the barrel of a fast lens: "
                    "0 = not at all.",
                ),
                slider(
                    "highlight",
                    0.0,
                    10.0,
                    "Makes blurred lights glow: how much brighter than white a pixel that is cut off at white is taken "
                    "to have been, in times of white. 0 = off; 1 to 4 suit lamps and reflections.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="images", tooltip="The rendered pictures, one for each blur."),
                SWEEP.Output(
                    display_name="sweep",
                    tooltip="Which picture shows which blur or focus; for the sweep's view, grid, report and files.",
                ),
                *defocus_outputs(),
            ],
        )

    @classmethod
    def validate_inputs(cls, blurs: str | None) -> bool | str:
        return validation(_parse, blurs)

    @classmethod
    def execute(
        cls,
        image,
        depth_is: str,
        depth_range: str,
        repair: bool,
        blurs: str,
        focus_by: str,
        focus_x: float,
        focus_y: float,
        focus_value: float,
        blades: str,
        rotation: float,
        cats_eye: float,
        highlight: float,
        depth=None,
        focus: Focus | None = None,
        lens_blur: float | None = None,
        mask=None,
        aperture=None,
    ) -> io.NodeOutput:
        bar = ProgressBar(_STEPS)

        def tell() -> None:
            comfy.model_management.throw_exception_if_processing_interrupted()
            bar.update_absolute(0)

        tell()
        notes: list[str] = []
        sweep = None
        if focus is None:
            values = _parse(blurs) if lens_blur is None else (lens_blur,)
            disparity, metric, notes = _disparity(depth, depth_is, depth_range, image, repair, tell)
            if lens_blur is not None and not metric:
                notes.append(
                    "The blur of a lens counts for each 1/m, and this depth map has no unit: it was used as is."
                )
            if mask is not None:
                plane, mask_notes = focus_in(disparity, mask, tell)
                notes += mask_notes
            elif focus_by == _POINT:
                plane = focus_at(disparity, focus_x, focus_y)
            else:
                check_within("focus_value", focus_value, 1.0)
                low, high = disparity.aminmax() if metric else (0.0, 1.0)
                plane = disparity.new_full((len(image),), float(low + focus_value * (high - low)))
            focus, sweep = _focused(disparity, metric, plane, values)
        if len(image) not in (1, len(focus)):
            raise ValueError(
                f"{len(image)} pictures came with the focus of {len(focus)}. Connect the same pictures to Bokeh "
                "Focus, or one picture."
            )
        size, own = tuple(focus.disparity.shape[1:]), tuple(image.shape[1:3])
        if size != own:
            raise ValueError(
                f"The focus is for a picture of {size[1]} x {size[0]}, but the picture is {own[1]} x {own[0]}. Connect "
                "the same picture to Bokeh Focus."
            )
        lens = {"blades": 0 if blades == _ROUND else int(blades), "rotation": rotation, "cats_eye": cats_eye}
        shape = None if aperture is None else drawn_aperture(aperture.reshape(-1, *aperture.shape[-2:])[0])
        images, defocus, in_focus = _render(
            image[..., :3], focus, {**lens, "aperture": shape, "highlight": highlight, "behind": True}
        )
        text = "\n".join(f"- {line}" for line in (_in_words(focus), *notes))
        return io.NodeOutput(images, sweep or _sweep(focus), defocus, in_focus, ui=ui.PreviewText(text))


def _parse(blurs: str) -> tuple[float, ...]:
    return parse_values(blurs, _BLURS)


def _disparity(
    depth: Tensor | None, depth_is: str, depth_range: str, image: Tensor, repair: bool, on_map: Callable[[], None]
) -> tuple[Tensor, bool, list[str]]:
    """Disparity [B, H, W], whether it is in 1/m, and sentences for the user."""
    if depth is None:
        raise ValueError("There is no depth. Connect the picture's depth map, or the focus of Bokeh Focus.")
    size = tuple(image.shape[1:3])
    return read_disparity(depth, depth_is, len(image), size, depth_range, on_map, image if repair else None)


def _focused(disparity: Tensor, metric: bool, plane: Tensor, blurs: tuple[float, ...]) -> tuple[Focus, Sweep]:
    """One picture focused at its plane at each of the blurs, or several at one."""
    count = len(plane)
    if count > 1 and len(blurs) > 1:
        raise ValueError(
            f"{count} pictures came and {len(blurs)} blurs were asked for, but a sweep is one scene. Connect one "
            "picture, or ask for one blur."
        )
    values = blurs * count
    return Focus(disparity, metric, plane.expand(len(values)), plane.new_tensor(values)), Sweep(values)


def _sweep(focus: Focus) -> Sweep:
    return focus.sweep if focus.swept else Sweep(tuple(focus.blur.tolist()))


def _render(image: Tensor, focus: Focus, lens: dict) -> tuple[Tensor, Tensor, Tensor]:
    """A picture [N, H, W, 3], signed radii and what is in focus [N, H, W] for each row of the focus."""
    count, (height, width) = len(focus), image.shape[1:3]
    bar = ProgressBar(count * _STEPS)
    defocus, in_focus = (torch.empty(count, height, width) for _ in range(2))
    images = torch.empty(count, height, width, 3)
    render = where_it_fits(render_defocus, bytes_for(height, width))

    def on_part(done: int, parts: int) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        bar.update_absolute(min(row * _STEPS + done * _STEPS // parts, count * _STEPS))

    for row in range(count):
        on_part(0, 1)
        defocus[row], in_focus[row] = focus.defocus(row), focus.in_focus(row)
        picture = image[row if len(image) > 1 else 0]
        images[row] = render(picture, defocus[row], on_part=on_part, **lens)
    return images, defocus, in_focus


def _in_words(focus: Focus) -> str:
    """Of a sweep of blurs the strongest says what is sharp."""
    if len(focus.disparity) > 1 or focus.plane.min() < focus.plane.max():
        return in_words(focus)
    strongest = int(focus.blur.argmax())
    row = slice(strongest, strongest + 1)
    return in_words(replace(focus, plane=focus.plane[row], blur=focus.blur[row]))
