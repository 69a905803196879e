"""Which of millions of hash sequences, or of vectors, lie near each other, without comparing all with all.

Hashes: a mean distance of at most t needs one pair of frames within t bits, and two hashes within t agree to within
t/4 bits in one of their four 16-bit words, which a sorted table looks up. This finds all pairs up to `LOOKUP_BITS`.
Vectors: each is filed under the nearest of about sqrt(n) centres, and looks under its `PROBES` nearest; of pairs at a
cosine of 0.98 that misses fewer than one in a hundred (benchmarks/dedup.py measures it); up to `BRUTE`, none.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple, cast

import numpy as np
import numpy.typing as npt

from data_pipeline.columns import Floats, Ints

MIN_OVERLAP = 0.6  # of the shorter clip's hashes: less than that in common is not evidence of a copy
LOOKUP_BITS = 7  # a copy is looked for by its most alike frame; two bits of one word off would cost eight times as much
SHARED = 32  # clips with the same or a near frame that each of them is compared with, those first in order
BRUTE, PROBES, ROUNDS = 2048, 4, 4
_CHUNK = 1 << 20

Hashes = npt.NDArray[np.uint64]
Vectors = npt.NDArray[np.float32]


class Pairs(NamedTuple):
    """Pairs i < j, ascending, and how far apart."""

    i: Ints
    j: Ints
    distance: Floats


class Sequences(NamedTuple):
    """Hash sequences end to end: sequence k is flat[start[k] : start[k] + length[k]]."""

    flat: Hashes
    start: Ints
    length: Ints


def distance(a: Hashes, b: Hashes) -> float:
    """The definition: smallest mean Hamming distance over the shifts at which enough frames overlap, 0-64."""
    best = math.inf
    for left, right in _overlaps(len(a), len(b)):
        best = min(best, float(np.bitwise_count(a[left] ^ b[right]).mean()))
    return best


def _overlaps(a: int, b: int) -> Iterator[tuple[slice, slice]]:
    needed = math.ceil(MIN_OVERLAP * min(a, b))
    for shift in range(needed - b, a - needed + 1) if needed else ():
        yield slice(max(shift, 0), min(shift + b, a)), slice(max(-shift, 0), min(a - shift, b))


def near_sequences(given: Sequences, max_distance: float) -> Pairs:
    """All pairs with `distance` at most `max_distance` that have a pair of frames within `LOOKUP_BITS`."""
    i, j = candidates(given, min(LOOKUP_BITS, math.floor(max_distance)))
    off = distances(given, i, j)
    near = off <= max_distance
    return Pairs(i[near], j[near], off[near])


def candidates(given: Sequences, bits: int) -> tuple[Ints, Ints]:
    """Sequences i < j that have some frame pair within `bits`; of frames that many share, with the first `SHARED`."""
    clips = max(1, len(given.start))
    owner = np.repeat(np.arange(len(given.start)), given.length)
    hashes, place = np.unique(given.flat, return_inverse=True)
    owned = np.unique(place * clips + owner)  # once per hash and clip, by hash
    place, owner = owned // clips, owned % clips
    first = np.searchsorted(place, np.arange(len(hashes)))
    count = np.diff(np.append(first, len(place)))
    found = [np.empty(0, np.int64)]
    several = np.flatnonzero(count > 1)
    for a, b in itertools.chain([(several, several)] if len(several) else [], near_hashes(hashes, bits)):
        for here, there in ((a, b), (b, a)):
            found += (i * clips + j for i, j in _meet(owner, first, count, here, there))
        if sum(map(len, found)) > 8 * _CHUNK:
            found = [np.unique(np.concatenate(found))]
    pairs = np.unique(np.concatenate(found))
    return pairs // clips, pairs % clips


def _meet(owner: Ints, first: Ints, count: Ints, here: Ints, there: Ints) -> Iterator[tuple[Ints, Ints]]:
    """(i, j), i < j: all owners of the hashes `here` with the first owners of those beside them in `there`."""
    for pair, position in _expand(first[here], count[here]):
        mine = owner[position]
        partner = there[pair]
        for at, other in _expand(first[partner], np.minimum(count[partner], SHARED)):
            i, j = mine[at], owner[other]
            unlike = i != j
            yield np.minimum(i, j)[unlike], np.maximum(i, j)[unlike]


def distances(given: Sequences, i: Ints, j: Ints) -> Floats:
    """`distance` of each pair (i, j)."""
    result = np.full(len(i), np.inf)
    lengths = given.length[i] * (int(given.length.max()) + 1 if len(i) else 1) + given.length[j]
    for code in np.unique(lengths):
        same = np.flatnonzero(lengths == code)
        for some in np.array_split(same, len(same) * int(given.length[i[same[0]]]) // _CHUNK + 1):
            result[some] = _block(given, i[some], j[some])
    return result


def _block(given: Sequences, i: Ints, j: Ints) -> Floats:
    """The distances of pairs whose lengths are equal from pair to pair."""
    a, b = int(given.length[i[0]]), int(given.length[j[0]])
    left, right = (given.flat[given.start[k][:, None] + np.arange(n)] for k, n in ((i, a), (j, b)))
    best = np.full(len(i), np.inf)
    for here, there in _overlaps(a, b):
        best = np.minimum(best, np.bitwise_count(left[:, here] ^ right[:, there]).mean(axis=1))
    return best


def near_hashes(hashes: Hashes, bits: int) -> Iterator[tuple[Ints, Ints]]:
    """Index pairs of distinct `hashes` within `bits` of Hamming distance, in blocks (some more than once)."""
    masks = [_mask(on) for count in range(bits // 4 + 1) for on in itertools.combinations(range(16), count)]
    for shift in (0, 16, 32, 48):
        words = ((hashes >> np.uint64(shift)) & np.uint64(0xFFFF)).astype(np.int64)
        order = np.argsort(words, kind="stable")
        filed, ordered = words[order], hashes[order]
        first = np.searchsorted(filed, np.arange(1 << 16))
        count = np.diff(np.append(first, len(filed)))
        for mask in masks:
            other = filed ^ mask
            low = first[other] if mask else np.arange(1, len(filed) + 1)
            high = (first + count)[other]
            asks = np.where(other >= filed, np.maximum(high - low, 0), 0)  # each pair of words from one side
            for left, right in _expand(low, asks):
                hit = np.bitwise_count(ordered[left] ^ ordered[right]) <= bits
                yield order[left[hit]], order[right[hit]]


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


def near_vectors(vectors: Vectors, group: Ints, max_distance: float) -> Pairs:
    """Pairs of unit `vectors` of different groups whose 1 - cosine is at most `max_distance`."""
    found = [np.empty((2, 0), np.int64)]
    for asking, filed in _cells(vectors):
        for some in np.array_split(asking, len(asking) * len(filed) // (4 * _CHUNK) + 1):
            alike = vectors[some] @ vectors[filed].T >= 1.0 - max_distance - 1e-5
            at = np.nonzero(alike)
            found.append(np.stack([some[at[0]], filed[at[1]]]))
    both = np.unique(np.sort(np.concatenate(found, axis=1), axis=0), axis=1)
    i, j = both[:, (both[0] != both[1]) & (group[both[0]] != group[both[1]])]
    off = np.concatenate([np.empty(0), *(_apart(vectors, i[s], j[s]) for s in _slices(len(i)))])
    near = off <= max_distance
    return Pairs(i[near], j[near], off[near])


def _slices(count: int) -> Iterator[slice]:
    return (slice(begin, begin + (_CHUNK >> 3)) for begin in range(0, count, _CHUNK >> 3))


def _apart(vectors: Vectors, i: Ints, j: Ints) -> Floats:
    a, b = vectors[i].astype(np.float64), vectors[j].astype(np.float64)
    return cast(Floats, np.round(np.maximum(0.0, 1.0 - np.einsum("nd,nd->n", a, b)), 6))


def _cells(vectors: Vectors) -> Iterator[tuple[Ints, Ints]]:
    """(vectors that ask, vectors that are filed) by cell; everything in one cell while there is little."""
    every = np.arange(len(vectors))
    if len(vectors) <= BRUTE:
        yield every, every
        return
    centres = _centres(vectors)
    nearest = np.concatenate([_nearest(vectors[s], centres) for s in _slices(len(vectors))])
    filed, asks = np.argsort(nearest[:, 0], kind="stable"), np.argsort(nearest.ravel(), kind="stable")
    edges = np.arange(len(centres) + 1)
    of_filed = np.searchsorted(nearest[filed, 0], edges)
    of_asks = np.searchsorted(nearest.ravel()[asks], edges)
    for cell in range(len(centres)):
        asking = asks[of_asks[cell] : of_asks[cell + 1]] // PROBES
        yield asking, filed[of_filed[cell] : of_filed[cell + 1]]


def _centres(vectors: Vectors) -> Vectors:
    """Spherical k-means on a sample, from a fixed seed."""
    rng = np.random.default_rng(0)
    count = math.isqrt(len(vectors))
    sample = vectors[np.sort(rng.choice(len(vectors), min(len(vectors), 32 * count), replace=False))]
    centres = sample[:: len(sample) // count][:count]
    for _ in range(ROUNDS):
        home = np.concatenate([(sample[s] @ centres.T).argmax(axis=1) for s in _slices(len(sample))])
        order = np.argsort(home, kind="stable")
        cells, begin = np.unique(home[order], return_index=True)
        sums = np.add.reduceat(sample[order], begin, axis=0)
        centres = centres.copy()
        centres[cells] = sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)
    return centres


def _nearest(vectors: Vectors, centres: Vectors) -> Ints:
    """The `PROBES` nearest centres of each vector, the nearest first."""
    alike = vectors @ centres.T
    some = np.argpartition(-alike, PROBES - 1, axis=1)[:, :PROBES]
    order = np.argsort(-np.take_along_axis(alike, some, axis=1), axis=1, kind="stable")
    return np.take_along_axis(some, order, axis=1).astype(np.int64)
