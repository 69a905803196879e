"""Optical flow by dense inverse search (Kroeger et al. 2016; OpenCV): the labelled stand-in where UniMatch is not.

It needs no weights and some 7 ms a pair, and knows the picture's luma only: flat surfaces read as still, and motion of
more than a third of the picture is lost. Its numbers are never compared with UniMatch's. Why these settings:
`benchmarks/flow.py`.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]

ESTIMATOR = "opencv-dis (stand-in for UniMatch)"
SIZE = (320, 576)  # (H, W) of the picture in whose pixels flow is given, as UniMatch's
EVERY = 2  # pixels of that picture between those of the field, and of the pictures given to DIS
FINEST = 1  # of the pyramid's scales from there: flow is found at 80x144 and enlarged
REFINEMENTS = 1  # rounds of variational refinement at each scale; the preset has 5


def dis_flows(pictures: Sequence[Pixels] | Pixels) -> list[NDArray[np.float32]]:
    """Flow (2, 160, 288) from each picture to the next, uint8 luma or grey (H, W) of one size; x before y.

    OpenCV's medium preset, a scale coarser and refined less, on pictures stretched to 160x288, portrait ones transposed
    first; in pixels of the 320x576 picture, of which every second has its flow, not scaled back. The same numbers on
    any machine, whatever the number of threads.
    """
    estimator = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    estimator.setFinestScale(FINEST)
    estimator.setVariationalRefinementIterations(REFINEMENTS)
    unset = np.empty((0, 0), np.float32)  # a flow of the right size would be taken as the first guess
    flows = (estimator.calc(*pair, unset) for pair in itertools.pairwise(_stretched(picture) for picture in pictures))
    return [np.multiply(flow.transpose(2, 0, 1), EVERY, dtype=np.float32, order="C") for flow in flows]


def _stretched(picture: Pixels) -> Pixels:
    """The picture (H, W) at 160x288, transposed first if it is portrait."""
    upright = picture.T if picture.shape[0] > picture.shape[1] else picture
    size = (SIZE[1] // EVERY, SIZE[0] // EVERY)
    return cv2.resize(upright, size, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
