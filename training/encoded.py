"""Pictures and captions through the host's VAE and text encoder."""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

import comfy.sd
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from .pictures import Dataset, Draw, Identity

# Captions kept encoded. Those of FLUX take 2 to 4 MB each.
_CAPTIONS = 256
# What a VAE and a text encoder are told by.
_CHART_SIDE, _SENTENCE = 128, "a red disc before green tiles"


class _Text(NamedTuple):
    context: Tensor
    pooled: Tensor | None


class EncodedDataset:
    """A dataset as the model sees it (see ``pictures.LatentDataset``).

    Args:
        dataset: gives pictures, captions and blurs.
        vae, clip: the host's, those that belong to ``model``.
        model: the host's MODEL; only its latents' scale is used.
    """

    def __init__(self, dataset: Dataset, vae: comfy.sd.VAE, clip: comfy.sd.CLIP, model: ModelPatcher):
        self.groups, self.singles = dataset.groups, dataset.singles
        self._dataset, self._vae, self._clip, self._scale = dataset, vae, clip, model.model.process_latent_in
        self._texts: OrderedDict[tuple[str, int], _Text] = OrderedDict()

    def draw(self, generator: torch.Generator, scenes: int, per_scene: int, held_out: bool = False) -> Draw:
        """As ``LatentDataset.draw``; captions of different lengths are padded to the longest, as the host pads.

        Raises:
            ValueError: when the text encoder cannot give the captions one length.
        """
        pictures = self._dataset.draw(generator, scenes, per_scene, held_out)
        latents = self._scale(self._vae.encode(pictures.images[..., :3]))
        texts = [self._text(caption) for caption in pictures.captions]
        length = max(len(text.context) for text in texts)
        for scene, caption in enumerate(pictures.captions):
            if len(texts[scene].context) < length:
                texts[scene] = self._text(caption, length)
        lengths = sorted({len(text.context) for text in texts})
        if len(lengths) > 1:
            raise ValueError(
                f"The text encoder makes {lengths[0]} tokens of one caption and {lengths[-1]} of another, and pads "
                "neither. Give captions of about the same length."
            )
        pooled = None if texts[0].pooled is None else torch.stack([text.pooled for text in texts])
        return Draw(latents, torch.stack([text.context for text in texts]), pooled, pictures.blurs)

    def empty(self, length: int) -> tuple[Tensor, Tensor | None]:
        """The empty caption, padded to ``length`` tokens. Raises ValueError when that is not its length."""
        text = self._text("")
        if len(text.context) != length:
            text = self._text("", length)
        if len(text.context) != length:
            raise ValueError(
                f"The text encoder makes {len(text.context)} tokens of the empty caption, but the others have "
                f"{length}. Train with no_caption = 0."
            )
        return text

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

    def _text(self, caption: str, length: int = 0) -> _Text:
        key = caption, length
        if key not in self._texts:
            # Padding is a matter of T5; other encoders have a length of their own and ignore the option.
            options = {"tokenizer_options": {"t5xxl_min_length": length}} if length else {}
            (context, extra), *_ = self._clip.encode_from_tokens_scheduled(self._clip.tokenize(caption, **options))
            pooled = extra.get("pooled_output")
            self._texts[key] = _Text(context[0].cpu(), None if pooled is None else pooled[0].cpu())
            if len(self._texts) > _CAPTIONS:
                self._texts.popitem(last=False)
        self._texts.move_to_end(key)
        return self._texts[key]
