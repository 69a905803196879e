"""Measures of one clip alone: the data pipeline's own, and the defects that a generator adds to them.

Frames are scored as they leave the model, never after an mp4. Real and generated clips go through this one function,
so a number of one compares with a number of the other.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sana_video.video import measures

FROZEN_BELOW = 0.1  # mean absolute difference of neighbouring frames, 8-bit levels: less than any codec's own noise
BLACK_BELOW = 8.0  # 99th percentile of the brightest channel, 8-bit levels
EVERY = 0.5  # seconds between the frames that the picture measures look at, as in curation

Pixels = NDArray[np.uint8]


def measure(frames: Pixels, fps: float) -> dict[str, Any]:
    """All measures of uint8 RGB (F, H, W, 3) at `fps`. Raises ValueError on a clip too short to hold motion."""
    pictures, coded = frames[measures.sample_indices(len(frames), fps, EVERY)], luma(frames)
    hsv, grey = measures.to_hsv(pictures), measures.to_grey(pictures)
    return {
        "flow_motion": float(np.mean(measures.flow_motion(coded, fps, EVERY))),
        "flow_estimator": measures.FLOW_ESTIMATOR,
        "vmaf_motion": measures.vmaf_motion(coded),
        "saturation": measures.saturation(hsv),
        "brightness": measures.brightness(hsv),
        "overall": measures.overall(measures.aesthetic(pictures), measures.technical(grey)),
        "aesthetic_scorer": measures.AESTHETIC_SCORER,
        "frozen": frozen(frames),
        "black": black(frames),
        "frames": len(frames),
        "height": frames.shape[1],
        "width": frames.shape[2],
        "fps": fps,
    }


def luma(frames: Pixels) -> Pixels:
    """BT.709 luma, limited range as in a coded file: (F, H, W), 16-235."""
    weights = np.array([0.2126, 0.7152, 0.0722]) * (219.0 / 255.0)
    return np.rint(16.0 + frames @ weights).astype(np.uint8)


def frozen(frames: Pixels) -> float:
    """Share of neighbouring frames that are equal but for noise; 1 for a still, and for a single frame."""
    if len(frames) < 2:
        return 1.0
    steps = [np.abs(b.astype(np.int16) - a).mean() for a, b in pairwise(frames)]
    return float(np.mean([step < FROZEN_BELOW for step in steps]))


def black(frames: Pixels) -> float:
    """Share of frames in which nothing can be seen."""
    return float(np.mean([np.percentile(frame.max(axis=-1), 99) < BLACK_BELOW for frame in frames]))
