"""The sweep, shown in the page as one picture with a blur slider."""

from __future__ import annotations

from comfy_api.latest import io, ui

from ..sweep.values import Sweep
from .schema import IMAGES_TOOLTIP, SWEEP, SWEEP_TOOLTIP, schema


class BokehSweepView(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "interactive",
            "blur slider",
            "compare",
            "preview",
            node_id="BokehSweepView",
            display_name="Bokeh Sweep View",
            description="Shows a sweep as one picture with a slider: turn the blur and look.",
            inputs=[
                io.Image.Input("images", tooltip=IMAGES_TOOLTIP),
                SWEEP.Input("sweep", tooltip=SWEEP_TOOLTIP),
            ],
            outputs=[],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, images, sweep: Sweep) -> io.NodeOutput:
        sweep.check(len(images))
        files = ui.PreviewImage(images, cls=cls).values
        captions = sweep.captions or (None,) * len(sweep)
        levels = zip(files, sweep.values, sweep.labels, captions, strict=True)
        # A key of its own: under "images" the page would draw its usual grid of previews below the slider.
        shown = {
            "name": sweep.name,
            "pivot": sweep.pivot,
            "reference": sweep.reference_row,
            "height": images.shape[1],
            "width": images.shape[2],
            "levels": [
                {**file, "value": value, "label": label, "caption": caption} for file, value, label, caption in levels
            ],
        }
        return io.NodeOutput(ui={"bokeh_sweep": [shown]})
