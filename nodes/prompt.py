"""Prompts that carry the blur."""

from __future__ import annotations

from comfy.model_management import throw_exception_if_processing_interrupted
from comfy.utils import ProgressBar
from comfy_api.latest import io, ui

from ..attention.kontext import K_MIN, at_least
from ..sweep.prompts import DEFAULT_TEMPLATE, encode_rows, fill
from ..sweep.values import BLUR_MAX, BLUR_MIN, Sweep
from .schema import SWEEP, blur_slider, schema, validation


class BokehPrompt(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "kontext",
            "bokehdepth",
            "prompt template",
            idle={"blur": ["sweep"]},
            node_id="BokehPrompt",
            display_name="Bokeh Prompt",
            description="A prompt with the blur written into it: one for a slider, or one for each picture of a sweep.",
            inputs=[
                io.Clip.Input("clip", tooltip="The text encoders of your model."),
                io.String.Input(
                    "template",
                    multiline=True,
                    default=DEFAULT_TEMPLATE,
                    tooltip="The prompt, with K, blur or label in curly brackets where the value belongs, and a format "
                    "behind a colon: .2f is two decimals. As it comes it is the prompt of BokehDepth.",
                ),
                blur_slider("blur", "The blur that is written into the prompt; a connected sweep takes its place."),
                io.Float.Input(
                    "lowest",
                    default=K_MIN,
                    min=BLUR_MIN,
                    max=BLUR_MAX,
                    step=0.1,
                    round=0.01,
                    tooltip="Smaller blurs are written as this one. BokehDepth knows 1 to 30; for other prompts use 0.",
                ),
                SWEEP.Input(
                    "sweep",
                    optional=True,
                    tooltip="From Bokeh Sweep: one prompt for each of its pictures, in their order.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(
                    display_name="conditioning", tooltip="One row for each prompt; goes to guidance and the sampler."
                ),
                io.String.Output(display_name="text", tooltip="The prompts as they were encoded, one a line."),
            ],
        )

    @classmethod
    def validate_inputs(cls, template: str | None) -> bool | str:
        # Before the run: the text encoders take their time to load.
        return validation(fill, template, (1.0,), ("blur 1",))

    @classmethod
    def execute(cls, clip, template: str, blur: float, lowest: float, sweep: Sweep | None = None) -> io.NodeOutput:
        sweep = sweep or Sweep((blur,))
        values, notes = at_least(lowest, sweep.values)
        prompts = fill(template, values, sweep.level_labels)
        bar = ProgressBar(len(set(prompts)))

        def on_encoded(done: int, total: int) -> None:
            bar.update_absolute(done, total)
            throw_exception_if_processing_interrupted()

        rows = encode_rows(clip, prompts, on_encoded)
        text = "\n".join(prompts)
        return io.NodeOutput(rows, text, ui=ui.PreviewText("\n\n".join((*notes, text))))
