"""Prompts whose words say how blurred the picture is."""

from __future__ import annotations

from comfy.model_management import throw_exception_if_processing_interrupted
from comfy.utils import ProgressBar
from comfy_api.latest import io, ui

from ..attention.contents import BLURS
from ..stages.words import DEFAULT_WORDINGS, encode_words, levels, read_wordings, texts
from ..sweep.values import Sweep
from .schema import SWEEP, schema, validation


class BokehWords(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "prompt",
            "without adapter",
            "any model",
            node_id="BokehWords",
            display_name="Bokeh Words",
            description="Blur by words, on any model and without an adapter: one prompt for each blur of a sweep.",
            inputs=[
                io.Clip.Input("clip", tooltip="The text encoders of your model."),
                SWEEP.Input("sweep", tooltip="From Bokeh Sweep: the blurs that need a prompt, its pivot's too."),
                io.String.Input(
                    "prompt",
                    multiline=True,
                    default="photo of a woman in a city street",
                    tooltip="The scene, without a word about blur. The wording of each blur is written behind it.",
                ),
                io.String.Input(
                    "wordings",
                    multiline=True,
                    default=DEFAULT_WORDINGS,
                    tooltip="How sharp and how blurred pictures are called, one a line: the first line at blur 0, the "
                    "last one at blur 30, the others evenly between them. Two lines are enough with blend.",
                ),
                io.Boolean.Input(
                    "blend",
                    default=False,
                    tooltip="Off: every blur takes the nearest wording. On: the embeddings of the two nearest wordings "
                    "are mixed, so that the blur has no steps.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(
                    display_name="conditioning", tooltip="One prompt for each blur; goes to guidance and the sampler."
                ),
                io.String.Output(display_name="text", tooltip="The prompt of every blur, one a line."),
            ],
        )

    @classmethod
    def validate_inputs(cls, wordings: str | None) -> bool | str:
        return validation(read_wordings, wordings)

    @classmethod
    def execute(cls, clip, sweep: Sweep, prompt: str, wordings: str, blend: bool) -> io.NodeOutput:
        ladder, blurs = read_wordings(wordings), levels(sweep)
        bar = ProgressBar(len(ladder))

        def on_encoded(done: int, total: int) -> None:
            bar.update_absolute(done, total)
            throw_exception_if_processing_interrupted()

        rows = encode_words(clip, prompt, ladder, blurs, blend, on_encoded)
        written = texts(prompt, ladder, blurs)
        text = "\n".join(f"{blur:g}: {line}" for blur, line in zip(blurs, written, strict=True))
        return io.NodeOutput(
            [[tokens, {**extra, BLURS: blurs}] for tokens, extra in rows], text, ui=ui.PreviewText(text)
        )
