"""A training run as a person sees it: losses as a curve, and a sweep of a held-out caption as it gets better."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import comfy.model_sampling
import comfy.sample
import comfy.sd
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ..attention.install import install, network_places
from ..attention.rows import Pivot, Plan
from ..sweep.sheet import contact_sheet
from ..sweep.values import format_value
from ..weights.format import Adapter
from .checkpoint import TrainingError
from .curve import draw_losses
from .encoded import EncodedDataset
from .pictures import Dataset
from .plain import without_inference_tensors
from .processes import Alone
from .recipe import Recipe
from .trainer import Progress, Trainer

SAMPLE_BLURS = (0.0, 15.0, 30.0)
SAMPLE_STEPS = 20
# For models that take it as an input, and for those that predict noise; the others are shown as they were trained.
SAMPLE_GUIDANCE, SAMPLE_CFG = 3.5, 5.0
PREVIEW = "progress.png"


class Parts(NamedTuple):
    """What belongs to one model of the host."""

    model: ModelPatcher
    clip: comfy.sd.CLIP
    vae: comfy.sd.VAE


class Session:
    """A training run on pictures, with pictures of how it goes.

    Args:
        parts: the model to train for, its text encoder and its VAE.
        dataset: the pictures.
        recipe, folder, processes: as for ``Trainer``.
    """

    def __init__(
        self, parts: Parts, dataset: Dataset, recipe: Recipe, folder: Path | None, processes: Alone | None = None
    ):
        data = EncodedDataset(dataset, parts.vae, parts.clip, parts.model)
        self._parts, self._dataset = parts, dataset
        with self._encoders():
            self.trainer = Trainer(parts.model, data, recipe, folder, processes)

    def run(
        self,
        steps: int,
        show: Callable[[Progress, Tensor | None], None],
        measure_every: int,
        save_every: int,
        sample: bool = True,
    ) -> Tensor:
        """Train as ``Trainer.run`` does; returns the curve, [1, height, width, 3] in 0..1.

        Args:
            show: called after every step, where losses were measured also with the curve and, with ``sample``, a
                sweep under it; in the first process only.
        """

        def on_step(progress: Progress) -> None:
            if self.trainer.processes.rank:
                return
            picture = None
            if progress.held_out is not None:
                picture = self.curve(steps)
                if sample:
                    picture = _stack(picture, self.sweep())
            show(progress, picture)

        with self._encoders():
            self.trainer.run(steps, on_step, measure_every, save_every)
        return self.curve(steps)

    @contextmanager
    def _encoders(self) -> Iterator[None]:
        """Text encoder and VAE as they may come to their device where gradients are."""
        with ExitStack() as stack:
            for name, part in (("text encoder", self._parts.clip), ("VAE", self._parts.vae)):

                def refusal(why: str, name: str = name) -> TrainingError:
                    return TrainingError(
                        f"This {name} cannot be used in training: {why}. Load the same {name} from a bf16 or fp16 file."
                    )

                stack.enter_context(without_inference_tensors(part.patcher, refusal))
            yield

    def curve(self, steps: int) -> Tensor:
        """The losses so far, [1, height, width, 3] in 0..1."""
        return draw_losses(self.trainer.losses, self.trainer.held_out, steps)

    def sweep(self) -> Tensor:
        """A contact sheet of one held-out caption at three blurs with the adapter as it is, [1, H, W, 3] in 0..1."""
        with torch.no_grad():
            shown = self._dataset.draw(torch.Generator().manual_seed(self.trainer.recipe.seed), 1, 1, held_out=True)
            images = sample_sweep(self._parts, self.trainer.adapter(), shown.captions[0], shown.images.shape[1:3])
        return contact_sheet(images, [f"blur {format_value(blur)}" for blur in SAMPLE_BLURS], len(SAMPLE_BLURS))


def sample_sweep(parts: Parts, adapter: Adapter, caption: str, size: tuple[int, int], seed: int = 0) -> Tensor:
    """A grounded sweep through the host's sampler, [blurs, H, W, 3] in 0..1.

    size: height and width in px.
    """
    blank = parts.vae.encode(torch.full((1, *size, 3), 0.5))
    latents = torch.zeros_like(blank).repeat(len(SAMPLE_BLURS), *[1] * (blank.ndim - 1))
    noise = torch.randn(blank.shape, generator=torch.Generator().manual_seed(seed)).expand_as(latents)
    model = install(parts.model, adapter, Plan(SAMPLE_BLURS, Pivot(SAMPLE_BLURS[1]), one_scene=True))
    family, _ = network_places(parts.model)
    guidance = {"guidance": SAMPLE_GUIDANCE} if family.guided else {}
    is_flow = isinstance(parts.model.get_model_object("model_sampling"), comfy.model_sampling.CONST)
    positive, negative = (
        [
            [tokens, {**extra, **guidance}]
            for tokens, extra in parts.clip.encode_from_tokens_scheduled(parts.clip.tokenize(text))
        ]
        for text in (caption, "")
    )
    samples = comfy.sample.sample(
        model,
        noise,
        SAMPLE_STEPS,
        1.0 if is_flow else SAMPLE_CFG,
        "euler",
        "simple",
        positive,
        negative,
        latents,
        disable_pbar=True,
    )
    images = parts.vae.decode(samples).clamp(0, 1)
    # A VAE of videos gives one frame a picture.
    return images.reshape(-1, *images.shape[-3:])


def _stack(upper: Tensor, lower: Tensor) -> Tensor:
    """One picture over another, the lower one centred and no wider than the upper."""
    width = upper.shape[2]
    lower = lower.movedim(-1, 1)
    if lower.shape[3] > width:
        lower = torch.nn.functional.interpolate(lower, scale_factor=width / lower.shape[3], mode="area")
    left = (width - lower.shape[3]) // 2
    lower = torch.nn.functional.pad(lower, (left, width - lower.shape[3] - left), value=1.0)
    return torch.cat([upper, lower.movedim(1, -1)], dim=1)
