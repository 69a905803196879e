"""Work over many items in several processes, results in the order of the items."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_ordered(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    workers: int,
    initializer: Callable[[], object] | None = None,
) -> Iterator[Result]:
    """Yield function(item) for each item in order, computed by `workers` processes (in this one if 1).

    At most two items a worker are under way, so a long input is read as it is needed. `function`, items and results
    are pickled; workers are spawned, because a fork of a process that runs threads (torch, OpenCV) may hang. The first
    exception stops the work and is raised here; leaving the loop early ends the workers. ValueError if workers < 1.
    """
    if workers < 1:
        raise ValueError(f"workers: {workers} is not possible, at least 1 is needed")
    return _here(function, items, initializer) if workers == 1 else _spread(function, items, workers, initializer)


def _here(
    function: Callable[[Item], Result], items: Iterable[Item], initializer: Callable[[], object] | None
) -> Iterator[Result]:
    if initializer is not None:
        initializer()
    yield from map(function, items)


def _spread(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int, initializer: Callable[[], object] | None
) -> Iterator[Result]:
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=initializer)
    source = iter(items)
    try:
        waiting = [pool.submit(function, item) for item in islice(source, 2 * workers)]
        while waiting:
            result = waiting.pop(0).result()
            waiting += [pool.submit(function, item) for item in islice(source, 1)]
            yield result
    except BaseException:
        _end(pool)
        raise
    pool.shutdown()


def _end(pool: ProcessPoolExecutor) -> None:
    """Stop at once: what is under way is of no more use, and a cancelled stage may not wait for it."""
    processes: dict[int, Any] = dict(pool._processes or {})
    pool.shutdown(wait=False, cancel_futures=True)
    for process in processes.values():
        process.terminate()
