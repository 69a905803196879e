"""Work in shards, on the processes of this machine or on a Ray cluster: the same functions, the same answers.

A shard is a list of items, the work a pure function named by its import path ("package.module:function") that takes
the items of a shard and yields one result an item, in their order. Results come back one by one, so whatever takes a
worker away costs only what was not yet told. What goes wrong is settled here (`run`), equally for both engines:

- A worker that dies (a crash, SIGKILL, too much memory) is replaced, and the item that it died at is tried again alone.
  An item that ends two workers is divided, down to one that cannot be: that one is `Lost`.
- A lost node, and a fault of the network or of a store, is nobody's fault: the item is tried again, with growing
  pauses, and then `Lost`. What a store refuses is `Lost` at once.
- An error of our own costs its item: divided if it can be, else `Lost`.
- A mistake of the user's (weights that are not there) or a full disk stops the run. So does a store that is down
  (OUTAGE items in a row lost to it), and so do faults if nothing at all succeeded: then it was not the items' fault,
  and a table full of rejects would hide it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from typing import TypeVar

from infra.engine.processes import Processes
from infra.engine.run import OUTAGE as OUTAGE
from infra.engine.run import Engine as Engine
from infra.engine.run import Lost as Lost
from infra.engine.run import Patience as Patience
from infra.engine.run import results as results
from infra.engine.worker import MEMORY

Item = TypeVar("Item")


@contextlib.contextmanager
def opened(workers: int, *, networks: bool = False, memory: int = MEMORY) -> Iterator[Engine]:
    """The engine that RAY_ADDRESS asks for: Ray where it is set, else `workers` processes of this machine.

    A worker that holds more than `memory` bytes is ended. `networks`: the work runs some, on a GPU where there is one;
    it may hold twice as much, since their weights and CUDA's own are no film's. ValueError where Ray is asked for and
    not installed, ConnectionError where it does not answer.
    """
    memory *= 2 if networks else 1
    address = _address()
    engine: Engine
    if address:
        found, told = describe()
        if not found:
            raise ValueError(told)
        from infra.engine.cluster import Cluster

        engine = Cluster(address, networks, memory)
    else:
        engine = Processes(max(1, workers), memory)
    try:
        yield engine
    finally:
        engine.close()


def describe() -> tuple[bool, str]:
    """Whether the engine that would be used can be, and which it is; `doctor` tells it."""
    address = _address()
    if not address:
        return True, f"processes of this machine ({len(os.sched_getaffinity(0))} cores); RAY_ADDRESS chooses Ray"
    if address.startswith("ray://"):
        return False, f"RAY_ADDRESS {address}: run on a node of the cluster, with its address as host:port or `auto`"
    if find_spec("ray") is None:
        return False, f"RAY_ADDRESS is {address}, and Ray is not installed: pip install 'sana-video-mlops[ray]'"
    return True, f"Ray at {address}"


def _address() -> str | None:
    from infra.settings import machine  # not above: every worker imports this package, and should start at once

    return machine().ray_address


def shards_of(
    items: Sequence[Item], sizes: Sequence[int], slots: int, least: int = 200, most: int = 1000
) -> list[list[Item]]:
    """The items in shards of about equal size, order kept; `sizes` counts the clips of each.

    Four shards a slot, of `least` to `most` clips; smaller ones where there are too few clips to keep all slots busy.
    """
    total = sum(sizes)
    size = min(most, -(-total // (4 * slots)))
    size = max(size, least) if total >= least * slots else size
    shards: list[list[Item]] = []
    held = size
    for item, count in zip(items, sizes, strict=True):
        if held >= size or (shards[-1] and held + count > most):
            shards.append([])
            held = 0
        shards[-1].append(item)
        held += count
    return shards
