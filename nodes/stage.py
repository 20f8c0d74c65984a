"""Bokeh by words: which part of the scene stays sharp, on any model."""

from __future__ import annotations

from comfy_api.latest import io

from ..stages.hooks import install_stages
from ..stages.mixing import ALPHA_MAX
from ..stages.prompts import stage_prompt
from ..sweep.values import Scale, Sweep, parse_values
from .latent import repeat_scene
from .preview import with_previews
from .schema import SWEEP, schema, validation

_ALPHA, _LAYOUT = "alpha", "layout"
_SCALES = {
    _ALPHA: Scale(
        _ALPHA,
        0.0,
        ALPHA_MAX,
        ("0.3, 0.5, 0.7, 1", "0..1/5"),
        "1 is the global prompt alone, 0 the local prompt alone.",
    ),
    _LAYOUT: Scale(_LAYOUT, 0.0, 1.0, ("0.7, 0.8, 0.9", "0.6..1/5"), "It is a fraction of the steps."),
}


def _prompts() -> list[io.Input]:
    return [
        io.Model.Input(
            "model", tooltip="Any model: SD1.5, SDXL, FLUX and others, with LoRAs and other patches already on it."
        ),
        io.Conditioning.Input(
            "global_prompt", tooltip="The whole scene: what the picture shows, subject and background."
        ),
        io.Conditioning.Input(
            "local_prompt",
            tooltip="The thing to keep sharp, in words of the same text encoder: 'a red fox, sharp focus'. The rest of "
            "the scene falls out of focus.",
        ),
    ]


def _alpha(tooltip: str) -> io.Float.Input:
    return io.Float.Input(_ALPHA, default=0.5, min=0.0, max=ALPHA_MAX, step=0.05, round=0.001, tooltip=tooltip)


def _layout(tooltip: str) -> io.Float.Input:
    return io.Float.Input(_LAYOUT, default=0.8, min=0.0, max=1.0, step=0.05, round=0.001, tooltip=tooltip)


def _scale(vary: str) -> Scale:
    if vary not in _SCALES:
        raise ValueError(f"vary is '{vary[:40]}', expected {_ALPHA} or {_LAYOUT}. Choose what the values are.")
    return _SCALES[vary]


class BokehStage(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "gbsd",
            "stage diffusion",
            "semantic bokeh",
            "selective focus",
            node_id="BokehStage",
            display_name="Bokeh Stage",
            description="Keeps the thing you name sharp and lets the rest go soft, on any model and without extra "
            "weights: the first steps lay out the scene, the last ones think of the subject.",
            inputs=[
                *_prompts(),
                _alpha(
                    "Weight of the global prompt in the focus stage; the local prompt has the rest. 1 = the global "
                    "prompt alone, as without this node; lower values focus on the subject more; above 1 the picture "
                    "moves away from it."
                ),
                _layout(
                    "Fraction of the steps, counted from the first, in which the global prompt alone lays out the "
                    "scene. 0.8 is the authors' value. Below 0.7 the objects of the two prompts begin to mix; 1 turns "
                    "the node off."
                ),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="Goes into the sampler."),
                io.Conditioning.Output(
                    display_name="positive",
                    tooltip="The prompt in its two stages; goes into the sampler together with the model.",
                ),
            ],
        )

    @classmethod
    def execute(cls, model, global_prompt, local_prompt, alpha: float, layout: float) -> io.NodeOutput:
        positive = stage_prompt(model, global_prompt, local_prompt, (alpha,), (layout,))
        if alpha == 1 or layout == 1:
            return io.NodeOutput(model, global_prompt)
        return io.NodeOutput(install_stages(model), positive)


class BokehStageSweep(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "gbsd",
            "stage diffusion",
            "alpha series",
            node_id="BokehStageSweep",
            display_name="Bokeh Stage Sweep",
            description="One scene at a whole list of alphas or layouts, sampled together in one batch.",
            inputs=[
                *_prompts(),
                io.Latent.Input(
                    "latent",
                    tooltip="The latent of ONE picture: an empty latent, or a photo through VAE Encode for a denoise "
                    "below 1. It is repeated for every value, and all of them start from the same noise.",
                ),
                io.Combo.Input(
                    "vary",
                    options=[_ALPHA, _LAYOUT],
                    default=_ALPHA,
                    tooltip="What the values are: alpha, how much the focus stage keeps of the global prompt, or "
                    "layout, when the focus stage begins.",
                ),
                io.String.Input(
                    "values",
                    default="0.3, 0.5, 0.7, 1",
                    tooltip="Values separated by commas, and ranges: 0..1/5 means five values evenly spaced from 0 to "
                    "1. Alpha goes from 0 to 2, layout from 0 to 1. With 1 the plain picture is among them.",
                ),
                _alpha("The alpha of all pictures when layout varies; not used when alpha varies."),
                _layout("The layout of all pictures when alpha varies; not used when layout varies."),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="Goes into the sampler."),
                io.Conditioning.Output(
                    display_name="positive", tooltip="The prompt of every row; goes into the sampler with the model."
                ),
                io.Latent.Output(display_name="latent", tooltip="One row a value; goes into the sampler."),
                SWEEP.Output(
                    display_name="sweep",
                    tooltip="Says which picture shows which value; for the view, the contact sheet and the report.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, vary: str | None, values: str | None) -> bool | str:
        return validation(lambda values, vary: parse_values(values, _scale(vary)), values, vary)

    @classmethod
    def execute(
        cls, model, global_prompt, local_prompt, latent: dict, vary: str, values: str, alpha: float, layout: float
    ) -> io.NodeOutput:
        listed = parse_values(values, _scale(vary))
        alphas, layouts = (listed, (layout,)) if vary == _ALPHA else ((alpha,), listed)
        positive = stage_prompt(model, global_prompt, local_prompt, alphas, layouts, len(listed))
        rows = repeat_scene(latent, len(listed), vary)
        sweep = Sweep(listed, name=vary, decimals=2)
        return io.NodeOutput(with_previews(install_stages(model), sweep), positive, rows, sweep)
