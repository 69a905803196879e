"""Where the time and the memory of a run go, by part: parts may nest, and each counts only its own."""

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

T = TypeVar("T")
GIB = 2**30


class Clock:
    """Seconds and peak allocated bytes of each named part on `device`; on a CPU no memory is counted (None)."""

    def __init__(self, device: torch.device) -> None:
        self.cuda = device.type == "cuda"
        self.seconds: dict[str, float] = defaultdict(float)
        self.peak: dict[str, int] = defaultdict(int)
        self._stack = ["other"]
        self._since = time.perf_counter()
        self._turn()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """What runs inside counts for `name`, and not for the part around it."""
        self._turn()
        self._stack.append(name)
        try:
            yield
        finally:
            self._turn()
            self._stack.pop()

    def each(self, name: str, pieces: Iterable[T]) -> Iterator[T]:
        """The same pieces; making them counts for `name`."""
        source = iter(pieces)
        while True:
            with self.part(name):
                piece = next(source, None)
            if piece is None:
                return
            yield piece

    def report(self) -> dict[str, dict[str, Any]]:
        """By part: seconds, and peak GiB."""
        self._turn()
        return {
            name: {"seconds": round(took, 3), "peak_gib": round(self.peak[name] / GIB, 3) if self.cuda else None}
            for name, took in self.seconds.items()
        }

    def _turn(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()
        now, name = time.perf_counter(), self._stack[-1]
        self.seconds[name] += now - self._since
        if self.cuda:
            self.peak[name] = max(self.peak[name], torch.cuda.max_memory_allocated())
            torch.cuda.reset_peak_memory_stats()
        self._since = now
