"""Training of the demonstration models' networks on procedural scenes at any blur: the transformer learns by flow
matching, the UNet by the prediction of v (Salimans & Ho, arXiv 2202.00512).

The base learns what the scenes look like, blurred and sharp, and nothing about blur values: some captions say in words
how blurred the background is, as those of photos do, none with a number. So there is something inside for the adapter
to steer, whose only way to act on blur is a bias in every block; it is trained afterwards (``trainer``).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from comfy.model_sampling import V_PREDICTION
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from ...demo import words
from ...demo.codec import PatchCodec
from ...demo.load import load_weights
from ...demo.network import KINDS, SHIFT, build
from ...files import whole_file
from ...host import training
from ...training.network import noisy
from ...training.recipe import rate_share
from ...training.scenes import Scenes, tell_blur

CAP = 5.0
FROM_FOLDER = "Give the folder into which an earlier `base` run wrote its model and codec."


@dataclass(frozen=True)
class BaseRecipe:
    """How the base is trained.

    Attributes:
        steps: optimiser steps.
        batch: pictures a step.
        seed: of the weights and of everything drawn.
        family: a name of ``network.KINDS``.
        matrix_rate: learning rate of the blocks' matrices (Muon, Jordan et al. 2024), kernels of convolutions among
            them, flattened.
        rate: learning rate of everything else (AdamW).
        warmup: steps until the rates are reached.
        decay: last share of the steps, over which they fall to zero.
        average: decay of the running average of the weights, which is what is kept.
        empty: share of pictures whose caption is empty, for classifier-free guidance.
        partial: share of the other pictures whose caption loses half of its words.
        told: share of the captions with words for the blur.
        start: SHA-256 of the file of weights that was started from (``BaseTrainer.start_from``); empty: from chance.
    """

    steps: int = 4400
    batch: int = 64
    seed: int = 0
    family: str = "flux"
    matrix_rate: float = 2e-3
    rate: float = 1e-3
    warmup: int = 200
    decay: float = 0.35
    average: float = 0.999
    empty: float = 0.1
    partial: float = 0.2
    told: float = 0.5
    start: str = ""


def noise_levels(uniform: Tensor) -> Tensor:
    """Numbers evenly spread over 0..1 -> sigmas spread as the steps of the sampler's schedule are."""
    factor = math.exp(SHIFT)
    return factor * uniform / (1 + (factor - 1) * uniform)


def encode_captions(captions: list[str], keep: Tensor) -> tuple[Tensor, Tensor]:
    """Captions -> tokens [n, 8, 32] and pooled vectors [n, 32]; ``keep`` [n, 8] is 0 for words to leave out."""
    tokens, pooled = [], []
    for caption, kept in zip(captions, keep.tolist(), strict=True):
        known, _ = words.split(caption)
        numbers = [words.WORDS.index(word) for word, stays in zip(known, kept, strict=False) if stays]
        token, pool = words.embed(numbers)
        tokens.append(token)
        pooled.append(pool)
    return torch.stack(tokens), torch.stack(pooled)


