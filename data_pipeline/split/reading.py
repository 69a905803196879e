"""What is known of a film once it was read: a few numbers of each frame."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Reading:
    """A film frame by frame; `cuts` are indices of frames that begin a shot, rising.

    `pts` and `end` (of the last frame) in units of `time_base`; `level` the mean luma 0-255; `change` the mean absolute
    difference of luma against the frame before, 0 for the first; `outside`: black, or inside a transition; `black`
    alone is where fades end.
    """

    time_base: str
    pts: list[int]
    end: int
    cuts: list[int]
    level: list[float]
    change: list[float]
    black: list[bool]
    outside: list[bool]
