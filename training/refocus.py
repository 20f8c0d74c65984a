"""Procedural scenes as a camera sees them: out of focus and all in focus, for condition LoRAs (see ``conditions``)."""

from __future__ import annotations

from collections.abc import Sequence

import comfy.sd
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ..attention.genfocus import defocus_map
from ..optics.focus import Focus
from ..sweep.values import BLUR_MAX
from .conditions import Example
from .pictures import Identity
from .scenes import Props, Scene, draw_scenes, render, subject_masks

ALL_IN_FOCUS, REFOCUS = "all_in_focus", "refocus"
# The authors' own.
PROMPTS = {
    ALL_IN_FOCUS: "a sharp photo with everything in focus",
    REFOCUS: "an excellent photo with a large aperture",
}
# Shares of the pictures with the object and with the background in focus; in the others something between is.
_ON_OBJECT, _ON_GROUND = 0.4, 0.4


def focus_of(props: Props, scene: Scene, blurs: Tensor, planes: Tensor) -> Focus:
    """What Bokeh Focus says of these pictures: the background at disparity 0, the object at 1."""
    return Focus((subject_masks(props, scene) >= 0.5).float(), False, planes, blurs)


def shown(kind: str, props: Props, scene: Scene, blurs: Tensor, planes: Tensor) -> tuple[Tensor, list[Tensor]]:
    """The true pictures [n, H, W, 3] and, for each condition, the pictures that they are made from."""
    sharp, blurred = render(props, scene, torch.zeros_like(blurs)), render(props, scene, blurs, planes)
    if kind == ALL_IN_FOCUS:
        return sharp, [blurred]
    focus = focus_of(props, scene, blurs, planes)
    return blurred, [sharp, torch.cat([defocus_map(focus.defocus(row)) for row in range(len(focus))])]


class SceneExamples:
    """Endless examples of one kind (see ``conditions.Examples``).

    Args:
        kind: ALL_IN_FOCUS (a blurred picture -> the sharp one) or REFOCUS (sharp picture, defocus map -> blurred).
        vae, clip, model: the demonstration model's.
    """

    def __init__(self, kind: str, vae: comfy.sd.VAE, clip: comfy.sd.CLIP, model: ModelPatcher):
        self.kind, self.conditions = kind, 1 if kind == ALL_IN_FOCUS else 2
        self._vae, self._scale, self._props = vae, model.model.process_latent_in, Props()
        (self._context, extra), *_ = clip.encode_from_tokens_scheduled(clip.tokenize(PROMPTS[kind]))
        self._pooled = extra["pooled_output"]

    def draw(self, generators: Sequence[torch.Generator], held_out: bool = False) -> Example:
        scenes = [draw_scenes(generator, 1, held_out) for generator in generators]
        lot = torch.stack([torch.rand(3, generator=generator) for generator in generators])
        planes = torch.where(lot[:, 0] < _ON_OBJECT, 1.0, torch.where(lot[:, 0] > 1 - _ON_GROUND, 0.0, lot[:, 1]))
        scene = Scene(*map(torch.cat, zip(*scenes, strict=True)))
        picture, conditions = shown(self.kind, self._props, scene, BLUR_MAX * lot[:, 2], planes)
        latents = [self._scale(self._vae.encode(images)).float() for images in (picture, *conditions)]
        count = len(generators)
        context, pooled = self._context.expand(count, -1, -1), self._pooled.expand(count, -1)
        return Example(latents[0], tuple(latents[1:]), context, pooled)

    def identity(self) -> Identity:
        one = self.draw([torch.Generator().manual_seed(0)])
        # Latents tell the VAE, and the mean over the tokens the text encoder.
        return {"examples": self.kind, "VAE": one.latents.cpu(), "text encoder": one.context.mean(1).cpu()}
