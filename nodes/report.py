"""The report on pictures: what was asked for, what was measured."""

from __future__ import annotations

import json
from collections.abc import Iterator

import comfy.model_management
import torch
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

        def on_level(done: int, total: int, before: int = 0) -> None:
            bar.update_absolute(before + done, len(images))
            comfy.model_management.throw_exception_if_processing_interrupted()

        if sweep is not None:
            sweep.check(len(images))
            measured = [
                (measure_sweep(*parts, lambda *done, i=i: on_level(*done, i * sweep.levels), own_plain), parts[0])
                for i, (*parts, own_plain) in enumerate(_scenes(images, sweep, mask, plain))
            ]
        elif plain is not None:
            measured = [measure_pictures(images, plain, mask, on_level)]
        else:
            raise ValueError(
                "The report has nothing to hold the pictures against. Connect the sweep they come from, or the plain "
                "model's picture of the same seed."
            )
        said = [verdict(report, pictures) for report, pictures in measured]
        plot = torch.cat([draw(report, pictures) for report, pictures in measured])
        heads = [f"### Scene {number}\n\n" for number in range(1, len(said) + 1)] if len(said) > 1 else [""]
        text = "\n".join(
            f"{head}**{words}**\n\n{report.markdown()}"
            for head, words, (report, _) in zip(heads, said, measured, strict=True)
        )
        numbers = [report.numbers() for report, _ in measured]
        files = ui.PreviewImage(plot, cls=cls).values
        # The page draws the figure itself, in its own colours; the picture is for saving.
        shown = [
            {**told, "verdict": words, "plot": file} for told, words, file in zip(numbers, said, files, strict=True)
        ]
        return io.NodeOutput(
            plot,
            text,
            json.dumps(numbers[0] if len(numbers) == 1 else {"scenes": numbers}),
            ui={"bokeh_report": shown, **ui.PreviewText(text).as_dict(), **as_app_result(files)},
        )


def _scenes(images, sweep: Sweep, mask, plain) -> Iterator[tuple]:
    """Pictures, sweep, mask and plain picture of one scene after the other."""
    if sweep.scenes > 1 and plain is not None and len(plain) != sweep.scenes:
        raise ValueError(
            f"There are {len(plain)} plain pictures, but the sweep shows {sweep.scenes} scenes, expected one for each: "
            "the picture of the same seed and size without Bokeh Stage or a blur adapter."
        )
    for scene in range(sweep.scenes):
        rows = slice(scene * sweep.levels, (scene + 1) * sweep.levels)
        own = mask
        if sweep.scenes > 1 and mask is not None and mask.ndim > 2 and len(mask) > 1:
            own = mask[scene : scene + 1] if len(mask) == sweep.scenes else mask[rows]
        own_plain = plain[scene : scene + 1] if sweep.scenes > 1 and plain is not None else plain
        yield images[rows], sweep.of_a_scene, own, own_plain
