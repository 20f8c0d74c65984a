"""Training of an adapter on the user's own model and pictures."""

from __future__ import annotations

from pathlib import Path

import folder_paths
import torch
from comfy.utils import ProgressBar
from comfy_api.latest import io, ui
from PIL import Image

from ..attention.install import network_places
from ..files import plain_name
from ..training.pictures import Dataset
from ..training.recipe import DEEP, PRESETS, Recipe
from ..training.session import Parts, Session
from ..training.start import timestep_mean
from ..training.trainer import Progress
from .schema import ADAPTER, PAIRS, schema, validation, without_places

_FOLDER = "bokeh_training"
_GROUP = 4
_SMALL = 2**28
_ALL_BLOCKS, _OWN_RECIPE = "all", "this pack's"


class BokehTrainAdapter(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "training",
            "finetune",
            "lora",
            node_id="BokehTrainAdapter",
            display_name="Bokeh Train Adapter",
            description="Trains a bokeh adapter for your model on pictures of known blur. Stop it at any time: the "
            "same settings go on where it stopped.",
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="The model that the adapter is for; it stays as it is. FLUX.1 and 2, "
                    "Chroma, Stable Diffusion 1.5, XL and 3.5, Qwen-Image, Z-Image, Lumina 2 or Krea 2.",
                ),
                io.Clip.Input("clip", tooltip="The text encoder of that model."),
                io.Vae.Input("vae", tooltip="The VAE of that model."),
                PAIRS.Input("pairs", tooltip="From Bokeh Pairs: the pictures to learn from."),
                io.String.Input(
                    "name",
                    default="my_adapter",
                    tooltip="Name of the run: its checkpoint and best adapter lie in output/bokeh_training under it. "
                    "A run of that name, on the same pictures and with the same settings, is gone on with; "
                    "with others it is refused.",
                ),
                io.Int.Input(
                    "steps",
                    default=1000,
                    min=1,
                    max=1_000_000,
                    tooltip="Steps in all. A finished run goes on when you raise the number.",
                ),
                io.Int.Input(
                    "batch",
                    default=4,
                    min=1,
                    max=256,
                    tooltip="Pictures of one step. Multiples of 4 learn from groups of four blurs of one scene; 1 "
                    "learns from single pictures only, which holds scenes less well. Lower it when memory runs out.",
                ),
                io.Int.Input(
                    "rank",
                    default=64,
                    min=1,
                    max=1024,
                    tooltip="Size of the adapter: the published one for FLUX.1-dev has 128, a small model needs 16.",
                ),
                io.Float.Input(
                    "learning_rate",
                    default=1e-4,
                    min=1e-7,
                    max=1.0,
                    step=1e-6,
                    round=1e-8,
                    tooltip="How large the steps are. 0.0001 for FLUX.1-dev; small models take 0.001.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**53,
                    # A seed that changes with every queue would be another run each time, refused by its name.
                    control_after_generate=False,
                    tooltip="Of everything that is drawn: the same seed trains the same adapter.",
                ),
                io.Int.Input(
                    "show_every",
                    default=100,
                    min=1,
                    max=100_000,
                    tooltip="Steps between measurements on held-out pictures, checkpoints, and a sweep in the preview "
                    "that shows what has been learned.",
                ),
                io.Combo.Input(
                    "blocks",
                    options=[_ALL_BLOCKS, DEEP],
                    optional=True,
                    tooltip="Which attention learns. deep: the second half of the blocks, or in the UNets of Stable "
                    "Diffusion 1.5 and XL the coarsest level, for a smaller adapter.",
                ),
                io.Combo.Input(
                    "recipe",
                    options=[_OWN_RECIPE, *PRESETS],
                    optional=True,
                    tooltip="How pictures are drawn and the rate falls. BokehDepth: as published (grounding and noise "
                    "by picture, offset noise, a cosine), with AdamW for its Prodigy; its authors trained with batch "
                    "16 and rank 128.",
                ),
            ],
            outputs=[
                ADAPTER.Output(
                    display_name="adapter",
                    tooltip="The best adapter by held-out loss: for Bokeh Blur and Bokeh Sweep, and for Save Bokeh "
                    "Adapter to keep it.",
                ),
                io.Image.Output(display_name="plot", tooltip="The losses over the steps."),
            ],
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(cls, name: str | None) -> bool | str:
        return validation(_run_folder, name)

    @classmethod
    @without_places
    def execute(
        cls,
        model,
        clip,
        vae,
        pairs: Dataset,
        name: str,
        steps: int,
        batch: int,
        rank: int,
        learning_rate: float,
        seed: int,
        show_every: int,
        blocks: str = _ALL_BLOCKS,
        recipe: str = _OWN_RECIPE,
    ) -> io.NodeOutput:
        folder = _run_folder(name)
        network_places(model)
        settings = {"timestep_mean": timestep_mean(model), **PRESETS.get(recipe, {})}
        settings |= {
            "seed": seed,
            "batch": batch,
            "per_scene": max(size for size in range(1, _GROUP + 1) if batch % size == 0),
            "rank": rank,
            "blocks": DEEP if blocks == DEEP else None,
            "learning_rate": learning_rate,
            # A model that is small beside any memory learns a third faster when it keeps its activations.
            "checkpointing": model.model_size() > _SMALL,
        }
        session = Session(Parts(model, clip, vae), pairs, Recipe(**settings), folder)
        bar = ProgressBar(steps)

        def show(progress: Progress, picture: torch.Tensor | None) -> None:
            preview = None
            if picture is not None:
                shown = Image.fromarray((255 * picture[0]).round().to(torch.uint8).numpy())
                preview = ("JPEG", shown, max(shown.size))
            bar.update_absolute(progress.step, steps, preview)

        plot = session.run(steps, show, show_every, show_every)
        return io.NodeOutput(session.trainer.adapter(), plot, ui=ui.PreviewImage(plot, cls=cls))


def _run_folder(name: str) -> Path:
    """The folder of a run. Raises ValueError for a name that leads out of the folder of all runs."""
    root = Path(folder_paths.get_output_directory(), _FOLDER)
    return root / plain_name(root, name, "a run", '"portrait"')