class BaseTrainer:
    """The network in training, with all that a checkpoint needs.

    Args:
        codec: pictures to latents.
        recipe: settings; a checkpoint made with others is refused.
        device: where to train.
        compiled: whether to let torch.compile fuse the network, which takes a minute and a C++ compiler.

    Raises:
        ValueError: when PyTorch is older than the optimiser that is used.
    """

    def __init__(self, codec: PatchCodec, recipe: BaseRecipe, device: str = "cpu", compiled: bool = False):
        if not hasattr(torch.optim, "Muon"):
            raise ValueError(
                f"Training the base takes PyTorch 2.9 or newer (torch.optim.Muon); this is {torch.__version__}."
            )
        self.codec, self.recipe, self.device = codec, recipe, device
        self.scenes = Scenes()
        model = build(KINDS[recipe.family], torch.float32, device)
        self.network, self._rename = model.diffusion_model, model.model_config.process_unet_state_dict
        self._sampling, self._scale = model.model_sampling, model.process_latent_in
        initialise(self.network, torch.Generator().manual_seed(recipe.seed))
        self.average = {name: weight.detach().clone() for name, weight in self.network.state_dict().items()}
        blocks = [p for name, p in self.network.named_parameters() if _is_matrix(name, p)]
        chosen = {id(p) for p in blocks}
        rest = [p for p in self.network.parameters() if id(p) not in chosen]
        # Muon takes matrices only; these lie over the same memory as the weights.
        self._matrices = [(p, nn.Parameter(p.detach().flatten(1))) for p in blocks]
        matrices = [matrix for _, matrix in self._matrices]
        self.optimizers = [
            torch.optim.Muon(matrices, recipe.matrix_rate, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(rest, recipe.rate, betas=(0.9, 0.98), weight_decay=0.0),
        ]
        self.rates = [recipe.matrix_rate, recipe.rate]
        self.step, self.losses = 0, []
        self.forward = torch.compile(self._predict) if compiled else self._predict
        # The host's blocks add to their input in place, which would spoil what the norms keep for the gradient.
        for module in self.network.modules():
            if isinstance(module, nn.LayerNorm):
                module.register_forward_pre_hook(lambda _, args: (args[0].clone(),))

    def latents(self, images: Tensor) -> Tensor:
        """Pictures [n, H, W, 3] in 0..1 -> latents [n, C, h, w] in the model's own scale."""
        return self._scale(self.codec.encode(2 * images.movedim(-1, 1) - 1))

    def predict(
        self, latents: Tensor, noise: Tensor, shares: Tensor, tokens: Tensor, pooled: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What the network says of noisy latents, what it should say, both [n, C, h, w] float32, and the weights of
        squared differences, [n, 1, 1, 1]: for v those by which an error of the latents counts once in noise and, as
        that fades, never more than ``CAP`` times (Hang et al., arXiv 2303.09556)."""
        x, sigma, target, _ = noisy(self._sampling, latents, noise, shares)
        level = sigma[:, None, None, None]
        weights = torch.ones_like(level)
        if isinstance(self._sampling, V_PREDICTION):
            data = self._sampling.sigma_data
            target = (data * noise - level / data * latents) / (level**2 + data**2) ** 0.5
            weights = data**2 * (CAP / (1 + (data / level) ** 2)).clamp(max=1)
        x, timestep = self._sampling.calculate_input(sigma, x), self._sampling.timestep(sigma).float()
        with training(), torch.autocast(torch.device(self.device).type, torch.bfloat16):
            return self.forward(x, timestep, tokens, pooled).float(), target, weights

    def _predict(self, x: Tensor, timestep: Tensor, tokens: Tensor, pooled: Tensor) -> Tensor:
        options = {"optimized_attention_override": plain_attention}
        extra = {"y": pooled} if self.recipe.family == "flux" else {}
        return self.network(x, timestep, context=tokens, transformer_options=options, **extra)

    def start_from(self, path: Path) -> None:
        """Take the weights of an earlier training from its safetensors file, instead of chance.

        Raises:
            DemoError: for a file that is missing or does not hold this network's weights.
        """
        load_weights(self.network, path, self._rename, FROM_FOLDER)
        self.average = {name: weight.detach().clone() for name, weight in self.network.state_dict().items()}
        # So that a checkpoint is not gone on with from other weights.
        self.recipe = replace(self.recipe, start=hashlib.sha256(path.read_bytes()).hexdigest())

    def draw(self, step: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Latents, noise, shares of the way to pure noise, tokens and pooled vectors of a step; the same whenever it is
        asked for."""
        recipe = self.recipe
        generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + step + 1)
        pictures = self.scenes.draw(generator, recipe.batch, 1)
        latents = self.latents(pictures.images)
        noise = torch.randn(latents.shape, generator=generator)
        offsets = (torch.arange(recipe.batch) + torch.rand(recipe.batch, generator=generator)) / recipe.batch
        shares = noise_levels(offsets[torch.randperm(recipe.batch, generator=generator)])
        lot = torch.rand(recipe.batch, 3, generator=generator)
        keep = torch.rand(recipe.batch, words.TOKENS, generator=generator) < 0.5
        keep |= (lot[:, 1] >= recipe.partial)[:, None]
        keep &= (lot[:, 0] >= recipe.empty)[:, None]
        captions = [
            tell_blur(text, blur) if told else text
            for text, blur, told in zip(
                pictures.captions, pictures.blurs.tolist(), lot[:, 2] < recipe.told, strict=True
            )
        ]
        tokens, pooled = encode_captions(captions, keep)
        return latents, noise, shares, tokens, pooled

    def train_step(self, drawn: tuple[Tensor, ...]) -> float:
        """One step with what ``draw`` gives; returns its loss."""
        recipe = self.recipe
        share = rate_share(self.step, recipe.steps, recipe.warmup, recipe.decay)
        for optimizer, rate in zip(self.optimizers, self.rates, strict=True):
            optimizer.param_groups[0]["lr"] = rate * share
        predicted, target, weights = self.predict(*(part.to(self.device) for part in drawn))
        loss = (weights * (predicted - target).square()).mean()
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        for weight, matrix in self._matrices:
            matrix.grad, weight.grad = weight.grad.flatten(1), None
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.step += 1
        decay = min(recipe.average, self.step / (self.step + 20))
        with torch.no_grad():
            for name, weight in self.network.state_dict().items():
                self.average[name].lerp_(weight, 1 - decay)
        self.losses.append(loss.item())
        return self.losses[-1]

    def save(self, path: Path) -> None:
        """Write a checkpoint, complete or not at all."""
        state = {
            "recipe": asdict(self.recipe),
            "step": self.step,
            "losses": self.losses,
            "network": self.network.state_dict(),
            "average": self.average,
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }
        with whole_file(path) as unfinished:
            torch.save(state, unfinished)

    def load(self, path: Path) -> None:
        """Go on from a checkpoint.

        Raises:
            ValueError: when it was made with another recipe.
        """
        state = torch.load(path, map_location=self.device, weights_only=True)
        if state["recipe"] != asdict(self.recipe):
            raise ValueError(
                f"The checkpoint {path} was made with {state['recipe']}, but this run asks for "
                f"{asdict(self.recipe)}. Give the same options, or another folder."
            )
        self.step, self.losses, self.average = state["step"], state["losses"], state["average"]
        self.network.load_state_dict(state["network"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)

    def run(self, on_step: Callable[[int, float], None], workers: int = 0) -> None:
        """Train to the last step.

        Args:
            on_step: called with the steps done and the loss, after each.
            workers: processes that draw ahead, for GPUs, which learn faster than one process draws.
        """
        self.network.train()
        for drawn in DataLoader(_Steps(self), batch_size=None, num_workers=workers):
            on_step(self.step, self.train_step(drawn))


class _Steps(Dataset):
    """What the steps that are left are trained on."""

    def __init__(self, trainer: BaseTrainer) -> None:
        self._draw, self._first, self._count = trainer.draw, trainer.step, trainer.recipe.steps - trainer.step

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        return self._draw(self._first + index)


def _is_matrix(name: str, weight: Tensor) -> bool:
    """Whether Muon learns a weight: all but what is first and last in a network, and vectors."""
    return "_block" in name and weight.ndim > 1 and not name.startswith("input_blocks.0.")


# Parts of the names of weights after which something is added, in FLUX and in UNets.
_ENDS = ("_mod.", "modulation", "final_layer", "out_layers.3.", "proj_out.", "out.2.")


def initialise(network: nn.Module, generator: torch.Generator) -> None:
    """First weights, which the host's layers leave empty: fan-in scaled matrices, blocks and output that start at
    zero (adaLN-zero; Peebles and Xie 2022; and the UNet of Dhariwal and Nichol 2021)."""
    with torch.no_grad():
        for name, weight in network.named_parameters():
            weight.requires_grad_(True)
            if weight.ndim == 1:
                weight.fill_(0.0 if name.endswith("bias") else 1.0)
            elif any(part in name for part in _ENDS):
                weight.zero_()
            else:
                weight.copy_(torch.randn(weight.shape, generator=generator) * weight[0].numel() ** -0.5)


def plain_attention(func, q, k, v, heads, mask=None, *args, skip_reshape=False, **kwargs) -> Tensor:
    """Attention as two matrix products: on a CPU its gradient is faster than that of the fused kernels."""
    if not skip_reshape:
        q, k, v = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in (q, k, v))
    weights = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    return (weights.softmax(-1).to(v.dtype) @ v).transpose(1, 2).flatten(2)
