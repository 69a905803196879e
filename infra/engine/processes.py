"""The engine of one machine: a process a slot, started when first needed, kept between shards, replaced when dead.

A worker ends with its parent, however that ends: it leaves as soon as its pipe closes, and so does its sandbox in turn.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from infra.engine import worker
from infra.engine.worker import Answer, WorkerDied


@dataclass(frozen=True)
class _Child:
    process: subprocess.Popen[bytes]
    pipe: Connection


class Processes:
    """`slots` processes of this machine, each of which may hold `memory` bytes."""

    def __init__(self, slots: int, memory: int) -> None:
        self.slots, self._memory = slots, memory
        self._children: dict[int, _Child] = {}
        self._lock, self._closed = threading.Lock(), False

    def stream(self, slot: int, work: str, items: Sequence[Any], common: Mapping[str, Any]) -> Iterator[Answer]:
        child = self._child(slot)
        kind = "done"
        try:
            child.pipe.send((work, list(items), dict(common), self._memory))
            while kind == "done":
                kind, value = child.pipe.recv()
                yield kind, value
        except (OSError, EOFError) as error:
            code = self._end(slot, child)
            how = f"signal {-code}" if code < 0 else f"exit status {code}"
            raise WorkerDied(f"a worker ended with {how}") from error

    def close(self) -> None:
        """End all workers, at once. What streams from them raises WorkerDied."""
        with self._lock:
            self._closed = True
            children = list(self._children.items())
        for slot, child in children:
            self._end(slot, child)

    def _child(self, slot: int) -> _Child:
        with self._lock:
            if self._closed:
                raise WorkerDied("the engine was closed")
            if slot not in self._children:
                self._children[slot] = _start()
            return self._children[slot]

    def _end(self, slot: int, child: _Child) -> int:
        with self._lock:
            if self._children.get(slot) is child:
                del self._children[slot]
        with contextlib.suppress(subprocess.TimeoutExpired):  # one that is on its way out tells how it ended
            return child.process.wait(timeout=0 if self._closed else 1)
        child.process.kill()
        return child.process.wait()  # the pipe is closed when the last thread that reads it lets go of it


def _start() -> _Child:
    here, there = multiprocessing.Pipe()
    program = (
        f"import sys; sys.path[:] = {sys.path!r}\n"
        f"from multiprocessing.connection import Connection; from {worker.__name__} import serve\n"
        f"serve(Connection({there.fileno()}))"
    )
    with there:
        process = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.DEVNULL, pass_fds=[there.fileno()])
    return _Child(process, here)
