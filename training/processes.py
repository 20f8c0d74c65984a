"""One process, or several under `accelerate launch`: who draws what, and the average of what they found."""

from __future__ import annotations

import os
from collections.abc import Iterable

from torch import Tensor


class Alone:
    """Training in one process."""

    rank = 0
    size = 1

    def average(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by its mean over all processes, in place."""

    def finish(self) -> None:
        """Take leave of the other processes, at the end of the program."""


class Launched(Alone):
    """One of the processes that Hugging Face's accelerate has launched.

    Only gradients and losses travel: the adapter is small, starts from the seed and stays the same everywhere.
    """

    def __init__(self) -> None:
        import accelerate

        # Also chooses this process's device, so it comes before anything that asks the host for one.
        self._accelerator = accelerate.Accelerator()
        self.rank = self._accelerator.process_index
        self.size = self._accelerator.num_processes

    def average(self, tensors: Iterable[Tensor]) -> None:
        for tensor in tensors:
            tensor.copy_(self._accelerator.reduce(tensor, reduction="mean"))

    def finish(self) -> None:
        self._accelerator.end_training()


def processes() -> Alone:
    """The processes that this one belongs to, as the launcher's environment tells."""
    return Launched() if int(os.environ.get("WORLD_SIZE", "1")) > 1 else Alone()
