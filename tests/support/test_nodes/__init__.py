"""Test-only node that makes a sweep from typed values, so that page tests need no model.

A test links this folder into the server's custom_nodes, beside the pack. The sweep is the pack's own.
"""

from __future__ import annotations

import importlib
import sys

from comfy_api.latest import ComfyExtension, io


def _sweep_module():
    """The pack's ``sweep.values``, whichever name the host loaded the pack under."""
    pack = next(name for name in sys.modules if name.endswith("comfyui-bokeh"))
    return importlib.import_module(f"{pack}.sweep.values")


class BokehTestSweep(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BokehTestSweep",
            category="tests",
            inputs=[
                io.String.Input("blurs"),
                io.Float.Input("pivot", default=-1.0, min=-1.0, max=100.0, tooltip="-1 for none"),
                io.String.Input("name", default="blur"),
                io.Int.Input("scenes", default=1, min=1),
            ],
            outputs=[io.Custom("BOKEH_SWEEP").Output("sweep")],
        )

    @classmethod
    def execute(cls, blurs: str, pivot: float, name: str, scenes: int) -> io.NodeOutput:
        sweep = _sweep_module()
        values = sweep.parse_blurs(blurs) * scenes
        return io.NodeOutput(sweep.Sweep(values, None if pivot < 0 else pivot, name, scenes=scenes))


class TestExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [BokehTestSweep]


async def comfy_entrypoint() -> TestExtension:
    return TestExtension()
