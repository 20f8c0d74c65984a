"""The report on pictures: what was asked for, what was measured."""

from __future__ import annotations

import json

import comfy.model_management
from comfy.utils import ProgressBar
from comfy_api.latest import io, ui

from ..host import as_app_result
from ..sweep.figure import draw
from ..sweep.report import measure_pictures, measure_sweep
from ..sweep.values import Sweep
from ..sweep.verdict import verdict
from .schema import IMAGES_TOOLTIP, SWEEP, SWEEP_TOOLTIP, schema


class BokehReport(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "measure",
            "lvcorr",
            "sharpness",
            "plot",
            node_id="BokehReport",
            display_name="Bokeh Report",
            description="Measures a sweep: does the blur follow the request, and does the scene stay the same? Or "
            "measures pictures against the plain model's: how much sharper is the subject?",
            inputs=[
                io.Image.Input("images", tooltip=f"{IMAGES_TOOLTIP} Or any pictures of one scene beside a plain one."),
                SWEEP.Input("sweep", optional=True, tooltip=f"{SWEEP_TOOLTIP} Leave it open for pictures of no sweep."),
                io.Image.Input(
                    "plain",
                    optional=True,
                    tooltip="The plain model's picture of the same seed and size, one picture: the sharpness of the "
                    "others is then also given as a multiple of its sharpness. With a photo as the starting point, "
                    "the photo itself.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="White where the subject in focus is. Subject and background are then measured apart, "
                    "which says more: a sharp subject hides the blur behind it in a figure for the whole picture.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="plot", tooltip="The figure: sharpness and consistency over blur."),
                io.String.Output(
                    display_name="report", tooltip="The verdict in words and all numbers as a small Markdown table."
                ),
                io.String.Output(
                    display_name="numbers",
                    tooltip="All numbers as JSON: lvcorr, consistency, the gains over the plain picture, and one entry "
                    "for each level. null where a number is not defined.",
                ),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, images, sweep: Sweep | None = None, plain=None, mask=None) -> io.NodeOutput:
        bar = ProgressBar(len(images))

        def on_level(done: int, total: int) -> None:
            bar.update_absolute(done, total)
            comfy.model_management.throw_exception_if_processing_interrupted()

        if sweep is not None:
            report = measure_sweep(images, sweep, mask, on_level, plain)
        elif plain is not None:
            report, images = measure_pictures(images, plain, mask, on_level)
        else:
            raise ValueError(
                "The report has nothing to hold the pictures against. Connect the sweep they come from, or the plain "
                "model's picture of the same seed."
            )
        said = verdict(report, images)
        plot, text = draw(report, images), f"**{said}**\n\n{report.markdown()}"
        files = ui.PreviewImage(plot, cls=cls).values
        # The page draws the figure itself, in its own colours; the picture is for saving.
        shown = {**report.numbers(), "verdict": said, "plot": files[0]}
        return io.NodeOutput(
            plot,
            text,
            json.dumps(report.numbers()),
            ui={"bokeh_report": [shown], **ui.PreviewText(text).as_dict(), **as_app_result(files)},
        )
