"""Pictures and captions through the host's VAE and text encoder."""

from __future__ import annotations

from collections import OrderedDict

import comfy.sd
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ..weights.format import is_finite
from .pictures import Dataset, Draw, Identity, Text

# Captions kept encoded. Those of FLUX take 2 to 4 MB each.
_CAPTIONS = 256
# Characters of one in a sentence.
_SHOWN = 80
# What a VAE and a text encoder are told by.
_CHART_SIDE, _SENTENCE = 128, "a red disc before green tiles"


class EncodedDataset:
    """A dataset as the model sees it (see ``pictures.LatentDataset``).

    Args:
        dataset: gives pictures, captions and blurs.
        vae, clip: the host's, those that belong to ``model``.
        model: the host's MODEL; only its latents' scale is used.

    Raises:
        ValueError: where a loader gave no text encoder or no VAE; when drawing, where one of them gives NaN.
    """

    def __init__(self, dataset: Dataset, vae: comfy.sd.VAE, clip: comfy.sd.CLIP, model: ModelPatcher):
        for part, name, loader in ((clip, "text encoder", "Load CLIP"), (vae, "VAE", "Load VAE")):
            if part is None:
                raise ValueError(f"There is no {name}: this checkpoint holds none. Load the model's own with {loader}.")
        self.groups, self.singles = dataset.groups, dataset.singles
        self._dataset, self._vae, self._clip, self._scale = dataset, vae, clip, model.model.process_latent_in
        self._texts: OrderedDict[str, Text] = OrderedDict()

    def draw(self, generator: torch.Generator, scenes: int, per_scene: int, held_out: bool = False) -> Draw:
        """As ``LatentDataset.draw``; every caption has the length that sampling would give it."""
        pictures = self._dataset.draw(generator, scenes, per_scene, held_out)
        images = pictures.images[..., :3]
        # A VAE of videos takes a batch of pictures for the frames of one.
        batches = images.split(1) if self._vae.latent_dim == 3 else [images]
        latents = torch.cat([self._vae.encode(batch) for batch in batches])
        for number, latent in enumerate(latents):
            caption = pictures.captions[number // per_scene]
            _check(latent, "VAE", f'a picture with the caption "{caption[:_SHOWN]}"', "--fp32-vae")
        return Draw(self._scale(latents), [self._text(caption) for caption in pictures.captions], pictures.blurs)

    def empty(self) -> Text:
        """As ``LatentDataset.empty``."""
        return self._text("")

    def identity(self) -> Identity:
        """Of the dataset, and what VAE and text encoder make of one chart and one sentence: whatever was put on them
        (a LoRA, skipped layers) shows there, and the file they come from does not matter."""
        ramp = torch.linspace(0, 1, _CHART_SIDE)
        across, down = ramp.expand(_CHART_SIDE, -1), ramp[:, None].expand(-1, _CHART_SIDE)
        chart = torch.stack([across, down, 1 - across * down], dim=-1)
        text = self._text(_SENTENCE)
        # The mean over the tokens: the tokens themselves would fill megabytes of every checkpoint.
        parts = [text.context.float().mean(0)] + ([] if text.pooled is None else [text.pooled.float()])
        latents = self._vae.encode(chart[None])
        return {**self._dataset.identity(), "VAE": latents.float().cpu(), "text encoder": torch.cat(parts)}

    def _text(self, caption: str) -> Text:
        if caption not in self._texts:
            (context, extra), *_ = self._clip.encode_from_tokens_scheduled(self._clip.tokenize(caption))
            _check(context, "text encoder", f'the caption "{caption[:_SHOWN]}"', "--fp32-text-enc")
            parts = (context, extra.get("pooled_output"), extra.get("attention_mask"))
            self._texts[caption] = Text(*(None if part is None else part[0].cpu() for part in parts))
            if len(self._texts) > _CAPTIONS:
                self._texts.popitem(last=False)
        self._texts.move_to_end(caption)
        return self._texts[caption]


def _check(encoded: Tensor, encoder: str, what: str, option: str) -> None:
    """What overflows in half precision would end training later, as if the learning rate were too high."""
    if not is_finite(encoded):
        raise ValueError(
            f"The {encoder} gave NaN or infinite values for {what}, expected finite numbers. Start ComfyUI with "
            f"{option}, or leave that picture out of the training."
        )
