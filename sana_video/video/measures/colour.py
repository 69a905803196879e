"""Colour and light: means over the pixels of the sampled pictures, on the 8-bit scales of OpenCV's HSV (S, V 0-255)."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from sana_video.video.measures.frame import Box

Pixels = NDArray[np.uint8]

LIT_FROM = 32  # V; below it S = 255 (max - min) / max is mostly noise


def saturation(pictures: Pixels) -> float:
    """Mean of S in 8-bit HSV over all pixels of all given pictures, 0-255: the paper's."""
    return _mean_hsv(pictures, 1)


def saturation_lit(pictures: Pixels, box: Box | None) -> float | None:
    """Mean of S over the pixels inside `box` with V of 32 or more, 0-255; None where nothing is lit.

    Near black any noise is a saturated colour, and black bars are colourless: neither says anything of the colours.
    """
    if box is None:
        return None
    total = count = 0
    for picture in pictures:
        hsv = cv2.cvtColor(np.ascontiguousarray(picture[box.rows, box.columns]), cv2.COLOR_RGB2HSV)
        lit = hsv[..., 2] >= LIT_FROM
        total, count = total + int(hsv[..., 1][lit].sum()), count + int(lit.sum())
    return total / count if count else None


def brightness(pictures: Pixels) -> float:
    """Mean of V in 8-bit HSV over all pixels of all given pictures, 0-255."""
    return _mean_hsv(pictures, 2)


def _mean_hsv(pictures: Pixels, channel: int) -> float:
    return float(np.mean([cv2.mean(cv2.cvtColor(picture, cv2.COLOR_RGB2HSV))[channel] for picture in pictures]))


def mean_colour(pictures: Pixels) -> list[float]:
    """Mean R, G and B over all pixels of all given pictures, 0-255."""
    return [float(value) for value in np.mean([cv2.mean(picture)[:3] for picture in pictures], axis=0)]
