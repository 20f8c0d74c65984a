"""LoRAs whose strength follows the blur."""

from __future__ import annotations

from pathlib import Path

import folder_paths
from comfy_api.latest import io
from torch import Tensor

from ..attention.lora import install_lora, read_pieces
from ..files import state
from ..weights.stored import read_stored
from .schema import fingerprint, schema


def _strength(id: str, default: float, at: str) -> io.Float.Input:
    return io.Float.Input(
        id,
        default=default,
        min=-10.0,
        max=10.0,
        step=0.05,
        tooltip=f"The strength of the LoRA at {at}; between the two ends it goes evenly. May be negative, for sliders "
        "that sharpen.",
    )


class BokehLora(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "slider lora",
            "without adapter",
            "any model",
            node_id="BokehLora",
            display_name="Bokeh LoRA",
            description="A LoRA that changes the depth of field, as the dial of a sweep: each picture gets it at the "
            "strength of its blur.",
            inputs=[
                io.Model.Input("model", tooltip="The model that the LoRA was trained for."),
                io.Combo.Input(
                    "lora",
                    options=folder_paths.get_filename_list("loras"),
                    tooltip="From models/loras: a slider for blur, bokeh or depth of field.",
                ),
                _strength("at_sharp", 0.0, "blur 0"),
                _strength("at_blurred", 1.0, "blur 30"),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="Goes into Bokeh Sweep or Bokeh Blur, or comes after it.")
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, lora: str | None, **_):
        # A file replaced by another of the same name is read again.
        return fingerprint(lambda lora: (lora, state(folder_paths.get_full_path("loras", lora) or "")), lora)

    @classmethod
    def execute(cls, model, lora: str, at_sharp: float, at_blurred: float) -> io.NodeOutput:
        path = folder_paths.get_full_path("loras", lora)
        if path is None:
            raise ValueError(f'There is no LoRA "{lora[:200]}" in models/loras. Choose one of the list.')
        # Not the host's reader: it leaves the weights in the file, which somebody may write over, and opens any pickle.
        stored, _ = read_stored(Path(path), lora, lambda names: None)
        tensors = {str(name): value for name, value in stored.items() if isinstance(value, Tensor)}
        pieces, notes = read_pieces(tensors, model, lora)
        return io.NodeOutput(install_lora(model, pieces, at_sharp, at_blurred), ui={"text": notes})
