"""Near copies over all batches, by the perceptual hashes that scoring left beside each clip.

Distance of two clips: the mean Hamming distance of their 64-bit frame hashes at the best alignment in time, so that
a copy that starts a little later is still found. Clips are taken in a fixed order; one within `max_distance` of an
earlier representative is its twin, any other becomes a representative. (Connected groups would chain: along a slow
pan each clip resembles the next, and the ends have nothing in common.) All pairs are found exactly: a mean of at most
t needs one frame pair within t, and two hashes within t agree to within t/4 bits in one of their four 16-bit words,
which a sorted table looks up.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from data_pipeline.params import DedupParams

DEDUP_VERSION = 1

MIN_OVERLAP = 0.6  # of the shorter clip's hashes: less than that in common is not evidence of a copy
_CHUNK = 1 << 20

Row = dict[str, Any]
Hashes = npt.NDArray[np.uint64]
Ints = npt.NDArray[np.int64]


def run(clips: pa.Table, scores: pa.Table, params: DedupParams) -> list[Row]:
    """Rows (clip_id, twin_of, distance in bits of 64) for every clip that is a near copy of another, kept one.

    The order of precedence: longest first, then by (source, video, start, clip id).
    """
    hashes = {row["clip_id"]: row["phash"] for row in scores.select(["clip_id", "phash"]).to_pylist() if row["phash"]}
    live = sorted(
        (row for row in clips.to_pylist() if row["reason"] is None and row["clip_id"] in hashes), key=_precedence
    )
    sequences = [np.array(hashes[row["clip_id"]], np.uint64) for row in live]
    rows = []
    for twin, first in representatives(near_pairs(sequences, params.max_distance)).items():
        off = distance(sequences[first], sequences[twin])
        rows.append({"clip_id": live[twin]["clip_id"], "twin_of": live[first]["clip_id"], "distance": off})
    return rows


def sweep(root: Path, batches: Sequence[str]) -> list[Path]:
    """Remove the tables under `root`/data of batches that params no longer name; returns what was removed.

    A stage that joins batches depends on whole folders, so a table left behind would still count as its input.
    DVC's cache holds the removed tables: naming the batch again brings them back without work.
    """
    keep = {f"{batch}.parquet" for batch in batches}
    folders = [root / "data" / name for name in ("videos", "clips", "scores", "captions")]
    gone = sorted(path for folder in folders for path in folder.glob("*.parquet") if path.name not in keep)
    for path in gone:
        path.unlink()
    return gone


def _precedence(clip: Row) -> tuple[Any, ...]:
    return (-clip["frames"], clip["source"], clip["video_id"], clip["start"], clip["clip_id"])


def distance(a: Hashes, b: Hashes) -> float:
    """The definition: smallest mean Hamming distance over the shifts at which enough frames overlap, 0-64."""
    needed = math.ceil(MIN_OVERLAP * min(len(a), len(b)))
    best = math.inf
    for shift in range(needed - len(b), len(a) - needed + 1):
        left, right = a[max(shift, 0) : shift + len(b)], b[max(-shift, 0) : len(a) - shift]
        best = min(best, float(np.bitwise_count(left ^ right).mean()))
    return best


def near_pairs(sequences: Sequence[Hashes], max_distance: float) -> list[tuple[int, int]]:
    """All (i, j), i < j, with `distance` at most `max_distance`."""
    candidates = candidate_pairs(sequences, math.floor(max_distance))
    return [(i, j) for i, j in candidates if distance(sequences[i], sequences[j]) <= max_distance]


def candidate_pairs(sequences: Sequence[Hashes], bits: int) -> list[tuple[int, int]]:
    """All (i, j), i < j, that have some frame pair within `bits`."""
    if not sequences:
        return []
    owner = np.repeat(np.arange(len(sequences)), [len(s) for s in sequences])
    unique, place = np.unique(np.concatenate(sequences), return_inverse=True)
    owners: list[set[int]] = [set() for _ in unique]
    for clip, at in zip(owner.tolist(), place.tolist(), strict=True):
        owners[at].add(clip)
    pairs = {pair for clips in owners for pair in itertools.combinations(sorted(clips), 2)}
    for left, right in near_hashes(unique, bits):
        for i, j in itertools.product(owners[left], owners[right]):
            if i != j:
                pairs.add((min(i, j), max(i, j)))
    return sorted(pairs)


def near_hashes(hashes: Hashes, bits: int) -> Iterator[tuple[int, int]]:
    """Index pairs i < j of distinct `hashes` within `bits` of Hamming distance (some more than once)."""
    masks = [_mask(on) for count in range(bits // 4 + 1) for on in itertools.combinations(range(16), count)]
    for shift in (0, 16, 32, 48):
        words = ((hashes >> np.uint64(shift)) & np.uint64(0xFFFF)).astype(np.int64)
        order = np.argsort(words, kind="stable")
        table = words[order]
        for mask in masks:
            low = np.searchsorted(table, words ^ mask, "left")
            high = np.searchsorted(table, words ^ mask, "right")
            for left, at in _expand(low, high - low):
                right = order[at]
                hit = (left < right) & (np.bitwise_count(hashes[left] ^ hashes[right]) <= bits)
                yield from zip(left[hit].tolist(), right[hit].tolist(), strict=True)


def _mask(bits: Iterable[int]) -> int:
    return sum(1 << bit for bit in bits)


def _expand(start: Ints, count: Ints) -> Iterator[tuple[Ints, Ints]]:
    """(query index, table position) for `count[q]` positions from `start[q]`, in chunks of bounded size."""
    ends = np.cumsum(count)
    begin = 0
    while begin < len(count):
        offset = ends[begin - 1] if begin else 0
        stop = max(begin + 1, int(np.searchsorted(ends, offset + _CHUNK, "right")))
        some = count[begin:stop]
        query = np.repeat(np.arange(begin, stop), some)
        within = np.arange(len(query)) - np.repeat(np.cumsum(some) - some, some)
        yield query, start[query] + within
        begin = stop


def representatives(pairs: Iterable[tuple[int, int]]) -> dict[int, int]:
    """For each clip that is a twin, the earliest clip near it that is none itself; pairs are (i, j) with i < j."""
    first: dict[int, int] = {}
    for earlier, later in sorted(pairs, key=lambda pair: (pair[1], pair[0])):
        if earlier not in first:
            first.setdefault(later, earlier)
    return first
