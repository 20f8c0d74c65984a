"""Shared noise: samplers that draw noise on the way draw the same for all rows of a scene."""

from __future__ import annotations

import math
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
        shape: of the batch, when draws of all its numbers in another form shall be shared too.
    """

    def __init__(self, source: Sequence[int], shape: Sequence[int] = ()):
        super().__init__()
        self.rows = len(source)
        self.scenes = max(source) + 1
        self.source = torch.tensor(source)
        self.first = [list(source).index(scene) for scene in range(self.scenes)]
        self.shape = list(shape)
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
        axes = {name: self._axis(name, value) for name, value in given.items()}
        axis = next((axis for axis in axes.values() if axis is not None), None)
        if axis is None:
            return func(*args, **kwargs)
        once = {name: value if axes[name] is None else self._once(value, axis) for name, value in given.items()}
        drawn = func(*(once[name] for name in names[: len(args)]), **{name: once[name] for name in kwargs})
        rows = drawn.unflatten(axis, (self.scenes, -1)).index_select(axis, self.source.to(drawn.device))
        shared = rows.flatten(axis, axis + 1)
        for argument in schema.arguments:
            if argument.alias_info is not None and argument.alias_info.is_write:
                return given[argument.name].copy_(shared)
        return shared

    def _axis(self, name: str, value: Any) -> int | None:
        """Which axis of an argument counts the rows of the batch; None for what is not as large as the batch.

        The batch may be drawn several times at once, and with further axes flattened into that of the rows.
        """
        size = list(value.shape) if isinstance(value, Tensor) else list(value) if name == "size" else []
        if self.shape and len(size) > len(self.shape) and size[-len(self.shape) :] == self.shape:
            return len(size) - len(self.shape)
        if len(size) > 1 and size[0] == self.rows:
            return 0
        whole = self.shape and size and math.prod(size) == math.prod(self.shape) and size[0] % self.rows == 0
        return 0 if whole else None

    def _once(self, value: Any, axis: int) -> Any:
        """An argument that is as large as the batch, with one row a scene."""
        if isinstance(value, Tensor):
            first = torch.tensor(self.first, device=value.device)
            return value.unflatten(axis, (self.rows, -1)).index_select(axis, first).flatten(axis, axis + 1)
        return [*value[:axis], value[axis] // self.rows * self.scenes, *value[axis + 1 :]]

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
