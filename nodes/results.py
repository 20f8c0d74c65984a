"""Nodes for the finished pictures of a sweep."""

from __future__ import annotations

import torch
from comfy_api.latest import io

from ..sweep.colour import match_colors
from ..sweep.sheet import contact_sheet
from ..sweep.values import Sweep
from .schema import IMAGES_TOOLTIP, SWEEP, SWEEP_TOOLTIP, schema


class BokehMatchColors(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "color transfer",
            "colour match",
            node_id="BokehMatchColors",
            display_name="Bokeh Match Colors",
            description="Gives every picture of a sweep the average colour and brightness of the pivot picture.",
            inputs=[
                io.Image.Input("images", tooltip=IMAGES_TOOLTIP),
                SWEEP.Input("sweep", tooltip=SWEEP_TOOLTIP),
                io.Boolean.Input(
                    "match_contrast",
                    default=False,
                    tooltip="Also match the contrast of each colour channel. Off is the authors' setting: "
                    "a blurred background has less contrast by nature.",
                ),
            ],
            outputs=[io.Image.Output(display_name="images", tooltip="The pictures with matched colours, same order.")],
        )

    @classmethod
    def execute(cls, images, sweep: Sweep, match_contrast: bool) -> io.NodeOutput:
        sweep.check(len(images))
        scenes = images.split(sweep.levels)
        return io.NodeOutput(torch.cat([match_colors(scene, sweep.reference_row, match_contrast) for scene in scenes]))


class BokehSweepGrid(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "contact sheet",
            "image grid",
            node_id="BokehSweepGrid",
            display_name="Bokeh Sweep Grid",
            description="A contact sheet of the sweep: every picture with its blur written under it.",
            inputs=[
                io.Image.Input("images", tooltip=IMAGES_TOOLTIP),
                SWEEP.Input("sweep", tooltip=SWEEP_TOOLTIP),
                io.Int.Input(
                    "columns",
                    default=0,
                    min=0,
                    max=64,
                    tooltip="Pictures side by side; 0 chooses by itself so that the sheet is easy to look at.",
                ),
            ],
            outputs=[io.Image.Output(display_name="image", tooltip="The contact sheet, one picture.")],
        )

    @classmethod
    def execute(cls, images, sweep: Sweep, columns: int) -> io.NodeOutput:
        sweep.check(len(images))
        # Several scenes: each in a line of its own.
        columns = columns or (sweep.levels if sweep.scenes > 1 else 0)
        return io.NodeOutput(contact_sheet(images, sweep.labels, columns, sweep.pivot_rows))
