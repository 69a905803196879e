"""Aspect buckets: the few sizes a clip is cut to, so that a batch holds one shape.

A video goes to the bucket whose ratio height / width is nearest to its own (in the logarithm, so that portrait and
landscape are treated alike). The published tables for 480p and 720p are written out; `rule` gives them for any other
area, and reproduces the 480p table exactly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

Size = tuple[int, int]  # height, width, pixels

RATIOS = (0.5, 0.57, 0.68, 0.78, 1.0, 1.13, 1.29, 1.46, 1.67, 1.75, 2.0)

BUCKETS_480: tuple[Size, ...] = (
    (448, 896), (480, 832), (528, 768), (560, 720), (624, 624), (672, 592),
    (720, 560), (768, 528), (816, 496), (832, 480), (896, 448),
)  # fmt: skip
BUCKETS_720: tuple[Size, ...] = (
    (672, 1344), (704, 1280), (800, 1152), (832, 1088), (960, 960), (1024, 896),
    (1088, 832), (1152, 800), (1248, 736), (1280, 704), (1344, 672),
)  # fmt: skip
TABLES = {"480p": (480 * 832, BUCKETS_480), "720p": (960 * 960, BUCKETS_720)}  # area in pixels, sizes


def rule(area: int, multiple: int, ratios: Sequence[float] = RATIOS) -> tuple[Size, ...]:
    """Sizes of about `area` pixels at `ratios` (height / width), both sides rounded to a multiple of `multiple`."""
    if area < multiple**2 or multiple < 1:
        raise ValueError(f"an area of {area} pixels holds no {multiple}x{multiple} block")
    return tuple((_round(math.sqrt(area * r), multiple), _round(math.sqrt(area / r), multiple)) for r in ratios)


def nearest(height: int, width: int, buckets: Sequence[Size]) -> Size:
    """The bucket whose aspect is nearest to height / width; the first of equals."""
    if height < 1 or width < 1:
        raise ValueError(f"a picture of {height}x{width} has no aspect")
    return min(buckets, key=lambda size: abs(math.log(size[0] * width / (size[1] * height))))


def cover(height: int, width: int, size: Size) -> Size:
    """The smallest size with the aspect of height x width that covers `size`: resize to it, then crop the centre."""
    scale = max(size[0] / height, size[1] / width)
    return max(size[0], round(height * scale)), max(size[1], round(width * scale))


def named(name: str, multiple: int) -> tuple[Size, ...]:
    """The sizes of "480p" or "720p": as published, or by `rule` where those are no multiples of `multiple`."""
    if name not in TABLES:
        raise ValueError(f"size {name!r}: choose one of {', '.join(TABLES)}, or give height and width")
    area, table = TABLES[name]
    return table if all(side % multiple == 0 for size in table for side in size) else rule(area, multiple)


def shown(height: int, width: int, sample_aspect: float, rotation: int) -> Size:
    """(height, width) of a picture as it is shown: square pixels, turned by `rotation` degrees."""
    across = max(1, round(width * sample_aspect))
    return (across, height) if rotation % 180 else (height, across)


def around(size: Size, multiple: int) -> tuple[Size, ...]:
    """The sizes of about as many pixels as `size`: the table that holds it, else itself and what `rule` gives."""
    for name, (_, table) in TABLES.items():
        if size in table:
            return named(name, multiple)
    return (size, *rule(math.prod(size), multiple))


def parse_aspect(text: str) -> Size:
    """(height, width) of an aspect written WIDTH:HEIGHT, such as 16:9."""
    width, mark, height = text.partition(":")
    if not (mark and width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise ValueError(f"aspect {text!r}: expected WIDTH:HEIGHT, such as 16:9")
    return int(height), int(width)


def _round(length: float, multiple: int) -> int:
    return max(1, round(length / multiple)) * multiple
