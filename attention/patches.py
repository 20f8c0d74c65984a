"""Our functions round the forwards of a network's modules, as the host's object patches.

Several may stand round one forward: a LoRA changes what a projection gives, an adapter what the LoRA left, a mark says
where the call is. They stand in the order of their ranks, whoever was put there first.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import partial
from typing import Protocol

from comfy.model_patcher import ModelPatcher
from torch import nn


class Hook(Protocol):
    """The recipe of one of our functions.

    Attributes:
        key: of whoever put it there; the additional model of this key holds its weights, if it has any.
        rank: the smaller, the nearer to the module's own forward.
    """

    key: str
    rank: int

    def around(self, forward: Callable, module: nn.Module | None) -> Callable: ...


Chain = list[tuple[Hook, nn.Module | None]]


def put(clone: ModelPatcher, name: str, hook: Hook, module: nn.Module | None, method: str = "forward") -> None:
    """Put ``hook`` round a method, the forward by default, of the network's module ``name`` ("" for the network)."""
    full = f"diffusion_model.{name}.{method}" if name else f"diffusion_model.{method}"
    base, chain = _taken_apart(clone.get_model_object(full))
    if full not in clone.object_patches:
        # Left on the network by another model that has it too.
        chain = []
    _build(clone, full, base, sorted([*chain, (hook, module)], key=lambda entry: entry[0].rank))


def take_out(clone: ModelPatcher, key: str) -> None:
    """Take all hooks of ``key`` out; those of others, ours and other packs', stay."""
    for full, patch in list(clone.object_patches.items()):
        base, chain = _taken_apart(patch)
        if all(hook.key != key for hook, _ in chain):
            continue
        del clone.object_patches[full]
        rest = [(hook, module) for hook, module in chain if hook.key != key]
        # The module's own method needs no patch; what another pack had put there comes back.
        if rest or getattr(base, "__self__", None) is not clone.get_model_object(full.rpartition(".")[0]):
            _build(clone, full, base, rest)


def follow(source: ModelPatcher, clone: ModelPatcher) -> None:
    """Put a clone that has a network of its own (a second GPU, LoRA hooks on a conditioning) on its own modules."""
    if clone.model is source.model:
        return
    for full, patch in list(clone.object_patches.items()):
        base, chain = _taken_apart(patch)
        if not chain or not isinstance(getattr(base, "__self__", None), nn.Module):
            continue
        del clone.object_patches[full]
        own = [(hook, _weights(clone, hook.key) if module is not None else None) for hook, module in chain]
        _build(clone, full, clone.get_model_object(full), own)


def _weights(clone: ModelPatcher, key: str) -> nn.Module:
    (patcher,) = clone.get_additional_models_with_key(key)
    return patcher.model


def _taken_apart(patch: Callable) -> tuple[Callable, Chain]:
    """What our functions stand round, and they, from the inside out."""
    chain: Chain = []
    while hasattr(patch, "before_bokeh"):
        chain.append((patch.hook, patch.held.module))
        patch = patch.before_bokeh
    return patch, chain[::-1]


class _Held:
    """What one of our functions runs: with the weights of ``owner``, and without them once that is gone.

    The network keeps our functions until it is patched anew, which the host may do while it goes through its list of
    loaded models. Weights that went only then would be taken off that list under it; nor may they stay behind without
    their patcher, which the host calls a leak.
    """

    def __init__(self, forward: Callable, hook: Hook, module: nn.Module | None, owner: ModelPatcher | None) -> None:
        self.run, self.module = hook.around(forward, module), module
        if owner is not None:
            self._owner = weakref.ref(owner, partial(_let_go, weakref.ref(self), forward))


def _let_go(held: weakref.ref[_Held], forward: Callable, _: weakref.ref[ModelPatcher]) -> None:
    if (present := held()) is not None:
        present.run, present.module = forward, None


def _running(held: _Held) -> Callable:
    def run(*args, **kwargs):
        return held.run(*args, **kwargs)

    return run


def _build(clone: ModelPatcher, full: str, base: Callable, chain: Chain) -> None:
    forward = base
    for hook, module in chain:
        owner = next(iter(clone.get_additional_models_with_key(hook.key)), None)
        held = _Held(forward, hook, module, owner)
        outer = _running(held)
        outer.before_bokeh, outer.hook, outer.held = forward, hook, held
        forward = outer
    patch(clone, full, forward)


# Of every network, where it has been patched: a module, by reference, and its method.
_patched: weakref.WeakKeyDictionary[nn.Module, set[tuple[weakref.ref[nn.Module], str]]] = weakref.WeakKeyDictionary()


def patch(clone: ModelPatcher, full: str, function: Callable) -> None:
    """Put ``function``, which calls the method that it stands for, in the place of the method ``full`` of the network.

    It holds that method, and so its module; so does what the host puts back. Such a circle would outlive the network,
    on the card and off the host's list, until garbage is collected, so it is cut as the network goes.
    """
    clone.add_object_patch(full, function)
    name, _, method = full.rpartition(".")
    if clone.model not in _patched:
        _patched[clone.model] = set()
        weakref.finalize(clone.model, _cut, _patched[clone.model]).atexit = False
    _patched[clone.model].add((weakref.ref(clone.get_model_object(name)), method))


def _cut(places: set[tuple[weakref.ref[nn.Module], str]]) -> None:
    # Other packs put a network into a second model of the host, which may be running.
    elsewhere = set().union(*(others for others in _patched.values() if others is not places))
    for reference, method in places - elsewhere:
        if (module := reference()) is not None:
            vars(module).pop(method, None)
