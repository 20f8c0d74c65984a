"""The list of nodes that the host registers."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from ..weights.folder import register_folder
from .adapter import BokehLoadAdapter, BokehSaveAdapter
from .blur import BokehBlur, BokehPivot, BokehSweep
from .demo import BokehDemoModel
from .focus import BokehFocus
from .genfocus import BokehAllInFocus, BokehRefocus
from .invert import BokehInvert
from .lens import BokehLens
from .lora import BokehLora
from .numbers import checked
from .pairs import BokehPairs
from .phone import BokehPortrait
from .prompt import BokehPrompt
from .render import BokehRender
from .report import BokehReport
from .results import BokehMatchColors, BokehSweepGrid
from .save import BokehSweepSave
from .stage import BokehStage, BokehStageSweep
from .train import BokehTrainAdapter
from .view import BokehSweepView
from .words import BokehWords


class BokehExtension(ComfyExtension):
    async def on_load(self) -> None:
        register_folder()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        # Hosts before on_load existed come here first.
        register_folder()
        nodes = [
            BokehDemoModel,
            BokehLoadAdapter,
            BokehSaveAdapter,
            BokehBlur,
            BokehPivot,
            BokehSweep,
            BokehInvert,
            BokehPrompt,
            BokehWords,
            BokehLora,
            BokehLens,
            BokehStage,
            BokehStageSweep,
            BokehFocus,
            BokehPortrait,
            BokehRender,
            BokehAllInFocus,
            BokehRefocus,
            BokehMatchColors,
            BokehSweepGrid,
            BokehSweepView,
            BokehReport,
            BokehSweepSave,
            BokehPairs,
            BokehTrainAdapter,
        ]
        return [checked(node) for node in nodes]
