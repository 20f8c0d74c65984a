"""The demonstration model as a node."""

from __future__ import annotations

from comfy_api.latest import io
from comfy_execution.utils import get_executing_context
from server import PromptServer

from ..demo import FOLDER
from ..demo.load import demo_files, load_demo
from ..demo.network import KINDS
from ..files import state
from .schema import fingerprint, schema, without_places

# What graphs from before there was a second one draw with.
FLUX = next(iter(KINDS))
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
            description="A very small FLUX, or UNet as Stable Diffusion's, that comes with this pack and runs on any "
            "computer: objects before patterned backgrounds, at 128 x 128. It shows how the blur slider and the sweep "
            "work, without a download.",
            inputs=[
                io.Combo.Input(
                    "network",
                    options=list(KINDS),
                    optional=True,
                    tooltip='What draws: flux goes with the adapter "demo", unet with "demo: unet".',
                )
            ],
            outputs=[
                io.Model.Output(
                    display_name="model",
                    tooltip="Goes into the blur slider or the sweep, with its adapter, or into the sampler.",
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
    def fingerprint_inputs(cls, network: str | None = FLUX):
        # A model trained again is read again.
        return fingerprint(lambda name: (name, *map(state, demo_files(FOLDER, KINDS[name]))), network)

    @classmethod
    @without_places
    def execute(cls, network: str = FLUX) -> io.NodeOutput:
        return io.NodeOutput(*load_demo(FOLDER, _tell, KINDS[network]))


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
