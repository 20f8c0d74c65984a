"""Where a picture is in focus, and through which lens."""

from __future__ import annotations

from collections.abc import Callable

import comfy.model_management
import torch
import torch.nn.functional as F
from comfy.utils import ProgressBar
from comfy_api.latest import io, ui
from torch import Tensor

from ..optics.check import STRONGEST, check_finite
from ..optics.depth import AS_IS, SHARED, focus_at, focus_in
from ..optics.focus import (
    LENSES,
    SHARP_DISC,
    Focus,
    Lens,
    blurs_of,
    in_words,
    parse_planes,
    pulled,
    scaled,
    smoothed,
)
from ..optics.lens import SENSORS
from .depth import BRIGHT, METRES, check_within, defocus_outputs, depth_is_input, focus_point, read_disparity, slider
from .schema import FOCUS, blur_slider, schema

_POINT, _MASK, _DISTANCES = "point", "mask", "distances"
_OFF, _EVEN, _EASED = "off", "even", "eased"
_OWN, _BLUR = "own lens", "blur"
# Deviation in frames of the mean over time that a clip's plane of focus is.
_CALM = 3.0
# Longer side of the copies that the page draws its preview from.
_PREVIEW_SIDE = 768

_GEOMETRY = io.Custom("MOGE_GEOMETRY")


