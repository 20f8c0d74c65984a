"""Training of condition LoRAs (Genfocus, arXiv 2512.16923): pictures made from pictures, by the rows of sampling.

A batch holds n pictures with their noise, then the first condition of each, the second of each, ...: the table of rows
that a sampling run lays out, with the LoRA on the conditions' rows alone, so a training forward is a sampling forward.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import comfy.lora
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor, nn

from ..attention.attend import CALL, Call, attend
from ..attention.conditions import GUIDANCE, Conditions, at_conditions
from ..attention.equations import Seeing
from ..attention.genfocus import CONDITIONS, install_conditions
from ..attention.lora import read_pieces
from ..attention.run import RUN, Run
from ..attention.turns import Watch
from ..weights.genfocus import Genfocus, write_genfocus
from .network import Network, differentiable
from .pictures import Identity
from .recipe import generators
from .trainer import Trainer

# The modules that the published files adapt.
_MODULES = re.compile(
    r"x_embedder|transformer_blocks\.\d+\.(norm1\.linear|attn\.to_([qkv]|out\.0)|ff\.net\.2)|"
    r"single_transformer_blocks\.\d+\.(norm\.linear|proj_mlp|proj_out|attn\.to_[qkv])"
)
_PREFIX = "transformer."


class Example(NamedTuple):
    """Pictures and what they are made from, as the model sees them.

    Attributes:
        latents: of the pictures [n, C, h, w] float32, in the model's own scale.
        conditions: for each condition its latents, as ``latents``.
        context: text tokens [n, L, D]. pooled: [n, P] or None.
    """

    latents: Tensor
    conditions: tuple[Tensor, ...]
    context: Tensor
    pooled: Tensor | None


class Examples(Protocol):
    """Where examples come from; ``conditions`` is the number of conditions of each."""

    conditions: int

    def draw(self, generators: Sequence[torch.Generator], held_out: bool = False) -> Example:
        """One example for each generator (CPU), settled by it alone."""

    def identity(self) -> Identity:
        """As of ``pictures.LatentDataset``."""


class ConditionUnit(NamedTuple):
    """Examples with their noise; ``latents``, ``noise`` and ``sigmas`` as those of ``recipe.Unit``."""

    latents: Tensor
    noise: Tensor
    sigmas: Tensor
    example: Example


class ConditionNetwork(Network):
    """A native FLUX model whose condition LoRA learns.

    Args:
        genfocus: what training starts from.
        conditions: how many each picture has.
        model, autocast, checkpointing: as for ``Network``.
    """

    def __init__(self, model: ModelPatcher, genfocus: Genfocus, conditions: int, autocast: bool, checkpointing: bool):
        self.conditions = Conditions((torch.zeros(1),) * conditions, ((0, 0),) * conditions)
        super().__init__(model, genfocus, autocast, checkpointing)

    def _install(self, model: ModelPatcher, genfocus: Genfocus) -> tuple[ModelPatcher, dict[str, nn.Parameter]]:
        pieces, _ = read_pieces(genfocus.tensors, model, genfocus.source)
        clone = install_conditions(model, pieces, self.conditions)
        (patcher,) = clone.get_additional_models_with_key(CONDITIONS)
        # Where the gradients are needed: the host moves such weights for sampling alone.
        self.module = module = patcher.model.to(self.device, torch.float32).requires_grad_(True)
        weights: dict[str, nn.Parameter] = {}
        numbers = {(piece.module, piece.columns): number for number, piece in enumerate(pieces)}
        for name, place in _places(model).items():
            if f"{name}.lora_A.weight" in genfocus.tensors:
                weights[f"{name}.lora_A.weight"] = module.down[numbers[place]].weight
                weights[f"{name}.lora_B.weight"] = module.up[numbers[place]].weight
        return clone, weights

    def proofs(self) -> list[nn.Parameter]:
        return [weight for name, weight in self.weights.items() if name.endswith("to_v.lora_B.weight")]

    def velocity(self, x: Tensor, sigmas: Tensor, example: Example, guidance: float) -> Tensor:
        """(x - denoised) / sigma of the pictures, [n, C, h, w] float32; ``x`` are their noisy latents [n, C, h, w]."""
        x, sigmas = x.to(self.device), sigmas.to(self.device)
        rows = self.conditions.arrange(len(x))
        numbers = tuple(range(len(rows)))
        copies = len(rows) // len(x)
        context = example.context.to(self.device).repeat(copies, 1, 1)
        call = Call(len(rows), None, None, differentiable, numbers=numbers, seeing=Seeing(1, copies, context.shape[1]))
        options = {CALL: call, RUN: Run(rows, Watch(0), 0, False, False), "optimized_attention_override": attend}
        extra = {} if example.pooled is None else {"y": example.pooled.to(self.device).repeat(copies, 1)}
        batch = torch.cat([x, *(latents.to(x) for latents in example.conditions)])
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
            denoised = self.clone.model.apply_model(
                batch,
                at_conditions(sigmas.repeat(copies), rows, numbers, 0.0),
                c_crossattn=context,
                guidance=at_conditions(torch.full_like(sigmas, guidance).repeat(copies), rows, numbers, GUIDANCE),
                transformer_options=options,
                **extra,
            )
        # For blocks that the backward pass computes a second time.
        self.module.rows = len(x), len(rows) - len(x), len(rows)
        return (x - denoised[: len(x)]) / sigmas[:, None, None, None]


class ConditionTrainer(Trainer):
    """Trains a new condition LoRA for a FLUX model; of the recipe count ``seed``, ``batch``, ``accumulate``, ``rank``,
    the timesteps, ``guidance`` and what is about steps. Arguments and errors as of ``Trainer``."""

    data: Examples
    network: ConditionNetwork

    def _network(self, model: ModelPatcher) -> ConditionNetwork:
        recipe = self.recipe
        start = new_conditions(model, recipe.rank, recipe.seed)
        return ConditionNetwork(model, start, self.data.conditions, recipe.autocast, recipe.checkpointing)

    def adapter(self) -> Genfocus:
        """The best LoRA by held-out loss, or the present one before the first measurement."""
        return Genfocus(self._result(), self._name)

    def _write(self, path: Path) -> None:
        write_genfocus(self.adapter(), path, torch.float16)

    def _units(self, step: int, numbers: range, held_out: bool = False) -> list[ConditionUnit]:
        recipe, units = self.recipe, []
        for first in range(numbers.start, numbers.stop, recipe.batch):
            batch = range(first, min(first + recipe.batch, numbers.stop))
            chosen, shown = zip(*(generators(recipe, step, number, held_out) for number in batch), strict=True)
            example = self.data.draw(shown, held_out)
            noise = torch.stack([torch.randn(example.latents.shape[1:], generator=generator) for generator in chosen])
            levels = torch.stack([torch.randn((), generator=generator) for generator in chosen])
            sigmas = torch.sigmoid(recipe.timestep_mean + recipe.timestep_std * levels)
            units.append(ConditionUnit(example.latents, noise, sigmas, example))
        return units

    def _velocity(self, x: Tensor, sigmas: Tensor, unit: ConditionUnit) -> Tensor:
        return self.network.velocity(x, sigmas, unit.example, self.recipe.guidance)


def new_conditions(model: ModelPatcher, rank: int, seed: int) -> Genfocus:
    """A LoRA on every module that the published files adapt; every ``lora_B`` is zero, so it is exact nothing.

    Raises:
        ValueError: for a model that is no FLUX.
    """
    generator, tensors = torch.Generator().manual_seed(seed), {}
    for name, (module, columns) in _places(model).items():
        weight = model.model.diffusion_model.get_submodule(module).weight
        outputs, inputs = columns[1] if columns else weight.shape[0], weight.shape[1]
        low = min(rank, outputs, inputs)
        # torch's own start of a linear layer.
        down = (2 * torch.rand((low, inputs), generator=generator) - 1) / inputs**0.5
        tensors |= {f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": torch.zeros(outputs, low)}
    if not tensors:
        raise ValueError(
            f"Condition LoRAs are for FLUX.1 models, but this model is {type(model.model).__name__}. Connect a FLUX.1 "
            "model."
        )
    return Genfocus(tensors, "new LoRA")


def _places(model: ModelPatcher) -> dict[str, tuple[str, tuple[int, int] | None]]:
    """Name in the files -> module of the network, and first column and number of columns of its output."""
    places = {}
    for name, target in comfy.lora.model_lora_keys_unet(model.model, {}).items():
        if isinstance(name, str) and name.startswith(_PREFIX) and _MODULES.fullmatch(name.removeprefix(_PREFIX)):
            key, offset = (target, None) if isinstance(target, str) else target[:2]
            module = key.removeprefix("diffusion_model.").removesuffix(".weight")
            places[name] = module, None if offset is None else offset[1:]
    return places
