"""The report on pictures: what was asked for, what was measured."""

from __future__ import annotations

import comfy.model_management
from comfy.utils import ProgressBar
from comfy_api.latest import io, ui

from ..sweep.figure import draw
from ..sweep.report import measure_pictures, measure_sweep
from ..sweep.values import Sweep
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
                io.Boolean.Input(
                    "allow_download",
                    default=False,
                    tooltip="Allows a download of 233 MB for LPIPS, one more measure of consistency, if its network "
                    "is not on this machine yet. Everything else needs no download.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="plot", tooltip="The figure: sharpness and consistency over blur."),
                io.Float.Output(
                    display_name="lvcorr",
                    tooltip="How well the measured blur follows the request: 1 = exactly, 0 = not at all or not "
                    "defined. Of the background where a mask is given, else of the whole picture.",
                ),
                io.Float.Output(
                    display_name="consistency",
                    tooltip="How well the pictures show the pivot's scene: 1 = the same, 0 = unrelated.",
                ),
                io.String.Output(display_name="report", tooltip="All numbers as a small Markdown table."),
                io.Float.Output(
                    display_name="laplacian_gain",
                    tooltip="Variance of the Laplacian over that of the plain picture, mean of the pictures: 2 = twice "
                    "as sharp. Of the subject where a mask is given, else of the whole picture. 0 = not defined.",
                ),
                io.Float.Output(
                    display_name="brenner_gain",
                    tooltip="The same for Brenner's gradient, another measure of sharpness.",
                ),
                io.Float.Output(
                    display_name="laplacian_gain_rest",
                    tooltip="The Laplacian's gain of the background: below 1 = softer than in the plain picture. "
                    "Needs a mask. 0 = not defined.",
                ),
                io.Float.Output(
                    display_name="brenner_gain_rest", tooltip="The same for Brenner's gradient of the background."
                ),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls, images, sweep: Sweep | None = None, plain=None, mask=None, allow_download: bool = False
    ) -> io.NodeOutput:
        bar = ProgressBar(len(images))

        def on_level(done: int, total: int) -> None:
            bar.update_absolute(done, total)
            comfy.model_management.throw_exception_if_processing_interrupted()

        if sweep is not None:
            report = measure_sweep(images, sweep, mask, allow_download, on_level, plain)
        elif plain is not None:
            report, images = measure_pictures(images, plain, mask, allow_download, on_level)
        else:
            raise ValueError(
                "The report has nothing to hold the pictures against. Connect the sweep they come from, or the plain "
                "model's picture of the same seed."
            )
        plot, text = draw(report, images), report.markdown()
        # A sweep of one level has no correlation, and its one picture is the scene.
        lvcorr = 0.0 if report.lvcorr is None else report.lvcorr
        consistency = 1.0 if report.consistency is None else report.consistency
        gains = [gain or 0.0 for gain in report.gains(report.focused)]
        rest = [gain or 0.0 for gain in report.gains(report.followed)] if mask is not None else [0.0, 0.0]
        shown = {**ui.PreviewImage(plot, cls=cls).as_dict(), **ui.PreviewText(text).as_dict()}
        return io.NodeOutput(plot, lvcorr, consistency, text, *gains, *rest, ui=shown)
