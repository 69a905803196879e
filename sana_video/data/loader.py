"""Batches by step number: `Loader.batch(step)` depends on nothing but the view, the seed and the step.

There is no iterator to save and no worker whose timing could show: `prefetch` computes the same batches a few steps
ahead in a thread (reading and unpacking release the interpreter lock) and hands them out in order.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from sana_video.data import order
from sana_video.data.shards import ShardReader

T = TypeVar("T")


@dataclass(frozen=True)
class Batch:
    """Samples of one bucket. `tensors[name]` has a leading axis of samples; `positions[i]` is sample i's place in the
    global batch, from which its noise is drawn, so that noise does not depend on the number of processes."""

    tensors: dict[str, Tensor]
    positions: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.positions)

    def to(self, device: torch.device) -> Batch:
        return Batch({k: v.to(device, non_blocking=True) for k, v in self.tensors.items()}, self.positions)


class Loader:
    """The training and held-out samples of a view, `fields` of each."""

    def __init__(
        self, folder: Path, fields: Sequence[str], batch: int, seed: int, rank: int = 0, world: int = 1
    ) -> None:
        self._reader = ShardReader(folder)
        self._fields, self._batch, self._seed = tuple(fields), batch, seed
        self._local = order.local_slice(batch, rank, world)
        self._train, self._val = self._rows("train"), self._rows("val")
        for subset, buckets in (("train", self._train), ("val", self._val)):
            if not buckets:
                raise ValueError(f"view {folder} has no {subset} samples; a stage needs both train and val")

    def batch(self, step: int) -> Batch:
        """This process's share of the global batch of step `step` (from 0)."""
        rows = order.global_batch(self._train, self._batch, self._seed, step)
        return self._stack(rows[list(self._local)], tuple(self._local))

    def held_out(self, count: int, size: int) -> list[Batch]:
        """`count` held-out samples, always the same: all of them in turn, again from the first where there are fewer.

        Batches of at most `size`, one bucket each; `positions` run over the count, so a clip that comes again can be
        given other noise.
        """
        buckets = np.repeat(np.arange(len(self._val)), [len(rows) for rows in self._val])
        turn = np.arange(count) % len(buckets)
        rows = np.concatenate(self._val)[turn]
        batches: list[Batch] = []
        for bucket in range(len(self._val)):
            places = np.flatnonzero(buckets[turn] == bucket)
            parts = (places[start : start + size] for start in range(0, len(places), size))
            batches += [self._stack(rows[part], tuple(part.tolist())) for part in parts]
        return batches

    @property
    def held_out_samples(self) -> int:
        """How many different held-out samples there are."""
        return sum(len(rows) for rows in self._val)

    def train_samples(self, limit: int) -> Iterator[Batch]:
        """Up to `limit` training samples, each once and alone, for measuring statistics."""
        rows = np.concatenate(self._train)
        for position, i in enumerate(order.permutation(len(rows), self._seed, 0)[:limit]):
            yield self._stack(rows[i : i + 1], (position,))

    def close(self) -> None:
        self._reader.close()

    def _rows(self, subset: str) -> list[order.Rows]:
        """Row numbers of a subset, one array per bucket, buckets by name."""
        buckets = self._reader.index.column("bucket").to_pylist()
        subsets = self._reader.index.column("subset").to_pylist()
        rows: dict[str, list[int]] = {}
        for row, (bucket, found) in enumerate(zip(buckets, subsets, strict=True)):
            if found == subset:
                rows.setdefault(bucket, []).append(row)
        return [np.array(rows[bucket], np.int64) for bucket in sorted(rows)]

    def _stack(self, rows: order.Rows, positions: tuple[int, ...]) -> Batch:
        samples = [self._reader.sample(int(row)) for row in rows]
        missing = [name for name in self._fields if name not in samples[0]]
        if missing:
            raise ValueError(f"view {self._reader.folder} has no {missing[0]!r}: it holds {sorted(samples[0])}")
        return Batch({name: torch.stack([sample[name] for sample in samples]) for name in self._fields}, positions)


def prefetch(make: Callable[[int], T], steps: range, depth: int = 2) -> Generator[tuple[int, T], None, None]:
    """(step, make(step)) for each of `steps`, in order, computed up to `depth` ahead. Raises what `make` raises."""
    ready: queue.Queue[tuple[int, T] | BaseException] = queue.Queue(depth)
    stop = threading.Event()

    def put(item: tuple[int, T] | BaseException) -> None:
        while not stop.is_set():
            try:
                ready.put(item, timeout=0.1)
                return
            except queue.Full:
                continue

    def work() -> None:
        try:
            for step in steps:
                if stop.is_set():
                    return
                put((step, make(step)))
        except BaseException as error:  # carried to the reader, whatever it is
            put(error)

    thread = threading.Thread(target=work, name="prefetch", daemon=True)
    thread.start()
    try:
        for _ in steps:
            item = ready.get()
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop.set()
        thread.join()
