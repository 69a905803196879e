"""Measures that need a network of someone else: share of the picture under text, and nudity. Optional.

Both packages carry their weights in the wheel, run on the CPU through onnxruntime, and are imported only where they
are asked for.
"""

from __future__ import annotations

import importlib
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]

TEXT_DETECTOR = "rapidocr 3 (PP-OCRv6 det small)"
NSFW_DETECTOR = "nudenet 3 (320n)"

PICTURES = 4  # looked at in a clip: text and people stay for seconds, and each picture costs 20-500 ms
EXPOSED = frozenset(
    {"FEMALE_BREAST_EXPOSED", "FEMALE_GENITALIA_EXPOSED", "MALE_GENITALIA_EXPOSED", "ANUS_EXPOSED", "BUTTOCKS_EXPOSED"}
)


def needed(module: str, extra: str, asked: str) -> Any:
    """The module of an optional extra. ValueError, in one line, where it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError:
        raise ValueError(f"{asked}, but {module} is not installed: pip install 'sana-video-mlops[{extra}]'") from None


def few_indices(frames: int) -> list[int]:
    """Up to four frames of a clip, evenly spread, each in the middle of its part."""
    count = min(PICTURES, frames)
    return [int((k + 0.5) * frames / count) for k in range(count)]


class TextDetector:
    """Where there is text on a picture (rapidocr's detector; nothing is read)."""

    def __init__(self) -> None:
        package = needed("rapidocr", "text", "score.text asks for rapidocr")
        self._engine = package.RapidOCR(params={"Global.log_level": "error"})

    def area(self, pictures: Pixels) -> float:
        """Share of the pictures' area under text, 0-1: the union of the boxes found, mean over pictures.

        A share of the picture looked at, so that it means the same at every size; small print is lost below 360 lines.
        """
        return float(np.mean([self._covered(np.ascontiguousarray(picture[..., ::-1])) for picture in pictures]))

    def _covered(self, bgr: Pixels) -> float:
        boxes = self._engine(bgr, use_det=True, use_cls=False, use_rec=False).boxes
        mask = np.zeros(bgr.shape[:2], np.uint8)
        for box in boxes if boxes is not None else ():
            cv2.fillPoly(mask, [np.rint(box).astype(np.int32)], 1)
        return float(mask.mean())


class NudityDetector:
    """Exposed parts of bodies on a picture (nudenet)."""

    def __init__(self) -> None:
        self._engine = needed("nudenet", "nsfw", "score.nsfw asks for nudenet").NudeDetector()

    def score(self, pictures: Pixels) -> float:
        """The most certain finding of an exposed part over all pictures, 0-1; 0 where nothing is found."""
        found = (self._engine.detect(np.ascontiguousarray(picture[..., ::-1])) for picture in pictures)
        return max((float(each["score"]) for one in found for each in one if each["class"] in EXPOSED), default=0.0)
