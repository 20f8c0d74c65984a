"""A sweep as files: the levels, a contact sheet, an animation and a description."""

from __future__ import annotations

import os

import folder_paths
from comfy.cli_args import args
from comfy.model_management import throw_exception_if_processing_interrupted
from comfy.utils import ProgressBar
from comfy_api.latest import io, ui

from ..sweep.export import checked_prefix, explained, find_seed, save_sweep
from ..sweep.naming import fill_prefix, without_fields
from ..sweep.remarks import broken
from ..sweep.values import Sweep
from .schema import IMAGES_TOOLTIP, SWEEP, SWEEP_TOOLTIP, schema, validation

# What sentences call the output folder, wherever it lies.
_OUTPUT = "output"


class BokehSweepSave(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "save sweep",
            "export",
            "animation",
            "webp",
            node_id="BokehSweepSave",
            display_name="Save Bokeh Sweep",
            description="Saves a sweep into a new folder of the output folder, several scenes into one each: every "
            "picture with its blur in the name, the contact sheet, an animation through the blurs, and a JSON file "
            "with values and measures.",
            inputs=[
                io.Image.Input("images", tooltip=IMAGES_TOOLTIP),
                SWEEP.Input("sweep", tooltip=SWEEP_TOOLTIP),
                io.String.Input(
                    "filename_prefix",
                    default="bokeh/sweep",
                    tooltip="Name of the new folder, inside the output folder; it gets a number, and nothing is ever "
                    "overwritten. Folders are possible, and so is what the host's own nodes fill: %date:yyyy-MM-dd%, "
                    "%KSampler.seed%, %width%, %height%, %year% and so on.",
                ),
                io.Boolean.Input(
                    "animation",
                    default=True,
                    tooltip="Also save an animated WebP that goes up through the blurs and down again, in a loop.",
                ),
                io.Float.Input(
                    "frames_per_second",
                    default=6.0,
                    min=0.1,
                    max=60.0,
                    step=0.5,
                    round=0.01,
                    tooltip="Pictures a second in the animation. About 6 for seven blurs, 15 for thirty.",
                ),
            ],
            outputs=[],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo, io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(cls, filename_prefix: str | None) -> bool | str:
        # Before the run: a wrong name found afterwards would cost all the pictures.
        return validation(
            lambda prefix: checked_prefix(without_fields(prefix), folder_paths.get_output_directory()), filename_prefix
        )

    @classmethod
    def execute(
        cls, images, sweep: Sweep, filename_prefix: str, animation: bool, frames_per_second: float
    ) -> io.NodeOutput:
        sweep.check(len(images))
        output, prompt = folder_paths.get_output_directory(), cls.hidden.prompt
        extra = cls.hidden.extra_pnginfo if isinstance(cls.hidden.extra_pnginfo, dict) else {}
        prefix = checked_prefix(fill_prefix(filename_prefix, prompt, extra.get("workflow")), output)
        height, width = images.shape[1:3]
        called = os.path.join(_OUTPUT, os.path.dirname(prefix))
        with explained(called.rstrip("/\\")):
            parent, name, counter, subfolder, _ = folder_paths.get_save_image_path(prefix, output, width, height)
        called = os.path.join(_OUTPUT, subfolder).rstrip("/\\")
        # What the host embeds in its own pictures: the prompt, the workflow and whatever else the page sent.
        metadata = {} if args.disable_metadata else ({} if prompt is None else {"prompt": prompt}) | extra
        bar = ProgressBar(len(images))
        shown, folders, notes = [], [], []
        for scene, pictures in enumerate(images.split(sweep.levels)):

            def on_progress(done: int, total: int, scene: int = scene) -> None:
                bar.update_absolute(scene * total + done, sweep.scenes * total)
                throw_exception_if_processing_interrupted()

            saved = save_sweep(
                pictures,
                sweep.scene(scene),
                parent,
                # The host's for the number in a batch, which is filled picture by picture.
                name.replace("%batch_num%", str(scene)),
                counter + scene,
                frames_per_second=frames_per_second if animation else None,
                seed=find_seed(prompt, cls.hidden.unique_id) if metadata else None,
                metadata=metadata,
                on_progress=on_progress,
                called=called,
            )
            place = os.path.join(subfolder, saved.folder.name)
            shown += [ui.SavedResult(file, place, io.FolderType.output) for file in saved.pictures]
            folders.append(os.path.join(called, saved.folder.name))
            notes += [note for note in saved.notes if note not in notes]
        text = " ".join((f"Saved {', '.join(folders)}", *notes, *broken(images)))
        return io.NodeOutput(ui={"images": shown, "text": (text,)})
