"""Nodes for adapter files."""

from __future__ import annotations

import torch
from comfy.model_management import throw_exception_if_processing_interrupted
from comfy.utils import ProgressBar
from comfy_api.latest import io

from ..files import state
from ..weights.files import read_adapter, write_adapter
from ..weights.folder import adapter_choices, adapter_path, called, new_adapter_path
from ..weights.genfocus import Genfocus
from ..weights.hub import download, is_download, public_adapter
from .schema import ADAPTER, fingerprint, schema, validation

_DTYPES = {
    "as it is": None,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float32": torch.float32,
}


class BokehLoadAdapter(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "load bokeh diffusion",
            node_id="BokehLoadAdapter",
            display_name="Load Bokeh Adapter",
            description="Loads the weights that teach a model to defocus on request.",
            inputs=[
                io.Combo.Input(
                    "adapter",
                    options=adapter_choices(),
                    tooltip="A file in models/bokeh_adapters, or one of the published adapters, which is "
                    "downloaded when the graph runs for the first time. Bokeh Diffusion is for FLUX.1-dev, "
                    "BokehDepth for FLUX.1-Kontext-dev, both for non-commercial use; Genfocus is for photos on "
                    "FLUX.1-dev. Those called demo are for Bokeh Demo Model: for blur, and two as Genfocus.",
                )
            ],
            outputs=[
                ADAPTER.Output(
                    display_name="adapter", tooltip="Goes into the blur slider, the sweep or Save Bokeh Adapter."
                )
            ],
        )

    @classmethod
    def validate_inputs(cls, adapter: str | None) -> bool | str:
        return validation(lambda name: public_adapter(name) if is_download(name) else adapter_path(name), adapter)

    @classmethod
    def fingerprint_inputs(cls, adapter: str):
        # A file replaced by another of the same name is read again, and so is the config.json that belongs to it.
        def files(adapter: str) -> object:
            path = adapter_path(adapter)
            return adapter, state(path), state(path.with_name("config.json"))

        return adapter if adapter is not None and is_download(adapter) else fingerprint(files, adapter)

    @classmethod
    def execute(cls, adapter: str) -> io.NodeOutput:
        if is_download(adapter):
            bar = ProgressBar(1)

            def on_progress(done: int, total: int) -> None:
                throw_exception_if_processing_interrupted()
                bar.update_absolute(done, total)

            path = download(adapter, on_progress)
        else:
            path = adapter_path(adapter)
        return io.NodeOutput(read_adapter(path, called(path)))


class BokehSaveAdapter(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "convert adapter",
            node_id="BokehSaveAdapter",
            display_name="Save Bokeh Adapter",
            description="Writes an adapter as one self-contained safetensors file into models/bokeh_adapters. "
            "Converts the authors' files, which need a config.json beside them, and halves them in bfloat16.",
            inputs=[
                ADAPTER.Input("adapter", tooltip="The adapter to save."),
                io.String.Input(
                    "name",
                    default="bokeh_adapter",
                    tooltip="Name of the new file, without an ending. Folders are possible: mine/portrait. "
                    "A file that is already there is never overwritten; the new one gets a number.",
                ),
                io.Combo.Input(
                    "dtype",
                    options=list(_DTYPES),
                    tooltip="How exactly the numbers are kept. bfloat16 halves a float32 file; FLUX usually runs in "
                    "bfloat16 anyway, so nothing is lost in the pictures.",
                ),
            ],
            outputs=[],
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(cls, name: str | None) -> bool | str:
        # Before the run: a training may stand in front of this node.
        return validation(new_adapter_path, name)

    @classmethod
    def execute(cls, adapter, name: str, dtype: str) -> io.NodeOutput:
        if isinstance(adapter, Genfocus):
            raise ValueError(
                f"{adapter.source} is a file of Genfocus, which is used as it is. Connect an adapter for blur."
            )
        path = new_adapter_path(name)
        path = write_adapter(adapter, path, _DTYPES[dtype], replace=False, called=called(path))
        return io.NodeOutput(ui={"text": (f"Saved {called(path)}",)})
