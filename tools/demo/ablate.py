"""Where the bokeh value goes in a UNet: added to self-attention's output, as the pack does, or to cross-attention's.

What the paper's Stable Diffusion variant does is unpublished ("decoupled cross-attention", as the authors' README calls
it). Queries, keys and grounding stay in self-attention either way.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from comfy.model_patcher import ModelPatcher
from torch import Tensor, nn

from ...attention.attend import CALL
from ...attention.install import block_places
from ...demo.load import load_demo
from ...demo.network import UNET
from ...training.recipe import Recipe
from ...training.scenes import Scenes
from ...training.session import Parts, Session
from ...weights.format import Adapter
from .judge import Case, Painter, Verdict, evaluate

RECIPE = Recipe(
    batch=64,
    rank=32,
    context_dim=256,
    learning_rate=2e-3,
    warmup=20,
    decay=0.5,
    average=0.98,
    timestep_mean=0.5,
    timestep_std=1.8,
    grouped=0.7,
    grounded=0.7,
    held_out_units=16,
    autocast=True,
    checkpointing=False,
)

# A killed run loses these at most, minutes on a CPU.
SAVE_STEPS = 20


def value_in_cross(clone: ModelPatcher, adapter: Adapter) -> ModelPatcher:
    """Move the bokeh value of an adapter's blocks on ``clone`` from self-attention to the cross-attention after it."""
    for number, place in enumerate(block_places(clone, adapter)):
        for name, around in ((place.name, _without), (place.name.removesuffix("attn1") + "attn2", _with)):
            module: nn.Module = clone.model.diffusion_model.get_submodule(name)
            key = f"diffusion_model.{name}.forward"
            clone.add_object_patch(key, around(clone.get_model_object(key), module, number))
    return clone


def _without(forward: Callable, module: nn.Module, number: int) -> Callable:
    def run(*args, transformer_options: dict, **kwargs) -> Tensor:
        call = transformer_options[CALL]._replace(bias=None)
        return forward(*args, transformer_options={**transformer_options, CALL: call}, **kwargs)

    return run


def _with(forward: Callable, module: nn.Module, number: int) -> Callable:
    def run(*args, transformer_options: dict, **kwargs) -> Tensor:
        value = transformer_options[CALL].bias[number]
        # to_out(z + value), whose first layer is linear.
        out = forward(*args, transformer_options=transformer_options, **kwargs)
        return out + nn.functional.linear(value, module.to_out[0].weight.to(value)).to(out)

    return run


class CrossPainter(Painter):
    """A painter of an adapter that was trained with ``cross``."""

    def __init__(self, adapter: Adapter, *parts):
        super().__init__(*parts)
        self.adapter = adapter

    def dialled(self, model: ModelPatcher, case: Case, blurs: tuple[float, ...]) -> tuple[ModelPatcher, list]:
        return value_in_cross(model, self.adapter), self.prompt(case.prompt)


def train_adapter(
    parts: Parts, steps: int, folder: Path, cross: bool, on_step: Callable[[int, float], None]
) -> Adapter:
    """An adapter whose value acts in self-attention, or, with ``cross``, in cross-attention, everything else alike."""
    trainer = Session(parts, Scenes(), RECIPE, folder).trainer
    if cross:
        value_in_cross(trainer.network.clone, trainer.network.adapter)
    trainer.run(
        steps,
        lambda progress: on_step(progress.step, progress.held_out or progress.loss),
        measure_every=steps,
        save_every=SAVE_STEPS,
    )
    return trainer.adapter()


def judge_places(
    demo: Path,
    work: Path,
    steps: int,
    count: int,
    seed: int,
    on_step: Callable[[int, float], None],
    on_case: Callable[[int], None],
) -> dict[str, Verdict]:
    """Verdicts on ``count`` cases by an adapter of either kind, trained for ``steps`` steps on the UNet in ``demo``.

    Args:
        work: a folder for checkpoints.
        on_step: called with the steps done and the loss; of the last step that on held-out scenes.
        on_case: called with the cases done.
    """
    parts, found = Parts(*load_demo(demo, kind=UNET)), {}
    for name, cross in (("self", False), ("cross", True)):
        adapter = train_adapter(parts, steps, work / name, cross, on_step)
        painter = CrossPainter(adapter, *parts) if cross else Painter(*parts)
        verdicts, _ = evaluate(painter, adapter, count, seed, on_case)
        found |= {f"{name}, {way}": verdicts[way] for way in ("ungrounded", "grounded")}
    return found
