"""Two small models with prompts for stage diffusion, and a plain statement of the algorithm beside the nodes."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

import comfy.model_management
import comfy.samplers
import torch
from flux import Golden, Noise, conditioning, run_node
from torch import Tensor
from unet import CONTEXT, build_unet

ALPHA, LAYOUT, STEPS = 0.3, 0.4, 7


@dataclass
class Scene:
    """A model, its prompts as (tokens, pooled), and the latent to sample.

    Attributes:
        guidance: FLUX's distilled guidance of the prompt and of the negative prompt; None without such.
    """

    model: Any
    global_prompt: tuple[Tensor, Tensor]
    local_prompt: tuple[Tensor, Tensor]
    negative_prompt: tuple[Tensor, Tensor]
    shape: tuple[int, ...]
    guidance: tuple[float, float] | None

    def conditioning(self, prompt: tuple[Tensor, Tensor], **extra: Any) -> list:
        if self.guidance is None:
            return [[prompt[0], {"pooled_output": prompt[1], **extra}]]
        return conditioning(*prompt, **{"guidance": self.guidance[0]} | extra)

    def positive(self, **extra: Any) -> list:
        return self.conditioning(self.global_prompt, **extra)

    def local(self) -> list:
        return self.conditioning(self.local_prompt)

    def negative(self, **extra: Any) -> list:
        guidance = {} if self.guidance is None else {"guidance": self.guidance[1]}
        return self.conditioning(self.negative_prompt, **guidance, **extra)

    def mixed(self, alpha: float = ALPHA, **extra: Any) -> list:
        """alpha * global + (1 - alpha) * local as a conditioning of its own."""
        pairs = zip(self.global_prompt, self.local_prompt, strict=True)
        return self.conditioning(tuple(alpha * ours + (1 - alpha) * theirs for ours, theirs in pairs), **extra)

    def empty(self) -> dict:
        return {"samples": torch.zeros(self.shape)}

    def photo(self) -> dict:
        return {"samples": torch.randn(self.shape, generator=torch.Generator().manual_seed(5))}

    def staged(self, alpha: float = ALPHA, layout: float = LAYOUT, **inputs: Any) -> tuple:
        given = {"model": self.model, "global_prompt": self.positive(), "local_prompt": self.local()}
        return run_node("BokehStage", **given | inputs, alpha=alpha, layout=layout)

    def swept(self, values: str, vary: str = "alpha", alpha: float = ALPHA, layout: float = LAYOUT, **inputs) -> tuple:
        given = {"model": self.model, "global_prompt": self.positive(), "local_prompt": self.local()}
        given["latent"] = self.empty()
        return run_node("BokehStageSweep", **given | inputs, vary=vary, values=values, alpha=alpha, layout=layout)

    def sample(
        self, model, positive, latent=None, *, cfg=1.0, negative=None, sampler="euler", scheduler="simple", denoise=1.0
    ) -> Tensor:
        """Through the host's KSampler, seed 1; in the model's own scale."""
        (out,) = run_node(
            "KSampler",
            model=model,
            seed=1,
            steps=STEPS,
            cfg=cfg,
            sampler_name=sampler,
            scheduler=scheduler,
            positive=positive,
            negative=negative or self.negative(),
            latent_image=latent or self.empty(),
            denoise=denoise,
        )
        return model.model.process_latent_in(out["samples"])


def guided(scene: Scene, guider, latent: dict, sigmas: Tensor, noise: Tensor | None, sampler: str = "euler") -> dict:
    """LATENT of the host's SamplerCustomAdvanced; without ``noise`` it goes on from ``latent``."""
    out, _ = run_node(
        "SamplerCustomAdvanced",
        noise=Noise(torch.zeros(scene.shape) if noise is None else noise),
        guider=guider,
        sampler=comfy.samplers.sampler_object(sampler),
        sigmas=sigmas,
        latent_image=latent,
    )
    return out


def in_two_runs(scene: Scene, guider_for, layout_prompt: list, focus_prompt: list, rows: int = 1) -> Tensor:
    """Both stages as runs of their own, with ``guider_for(positive)`` of the plain model."""
    sigmas, first, latent = levels(scene), round(LAYOUT * STEPS), scene.empty()
    latent["samples"] = latent["samples"].repeat(rows, 1, 1, 1)
    latent = guided(scene, guider_for(layout_prompt), latent, sigmas[: first + 1], noise_of(scene))
    return guided(scene, guider_for(focus_prompt), latent, sigmas[first:], None)["samples"]


