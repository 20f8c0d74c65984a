"""Shared noise: samplers that draw noise on the way draw the same for all rows of a scene."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch.overrides import TorchFunctionMode

_SIZED = (torch.randn, torch.rand)
_LIKE = (torch.randn_like, torch.rand_like)


class SharedNoise(TorchFunctionMode):
    """While active, a random batch of ``len(source)`` rows is drawn once a scene and handed to every row.

    The draw has one row a scene, so it does not depend on how many blurs a sweep has: a sweep of six gets
    the very noise that a single picture gets. Acts on the calling thread only, and only inside the ``with``
    block, whichever sampler runs there and however it draws.

    Args:
        source: for each row the number of the scene it belongs to.
    """

    def __init__(self, source: Sequence[int]):
        super().__init__()
        self.rows = len(source)
        self.scenes = max(source) + 1
        self.source = torch.tensor(source)
        self.thread: int | None = None

    def __enter__(self):
        self.thread = threading.get_ident()
        return super().__enter__()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func in _SIZED:
            size = kwargs.pop("size", args)
            if len(size) == 1 and not isinstance(size[0], int):
                size = size[0]
            if self._is_batch(size):
                return self._share(func((self.scenes, *size[1:]), **kwargs))
            return func(*size, **kwargs)
        if func in _LIKE and self._is_batch(args[0].shape):
            return self._share(func(args[0][: self.scenes], *args[1:], **kwargs))
        return func(*args, **kwargs)

    def _is_batch(self, size: Sequence[int]) -> bool:
        return len(size) > 1 and size[0] == self.rows

    def _share(self, drawn: torch.Tensor) -> torch.Tensor:
        return drawn[self.source.to(drawn.device)]

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Suspend inside the model's own forward: nothing there is sampler noise, and compilers stay clear."""
        # Hosts with several GPUs call the model from threads of their own, where it was never active.
        if threading.get_ident() != self.thread:
            yield
            return
        self.__exit__(None, None, None)
        try:
            yield
        finally:
            self.__enter__()
