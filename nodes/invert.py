"""From a photo to the noise that the model makes it from."""

from __future__ import annotations

import comfy.model_management
import latent_preview
import torch
from comfy_api.latest import io, ui
from torch import Tensor

from ..attention.invert import Inversion, invert
from ..sweep.measures import psnr
from .blur import TRAJECTORY
from .schema import schema

# Below this a picture and its reconstruction are told apart at a glance.
GOOD_PSNR = 30.0
# Standard deviation of the noise beyond which the model no longer meets what it was trained on.
ODD_NOISE = 1.5
# Relative; settled steps are below 0.001.
UNSETTLED = 0.05


class BokehInvert(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "inversion",
            "refocus",
            "photo to noise",
            "unsample",
            node_id="BokehInvert",
            display_name="Bokeh Invert",
            description="Finds the noise from which the model makes this photo, so that it can be sampled again with "
            "another blur.",
            inputs=[
                io.Guider.Input(
                    "guider",
                    tooltip="From BasicGuider, with a prompt that describes the photo and a model whose Bokeh Blur is "
                    "set to the blur that the photo shows, without a pivot. A CFGGuider works too; the same "
                    "one must then sample back.",
                ),
                io.Sigmas.Input(
                    "sigmas",
                    tooltip="From BasicScheduler; the same sigmas go into the sampler. A denoise below 1 goes "
                    "only part of the way and keeps more of the photo.",
                ),
                io.Latent.Input(
                    "latent",
                    tooltip="A photo through VAE Encode, or the latent of a finished picture. Each picture of a batch "
                    "is inverted by itself.",
                ),
                io.Int.Input(
                    "iterations",
                    default=4,
                    min=1,
                    max=20,
                    tooltip="The most model calls for each step. Most steps stop after two or three, when more change "
                    "nothing; 1 is fastest and least exact.",
                ),
                io.Vae.Input(
                    "vae",
                    optional=True,
                    tooltip="With it the error is measured between decoded pictures, as the eye sees it; without it, "
                    "between latents.",
                ),
            ],
            outputs=[
                io.Noise.Output(display_name="noise", tooltip="Goes into SamplerCustomAdvanced, with sampler euler."),
                TRAJECTORY.Output(
                    display_name="trajectory",
                    tooltip="The photo at every noise level; goes into Bokeh Pivot to hold the scene exactly.",
                ),
                io.Latent.Output(display_name="reconstruction", tooltip="What sampling back at the same blur gives."),
                io.Float.Output(
                    display_name="psnr",
                    tooltip="How close the reconstruction is to the photo, in dB: above 30 is hard to tell apart. The "
                    "lowest of a batch.",
                ),
                io.String.Output(display_name="report", tooltip="The errors of the inversion, in words and numbers."),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, guider, sigmas, latent: dict, iterations: int, vae=None) -> io.NodeOutput:
        callback = latent_preview.prepare_callback(guider.model_patcher, 2 * (len(sigmas) - 1))
        inversion = invert(guider, latent, sigmas, iterations, callback)
        errors = latent_psnr(inversion.reconstruction, latent["samples"].cpu())
        if vae is not None:
            decoded = [vae.decode(samples) for samples in (inversion.reconstruction, latent["samples"])]
            errors = psnr(*decoded)
        text = report(inversion, errors, "latents" if vae is None else "pictures")
        reconstruction = {
            **latent,
            "samples": inversion.reconstruction.to(comfy.model_management.intermediate_device()),
        }
        return io.NodeOutput(
            inversion.noise,
            inversion.trajectory,
            reconstruction,
            float(errors.min()),
            text,
            ui=ui.PreviewText(text).as_dict(),
        )


def latent_psnr(latents: Tensor, reference: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of ``latents`` [n, C, ..., h, w] to ``reference``, [n].

    10 log10(r^2 / mean squared difference), r being the range of the reference's values: latents have no peak.
    """
    # A picture is one frame to models that count frames.
    reference = reference.reshape(latents.shape)
    span = reference.flatten(1).amax(1) - reference.flatten(1).amin(1)
    return 10 * (span.square() / (latents - reference).square().flatten(1).mean(1)).log10()


def report(inversion: Inversion, errors: Tensor, where: str) -> str:
    """The inversion in Markdown: a row for each picture, and advice where the numbers call for it."""
    residuals, spread = inversion.residuals, inversion.noise.noise.flatten(1).std(1)
    steps = len(residuals)
    lines = [
        f"| picture | PSNR between {where}, dB | residual of the last step | largest other residual | noise spread |",
        "| --- | --- | --- | --- | --- |",
    ]
    unsettled = float(residuals[:-1].max()) if steps > 1 else 0.0
    for picture, error in enumerate(errors.tolist()):
        others = float(residuals[:-1, picture].max()) if steps > 1 else 0.0
        lines.append(
            f"| {picture + 1} | {error:.1f} | {float(residuals[-1, picture]):.1e} | {others:.1e} | "
            f"{float(spread[picture]):.2f} |"
        )
    lines += ["", f"{inversion.calls} model calls for {steps} steps of inversion, {steps} to sample back."]
    if not torch.isfinite(errors).all() or float(errors.min()) < GOOD_PSNR:
        lines.append(
            f"PSNR below {GOOD_PSNR:.0f} dB: use more steps, a prompt that describes the photo, or a denoise below 1."
        )
    if unsettled > UNSETTLED:
        lines.append(
            f"At one step no noise was found that leads on to the picture (residual {unsettled:.2f}): there a small "
            "change of the picture changes the model's answer more. Use more steps, a lower cfg or more iterations."
        )
    if float(spread.max()) > ODD_NOISE:
        lines.append(
            "Noise spread far above 1: the model would not draw this picture, so other blurs may look wrong. "
            "Use a denoise below 1."
        )
    return "\n".join(lines)
