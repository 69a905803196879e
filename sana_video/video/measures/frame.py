"""What lies over the picture: black bars round it, a mark in its corner."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float64]

DARK_LINE = 24  # coded luma; the mean of a line that is darker is of a bar (the default of FFmpeg's cropdetect)
CORNER = 0.3  # of height and width
MARK_FROM = 24.0  # Sobel response; a weaker edge is not taken for one of a mark
_AXES = ((1, 0), (0, 1))
MARK_PICTURES, MARK_LINES = 8, 240  # looked at, over the whole clip, and how many lines of them at most


@dataclass(frozen=True)
class Box:
    """The picture without its bars, in pixels: [top, bottom) x [left, right)."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def rows(self) -> slice:
        return slice(self.top, self.bottom)

    @property
    def columns(self) -> slice:
        return slice(self.left, self.right)

    @property
    def area(self) -> int:
        return (self.bottom - self.top) * (self.right - self.left)

    @property
    def halved(self) -> Box:
        """Of the same picture at half its height and width: the pixels that lie wholly inside."""
        return Box((self.top + 1) // 2, self.bottom // 2, (self.left + 1) // 2, self.right // 2)


def picture_box(luma: Pixels, limit: float = DARK_LINE) -> Box | None:
    """What is left of `luma` (F, H, W) without the black lines at its sides; None where all of it is black.

    FFmpeg's cropdetect: a line belongs to a bar while its mean luma is at most `limit`, counted from the edge, and
    the box is the union of those of all frames, so that a fade or one dark picture makes no bars.
    """
    shown = [np.zeros(length, np.bool_) for length in luma.shape[1:]]
    for y in luma:
        for lines, axis in zip(shown, (1, 0), strict=True):
            lines |= _line_means(y, axis) > limit
        if all(lines[0] and lines[-1] for lines in shown):
            break  # the box is all of the picture: no other frame can add to it
    rows, columns = (np.flatnonzero(lines) for lines in shown)
    if not len(rows) or not len(columns):
        return None
    return Box(int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1)


def _line_means(y: Pixels, axis: int) -> Floats:
    sums = cv2.reduce(y, axis, cv2.REDUCE_SUM, dtype=cv2.CV_32S)
    means: Floats = np.asarray(sums, np.float64).ravel() / y.shape[axis]
    return means


def borders(luma: Pixels, box: Box | None) -> float:
    """Share of the picture's area outside its `picture_box`, 0-1: black bars, and all of a black one."""
    return 1.0 - (box.area if box else 0) / float(luma[0].size)


def watermark(luma: Pixels, box: Box | None) -> float | None:
    """How far one corner holds edges that stay while the rest of the picture changes, 0-1; None below three frames.

    Edges that stay: of up to eight pictures of the clip (240 lines at most), the gradient points the way of its own
    median over them (Dekel et al. 2017), at least 24 long as Sobel gives it, in all but one. With c the share of such
    pixels in a corner (30 % of the sides of `box`, the picture without bars) and r their share in the rest of it, the
    largest (c - r) / (c + r + 0.005) of the four corners; a still picture has such edges all over, and scores low.
    """
    if len(luma) < 3 or box is None:
        return None if len(luma) < 3 else 0.0
    chosen = np.unique(np.linspace(0, len(luma) - 1, MARK_PICTURES).round().astype(int))
    stays = _lasting_edges([_reduced(luma[k][box.rows, box.columns]) for k in chosen])
    return max(_stands_out(stays, corner) for corner in _corners(*stays.shape))


def _reduced(y: Pixels) -> Pixels:
    scale = min(1.0, MARK_LINES / min(y.shape))
    size = (max(1, round(y.shape[1] * scale)), max(1, round(y.shape[0] * scale)))
    return cv2.resize(np.ascontiguousarray(y), size, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)


def _lasting_edges(pictures: list[Pixels]) -> NDArray[np.bool_]:
    dx, dy = ([cv2.Sobel(p, cv2.CV_16S, *axes).astype(np.int16, copy=False) for p in pictures] for axes in _AXES)
    along_x, along_y = _median(dx), _median(dy)
    length = np.maximum(np.sqrt(along_x * along_x + along_y * along_y), np.float32(1e-6))
    lengths = [(x * along_x + y * along_y) / length for x, y in zip(dx, dy, strict=True)]
    stays: NDArray[np.bool_] = _second_least(lengths) >= MARK_FROM
    stays[[0, -1]] = stays[:, [0, -1]] = False  # the edge of the picture itself, where bars were cut off
    return stays


def _median(planes: list[NDArray[np.int16]]) -> NDArray[np.float32]:
    """`np.median(planes, axis=0)` at a twentieth of its cost: a few planes are sorted by whole minima and maxima."""
    planes, count = list(planes), len(planes)
    for turn in range(count):  # odd-even transposition
        for k in range(turn % 2, count - 1, 2):
            planes[k], planes[k + 1] = np.minimum(planes[k], planes[k + 1]), np.maximum(planes[k], planes[k + 1])
    return (planes[(count - 1) // 2] + planes[count // 2]) * np.float32(0.5)


def _second_least(planes: list[NDArray[Any]]) -> NDArray[Any]:
    """`np.partition(planes, 1, axis=0)[1]`."""
    least, second = np.minimum(*planes[:2]), np.maximum(*planes[:2])
    for plane in planes[2:]:
        least, second = np.minimum(least, plane), np.minimum(second, np.maximum(least, plane))
    return np.asarray(second)


def _corners(height: int, width: int) -> list[tuple[slice, slice]]:
    rows, columns = max(1, round(height * CORNER)), max(1, round(width * CORNER))
    return [(r, c) for r in (slice(0, rows), slice(height - rows, None))
            for c in (slice(0, columns), slice(width - columns, None))]  # fmt: skip


def _stands_out(stays: NDArray[np.bool_], corner: tuple[slice, slice]) -> float:
    inside = stays[corner]
    here = float(inside.mean())
    rest = (int(stays.sum()) - int(inside.sum())) / max(1, stays.size - inside.size)
    return max(0.0, (here - rest) / (here + rest + 0.005))
