"""Quality without a reference, as a classical stand-in for DOVER: no network, no weights, and no claim to be it.

A number of the stand-in and a number of DOVER are never compared: `AESTHETIC_SCORER` goes into the table beside it.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float64]

AESTHETIC_SCORER = "classical (stand-in for DOVER)"

TECHNICAL_WEIGHT = 0.6104  # DOVER's fusion weights of its two branches; ours borrow the weights, not the meaning
AESTHETIC_WEIGHT = 0.3896


def aesthetic(pictures: Pixels) -> float:
    """Mean over pictures of the mean of contrast, colourfulness and exposure, each 0-1: a classical stand-in."""
    return float(np.mean([(contrast(p) + colourfulness(p) + exposure(p)) / 3.0 for p in pictures]))


def technical(pictures: Pixels) -> float:
    """Mean over pictures of sharpness x (1 - noise) x (1 - blockiness), each 0-1: a classical stand-in."""
    return float(np.mean([sharpness(p) * (1.0 - noise(p)) * (1.0 - blockiness(p)) for p in pictures]))


def overall(aesthetic_score: float, technical_score: float) -> float:
    """The two fused with DOVER's weights, 0-1; what a cut-off is set on."""
    return TECHNICAL_WEIGHT * technical_score + AESTHETIC_WEIGHT * aesthetic_score


def sharpness(picture: Pixels) -> float:
    """s / (s + 4) of s = mean |Laplacian| of grey: 0 for a flat picture, falls with every blur."""
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    strength = float(np.abs(cv2.Laplacian(grey, cv2.CV_32F)).mean())
    return strength / (strength + 4.0)


def contrast(picture: Pixels) -> float:
    """Standard deviation of grey over 64, at most 1 (a uniform histogram has 74)."""
    return min(1.0, float(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).std()) / 64.0)


def colourfulness(picture: Pixels) -> float:
    """Hasler and Süsstrunk 2003, M = sigma_rgyb + 0.3 mu_rgyb, over 109 ("extremely colourful"), at most 1."""
    red, green, blue = (picture[..., channel].astype(np.float64) for channel in range(3))
    rg, yb = red - green, 0.5 * (red + green) - blue
    value = np.hypot(rg.std(), yb.std()) + 0.3 * np.hypot(rg.mean(), yb.mean())
    return min(1.0, float(value) / 109.0)


def exposure(picture: Pixels) -> float:
    """1 - |mean grey - 127.5| / 127.5, less the fraction of clipped pixels (grey <= 2 or >= 253), at least 0."""
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    clipped = float(((grey <= 2) | (grey >= 253)).mean())
    return max(0.0, 1.0 - abs(float(grey.mean()) - 127.5) / 127.5 - clipped)


def noise(picture: Pixels) -> float:
    """n / (n + 20) of n = Immerkær's (1996) estimate of the standard deviation of noise, in grey levels.

    It takes the median over pixels in place of the mean, so that edges and fine texture weigh little.
    """
    kernel = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)
    response = cv2.filter2D(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), cv2.CV_32F, kernel)
    sigma = float(np.median(np.abs(response))) / (0.6745 * 6.0)  # the mask has norm 6; 0.6745: median of |N(0, 1)|
    return sigma / (sigma + 20.0)


def blockiness(picture: Pixels) -> float:
    """Excess of grey steps across the lines of an 8x8 grid over all other steps, as a part of both, 0-1.

    Sees the blocks of the picture it is given: those of a source that was scaled down are gone, as they should be.
    """
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float64)
    return (_grid_excess(np.abs(np.diff(grey, axis=1))) + _grid_excess(np.abs(np.diff(grey, axis=0)).T)) / 2.0


def _grid_excess(steps: Floats) -> float:
    on_grid = np.arange(steps.shape[1]) % 8 == 7
    at, off = float(steps[:, on_grid].mean()), float(steps[:, ~on_grid].mean())
    return max(0.0, (at - off) / (at + off)) if at + off else 0.0
