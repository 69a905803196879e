"""One pass over shards: a thread a slot feeds its worker, and settles what goes wrong with the item at hand."""

from __future__ import annotations

import contextlib
import errno
import logging
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from infra.engine.worker import Answer, NodeLost, WorkerDied

Item = TypeVar("Item")

DEATHS = 2  # of workers, before the item at hand is divided or given up
OUTAGE = 4  # items given up in a row because of a store or network, before the run is
_CODES = {
    "died": "WORKER_CRASHED",
    "node": "NODE_LOST",
    "transient": "STORAGE_FAILED",
    "refused": "STORAGE_REFUSED",
    "failed": "WORK_FAILED",
}
_PASSING = ("node", "transient")  # faults that may not be there the next time
_POLL_SECONDS = 0.2

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Lost:
    """In the place of a result: why there is none. `kind` is died, node, transient, refused or failed."""

    kind: str
    text: str

    @property
    def reason(self) -> str:
        """One line, with a code first, as the tables hold it; the same under both engines."""
        lines = self.text.strip().splitlines()
        return f"{_CODES[self.kind]}: {lines[-1] if lines else 'no more is known'}"


@dataclass(frozen=True)
class Patience:
    """How often an item is tried again after a passing fault, and the first pause in seconds; each doubles."""

    retries: int = 4
    pause: float = 0.5


class Engine(Protocol):
    """Where shards are worked on, `slots` at a time."""

    @property
    def slots(self) -> int: ...

    def stream(self, slot: int, work: str, items: Sequence[Any], common: Mapping[str, Any]) -> Iterator[Answer]:
        """The answers of one worker, as they come. Raises WorkerDied."""
        ...

    def close(self) -> None: ...


def results(
    engine: Engine,
    work: str,
    shards: Sequence[Sequence[Item]],
    common: Mapping[str, Any],
    divide: Callable[[Item], Sequence[Item]] = lambda item: (item,),
    patience: Patience = Patience(),
) -> Iterator[tuple[Item, Any]]:
    """Each item with its result or `Lost`, as they are done; an item that was divided comes as its parts.

    `divide` gives the parts of an item, or the item alone. Raises ValueError for a mistake of the user's, OSError if a
    disk is full, ConnectionError in an outage, and the first fault (ConnectionError, ValueError or RuntimeError) if
    there were faults and no result.
    """
    run: _Run[Item] = _Run(engine, work, common, divide, patience, shards)
    first: Lost | None = None
    succeeded, in_a_row = False, 0
    try:
        for item, result in run.told():
            if isinstance(result, Lost):
                log.warning("%s: %s", work, result.reason)
                first = first or (result if result.kind != "died" else None)
                in_a_row += result.kind in _PASSING
                if in_a_row >= OUTAGE:
                    _raise(result)
            else:
                succeeded, in_a_row = True, 0
            yield item, result
    finally:
        run.stop()
    if first is not None and not succeeded:
        _raise(first)


def _raise(lost: Lost) -> None:
    if lost.kind in _PASSING:
        raise ConnectionError(lost.text)
    if lost.kind == "refused":
        raise ValueError(lost.text)
    raise RuntimeError(f"nothing succeeded; the first fault was:\n{lost.text}")


@dataclass
class _Try(Generic[Item]):
    item: Item
    deaths: int = 0
    faults: int = 0


class _Run(Generic[Item]):
    def __init__(
        self,
        engine: Engine,
        work: str,
        common: Mapping[str, Any],
        divide: Callable[[Item], Sequence[Item]],
        patience: Patience,
        shards: Sequence[Sequence[Item]],
    ) -> None:
        self._engine, self._work, self._common, self._divide, self._patience = engine, work, common, divide, patience
        self._shards: queue.SimpleQueue[Sequence[Item]] = queue.SimpleQueue()
        for shard in shards:
            self._shards.put(shard)
        slots = max(1, min(engine.slots, len(shards)))
        self._told: queue.Queue[tuple[str, Any, Any]] = queue.Queue(maxsize=slots)  # results must not pile up
        self._stopped = threading.Event()
        self._threads = [threading.Thread(target=self._serve, args=(slot,), daemon=True) for slot in range(slots)]

    def told(self) -> Iterator[tuple[Item, Any]]:
        for thread in self._threads:
            thread.start()
        running = len(self._threads)
        while running:
            kind, item, result = self._told.get()
            if kind == "result":
                yield item, result
            elif kind == "broken":
                raise result
            else:
                running -= 1

    def stop(self) -> None:
        """End what still runs: the engine's workers go, and with them what the threads wait for."""
        self._stopped.set()
        if any(thread.is_alive() for thread in self._threads):
            self._engine.close()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()

    def _serve(self, slot: int) -> None:
        try:
            while not self._stopped.is_set():
                try:
                    shard = self._shards.get_nowait()
                except queue.Empty:
                    break
                self._work_on(slot, deque(_Try(item) for item in shard))
        except Exception as error:
            self._tell("broken", None, error)
        self._tell("ended", None, None)

    def _tell(self, kind: str, item: Any, result: Any) -> None:
        while not self._stopped.is_set():
            with contextlib.suppress(queue.Full):
                self._told.put((kind, item, result), timeout=_POLL_SECONDS)
                return

    def _work_on(self, slot: int, pending: deque[_Try[Item]]) -> None:
        while pending and not self._stopped.is_set():
            # what a worker died at goes alone, so that the blame is certain
            now = [pending[0]] if pending[0].deaths else list(pending)
            kind, text = self._feed(slot, now, pending)
            if kind != "ended" and not self._stopped.is_set():
                self._settle(pending, kind, text)

    def _feed(self, slot: int, now: list[_Try[Item]], pending: deque[_Try[Item]]) -> Answer:
        """The last answer of one stream; what is done leaves `pending`, whose first is what a fault belongs to."""
        left = len(now)
        try:
            for kind, value in self._engine.stream(slot, self._work, [one.item for one in now], self._common):
                if kind == "ended" and left:
                    return "failed", f"{self._work} left {left} of {len(now)} items without a result"
                if kind != "done":
                    return kind, value
                left -= 1
                self._tell("result", pending.popleft().item, value)
        except WorkerDied as error:
            return ("node" if isinstance(error, NodeLost) else "died", str(error)) if left else ("ended", None)
        raise RuntimeError(f"{self._work}: the worker's answers ended without a last one")

    def _settle(self, pending: deque[_Try[Item]], kind: str, text: str) -> None:
        """The first of `pending` went wrong: leave it there for another try, put its parts there, or give it up."""
        if kind == "full":
            raise OSError(errno.ENOSPC, text)
        if kind == "user":
            raise ValueError(text)
        one = pending[0]
        if kind == "died":
            log.warning("%s: %s; what it worked on is tried again", self._work, text)
            one.deaths += 1
            if one.deaths < DEATHS:
                return
            text = f"{DEATHS} workers ended while they worked on it"  # how each did is no fact of the item's
        if kind in _PASSING and one.faults < self._patience.retries:
            log.warning("%s: %s; tried again", self._work, text)
            self._stopped.wait(self._patience.pause * 2**one.faults)
            one.faults += 1
            return
        pending.popleft()
        parts = self._divide(one.item) if kind in ("died", "failed") else ()
        if len(parts) > 1:
            pending.extendleft(_Try(part) for part in reversed(parts))
        else:
            self._tell("result", one.item, Lost(kind, text))
