"""Optical flow by dense inverse search (Kroeger et al. 2016; OpenCV): the labelled stand-in where UniMatch is not.

It needs no weights and some 10 ms a pair, and knows the picture's grey only: flat surfaces read as still, and motion of
more than a third of the picture is lost. Its numbers are never compared with UniMatch's.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

ESTIMATOR = "opencv-dis (stand-in for UniMatch)"
SIZE = (320, 576)  # (H, W) of the picture in whose pixels flow is given, as UniMatch's


def dis_flow(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Flow (2, 320, 576) from `first` to `second`, uint8 RGB (H, W, 3) of one size; x before y.

    OpenCV's medium preset on grey pictures stretched to 320x576, portrait ones transposed first; in pixels of that
    picture, not scaled back. The same numbers on any machine, whatever the number of threads.
    """
    estimator = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    unset = np.empty((0, 0), np.float32)  # a flow of the right size would be taken as the first guess
    flow = estimator.calc(grey_picture(first), grey_picture(second), unset)
    return np.ascontiguousarray(flow.transpose(2, 0, 1), np.float32)


def grey_picture(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The picture (H, W, 3) as grey 320x576, transposed first if it is portrait."""
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    upright = grey.T if grey.shape[0] > grey.shape[1] else grey
    return cv2.resize(upright, SIZE[::-1], interpolation=cv2.INTER_LINEAR).astype(np.uint8, copy=False)
