"""The report on pictures: what was asked for, what was measured."""

from __future__ import annotations

import json
from dataclasses import replace

import comfy.model_management
from comfy.utils import ProgressBar
from comfy_api.latest import io, ui

from ..host import as_app_result
from ..optics.render import bytes_for, render_depth
from ..sweep.figure import draw
from ..sweep.measure import measure_pictures, measure_sweep
from ..sweep.reference import rendered_scenes
from ..sweep.table import markdown
from ..sweep.values import Sweep
from ..sweep.verdict import verdict
from .device import where_it_fits
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
                io.Image.Input(
                    "depth",
                    optional=True,
                    tooltip="The scene's depth in grey, near things bright, from any depth node: the sharpest picture "
                    "is then rendered at every blur, and LVCorr (reference) holds the pictures against these renders, "
                    "as in Bokeh Diffusion. One map, or one for each scene or picture.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="plot", tooltip="The figure: sharpness and consistency over blur."),
                io.String.Output(
                    display_name="report", tooltip="The verdict in words and all numbers as a small Markdown table."
                ),
                io.String.Output(
                    display_name="numbers",
                    tooltip="All numbers as JSON: the bokeh score, LVCorr by both definitions, consistency, the gains "
                    "over the plain picture, and one entry for each level and scene. null where a number is not "
                    "defined.",
                ),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, images, sweep: Sweep | None = None, plain=None, mask=None, depth=None) -> io.NodeOutput:
        # As much for the render of a picture as for its measures.
        bar = ProgressBar(len(images) * (2 if depth is not None else 1))

        def on_level(done: int, total: int) -> None:
            bar.update_absolute(done)
            comfy.model_management.throw_exception_if_processing_interrupted()

        def on_part(done: int, parts: int) -> None:
            on_level(len(images) * done // parts, 0)

        if depth is not None and sweep is None:
            raise ValueError(
                "Depth is for the renders that a sweep is held against, and no sweep is connected. Connect it, or "
                "disconnect depth."
            )
        reference, notes = None, []
        if sweep is not None:
            sweep.check(len(images))
            first = 0
            if depth is not None:
                render = where_it_fits(render_depth, bytes_for(*images.shape[1:3]))
                reference, notes = rendered_scenes(images, sweep, depth, mask, on_part, render)
                first = len(images)
            report = measure_sweep(
                images, sweep, mask, lambda done, total: on_level(first + done, total), plain, reference
            )
            report = replace(report, notes=(*report.notes, *notes))
        elif plain is not None:
            report, images = measure_pictures(images, plain, mask, on_level)
        else:
            raise ValueError(
                "The report has nothing to hold the pictures against. Connect the sweep they come from, or the plain "
                "model's picture of the same seed."
            )
        images = images[: len(report.sweep)]
        said = verdict(report, images)
        plot, text = draw(report, images), f"**{said}**\n\n{markdown(report)}"
        files = ui.PreviewImage(plot, cls=cls).values
        # The page draws the figure itself, in its own colours; the picture is for saving.
        shown = {**report.numbers(), "verdict": said, "plot": files[0]}
        return io.NodeOutput(
            plot,
            text,
            json.dumps(report.numbers()),
            ui={"bokeh_report": [shown], **ui.PreviewText(text).as_dict(), **as_app_result(files)},
        )
