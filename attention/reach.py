"""Whether attention was reached: what other packs put on a model can keep bokeh from acting, without an error."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from torch import Tensor, nn

_HOST = re.compile(r"(comfy\w*|torch|functools|builtins)(\.|$)")
_PACK = __name__.rpartition(".attention.")[0]


class Picture(NamedTuple):
    """How the picture's self-attention looks in a model whose places no table knows.

    Attributes:
        least: its tokens at least: of all patch sizes in use, 2 x 2 latent pixels a token is the coarsest.
        prompt: tokens of the prompt, whose own attention is left alone; None without a prompt.
    """

    least: int
    prompt: int | None

    @classmethod
    def of(cls, x: Tensor, context: Tensor | None) -> Picture:
        """Of a model call with the latents ``x`` [B, C, ..., h, w] and the prompt ``context`` [B, L, D]."""
        return cls(x.shape[-2] * x.shape[-1] // 4, None if context is None else context.shape[1])

    def is_seen(self, q: Tensor, k: Tensor, tokens: int, rows: int) -> bool:
        """Whether queries and keys are the picture's own, of a batch of ``rows`` rows or of ``rows`` times as many
        frames or tiles."""
        length = q.shape[tokens]
        return length == k.shape[tokens] and length >= self.least and length != self.prompt and q.shape[0] % rows == 0


def check_reached(
    reached: set[int], names: tuple[str, ...] | None, network: nn.Module, model_options: dict[str, Any]
) -> None:
    """Check after the first model call of a run that attention came by at the places where bokeh acts.

    Args:
        reached: numbers of the places that attention was called at.
        names: of all places; None for a model whose places no table knows.

    Raises:
        ValueError: when it was at none of them.
    """
    if len(reached) == len(names or (0,)):
        return
    # Compiled blocks run no Python, so nothing is known of them.
    if _is_compiled(network, model_options):
        return
    if reached:
        missed = [name for number, name in enumerate(names) if number not in reached]
        logging.info(
            "Bokeh: another node runs the attention of %s of %s blocks itself; blur and scene act in the others: %s",
            len(missed),
            len(names),
            ", ".join(missed),
        )
        return
    others = sorted({pack for pack in map(_pack, _strangers(network, model_options)) if pack})
    found = f" What is on the model comes from: {', '.join(others)}." if others else ""
    what = "at none of the places that it needs" if names is not None else "in this kind of model, which is untried,"
    raise ValueError(
        f"Bokeh did not get to the attention of {type(network).__name__} {what}, so every picture would be the same. "
        "Another node calls the network itself or replaces its attention (step caches, face and identity nodes and "
        f"other attention nodes do that).{found} Take that node out, or bypass the nodes between the model loader and "
        "the sampler one by one. Unpatched models stay changed until ComfyUI loads them again."
    )


def _is_compiled(network: nn.Module, model_options: dict[str, Any]) -> bool:
    wrappers = model_options.get("transformer_options", {}).get("wrappers", {})
    if any("torch.compile" in by_key for by_key in wrappers.values()):
        return True
    return any(
        hasattr(module, "_orig_mod")
        or module._compiled_call_impl is not None
        or hasattr(module.forward, "_torchdynamo_orig_callable")
        for module in network.modules()
    )


def _strangers(network: nn.Module, model_options: dict[str, Any]) -> Iterator[object]:
    """Functions and classes that do not belong to the host, where a model is most often changed."""
    options = model_options.get("transformer_options", {})
    yield model_options.get("model_function_wrapper")
    yield options.get("optimized_attention_override")
    for by_place in options.get("patches_replace", {}).values():
        yield from by_place.values()
    for by_key in options.get("wrappers", {}).values():
        for functions in by_key.values():
            yield from functions
    for module in network.modules():
        yield type(module)
        for value in vars(module).values():
            if callable(value) and not isinstance(value, nn.Module):
                yield getattr(value, "before_bokeh", value)


def _pack(thing: object) -> str | None:
    """The name of the pack that a function or class comes from; None for the host and this pack."""
    name = getattr(thing, "__module__", None) or type(thing).__module__
    if _HOST.match(name) or name.startswith(_PACK):
        return None
    # The host names a pack's modules by the path of the pack's folder.
    inside = re.search(r"custom_nodes[\\/]([^\\/.]+)", name)
    return inside[1] if inside else re.split(r"[\\/]", name)[-1].split(".")[0]
