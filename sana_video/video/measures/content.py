"""What is on the pictures, for telling clips and shots apart: cuts inside, perceptual hash, a descriptor."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float64]

EMBEDDER = "classical layout, edges and colours (stand-in for a video embedding)"
ALONE = 2.5  # times what is around it: a change that is no movement


def cuts_inside(hsv: Iterable[Pixels], threshold: float) -> int:
    """Number of frames that differ from the one before by at least `threshold`: shot changes left inside the clip.

    The difference is PySceneDetect's content value: mean over H, S and V of the mean absolute difference (8-bit HSV).
    It is taken at the clip's own rate and counted only where it is also at least 2.5 times the mean of its neighbours
    (two on each side) and the second largest of them: neither a fast pan, coarse at 16 fps, is taken for a run of cuts,
    nor an animation that moves in every second frame.
    """
    values = content_values(hsv)
    return sum(value >= threshold and value >= ALONE * _around(values, index) for index, value in enumerate(values))


def content_values(hsv: Iterable[Pixels]) -> list[float]:
    """PySceneDetect's content value of each frame but the first against the one before it, 0-255."""
    return [cv2.norm(a, b, cv2.NORM_L1) / a.size for a, b in itertools.pairwise(hsv)]


def _around(values: list[float], index: int) -> float:
    neighbours = values[max(0, index - 2) : index] + values[index + 1 : index + 3]
    mean = sum(neighbours) / len(neighbours) if neighbours else 0.0
    return max(mean, *sorted(neighbours)[-2:-1])


def phash(picture: Pixels) -> int:
    """64-bit perceptual hash of one picture: signs, against their median, of its 8x8 lowest DCT coefficients.

    Grey, area-resized to 32x32; bit 63 is coefficient (0, 0), row by row. Compare by the number of differing bits.
    """
    grey = cv2.resize(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), (32, 32), interpolation=cv2.INTER_AREA)
    low = cv2.dct(grey.astype(np.float64))[:8, :8].ravel()
    bits = low > np.median(low[1:])
    return int(np.packbits(bits).view(">u8")[0])


def embedding(samples: Pixels) -> list[float]:
    """Unit-length descriptor of a clip, 300 numbers: where which colours lie, where which edges run, which colours.

    The mean over pictures of three parts of equal weight, each centred and of unit length, so that unlike clips have a
    product near 0: a 6x6 layout of Lab means, 8 directions of edges in a 4x4 grid, a 4x4x4 histogram of RGB. Hardly
    changed by coding and scaling; it knows nothing of what things are.
    """
    parts = [np.concatenate([_unit(_layout(p)), _unit(_edges(p)), _unit(_colours(p))]) for p in map(_icon, samples)]
    return [float(value) for value in _unit(np.mean(parts, axis=0), centre=False)]


def _icon(picture: Pixels) -> Pixels:
    return cv2.resize(picture, (96, 96), interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)


def _unit(values: Floats, *, centre: bool = True) -> Floats:
    """Of length one; all equal where there is nothing to tell apart."""
    centred = values - values.mean() if centre else values
    length = float(np.linalg.norm(centred))
    return centred / length if length > 1e-9 else np.full(values.shape, values.size**-0.5)


def _layout(picture: Pixels) -> Floats:
    lab = cv2.cvtColor(picture, cv2.COLOR_RGB2LAB).astype(np.float32)
    cells = cv2.resize(lab, (6, 6), interpolation=cv2.INTER_AREA).astype(np.float64)
    light, colour = cells[..., 0] - cells[..., 0].mean(), 2.0 * (cells[..., 1:] - 128.0)  # colour counts as light does
    return np.concatenate([light.ravel(), colour.ravel()])


def _edges(picture: Pixels) -> Floats:
    grey = cv2.GaussianBlur(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), (0, 0), 1.0)
    dx, dy = cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1)
    direction = (np.arctan2(dy, dx) * (8.0 / np.pi) + 8.0).astype(np.int64) & 7  # of an edge: up and down are one
    place = _cells(*grey.shape) * 8 + direction
    return np.sqrt(np.bincount(place.ravel(), np.sqrt(dx * dx + dy * dy).ravel(), minlength=128)).astype(np.float64)


@functools.lru_cache(maxsize=1)
def _cells(height: int, width: int) -> NDArray[np.int64]:
    """Of each pixel, which cell of the 4x4 grid it lies in."""
    row, column = np.indices((height, width)) * 4 // np.array((height, width)).reshape(2, 1, 1)
    return np.asarray(row * 4 + column, np.int64)


def _colours(picture: Pixels) -> Floats:
    counts = cv2.calcHist([picture], [0, 1, 2], None, [4, 4, 4], [0, 256] * 3)
    return np.sqrt(counts.ravel(), dtype=np.float64)
