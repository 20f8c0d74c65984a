"""The portrait of a phone, with the depth that the phone measured."""

from __future__ import annotations

import math
from contextlib import suppress
from pathlib import Path

import folder_paths
import numpy as np
import torch
from comfy_api.latest import io, ui

from ..files import state
from ..optics.focus import metres
from ..optics.lens import blur_of, f_number_labels, sensor_width_from_35mm
from ..optics.phone import ENDINGS, Portrait, read_portrait
from .photos import check_photo, photo_path
from .schema import fingerprint, schema, validation


class BokehPortrait(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "iphone",
            "heic",
            "load depth",
            "phone depth",
            node_id="BokehPortrait",
            display_name="Load Bokeh Portrait",
            description="Loads a phone's portrait: the full picture upright, the depth the phone measured, and its "
            "lens.",
            inputs=[
                io.Combo.Input(
                    "photo",
                    options=_photos(),
                    upload=io.UploadType.image,
                    tooltip="A HEIC, or a JPEG with depth, in the input folder: the original file from the phone.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="image", tooltip="The full picture, upright."),
                io.Image.Output(
                    display_name="depth",
                    tooltip="The distances in metres if the phone stored them: set depth_is of Bokeh Focus to metres. "
                    "Else grey, near things bright. The text says which.",
                ),
                io.Float.Output(display_name="focal_length", tooltip="Of the phone's lens in mm; 0 if not told."),
                io.Float.Output(display_name="f_number", tooltip="Of the phone's lens; 0 if not told."),
                io.String.Output(display_name="text", tooltip="Depth, lens, and the blur already in the picture."),
            ],
        )

    @classmethod
    def validate_inputs(cls, photo: str | None) -> bool | str:
        # By the name alone, as it may be a stranger's; the disk is for the run.
        return validation(check_photo, photo)

    @classmethod
    def fingerprint_inputs(cls, photo: str | None, **_):
        # A photo replaced by another of the same name is read again.
        return fingerprint(lambda photo: (photo, state(photo_path(photo))), photo)

    @classmethod
    def execute(cls, photo: str) -> io.NodeOutput:
        portrait = read_portrait(photo_path(photo))
        picture = torch.from_numpy(np.asarray(portrait.image).astype(np.float32) / 255)[None]
        stored = torch.from_numpy(np.ascontiguousarray(portrait.disparity))[None, ..., None]
        depth = 1 / stored.clamp(min=1 / metres(0.0)) if portrait.metric else stored
        text = "\n".join(f"- {line}" for line in _in_words(portrait))
        lens = portrait.exif.focal_length or 0.0, portrait.exif.f_number or 0.0
        return io.NodeOutput(picture, depth.expand(-1, -1, -1, 3), *lens, text, ui=ui.PreviewText(text))


def _photos() -> list[str]:
    folder = Path(folder_paths.get_input_directory())
    files = folder.iterdir() if folder.is_dir() else ()
    return sorted(file.name for file in files if file.suffix.lower() in ENDINGS and file.is_file())


def _in_words(portrait: Portrait) -> list[str]:
    height, width = portrait.disparity.shape
    nearest, farthest = (metres(float(end)) for end in (portrait.disparity.max(), portrait.disparity.min()))
    size = f"{portrait.image.width} x {portrait.image.height}"
    if portrait.metric:
        depth = f"depth of {width} x {height} in metres, from {nearest:.2f} m to {farthest:.2f} m: depth_is metres"
    else:
        depth = f"depth of {width} x {height} without distances: depth_is near is bright"
    lines = [f"{size}, {depth}", *portrait.exif.notes]
    exif = portrait.exif
    if exif.focal_length and exif.f_number:
        lines.append(f"taken with {exif.focal_length:g} mm at {f_number_labels([exif.f_number])[0]}")
    if exif.focal_length and exif.f_number and exif.focal_length_35mm and portrait.metric:
        # Numbers that no lens can have say nothing about the blur, and spoil no picture.
        with suppress(ValueError):
            lines.append(_blur_in_words(portrait))
    return lines


def _blur_in_words(portrait: Portrait) -> str:
    """What the phone's lens has blurred already, if it was focused on the middle of the picture."""
    exif, (height, width) = portrait.exif, portrait.disparity.shape
    middle = portrait.disparity[height * 2 // 5 : height * 3 // 5 + 1, width * 2 // 5 : width * 3 // 5 + 1]
    plane = float(np.median(middle))
    size = exif.width, exif.height
    sensor_width = sensor_width_from_35mm(exif.focal_length, exif.focal_length_35mm, *size)
    focus = exif.focus_distance or metres(plane)
    k = blur_of(exif.focal_length, exif.f_number, focus, sensor_width, *size)
    ends = (abs(float(end) - 1 / focus) for end in (portrait.disparity.min(), portrait.disparity.max()))
    largest = 2 * k * max(ends) * min(size) / 512
    if math.isclose(largest, 0, abs_tol=1):
        return "its own blur is less than a pixel"
    return f"its lens, focused at {focus:.2f} m, has already drawn discs of up to {largest:.0f} px: blur adds to them"
