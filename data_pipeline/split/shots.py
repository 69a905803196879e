"""From a reading of a film to its shots: what lies between cuts, less black, fades and transitions."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

from data_pipeline.split.reading import Reading

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FADE_SECONDS = 0.2  # over which brightness is compared
FADE_RATE = 10.0  # luma levels (0-255) a second: a picture that goes this fast towards black next to it is a fade


@dataclass(frozen=True)
class Shot:
    """[start, end) in PTS; the mean change of luma (0-255) across its edges, None at the film's own ends.

    `pts` and `change`: of its frames. `count` shots in one where each is too short to be told from the next.
    """

    start: int
    end: int
    cut_before: float | None
    cut_after: float | None
    pts: list[int]
    change: list[float]
    count: int = 1

    def change_inside(self, start: int, end: int) -> float:
        """The largest change from one frame of [start, end) to the next: what a cut that was missed would show."""
        first, last = bisect.bisect_left(self.pts, start), bisect.bisect_left(self.pts, end)
        return max(self.change[first + 1 : last], default=0.0)


def shots_of(reading: Reading, min_seconds: float) -> list[Shot]:
    """The shots in order. Neighbours that are each shorter than `min_seconds` come as one, with their `count`."""
    tick = Fraction(reading.time_base)
    pieces = [piece for bounds in _between_cuts(reading) for piece in _pieces(reading, *bounds, tick)]
    shots = [_shot(reading, first, last) for first, last in pieces]
    joined: list[Shot] = []
    for short, group in itertools.groupby(shots, lambda shot: (shot.end - shot.start) * tick < min_seconds):
        run = list(group)
        joined += [_join(run)] if short else run
    return joined


def _between_cuts(reading: Reading) -> Iterator[tuple[int, int]]:
    return itertools.pairwise([0, *reading.cuts, len(reading.pts)])


def _pieces(reading: Reading, first: int, last: int, tick: Fraction) -> Iterator[tuple[int, int]]:
    """[first, last) less what is outside of any shot, and less fades where black is next."""
    inside = (index for index in range(first, last) if not reading.outside[index])
    for _, run in itertools.groupby(enumerate(inside), lambda item: item[1] - item[0]):
        indices = [index for _, index in run]
        start, end = indices[0], indices[-1] + 1
        if end < len(reading.pts) and reading.black[end]:
            end = _without_fade(reading, end - 1, start - 1, tick) + 1
        if start > 0 and reading.black[start - 1]:
            start = _without_fade(reading, start, end, tick)
        if start < end:
            yield start, end


def _without_fade(reading: Reading, edge: int, stop: int, tick: Fraction) -> int:
    """The first frame from `edge` towards `stop` (exclusive; `stop` itself if all fades) that is not fading."""
    step = 1 if stop > edge else -1
    while edge != stop:
        far = _far(reading, edge, stop, step, tick)
        seconds = abs(reading.pts[far] - reading.pts[edge]) * float(tick)
        if reading.level[far] - reading.level[edge] < FADE_RATE * seconds or far == edge:
            return edge
        edge += step
    return edge


def _far(reading: Reading, edge: int, stop: int, step: int, tick: Fraction) -> int:
    """The frame `FADE_SECONDS` further into the shot, or the last before `stop`."""
    far = edge
    while far + step != stop and abs(reading.pts[far] - reading.pts[edge]) * tick < FADE_SECONDS:
        far += step
    return far


def _shot(reading: Reading, first: int, last: int) -> Shot:
    whole = last == len(reading.pts)
    return Shot(
        start=reading.pts[first],
        end=reading.end if whole else reading.pts[last],
        cut_before=reading.change[first] if first else None,
        cut_after=None if whole else reading.change[last],
        pts=reading.pts[first:last],
        change=reading.change[first:last],
    )


def _join(run: list[Shot]) -> Shot:
    first, last = run[0], run[-1]
    return Shot(first.start, last.end, first.cut_before, last.cut_after, [], [], count=len(run))


def mark_transitions(reading: Reading, verdicts: NDArray[np.float32], threshold: float) -> None:
    """Cuts and transitions of TransNet V2's `verdicts` (F, 2), put into a reading that has none.

    A run of frames that either head finds at or above `threshold`, and the first head somewhere in it, is one
    transition: of a single frame, a cut after it; of several, all of them belong to neither shot.
    """
    asked = verdicts.max(axis=1) >= threshold
    for found, run in itertools.groupby(range(len(asked)), lambda index: bool(asked[index])):
        frames = list(run)
        if not found or verdicts[frames, 0].max() < threshold:
            continue
        reading.cuts += [frames[-1] + 1] if frames[-1] + 1 < len(reading.pts) else []
        for index in frames if len(frames) > 1 else ():
            reading.outside[index] = True
