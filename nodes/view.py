"""The sweep, shown in the page as one picture with a blur slider."""

from __future__ import annotations

from comfy_api.latest import io, ui

from ..host import as_app_result
from ..sweep.remarks import remarks
from ..sweep.values import Sweep, nearest
from .schema import IMAGES_TOOLTIP, SWEEP, SWEEP_TOOLTIP, schema

PIVOT_LEVEL = -1.0


class BokehSweepView(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "interactive",
            "blur slider",
            "light table",
            "image comparer",
            node_id="BokehSweepView",
            display_name="Bokeh Sweep View",
            description="Shows a sweep as one picture with a slider: turn the blur and look, compare levels, and give "
            "one of them to the next node.",
            inputs=[
                io.Image.Input("images", tooltip=IMAGES_TOOLTIP),
                SWEEP.Input("sweep", tooltip=SWEEP_TOOLTIP),
                io.Float.Input(
                    "level",
                    default=PIVOT_LEVEL,
                    min=PIVOT_LEVEL,
                    max=100.0,
                    step=0.5,
                    round=0.01,
                    optional=True,
                    tooltip="Which level leaves at image and blur: the one nearest to this value. The button Use in "
                    "the view sets it. -1 = the pivot's.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    display_name="image", tooltip="The picture of the level, alone; of several scenes one each."
                ),
                io.Float.Output(display_name="blur", tooltip="The level's value, for Bokeh Blur for example."),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, images, sweep: Sweep, level: float = PIVOT_LEVEL) -> io.NodeOutput:
        sweep.check(len(images))
        row = sweep.reference_row if level == PIVOT_LEVEL else nearest(sweep.scene(0).values, level)
        files = ui.PreviewImage(images.float(), cls=cls).values
        # A key of its own, which the page's script reads.
        told = {**shown(sweep, files, (images.shape[2], images.shape[1])), "remarks": remarks(images, sweep)}
        # Of several scenes the level of each.
        return io.NodeOutput(
            images[row :: sweep.levels], sweep.values[row], ui={"bokeh_sweep": [told], **as_app_result(files)}
        )


def shown(sweep: Sweep, files: list[dict], size: tuple[int, int]) -> dict:
    """A sweep as the page's light table reads it.

    Args:
        files: where the picture of each row is.
        size: width and height of every picture in px.
    """
    captions = sweep.captions or (None,) * len(sweep)
    rows = zip(files, sweep.values, sweep.level_labels, captions, strict=True)
    return {
        "name": sweep.name,
        "pivot": sweep.pivot,
        "reference": sweep.reference_row,
        "scenes": sweep.scenes,
        "width": size[0],
        "height": size[1],
        "levels": [
            {**file, "value": value, "label": label, "caption": caption} for file, value, label, caption in rows
        ],
    }