def in_one_run(scene: Scene, guider, rows: int = 1) -> Tensor:
    """The same steps without a break."""
    latent = {"samples": scene.empty()["samples"].repeat(rows, 1, 1, 1)}
    return guided(scene, guider, latent, levels(scene), noise_of(scene))["samples"]


def levels(scene: Scene) -> Tensor:
    return comfy.samplers.calculate_sigmas(scene.model.get_model_object("model_sampling"), "simple", STEPS)


def noise_of(scene: Scene) -> Tensor:
    return torch.randn(scene.shape, generator=torch.Generator().manual_seed(1))


def flux_scene() -> Scene:
    golden = Golden("all_blocks")
    prompt = golden.expected["txt"], golden.expected["pooled"]
    generator = torch.Generator().manual_seed(7)
    local, negative = (tuple(torch.randn(part.shape, generator=generator) for part in prompt) for _ in range(2))
    return Scene(golden.model, prompt, local, negative, tuple(golden.expected["noise"].shape), (3.0, 1.0))


def unet_scene() -> Scene:
    generator = torch.Generator().manual_seed(8)
    prompts = [
        (torch.randn(1, 77, CONTEXT, generator=generator), torch.randn(1, 16, generator=generator)) for _ in range(3)
    ]
    return Scene(build_unet(), *prompts, (1, 4, 8, 8), None)


def statement(scene: Scene, alpha: float, layout: float, latent: dict, *, sampler, scheduler, cfg, denoise) -> Tensor:
    """Stage diffusion as the paper says it, over bare model calls: the embedding is switched after step k.

    Heun's second call of a step belongs to the next step's noise level, so to the stage of that step.
    """
    model = scene.model.model
    comfy.model_management.load_models_gpu([scene.model])
    sigmas = comfy.samplers.KSampler(
        scene.model, STEPS, torch.device("cpu"), sampler, scheduler, denoise=denoise
    ).sigmas.tolist()
    steps = len(sigmas) - 1
    first_in_focus = round(layout * steps)
    focus = scene.mixed(alpha)[0]
    prompts = [scene.positive()[0] if i < first_in_focus else focus for i in range(steps)]

    def predict(x: Tensor, sigma: float, entry: list) -> Tensor:
        given = {"x": x, "t": torch.tensor([sigma]), "c_crossattn": entry[0]}
        if scene.guidance is not None:
            given |= {"y": entry[1]["pooled_output"], "guidance": torch.tensor([entry[1]["guidance"]])}
        device = scene.model.load_device
        return model.apply_model(**{name: part.to(device) for name, part in given.items()}).to(x)

    def denoised(x: Tensor, i: int) -> Tensor:
        prompted = predict(x, sigmas[i], prompts[i])
        if cfg == 1:
            return prompted
        unprompted = predict(x, sigmas[i], scene.negative()[0])
        return unprompted + cfg * (prompted - unprompted)

    noise = torch.randn(scene.shape, generator=torch.Generator().manual_seed(1))
    clean = latent["samples"]
    clean = model.process_latent_in(clean) if clean.any() else clean
    if scene.guidance is not None:
        x = sigmas[0] * noise + (1 - sigmas[0]) * clean
    else:
        from_noise = denoise == 1
        x = clean + noise * (math.sqrt(1 + sigmas[0] ** 2) if from_noise else sigmas[0])
    before = None
    for i, (sigma, following) in enumerate(itertools.pairwise(sigmas)):
        clean = denoised(x, i)
        slope = (x - clean) / sigma
        if sampler == "heun" and following > 0:
            reached = x + slope * (following - sigma)
            there = (reached - denoised(reached, i + 1)) / following
            slope = (slope + there) / 2
        if sampler == "dpmpp_2m" and following > 0:
            step = math.log(sigma / following)
            estimate = clean
            if before is not None:
                ratio = math.log(sigmas[i - 1] / sigma) / step
                estimate = clean + (clean - before) / (2 * ratio)
            x = following / sigma * x + (1 - following / sigma) * estimate
            before = clean
        else:
            x = x + slope * (following - sigma)
    return x
