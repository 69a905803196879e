"""Colour and light: means over the pixels of the sampled pictures, on the 8-bit scales of OpenCV's HSV (S, V 0-255)."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from sana_video.video.measures.frame import Box

Pixels = NDArray[np.uint8]

LIT_FROM = 32  # V; below it S = 255 (max - min) / max is mostly noise


def to_hsv(pictures: Pixels) -> Pixels:
    """uint8 RGB (F, H, W, 3) as OpenCV's 8-bit HSV of the same shape: H 0-179, S and V 0-255."""
    result = np.empty_like(pictures)
    for picture, into in zip(pictures, result, strict=True):
        cv2.cvtColor(picture, cv2.COLOR_RGB2HSV, dst=into)
    return result


def to_grey(pictures: Pixels) -> Pixels:
    """uint8 RGB (F, H, W, 3) as uint8 grey (F, H, W), 0-255, by BT.601's weights."""
    return np.stack([cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) for picture in pictures]).astype(np.uint8, copy=False)


def saturation(hsv: Pixels) -> float:
    """Mean of S over all pixels of all given pictures, 0-255: the paper's."""
    return _mean(hsv, 1)


def saturation_lit(hsv: Pixels, box: Box | None) -> float | None:
    """Mean of S over the pixels inside `box` with V of 32 or more, 0-255; None where nothing is lit.

    Near black any noise is a saturated colour, and black bars are colourless: neither says anything of the colours.
    """
    if box is None:
        return None
    inside = hsv[:, box.rows, box.columns]
    lit = inside[..., 2] >= LIT_FROM
    count = np.count_nonzero(lit)
    return float(np.sum(inside[..., 1], where=lit, dtype=np.int64)) / count if count else None


def brightness(hsv: Pixels) -> float:
    """Mean of V over all pixels of all given pictures, 0-255."""
    return _mean(hsv, 2)


def _mean(pictures: Pixels, channel: int) -> float:
    return float(np.mean([cv2.mean(picture)[channel] for picture in pictures]))


def mean_colour(pictures: Pixels) -> list[float]:
    """Mean R, G and B over all pixels of all given pictures, 0-255."""
    return [float(value) for value in np.mean([cv2.mean(picture)[:3] for picture in pictures], axis=0)]
