"""A real lens: the blur it stands for, and the f-numbers that a sweep stands for."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import folder_paths
from comfy_api.latest import io, ui

from ..files import state
from ..optics.exif import Exif, read_exif
from ..optics.lens import (
    SENSORS,
    blur_of,
    coc_of,
    depth_of_field,
    f_number_labels,
    f_number_of,
    sensor_width_from_35mm,
    sensor_width_of,
)
from ..sweep.values import BLUR_MAX, Sweep
from .photos import check_photo, photo_path
from .schema import SWEEP, blur_slider, fingerprint, schema, validation

_NO_PHOTO = "no photo"
_FROM_PHOTO = "from the photo"
_CUSTOM = "custom width"
_TO_BLUR = "f-number to blur"
_TO_F_NUMBER = "blur to f-number"

# A lens that nobody described; the sensor is full frame then.
_USUAL = {"focal_length": (50.0, " mm"), "f_number": (1.8, ""), "focus_distance": (2.0, " m")}

# What an argument of the functions of `optics.lens` is called where it is missing.
_ASKED = {
    "focal_length": "the focal length in mm",
    "f_number": "the f-number",
    "focus_distance": "the focus distance in m",
    "width": "the width in pixels",
    "height": "the height in pixels",
    "sensor_width": "the sensor",
}


class BokehLens(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "f-number",
            "camera lens",
            "exif",
            "circle of confusion",
            "hyperfocal",
            node_id="BokehLens",
            display_name="Bokeh Lens",
            description="Turns a real lens into a blur for the slider, or a blur into the f-number of a real lens. A "
            "photo may tell the lens.",
            inputs=[
                io.Combo.Input(
                    "mode",
                    options=[_TO_BLUR, _TO_F_NUMBER],
                    tooltip="f-number to blur: which blur this lens gives. Blur to f-number: how far the lens must be "
                    "opened for the blur below; f_number is not used then.",
                ),
                io.Combo.Input(
                    "photo",
                    options=[_NO_PHOTO, *_photos()],
                    tooltip="A photo in the input folder whose EXIF tells the lens. It fills in what is left at 0, and "
                    "the sensor.",
                ),
                _number("focal_length", 1.0, "Focal length in mm, as written on the lens."),
                _number("f_number", 0.1, "The aperture: 1.8 for f/1.8."),
                _number("focus_distance", 0.1, "Distance from the camera to what is sharp, in metres."),
                io.Combo.Input(
                    "sensor",
                    options=[_FROM_PHOTO, *SENSORS, _CUSTOM],
                    tooltip="The camera's sensor. From the photo: out of its focal length for full frame (35 mm film), "
                    "which phones and most cameras write down; without a photo full frame.",
                ),
                io.Float.Input(
                    "sensor_width",
                    default=0.0,
                    min=0.0,
                    max=1000.0,
                    step=0.1,
                    round=0.001,
                    tooltip="For the custom width: how many mm of the sensor the width of the picture shows.",
                ),
                io.Float.Input(
                    "behind_subject",
                    default=0.0,
                    min=0.0,
                    max=100000.0,
                    step=0.5,
                    round=0.001,
                    tooltip="How far behind the subject the background is, in metres; 0 = without end, like the sky. "
                    "For the circle of confusion; the blur does not depend on it.",
                ),
                _size("width"),
                _size("height"),
                blur_slider("blur", "For blur to f-number: the blur whose f-number is wanted."),
                SWEEP.Input(
                    "sweep",
                    optional=True,
                    tooltip="A sweep whose pictures are to be labelled with f-numbers instead of blurs.",
                ),
            ],
            outputs=[
                io.Float.Output(display_name="blur", tooltip="For the blur slider, 0 to 30."),
                io.Float.Output(
                    display_name="coc",
                    tooltip="Circle of confusion of the background: its diameter in pixels of the picture.",
                ),
                io.Float.Output(display_name="f_number", tooltip="The aperture; infinite, a pinhole, at blur 0."),
                SWEEP.Output(
                    display_name="sweep",
                    tooltip="The sweep labelled with f-numbers, for the view, the grid, the report and the files; "
                    "without a sweep, this one blur.",
                ),
                io.String.Output(display_name="text", tooltip="Blur, circle of confusion and depth of field in words."),
                io.Float.Output(
                    display_name="lens_blur",
                    tooltip="K without a limit, for Bokeh Render with a depth map in metres or 1/m.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, photo: str | None) -> bool | str:
        # By the name alone: older hosts do not compare it with the list, and the disk is for the run.
        return validation(lambda photo: photo == _NO_PHOTO or check_photo(photo), photo)

    @classmethod
    def fingerprint_inputs(cls, photo: str, **_):
        # A photo replaced by another of the same name is read again.
        return fingerprint(lambda photo: (photo, photo != _NO_PHOTO and state(photo_path(photo))), photo)

    @classmethod
    def execute(
        cls,
        mode: str,
        photo: str,
        focal_length: float,
        f_number: float,
        focus_distance: float,
        sensor: str,
        sensor_width: float,
        behind_subject: float,
        width: int,
        height: int,
        blur: float,
        sweep: Sweep | None = None,
    ) -> io.NodeOutput:
        if sweep is not None and sweep.name != "blur":
            raise ValueError(
                f"This is a sweep of {sweep.name}, and f-numbers belong to blurs. Connect the sweep of Bokeh Sweep."
            )
        exif = None if photo == _NO_PHOTO else read_exif(photo_path(photo), photo)
        notes = () if exif is None else exif.notes
        typed = {"focal_length": focal_length, "focus_distance": focus_distance}
        if mode == _TO_BLUR:
            typed["f_number"] = f_number
        lens = _complete(typed, sensor, sensor_width, width, height, exif, photo)
        if mode == _TO_BLUR:
            f_number = lens.pop("f_number")
            blur = blur_of(f_number=f_number, **lens)
        else:
            f_number = f_number_of(blur, **lens)
        slider = min(blur, BLUR_MAX)
        if blur > BLUR_MAX:
            notes += (
                f"Blur {blur:.1f} is more than an adapter knows, so {BLUR_MAX:g} comes out; lens_blur has all of it.",
            )
        shown = sweep or Sweep((slider,))
        shown = replace(shown, captions=f_number_labels([f_number_of(value, **lens) for value in shown.values]))
        coc = coc_of(blur, lens["focus_distance"], behind_subject or math.inf, lens["width"], lens["height"])
        sentences = (_lens_in_words(blur, f_number, lens), _coc_in_words(coc, behind_subject, lens))
        text = "\n".join(f"- {line}" for line in (*sentences, _sharpness_in_words(f_number, lens), *notes))
        return io.NodeOutput(slider, coc, f_number, shown, text, blur, ui=ui.PreviewText(text))


def _photos() -> list[str]:
    folder = Path(folder_paths.get_input_directory())
    files = [file.name for file in folder.iterdir() if file.is_file()] if folder.is_dir() else []
    return sorted(folder_paths.filter_files_content_types(files, ["image"]))


def _number(id: str, step: float, tooltip: str) -> io.Float.Input:
    """A value of the lens that a photo may tell instead."""
    usual, unit = _USUAL[id]
    tooltip = f"{tooltip} 0 = as the photo says, or {usual:g}{unit} without a photo."
    return io.Float.Input(id, default=0.0, min=0.0, max=10000.0, step=step, round=0.001, tooltip=tooltip)


def _size(id: str) -> io.Int.Input:
    tooltip = f"The {id} of the picture that is made, in pixels. 0 = the photo's width and height."
    return io.Int.Input(id, default=512, min=0, max=16384, step=8, tooltip=tooltip)


def _complete(
    typed: dict[str, float],
    sensor: str,
    sensor_width: float,
    width: int,
    height: int,
    exif: Exif | None,
    photo: str,
) -> dict[str, float]:
    """The arguments of the functions of `optics.lens`: what was typed, and where that is 0, what the photo tells, or
    without a photo what is usual.

    Raises:
        ValueError: naming everything that neither of them says.
    """
    if exif is None:
        typed = {name: value or _USUAL[name][0] for name, value in typed.items()}
    lens = {name: value or getattr(exif, name, None) for name, value in typed.items()}
    if exif is not None and not (width and height):
        width, height = exif.width, exif.height
    lens |= {"width": width, "height": height, "sensor_width": sensor_width}
    if width and height and sensor == _FROM_PHOTO and exif is None:
        lens["sensor_width"] = sensor_width_of(next(iter(SENSORS.values())), width, height)
    elif width and height and sensor == _FROM_PHOTO:
        lens["sensor_width"] = _photos_sensor_width(exif, lens)
    elif width and height and sensor != _CUSTOM:
        lens["sensor_width"] = sensor_width_of(SENSORS[sensor], width, height)
    missing = [_ASKED[name] for name, value in lens.items() if not value]
    if missing:
        if exif is None:
            advice = "Type in what is missing, or choose a photo whose EXIF says it."
        else:
            advice = " ".join((f"The photo {photo} does not say it.", *exif.notes, "Type in what is missing."))
        raise ValueError(f"The lens is not complete, missing: {', '.join(missing)}. {advice}")
    return lens


def _photos_sensor_width(exif: Exif | None, lens: dict[str, float]) -> float | None:
    """How many mm of the photo's sensor the width of the picture shows, None where the photo does not say."""
    if exif is None or exif.focal_length_35mm is None:
        return None
    # The two focal lengths belong together: one that was typed stands in only where the photo has none.
    focal_length = exif.focal_length or lens["focal_length"]
    if not focal_length:
        return None
    along = sensor_width_from_35mm(focal_length, exif.focal_length_35mm, exif.width, exif.height)
    sides = along, along * exif.height / exif.width
    return sensor_width_of((max(sides), min(sides)), lens["width"], lens["height"])


def _lens_in_words(blur: float, f_number: float, lens: dict[str, float]) -> str:
    (aperture,) = f_number_labels([f_number])
    return (
        f"**blur {blur:.2f}**: {lens['focal_length']:g} mm, {aperture}, focused at {lens['focus_distance']:g} m, "
        f"the picture as wide as {lens['sensor_width']:.1f} mm of the sensor"
    )


def _coc_in_words(coc: float, behind: float, lens: dict[str, float]) -> str:
    where = f"{behind:g} m behind the subject" if behind else "without end"
    return f"a background {where}: circle of confusion {coc:.1f} px at {lens['width']} x {lens['height']} px"


def _sharpness_in_words(f_number: float, lens: dict[str, float]) -> str:
    near, far, hyperfocal = depth_of_field(f_number=f_number, **lens)
    return f"sharp from {_metres(near)} to {_metres(far)}; hyperfocal distance {_metres(hyperfocal)}"


def _metres(distance: float) -> str:
    if math.isinf(distance):
        return "infinity"
    return f"{distance:.3g} m" if distance < 100 else f"{distance:.0f} m"
