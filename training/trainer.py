"""The training loop: steps that can be interrupted anywhere and repeated exactly."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from comfy.model_management import InterruptProcessingException, throw_exception_if_processing_interrupted
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ..host import is_out_of_memory
from ..weights.files import write_adapter
from ..weights.format import Adapter
from .checkpoint import (
    TrainingError,
    check_near,
    check_same,
    check_writable,
    fingerprint,
    load_checkpoint,
    save_checkpoint,
)
from .network import Network, gradients
from .pictures import LatentDataset
from .processes import Alone
from .recipe import Recipe, Unit, draw_units, join, rate_share
from .start import new_adapter

CHECKPOINT = "checkpoint.safetensors"
BEST = "best.safetensors"
_IDENTITY = "identity/"


@dataclass(frozen=True)
class Progress:
    """What is known after a step.

    Attributes:
        step: steps done. steps: steps in all.
        loss: mean squared error of the velocity in this step.
        held_out: the loss on held-out pictures, in the steps in which it was measured.
        best: whether that was the lowest so far.
    """

    step: int
    steps: int
    loss: float
    held_out: float | None = None
    best: bool = False


class Trainer:
    """Trains a new adapter for a model of any family of `attention/families.py`.

    Args:
        model: the host's MODEL; it is the same afterwards.
        data: gives latents and texts.
        recipe: the settings.
        folder: where checkpoint and best adapter go; None keeps nothing on disk. A checkpoint that is there already is
            gone on from.
        processes: what this process belongs to.

    Raises:
        TrainingError: when the checkpoint in ``folder`` is of another recipe, model or data, or ``folder`` cannot be
            written to.
        ValueError: when the model is of no such family or lacks a block of the recipe.
    """

    def __init__(
        self,
        model: ModelPatcher,
        data: LatentDataset,
        recipe: Recipe,
        folder: Path | None = None,
        processes: Alone | None = None,
    ):
        self.data, self.recipe, self.folder = data, recipe, folder
        self.processes = processes or Alone()
        self.step = 0
        self.losses: list[float] = []
        self.held_out: list[tuple[int, float]] = []
        self._stopping = self._updating = False
        self._held_out_units: list[Unit] = []
        with gradients():
            self.network = self._network(model)
            self.weights = self.network.weights
            self.average = self._copy(self.weights) if recipe.average else None
            self.best: dict[str, Tensor] | None = None
            self.optimizer = torch.optim.AdamW(
                self.weights.values(), lr=recipe.learning_rate, betas=(0.9, 0.99), weight_decay=recipe.weight_decay
            )
            if folder is not None:
                with torch.no_grad():
                    self._identity = data.identity()
                if self.processes.rank == 0:
                    check_writable(folder)
                if (folder / CHECKPOINT).exists():
                    self._resume(folder / CHECKPOINT)

    def run(
        self,
        steps: int,
        on_step: Callable[[Progress], None] | None = None,
        measure_every: int = 100,
        save_every: int = 500,
    ) -> None:
        """Train until ``steps`` steps are done in all.

        A KeyboardInterrupt or an interrupt of the host saves a checkpoint, leaves the model as it was and goes on up.

        Args:
            steps: with ``decay`` in the recipe the rate depends on it, so a run equals an interrupted and resumed one
                only when both have the same.
            on_step: called after every step; may raise, and may sample with the model.
            measure_every: steps between held-out losses; the start and the last step have one as well.
            save_every: steps between checkpoints; the last step has one as well.

        Raises:
            TrainingError: when the model gives no gradients, a loss or a gradient is no longer a finite number, or a
                checkpoint cannot be written.
        """
        try:
            with self.network.ready():
                self._try_out()
                if not self.held_out:
                    # What a held-out part lacks shows before the first step, and the curve has its start.
                    self._measure()
                while self.step < steps and not self._stopping:
                    throw_exception_if_processing_interrupted()
                    loss = self._advance(steps)
                    last = self.step == steps or self._stopping
                    held_out, best = None, False
                    if last or self.step % measure_every == 0:
                        held_out, best = self._measure()
                    if last or self.step % save_every == 0:
                        self.save()
                    if on_step is not None:
                        on_step(Progress(self.step, steps, loss, held_out, best))
        except (KeyboardInterrupt, InterruptProcessingException):
            # In the middle of an update the weights belong to no step; the checkpoint before it stands.
            if not self._updating:
                self.save()
            raise

    def stop(self) -> None:
        """End ``run`` after the step that is going on, in all processes; for signal handlers."""
        self._stopping = True

    def adapter(self) -> Adapter:
        """The best adapter by held-out loss, or the present one before the first measurement."""
        return Adapter(self.network.adapter.settings, self._result(), self._name)

    def _network(self, model: ModelPatcher) -> Network:
        return Network(model, new_adapter(model, self.recipe), self.recipe.autocast, self.recipe.checkpointing)

    @property
    def _name(self) -> str:
        return self.folder.name if self.folder else "trained adapter"

    def _result(self) -> dict[str, Tensor]:
        tensors = self.best or self.average or self.weights
        with gradients():
            return {key: tensor.detach().clone().cpu() for key, tensor in tensors.items()}

    def _write(self, path: Path) -> None:
        write_adapter(self.adapter(), path)

    def save(self) -> None:
        """Write the checkpoint, from the first process only."""
        if self.folder is None or self.processes.rank:
            return
        groups = {"weights": self.weights, "average": self.average, "best": self.best}
        tensors = {
            f"{group}/{name}": tensor for group, members in groups.items() for name, tensor in (members or {}).items()
        }
        for name, weight in self.weights.items():
            for key, tensor in self.optimizer.state.get(weight, {}).items():
                tensors[f"optimizer/{key}/{name}"] = tensor
        tensors["losses"] = torch.tensor(self.losses, dtype=torch.float64)
        tensors["held_out"] = torch.tensor(self.held_out, dtype=torch.float64).reshape(-1, 2)
        texts, near = self._split_identity()
        tensors |= {f"{_IDENTITY}{name}": tensor for name, tensor in near.items()}
        info = {
            "step": self.step,
            "recipe": self.recipe.identity(self.processes.size),
            "model": fingerprint(self.network.clone.model.diffusion_model),
            "data": texts,
        }
        save_checkpoint(self.folder / CHECKPOINT, tensors, info)

    def _resume(self, path: Path) -> None:
        tensors, info = load_checkpoint(path)
        check_same(path, info["model"], fingerprint(self.network.clone.model.diffusion_model), "model")
        # What a checkpoint's recipe has not got came to recipes later, and its default is what was done before.
        recipe = Recipe().identity(1) | info["recipe"]
        check_same(path, recipe, self.recipe.identity(self.processes.size), "recipe")
        texts, near = self._split_identity()
        check_same(path, info["data"], texts, "data")
        saved = {name.removeprefix(_IDENTITY): found for name, found in tensors.items() if name.startswith(_IDENTITY)}
        check_near(path, saved, near)
        self.step = info["step"]
        self.losses = tensors["losses"].tolist()
        self.held_out = [(int(step), loss) for step, loss in tensors["held_out"].tolist()]

        def group(name: str) -> dict[str, Tensor]:
            names = {key: f"{name}/{key}" for key in self.weights}
            return {key: tensors[full].to(self.network.device) for key, full in names.items() if full in tensors}

        self._put(group("weights"))
        self.average = group("average") or None
        self.best = group("best") or None
        state = {}
        for number, key in enumerate(self.weights):
            kept = {
                name: tensors[full]
                for name in ("step", "exp_avg", "exp_avg_sq")
                if (full := f"optimizer/{name}/{key}") in tensors
            }
            if kept:
                state[number] = kept
        self.optimizer.load_state_dict({"state": state, "param_groups": self.optimizer.state_dict()["param_groups"]})

    def _split_identity(self) -> tuple[dict[str, object], dict[str, Tensor]]:
        tensors = {name: value for name, value in self._identity.items() if isinstance(value, Tensor)}
        return {name: value for name, value in self._identity.items() if name not in tensors}, tensors

    def _try_out(self) -> None:
        """Raise TrainingError when the model gives the adapter no gradients, before any time is spent on it."""
        try:
            with self.network.cuts() as cut:
                loss = self._loss(self._held_out()[0])
                loss.backward()
        # Quantised weights raise what the library behind them raises, other families what their forward expects.
        except (RuntimeError, TypeError, AttributeError, AssertionError, LookupError) as error:
            if is_out_of_memory(error):
                raise
            said = str(error).partition("\n")[0] or type(error).__name__
            raise self.network.refusal(f"a step of it ended with: {said}") from error
        reached = all(weight.grad is not None and weight.grad.any() for weight in self.network.proofs())
        self.optimizer.zero_grad()
        if cut or not reached:
            raise self.network.refusal(f"no gradient passes through {cut[0] if cut else 'some of its blocks'}")
        # Such a loss would stay the best for ever, and later say that the learning rate is too high.
        if not loss.isfinite():
            raise self.network.refusal(f"its loss for a first picture is {loss.item()}")

    def _held_out(self) -> list[Unit]:
        if not self._held_out_units:
            with torch.no_grad():
                self._held_out_units = self._units(0, range(self.recipe.held_out_units), held_out=True)
            self.network.load(tuple(self._held_out_units[0].latents.shape))
        return self._held_out_units

    def _advance(self, steps: int) -> float:
        """One step of ``steps``; the loss is the mean over the pictures of all processes."""
        recipe, share = self.recipe, self.recipe.batch // self.recipe.per_scene
        self.optimizer.zero_grad()
        total = torch.zeros((), device=self.network.device)
        for turn in range(recipe.accumulate):
            first = (turn * self.processes.size + self.processes.rank) * share
            for unit in self._draw(range(first, first + share)):
                part = self._loss(unit) / (recipe.batch * recipe.accumulate)
                part.backward()
                total += part.detach()
        found = torch.stack([total, torch.tensor(float(self._stopping), device=total.device)])
        self.processes.average([weight.grad for weight in self.weights.values()] + [found])
        loss, stopping = found.tolist()
        self._stopping = stopping > 0
        norm = torch.nn.utils.clip_grad_norm_(list(self.weights.values()), recipe.gradient_clip).item()
        for what, number in (("loss", loss), ("gradient", norm)):
            if not math.isfinite(number):
                raise TrainingError(
                    f"The {what} of step {self.step + 1} is {number}, expected a finite number. Train with a lower "
                    f"learning rate (now {recipe.learning_rate:g}) or a longer warm-up (now {recipe.warmup} steps)."
                )
        self._updating = True
        self._update(steps)
        self.step += 1
        self.losses.append(loss)
        self._updating = False
        return loss

    def _draw(self, numbers: range) -> list[Unit]:
        with torch.no_grad():
            units = self._units(self.step, numbers)
        self.network.load((self.recipe.batch, *units[0].latents.shape[1:]))
        return units

    def _units(self, step: int, numbers: range, held_out: bool = False) -> list[Unit]:
        units = [unit for number in numbers for unit in draw_units(self.recipe, self.data, step, number, held_out)]
        return units if held_out else join(units)

    def _loss(self, unit: Unit) -> Tensor:
        """Sum over the rows of the mean squared error, each by its weight."""
        x, sigmas, target, weights = self.network.noisy(unit)
        found = self._velocity(x, sigmas, unit)
        return (weights * (found - target.to(found)).square().flatten(1).mean(1)).sum()

    def _velocity(self, x: Tensor, sigmas: Tensor, unit: Unit) -> Tensor:
        return self.network.velocity(x, sigmas, unit.annotations, unit.text, unit.pivots, self.recipe.guidance)

    def _update(self, steps: int) -> None:
        recipe = self.recipe
        for group in self.optimizer.param_groups:
            share = rate_share(self.step, steps, recipe.warmup, recipe.decay, recipe.cosine)
            group["lr"] = recipe.learning_rate * share
        self.optimizer.step()
        if self.average is not None:
            # The first steps count for less, or the average would remember the start for a long time.
            decay = min(self.recipe.average, (1 + self.step) / (10 + self.step))
            for name, weight in self.weights.items():
                self.average[name].lerp_(weight.detach(), 1 - decay)

    def _measure(self) -> tuple[float, bool]:
        """The held-out loss of the weights that would be the result, and whether it is the lowest so far."""
        units = self._held_out()
        with torch.no_grad(), self._averaged():
            losses = [float(self._loss(unit)) for unit in units]
        loss = math.fsum(losses) / sum(len(unit.latents) for unit in units)
        # Such a loss would stay the best for ever.
        if not math.isfinite(loss):
            advice = "Train with a lower learning rate."
            if not self.step:
                advice = "The VAE or the model fails at one of them: start ComfyUI with --fp32-vae or --force-fp32."
            raise TrainingError(
                f"The loss on held-out pictures after step {self.step} is {loss}, expected a finite number. {advice}"
            )
        best = all(loss < before for _, before in self.held_out)
        self.held_out.append((self.step, loss))
        if best:
            self.best = self._copy(self.average or self.weights)
            if self.step and self.folder is not None and self.processes.rank == 0:
                self._write(self.folder / BEST)
        return loss, best

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        if self.average is None:
            yield
            return
        present = self._copy(self.weights)
        try:
            self._put(self.average)
            yield
        finally:
            self._put(present)

    def _put(self, tensors: dict[str, Tensor]) -> None:
        with torch.no_grad():
            for name, weight in self.weights.items():
                weight.copy_(tensors[name])

    @staticmethod
    def _copy(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: tensor.detach().clone() for name, tensor in tensors.items()}
