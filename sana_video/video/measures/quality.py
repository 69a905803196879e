"""Quality without a reference, as a classical stand-in for DOVER: no network, no weights, and no claim to be it.

A number of the stand-in and a number of DOVER are never compared: `AESTHETIC_SCORER` goes into the table beside it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float64]

AESTHETIC_SCORER = "classical (stand-in for DOVER)"

TECHNICAL_WEIGHT = 0.6104  # DOVER's fusion weights of its two branches; ours borrow the weights, not the meaning
AESTHETIC_WEIGHT = 0.3896


def aesthetic(pictures: Pixels) -> float:
    """Mean over RGB pictures of the mean of contrast, colourfulness and exposure, each 0-1: a classical stand-in."""
    return float(np.mean([(contrast(p) + colourfulness(p) + exposure(p)) / 3.0 for p in pictures]))


def technical(grey: Iterable[Pixels]) -> float:
    """Mean over grey pictures (H, W) of sharpness x (1 - noise) x (1 - blockiness), each 0-1: a classical stand-in.

    All three look at single pixels, so they are to be given as many as the film, or what is made of it, will have.
    """
    return float(np.mean([sharpness(g) * (1.0 - noise(g)) * (1.0 - blockiness(g)) for g in grey]))


def overall(aesthetic_score: float, technical_score: float) -> float:
    """The two fused with DOVER's weights, 0-1; what a cut-off is set on."""
    return TECHNICAL_WEIGHT * technical_score + AESTHETIC_WEIGHT * aesthetic_score


def sharpness(grey: Pixels) -> float:
    """s / (s + 4) of s = mean |Laplacian| of grey (H, W): 0 for a flat picture, falls with every blur."""
    strength = cv2.norm(cv2.Laplacian(grey, cv2.CV_16S), cv2.NORM_L1) / grey.size
    return strength / (strength + 4.0)


def contrast(picture: Pixels) -> float:
    """Standard deviation of grey over 64, at most 1 (a uniform histogram has 74)."""
    return min(1.0, _mean_and_deviation(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY))[1] / 64.0)


def colourfulness(picture: Pixels) -> float:
    """Hasler and Süsstrunk 2003, M = sigma_rgyb + 0.3 mu_rgyb, over 109 ("extremely colourful"), at most 1."""
    red, green, blue = (picture[..., channel].astype(np.int16) for channel in range(3))
    (rg_mean, rg), (yb_mean, yb) = _mean_and_deviation(red - green), _mean_and_deviation(red + green - 2 * blue)
    value = np.hypot(rg, 0.5 * yb) + 0.3 * np.hypot(rg_mean, 0.5 * yb_mean)
    return min(1.0, float(value) / 109.0)


def exposure(picture: Pixels) -> float:
    """1 - |mean grey - 127.5| / 127.5, less the fraction of clipped pixels (grey <= 2 or >= 253), at least 0."""
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    clipped = 1.0 - cv2.countNonZero(cv2.inRange(grey, 3, 252)) / grey.size
    return max(0.0, 1.0 - abs(cv2.mean(grey)[0] - 127.5) / 127.5 - clipped)


def noise(grey: Pixels) -> float:
    """n / (n + 20) of n = Immerkær's (1996) estimate of the standard deviation of noise in grey (H, W), in its levels.

    It takes the median in place of the mean, so that edges and fine texture weigh little, and that of every other pixel
    of every other line, which are enough; n is at most 63.
    """
    kernel = np.array([1, -2, 1], np.float32)
    response = cv2.convertScaleAbs(cv2.sepFilter2D(grey, cv2.CV_16S, kernel, kernel))  # 0-255: it stops at 255
    sigma = _median(np.ascontiguousarray(response[::2, ::2])) / (
        0.6745 * 6.0
    )  # the mask has norm 6; 0.6745: median of |N(0, 1)|
    return sigma / (sigma + 20.0)


def blockiness(grey: Pixels) -> float:
    """Excess of grey steps across the lines of an 8x8 grid over all other steps, as a part of both, 0-1.

    Sees the blocks of the picture it is given, (H, W): those of a source that was scaled down are gone, as they should.
    """
    across, down = cv2.absdiff(grey[:, 1:], grey[:, :-1]), cv2.absdiff(grey[1:], grey[:-1])
    return (_grid_excess(_sums(across, 0)) + _grid_excess(_sums(down, 1))) / 2.0


def _grid_excess(steps: Floats) -> float:
    """Of the sums of steps across each line of the picture, which are equally many."""
    on_grid = np.arange(len(steps)) % 8 == 7
    at, off = float(steps[on_grid].mean()), float(steps[~on_grid].mean())
    return max(0.0, (at - off) / (at + off)) if at + off else 0.0


def _sums(picture: NDArray[Any], axis: int) -> Floats:
    return np.asarray(cv2.reduce(picture, axis, cv2.REDUCE_SUM, dtype=cv2.CV_32S), np.float64).ravel()


def _mean_and_deviation(plane: NDArray[Any]) -> tuple[float, float]:
    mean, deviation = cv2.meanStdDev(plane)
    return float(mean[0, 0]), float(deviation[0, 0])


def _median(plane: Pixels) -> float:
    """The lower median, by halving the range in which it lies: sorting costs ten times as much."""
    low, high = 0, 255
    while low < high:
        middle = (low + high) // 2
        below = 2 * np.count_nonzero(plane <= middle) >= plane.size
        low, high = (low, middle) if below else (middle + 1, high)
    return float(low)