class BokehFocus(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "focus point",
            "refocus",
            "rack focus",
            "lens presets",
            idle={
                "nearest": [f"lens={_BLUR}"],
                "farthest": [f"lens={_BLUR}"],
                "focus_x": [f"focus_by={_MASK}", f"focus_by={_DISTANCES}"],
                "focus_y": [f"focus_by={_MASK}", f"focus_by={_DISTANCES}"],
                "distances": [f"focus_by={_POINT}", f"focus_by={_MASK}"],
                "pull_x": [f"pull={_OFF}"],
                "pull_y": [f"pull={_OFF}"],
                "pull_steps": [f"pull={_OFF}"],
                "f_number": [f"lens={_BLUR}"],
                "focal_length": [f"lens={_BLUR}", *(f"lens={lens}" for lens in LENSES)],
                "sensor": [f"lens={_BLUR}", *(f"lens={lens}" for lens in LENSES)],
                "blur": [f"lens={lens}" for lens in (*LENSES, _OWN)],
            },
            node_id="BokehFocus",
            display_name="Bokeh Focus",
            description="Choose what is in focus by a click in the picture, and the aperture by a turn of the ring.",
            inputs=[
                io.Image.Input("image", tooltip="The picture, or the frames of a clip."),
                io.MultiType.Input(
                    "depth",
                    types=[io.Image, _GEOMETRY],
                    optional=True,
                    tooltip="Its depth: a grey map from any depth node, distances in metres, or the geometry of MoGe, "
                    "which is in metres. Without one, the mask is the depth: the subject near, everything else far.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="White on the subject. The depth where there is no other, and what focus by mask focuses "
                    "on.",
                ),
                depth_is_input("The geometry of MoGe is always in metres."),
                _metres("nearest", 1.0, "For a grey map and a lens: how far away the nearest thing is, in metres."),
                _metres("farthest", 10.0, "For a grey map and a lens: how far away the farthest thing is, in metres."),
                io.Combo.Input(
                    "focus_by",
                    options=[_POINT, _MASK, _DISTANCES],
                    tooltip="What is sharp: what lies at the point below, what the mask shows, or the distances below.",
                ),
                *focus_point(),
                io.String.Input(
                    "distances",
                    default="2",
                    tooltip="For focus by distances: metres where the depth is in metres or a lens is chosen, else 0 "
                    "(far) to 1 (near). Several are a sweep: 1.2, 2, 4 or 1..4/7, seven from 1 to 4.",
                ),
                io.Combo.Input(
                    "pull",
                    options=[_OFF, _EVEN, _EASED],
                    tooltip="Pull the focus from what is chosen above to the point below: evenly, or starting and "
                    "ending slowly. Over the frames of a clip, or as a sweep of one picture.",
                ),
                slider("pull_x", 0.5, 1.0, "Where the pull ends: 0 = left edge, 1 = right edge."),
                slider("pull_y", 0.5, 1.0, "Where the pull ends: 0 = upper edge, 1 = lower edge."),
                io.Int.Input(
                    "pull_steps",
                    default=7,
                    min=2,
                    max=200,
                    tooltip="How many pictures a pull makes of one picture. A clip has its frames.",
                ),
                io.Combo.Input(
                    "lens",
                    options=[*LENSES, _OWN, _BLUR],
                    tooltip="A lens on its sensor; own lens takes the values below, blur a strength without any lens.",
                ),
                io.Float.Input(
                    "f_number",
                    default=0.0,
                    min=0.0,
                    max=64.0,
                    step=0.1,
                    round=0.001,
                    tooltip="The aperture: 1.8 for f/1.8; a smaller number blurs more. 0 = as written on the lens.",
                ),
                io.Float.Input(
                    "focal_length",
                    default=50.0,
                    min=1.0,
                    max=2000.0,
                    step=1.0,
                    round=0.001,
                    tooltip="For the own lens: its focal length in mm, not the equivalent for full frame.",
                ),
                io.Combo.Input("sensor", options=list(SENSORS), tooltip="For the own lens: the camera's sensor."),
                blur_slider(
                    "blur",
                    "For blur: radius in pixels of the farthest thing's discs when the nearest is in focus, in a "
                    "picture of 512 px on its short side. 0 = sharp, 30 = strongest.",
                ),
                slider(
                    "sharp",
                    0.0,
                    1.0,
                    "Keep a range around the focus sharp as well: a part of the whole depth. 0 = as a lens does.",
                ),
            ],
            outputs=[
                FOCUS.Output(display_name="focus", tooltip="Goes into Bokeh Render."),
                *defocus_outputs(),
                io.String.Output(display_name="text", tooltip="Focus, what is sharp and the largest disc in words."),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls,
        image,
        depth_is: str,
        nearest: float,
        farthest: float,
        focus_by: str,
        focus_x: float,
        focus_y: float,
        distances: str,
        pull: str,
        pull_x: float,
        pull_y: float,
        pull_steps: int,
        lens: str,
        f_number: float,
        focal_length: float,
        sensor: str,
        blur: float,
        sharp: float,
        depth=None,
        mask=None,
    ) -> io.NodeOutput:
        check_finite(image, "pictures")
        check_within("sharp", sharp, 1.0)
        count, size = len(image), tuple(image.shape[1:3])
        frames = _Frames(3 * count)
        disparity, known, notes = _disparity(depth, mask, depth_is, image, frames.done)
        if disparity.min() == disparity.max():
            raise ValueError("The depth map has the same distance everywhere: there is nothing to be out of focus.")
        shown = _copies(cls, image[:1], disparity)
        metric = known
        if lens != _BLUR and not known:
            disparity, metric = scaled(disparity, nearest, farthest), True
            notes.append(f"The depth is grey: nearest and farthest were taken as {nearest:g} m and {farthest:g} m.")
        low, high = (extreme.item() for extreme in disparity.aminmax())
        if focus_by == _DISTANCES:
            plane = disparity.new_tensor(parse_planes(distances, metric))
        elif focus_by == _POINT:
            plane = smoothed(focus_at(disparity, focus_x, focus_y), _CALM)
        else:
            interrupted = comfy.model_management.throw_exception_if_processing_interrupted
            plane, mask_notes = focus_in(disparity.expand(count, -1, -1), _subject(mask), interrupted)
            plane, notes = smoothed(plane, _CALM), notes + mask_notes
        if pull != _OFF:
            last = focus_at(disparity, pull_x, pull_y)[-1]
            plane = pulled(plane[0], last, count if count > 1 else pull_steps, pull == _EASED)
        if count > 1 and len(plane) not in (1, count):
            raise ValueError(
                f"{count} pictures came and {len(plane)} focus distances were asked for, but a sweep is one scene. "
                "Connect one picture, or give one distance."
            )
        plane = plane.expand(max(count, len(plane)))
        if lens == _BLUR:
            # As far as Bokeh Render goes: the K of a lens may come over a link.
            check_within("blur", blur, STRONGEST)
            blurs, f_number = plane.new_full((len(plane),), blur / (high - low)), None
        else:
            own, f_number = _lens(lens, f_number, focal_length, sensor)
            blurs = blurs_of(own, f_number, plane, *size)
        swept = count == 1 and len(plane) > 1
        focus = Focus(disparity, metric, plane, blurs, sharp / 2 * (high - low), f_number, swept)
        frames.rest = len(focus)
        defocus, in_focus = (torch.empty(len(focus), *size) for _ in range(2))
        for row in range(len(focus)):
            defocus[row], in_focus[row] = focus.defocus(row), focus.in_focus(row)
            frames.done()
        words = in_words(focus)
        notes.append(f"Sharp means discs of up to 1/{1 / SHARP_DISC:.0f} of the diagonal, 0.03 mm on full frame.")
        text = "\n".join(f"- {line}" for line in (words, *notes))
        shown |= {"depth_is": depth_is, "metres": known, "plane": (plane[0].item() - low) / (high - low)}
        made = {"text": (text,), "bokeh_focus": [shown]}
        return io.NodeOutput(focus, defocus, in_focus, words, ui=made)


def _metres(id: str, default: float, tooltip: str) -> io.Float.Input:
    return io.Float.Input(id, default=default, min=0.01, max=10000.0, step=0.1, round=0.001, tooltip=tooltip)


def _disparity(
    depth: Tensor | dict | None,
    mask: Tensor | None,
    depth_is: str,
    image: Tensor,
    on_map: Callable[[], None],
) -> tuple[Tensor, bool, list[str]]:
    """Disparity, [1, H, W] for a map that all pictures share, else [count, H, W]; whether it is in 1/m; sentences for
    the user."""
    span, pictures = SHARED, image
    if depth is None:
        subject = _subject(mask)
        if subject.min() == subject.max():
            raise ValueError(
                f"The mask is {subject.max():g} everywhere, so it shows no subject. Make it white on the "
                "subject and black elsewhere, or connect a depth map."
            )
        depth, depth_is, span, pictures = subject[..., None], BRIGHT, AS_IS, None
    if isinstance(depth, dict):
        if not isinstance(depth.get("depth"), Tensor):
            raise ValueError("This geometry holds no depth. Connect the geometry of MoGe, or a depth map.")
        depth, depth_is = depth["depth"][..., None], METRES
    size = tuple(image.shape[1:3])
    disparity, metric, notes = read_disparity(depth, depth_is, len(image), size, span, on_map, pictures)
    return disparity[: len(depth)], metric, notes


def _subject(mask: Tensor | None) -> Tensor:
    if mask is None:
        raise ValueError(
            "There is no mask. Connect one that is white on the subject, or connect a depth map and focus by point."
        )
    return mask.reshape(-1, *mask.shape[-2:])


def _lens(lens: str, f_number: float, focal_length: float, sensor: str) -> tuple[Lens, float]:
    """The chosen lens and its aperture."""
    if lens != _OWN:
        return LENSES[lens], f_number or LENSES[lens].f_number
    if not f_number:
        raise ValueError("The own lens has the f-number 0. Set f_number, 1.8 for f/1.8, or choose a lens of the list.")
    return Lens(focal_length, f_number, SENSORS[sensor]), f_number


class _Frames:
    """What is told of a clip: so many frames done, ``rest`` still to come."""

    def __init__(self, rest: int) -> None:
        self.bar, self.past, self.rest = ProgressBar(rest), 0, rest

    def done(self) -> None:
        """One more."""
        comfy.model_management.throw_exception_if_processing_interrupted()
        self.past, self.rest = self.past + 1, self.rest - 1
        self.bar.update_absolute(self.past, self.past + self.rest)


def _copies(cls: type, image: Tensor, disparity: Tensor) -> dict:
    """Small files of the picture [1, H, W, C] and of its disparity for the page, and what 0 and 1 in that stand for."""
    height, width = image.shape[1:3]
    scale = min(1.0, _PREVIEW_SIDE / max(height, width))
    size = max(1, round(height * scale)), max(1, round(width * scale))
    picture = F.interpolate(image[..., :3].float().movedim(-1, 1), size=size, mode="area").movedim(1, -1)
    # Not smoothed: between two surfaces there is no third one.
    small = F.interpolate(disparity[:1, None], size=size, mode="nearest-exact")[:, 0]
    low, high = (extreme.item() for extreme in disparity.aminmax())
    steps = ((small - low) / (high - low) * 65535).round()
    # Sixteen bits in red and green; the half keeps each byte through the host's rounding down.
    packed = (torch.stack([steps // 256, steps % 256, torch.zeros_like(steps)], -1) + 0.5) / 255
    picture_file, depth_file = (ui.PreviewImage(maps, cls=cls).values[0] for maps in (picture, packed))
    return {"picture": picture_file, "depth": depth_file, "low": low, "high": high, "width": width, "height": height}
