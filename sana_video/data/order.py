"""The order in which samples are seen, as arithmetic.

`permutation` is a pure function of (n, seed, epoch), and `global_batch` of (rows, batch, seed, step); a rank takes its
slice of the global batch. So resuming is not a special case, the order does not depend on the number of processes, and
any step of a past run can be looked at again. The hash below is written out rather than taken from a library's
generator, because an order that changes with a library version would change what a resumed run reads.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]


def permutation(n: int, seed: int, epoch: int) -> Rows:
    """All of 0 … n-1, once each, in an order given by (n, seed, epoch)."""
    with np.errstate(over="ignore"):
        base = _mix(np.array([seed], np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(epoch))
        keys = _mix(base + np.arange(n, dtype=np.uint64) * np.uint64(0xD1B54A32D192ED03))
    return np.argsort(keys, kind="stable").astype(np.int64)


def global_batch(buckets: Sequence[Rows], batch: int, seed: int, step: int) -> Rows:
    """The `batch` rows of step `step`, all of one bucket.

    Steps come in rounds. In a round each bucket gives as many batches as it needs to show each row about once (rounded
    up), and the buckets take turns in a shuffled order. A bucket is an endless stream of permutations that its
    batches cut in order, so no row is dropped at the end of an epoch and a bucket smaller than a batch still fills one.
    """
    sizes = [-(-len(rows) // batch) for rows in buckets]
    turn, slot = divmod(step, sum(sizes))
    turns = np.repeat(np.arange(len(buckets)), sizes)[permutation(sum(sizes), seed, turn)]
    bucket = int(turns[slot])
    before = turn * sizes[bucket] + int((turns[:slot] == bucket).sum())
    return _stream(buckets[bucket], seed, before * batch, batch)


def local_slice(batch: int, rank: int, world: int) -> range:
    """The positions in the global batch that `rank` of `world` processes takes. `batch` is a multiple of `world`."""
    if batch % world:
        raise ValueError(f"batch {batch} is not a multiple of {world} processes")
    share = batch // world
    return range(rank * share, (rank + 1) * share)


def _stream(rows: Rows, seed: int, start: int, count: int) -> Rows:
    """`count` rows from position `start` of the endless stream: epoch 0 permuted, then epoch 1, …"""
    n = len(rows)
    epochs = range(start // n, (start + count - 1) // n + 1)
    order = np.concatenate([permutation(n, seed + 1, epoch) for epoch in epochs])
    offset = start - epochs[0] * n
    picked: Rows = rows[order[offset : offset + count]]
    return picked


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """splitmix64's finaliser: a bijection of 64-bit words whose output bits all depend on all input bits."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
