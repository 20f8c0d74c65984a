"""Shared noise: samplers that draw noise on the way draw the same for all rows of a scene."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode

# Random too, but layers of a network rather than draws.
_LAYERS = ("attention", "dropout", "rrelu")


class SharedNoise(TorchDispatchMode):
    """While active, a random batch of ``len(source)`` rows is drawn once a scene and handed to every row.

    The draw has one row a scene, so it does not depend on how many blurs a sweep has: a sweep of six gets
    the very noise that a single picture gets. Whatever torch itself marks as taking from a random generator counts,
    however a sampler calls it: by size, like a tensor, in place, from a distribution. Acts on the calling thread only,
    and only inside the ``with`` block.

    Args:
        source: for each row the number of the scene it belongs to.
        shape: of the batch, when draws of all its numbers in one line shall be shared too.
    """

    def __init__(self, source: Sequence[int], shape: Sequence[int] = ()):
        super().__init__()
        self.rows = len(source)
        self.scenes = max(source) + 1
        self.source = torch.tensor(source)
        self.first = [list(source).index(scene) for scene in range(self.scenes)]
        self.numbers = torch.Size(shape[1:]).numel() if shape else 0
        self.thread: int | None = None
        self.off = False

    def __enter__(self):
        self.thread = threading.get_ident()
        return super().__enter__()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if self.off or torch.Tag.nondeterministic_seeded not in func.tags:
            return func(*args, **kwargs)
        schema = func._schema
        if any(layer in schema.name for layer in _LAYERS):
            return func(*args, **kwargs)
        names = [argument.name for argument in schema.arguments]
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        once = {name: self._once(name, value) for name, value in given.items()}
        if all(once[name] is value for name, value in given.items()):
            return func(*args, **kwargs)
        drawn = func(*(once[name] for name in names[: len(args)]), **{name: once[name] for name in kwargs})
        line = [self.rows * self.numbers] == given.get("size")
        shared = drawn.view(self.scenes, -1)[self.source].flatten() if line else drawn[self.source.to(drawn.device)]
        for argument in schema.arguments:
            if argument.alias_info is not None and argument.alias_info.is_write:
                return given[argument.name].copy_(shared)
        return shared

    def _once(self, name: str, value: Any) -> Any:
        """An argument that is as large as the batch, with one row a scene; any other as it is."""
        if isinstance(value, Tensor):
            return value[self.first] if self._is_batch(value.shape) else value
        if name == "size" and self._is_batch(value):
            return [self.scenes, *value[1:]]
        if name == "size" and self.numbers and list(value) == [self.rows * self.numbers]:
            return [self.scenes * self.numbers]
        return value

    def _is_batch(self, size: Sequence[int]) -> bool:
        return len(size) > 1 and size[0] == self.rows

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Suspend inside the model's own forward: nothing there is sampler noise, and compilers stay clear."""
        # Hosts with several GPUs call the model from threads of their own, where it was never active.
        if threading.get_ident() != self.thread:
            yield
        elif _get_current_dispatch_mode() is self:
            self.__exit__(None, None, None)
            try:
                yield
            finally:
                self.__enter__()
        else:
            # Another pack's mode lies on top, which is not ours to take off.
            self.off = True
            try:
                yield
            finally:
                self.off = False
