"""The demonstration model as a node."""

from __future__ import annotations

from comfy_api.latest import io
from comfy_execution.utils import get_executing_context
from server import PromptServer

from ..demo import FOLDER
from ..demo.load import demo_files, load_demo
from ..files import state
from .schema import schema, without_places

# Nodes under which a sentence stands, by id: one that no longer holds is replaced.
_told: set[str] = set()


class BokehDemoModel(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "demo",
            "example",
            "tiny flux",
            "checkpoint",
            node_id="BokehDemoModel",
            display_name="Bokeh Demo Model",
            description="A very small FLUX that comes with this pack and runs on any computer: objects before "
            "patterned backgrounds, at 128 x 128. It shows how the blur slider and the sweep work, without a download.",
            inputs=[],
            outputs=[
                io.Model.Output(
                    display_name="model",
                    tooltip='Goes into the blur slider or the sweep, with the adapter "demo", or into the sampler.',
                ),
                io.Clip.Output(
                    display_name="clip",
                    tooltip="Goes into CLIP Text Encode. It knows a few plain words, such as a red disc on grey "
                    "stripes; the words it does not know are named on that node.",
                ),
                io.Vae.Output(display_name="vae", tooltip="Goes into VAE Decode and VAE Encode."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls):
        # A model trained again is read again.
        return tuple(state(file) for file in demo_files(FOLDER))

    @classmethod
    @without_places
    def execute(cls) -> io.NodeOutput:
        return io.NodeOutput(*load_demo(FOLDER, _tell))


def _tell(sentence: str) -> None:
    """Show a sentence under the node that encodes a text; "" for none."""
    context, server = get_executing_context(), getattr(PromptServer, "instance", None)
    if context is None or not hasattr(server, "send_progress_text"):
        return
    if sentence:
        _told.add(context.node_id)
    elif context.node_id in _told:
        _told.remove(context.node_id)
        # The page ignores an empty text, and would go on showing the old one.
        sentence = "The demo model knows every word of this text."
    if sentence:
        server.send_progress_text(sentence, context.node_id)
