"""Which layers of the UNet carry the scene: what each kind of layer gives to the targets is taken from the pivot's row,
while grounding lasts, and the sweep is judged.

Where the scene stays and the blur still changes, the layer carries the scene and not the blur, so sharing it would help
grounding; where the blur is gone, it carries that as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import astuple, fields

from comfy.ldm.modules.attention import BasicTransformerBlock
from comfy.ldm.modules.diffusionmodules.openaimodel import ResBlock
from torch import Tensor, nn

from ...attention.rows import Pivot, grounding_steps
from ...training.scenes import Props
from ...weights.format import Adapter
from .judge import GROUNDING, LEVELS, PIVOT, STEPS, Painter, Verdict, cases, judge

# Name -> the modules of a network whose outputs are shared; each is added to the stream that goes on.
PARTS = {
    "res blocks": lambda network: [m.out_layers for m in network.modules() if isinstance(m, ResBlock)],
    "res blocks, small side": lambda network: [m.out_layers for m in _inner(network) if isinstance(m, ResBlock)],
    "cross-attention": lambda network: [m.attn2 for m in network.modules() if isinstance(m, BasicTransformerBlock)],
    "feed-forward": lambda network: [m.ff for m in network.modules() if isinstance(m, BasicTransformerBlock)],
}


def _inner(network: nn.Module) -> Iterator[nn.Module]:
    """Modules that run on the smaller of the two sides."""
    for block in (network.input_blocks[3], network.middle_block, network.output_blocks[0], network.output_blocks[1]):
        yield from block.modules()


@contextmanager
def shared(modules: list[nn.Module], calls: list[int]) -> Iterator[None]:
    """While it lasts, every row gets from ``modules`` what the pivot's row gets, in the first model calls of a run.

    calls: how many of them are left, in its one entry.
    """

    def share(module: nn.Module, inputs: tuple, out: Tensor) -> Tensor | None:
        rows = out.unflatten(0, (-1, len(LEVELS)))
        held = rows[:, LEVELS.index(PIVOT)][:, None].expand_as(rows).flatten(0, 1)
        return held if calls[0] > 0 else None

    with ExitStack() as stack:
        for module in modules:
            stack.callback(module.register_forward_hook(share).remove)
        yield


def judge_carriers(painter: Painter, adapter: Adapter, count: int, seed: int, on_case) -> dict[str, Verdict]:
    """Verdicts on sweeps of ``count`` cases: without and with grounding, and with each kind of layer shared besides."""
    props, network = Props(), painter.model.model.diffusion_model
    ways = {"ungrounded": (None, []), "grounded": (Pivot(PIVOT, GROUNDING), [])}
    for name, modules in PARTS.items():
        ways[name] = None, modules(network)
        ways[f"grounded + {name}"] = Pivot(PIVOT, GROUNDING), modules(network)
    found: dict[str, list[Verdict]] = {name: [] for name in ways}
    for index, case in enumerate(cases(count, seed)):
        for name, (pivot, modules) in ways.items():
            left = [grounding_steps(GROUNDING, STEPS)]

            def counted(module: nn.Module, inputs: tuple, out: Tensor, left: list[int] = left) -> None:
                left[0] -= 1

            after = network.register_forward_hook(counted)
            with shared(modules, left):
                pictures = painter.paint(case, LEVELS, adapter, pivot)
            after.remove()
            found[name].append(judge(pictures, case, props))
        on_case(index + 1)
    return {name: Verdict.mean(rows) for name, rows in found.items()}


def table(verdicts: dict[str, Verdict]) -> str:
    """A line for each verdict, as Markdown has it."""
    labels = [field.metadata["label"] for field in fields(Verdict)]
    rows = [[name, *(f"{value:.3f}" for value in astuple(verdict))] for name, verdict in verdicts.items()]
    return "\n".join(f"| {' | '.join(row)} |" for row in (["", *labels], *rows))
