"""How much memory something takes."""

from __future__ import annotations

import os
import threading
import time

import psutil


class PeakMemory:
    """The most memory of this process while a block runs, above what it had before: ``peak`` in bytes."""

    def __enter__(self) -> PeakMemory:
        self._process = psutil.Process(os.getpid())
        self._before, self.peak, self._running = self._process.memory_info().rss, 0, True
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while self._running:
            self._look()
            time.sleep(0.001)

    def _look(self) -> None:
        self.peak = max(self.peak, self._process.memory_info().rss - self._before)

    def __exit__(self, *exc_info: object) -> None:
        self._look()
        self._running = False
        self._thread.join()
