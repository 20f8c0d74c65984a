"""The blur slider, the pivot and the sweep."""

from __future__ import annotations

from comfy_api.latest import io

from ..attention.install import install, untried
from ..attention.kontext import in_range, reference_holds_scene
from ..attention.rows import Pivot, Plan, Trajectory
from ..sweep.values import DEFAULT_PIVOT, MAX_LEVELS, Sweep, nearest, parse_blurs
from ..weights.format import Adapter
from .latent import repeat_scenes
from .preview import with_previews
from .schema import ADAPTER, PIVOT, SWEEP, blur_slider, schema, strength_input, validation

TRAJECTORY = io.Custom("BOKEH_TRAJECTORY")

_MODEL_TOOLTIP = "The model, with LoRAs and other patches already on it if you use any."
_ADAPTER_TOOLTIP = (
    "From Load Bokeh Adapter, for this kind of model. Without one, the prompts of Bokeh Words or the strength of Bokeh "
    "LoRA change the blur, on any model."
)


class BokehBlur(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "blur slider",
            "bokeh diffusion",
            node_id="BokehBlur",
            display_name="Bokeh Blur",
            description="Sets how strongly the background is out of focus, like turning the aperture ring.",
            inputs=[
                io.Model.Input("model", tooltip=_MODEL_TOOLTIP),
                ADAPTER.Input("adapter", optional=True, tooltip=_ADAPTER_TOOLTIP),
                blur_slider("blur", "0 = everything sharp (closed aperture), 30 = strongest bokeh (wide open)."),
                strength_input(),
                PIVOT.Input(
                    "pivot",
                    optional=True,
                    tooltip="Ties the picture to the scene of a pivot picture, so that only the blur changes "
                    "when you move the slider. Every picture of a batch keeps its own seed and gets a pivot "
                    "of its own, so the batch costs twice as much. Without it, changing the blur may "
                    "change the scene a little.",
                ),
            ],
            outputs=[io.Model.Output(display_name="model", tooltip="Goes into the sampler.")],
        )

    @classmethod
    def execute(
        cls, model, blur: float, strength: float, adapter: Adapter | None = None, pivot: Pivot | None = None
    ) -> io.NodeOutput:
        blurs, notes = in_range(adapter, (blur,))
        installed = install(model, adapter, Plan(blurs, pivot), strength)
        return io.NodeOutput(installed, ui={"text": notes + untried(model)})


class BokehPivot(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "grounding",
            "same scene",
            node_id="BokehPivot",
            display_name="Bokeh Pivot",
            description="The picture that holds the scene: the others take over its layout and change the blur.",
            inputs=[
                blur_slider(
                    "blur",
                    "Blur of the pivot picture. Values from 10 to 20 hold a scene best, because they lie in the middle "
                    "of the range. With a latent: the blur that its picture shows.",
                    DEFAULT_PIVOT,
                ),
                io.Float.Input(
                    "grounding",
                    default=0.8,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="For which part of the steps the pictures follow the pivot. 0.8 is the authors' "
                    "upper value, 0.6 their lower one; less lets details change, 0 turns it off.",
                ),
                io.Latent.Input(
                    "latent",
                    optional=True,
                    tooltip="A finished picture to use as the pivot instead of a generated one: a photo "
                    "through VAE Encode, or an earlier result. It must have the size of the picture that is "
                    "being sampled. In a sweep it costs one extra picture.",
                ),
                TRAJECTORY.Input(
                    "trajectory",
                    optional=True,
                    tooltip="From Bokeh Invert, in place of a latent: the pivot follows the inverted photo through "
                    "every noise level. Sample with the noise of the same Bokeh Invert.",
                ),
            ],
            outputs=[PIVOT.Output(display_name="pivot", tooltip="Goes into the blur slider or the sweep.")],
        )

    @classmethod
    def execute(
        cls, blur: float, grounding: float, latent: dict | None = None, trajectory: Trajectory | None = None
    ) -> io.NodeOutput:
        if latent is not None and trajectory is not None:
            raise ValueError(
                "The pivot has a latent and a trajectory, but it can follow one of them only. Disconnect the latent "
                "if you sample with the noise of Bokeh Invert, else the trajectory."
            )
        return io.NodeOutput(Pivot(blur, grounding, None if latent is None else latent["samples"], trajectory))


class BokehSweep(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "aperture bracket",
            "blur series",
            "bokeh diffusion",
            node_id="BokehSweep",
            display_name="Bokeh Sweep",
            description="The same scene at a whole list of blurs, sampled together in one batch.",
            inputs=[
                io.Model.Input("model", tooltip=_MODEL_TOOLTIP),
                ADAPTER.Input("adapter", optional=True, tooltip=_ADAPTER_TOOLTIP),
                io.Latent.Input(
                    "latent",
                    tooltip="One scene a picture: an empty latent, or a photo through VAE Encode for a denoise below "
                    "1. A batch of several gives so many scenes, each with all the blurs, its own noise and its own "
                    "pivot; the rows of a scene follow one another.",
                ),
                io.String.Input(
                    "blurs",
                    default="0, 4, 8, 15, 22, 30",
                    tooltip="Blur values from 0 (sharp) to 30 (strongest), separated by commas, and ranges: "
                    "0..30/7 means seven values evenly spaced from 0 to 30. One picture is made for each.",
                ),
                strength_input(),
                PIVOT.Input(
                    "pivot",
                    optional=True,
                    tooltip="Chooses the pivot that holds the scene and how long it does so. Without it, the "
                    "listed blur nearest to 15 is the pivot, which costs no extra picture. With BokehDepth there is "
                    "none, because the photo holds the scene.",
                ),
                io.Int.Input(
                    "rows_at_once",
                    default=0,
                    min=0,
                    max=MAX_LEVELS,
                    optional=True,
                    tooltip="How many pictures go through the model together with their pivot. 0 = by itself: all of "
                    "them, which is fastest, or as many as fit into memory. The pictures are the same.",
                ),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="Goes into the sampler."),
                io.Latent.Output(
                    display_name="latent", tooltip="One row a blur of every scene; goes into the sampler."
                ),
                SWEEP.Output(
                    display_name="sweep",
                    tooltip="Says which picture shows which blur; for matching colours, contact sheets and more.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, blurs: str | None) -> bool | str:
        return validation(parse_blurs, blurs)

    @classmethod
    def execute(
        cls,
        model,
        latent: dict,
        blurs: str,
        strength: float,
        adapter: Adapter | None = None,
        pivot: Pivot | None = None,
        rows_at_once: int = 0,
    ) -> io.NodeOutput:
        values, notes = in_range(adapter, parse_blurs(blurs))
        if pivot is None and not reference_holds_scene(adapter):
            pivot = Pivot(values[nearest(values, DEFAULT_PIVOT)])
        scenes = latent["samples"].shape[0]
        rows = repeat_scenes(latent, len(values))
        plan = Plan(values, pivot, True, rows_at_once, numbers=tuple(rows["batch_index"][:: len(values)]))
        swept = install(model, adapter, plan, strength)
        sweep = Sweep(values * scenes, None if pivot is None else pivot.blur, scenes=scenes)
        shown = swept if swept is model else with_previews(swept, sweep)
        return io.NodeOutput(shown, rows, sweep, ui={"text": notes + untried(model)})
