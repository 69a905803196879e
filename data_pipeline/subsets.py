"""Which of the kept clips train and which are held out, so that nothing of a shot stands on both sides.

Held out are whole videos where a source has several, else the end of the one film from a cut on; what ends too near
before it goes to neither side.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from data_pipeline.columns import Floats, Ints

GUARD_SECONDS = 2.0  # clips that end closer than this before the held-out part of the same film are dropped

TRAIN, VAL, GUARD = 0, 1, 2


def sides(source: Ints, video: Ints, shot: Ints, start: Floats, end: Floats, validation: float) -> npt.NDArray[np.int8]:
    """TRAIN, VAL or GUARD for each clip; `source` and `video` are indices in the order of their names.

    Clips of one video with equal starts count in the order given.
    """
    if not len(source):
        return np.empty(0, np.int8)
    order = np.lexsort((start, video, source))
    source, video, shot = source[order], video[order], shot[order]
    start, end = start[order], end[order]
    unit, first = _units(source, video, shot)
    held = _held(source[first], np.bincount(unit), validation)
    begin = _begins(source[first], held)[source]  # the first held-out unit of each clip's source
    side = np.where(unit >= begin, VAL, TRAIN).astype(np.int8)
    opening = first[np.minimum(begin, len(first) - 1)]
    near = (begin < len(first)) & (video == video[opening]) & (start[opening] - end < GUARD_SECONDS)
    side[near & (side == TRAIN)] = GUARD
    result = np.empty_like(side)
    result[order] = side
    return result


def _units(source: Ints, video: Ints, shot: Ints) -> tuple[Ints, Ints]:
    """What may not be parted: the videos of a source with several (ordered by hash), else the shots of the one.

    (unit of each clip, first clip of each unit), units numbered in the order in which they begin.
    """
    new = np.append(True, (np.diff(video) != 0) | (np.diff(source) != 0))
    videos = np.bincount(source[new], minlength=int(source.max()) + 1)
    part = np.where(videos[source] > 1, 0, shot - min(0, int(shot.min())))
    block = np.cumsum(new) - 1  # the video within its source
    _, first, inverse = np.unique(block * (int(part.max()) + 1) + part, return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[inverse], np.sort(first)


def _held(of: Ints, sizes: Ints, validation: float) -> dict[int, int]:
    """{source: units held out, from the end}; where no source has enough, the one with most left gives its last."""
    parts = {int(s): sizes[of == s] for s in np.unique(of)}
    held = {s: held_out(part, validation) for s, part in parts.items()}
    if not any(held.values()):
        several = (s for s, part in parts.items() if len(part) > 1)
        giver = max(several, key=lambda s: int(parts[s][:-1].sum()), default=None)
        held.update({} if giver is None else {giver: 1})
    return held


def held_out(sizes: Ints, validation: float) -> int:
    """How many units, counted from the end, come nearest to the wanted share of clips; never all of them."""
    totals = np.append(0, np.cumsum(sizes[::-1])[:-1])
    return int(np.argmin(np.abs(totals - validation * sizes.sum())))


def _begins(of: Ints, held: dict[int, int]) -> Ints:
    """By source: the number of its first held-out unit; one past the last unit where it holds out none."""
    begins = np.full(int(of.max()) + 1, len(of), np.int64)
    for source, count in held.items():
        if count:
            begins[source] = np.searchsorted(of, source, "right") - count
    return begins
