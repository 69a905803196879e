"""Stills of a clip, small enough to stand inside the page: a poster, and a sheet of frames that also prints."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from sana_video.video.io import iter_frames

SHEET_FRAMES, SHEET_WIDTH, POSTER_WIDTH, QUALITY = 4, 720, 480, 82

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Stills:
    """Both as `data:` addresses of JPEGs."""

    poster: str
    sheet: str


def jpeg(picture: Pixels) -> str:
    """RGB (H, W, 3) as a `data:image/jpeg` address."""
    done, data = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    if not done:
        raise RuntimeError(f"OpenCV could not write a {picture.shape} picture as JPEG")
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode()


def _fit(picture: Pixels, width: int) -> Pixels:
    height = round(picture.shape[0] * width / picture.shape[1])
    larger = width > picture.shape[1]
    return np.asarray(
        cv2.resize(picture, (width, height), interpolation=cv2.INTER_CUBIC if larger else cv2.INTER_AREA),
        dtype=np.uint8,
    )


def stills(frames: Pixels) -> Stills:
    """The poster (middle frame) and the sheet (first to last, evenly spaced) of frames (F, H, W, 3)."""
    count = min(SHEET_FRAMES, len(frames))
    chosen = [frames[round(i * (len(frames) - 1) / max(count - 1, 1))] for i in range(count)]
    strip = np.concatenate([_fit(frame, SHEET_WIDTH // count) for frame in chosen], axis=1)
    return Stills(jpeg(_fit(frames[len(frames) // 2], POSTER_WIDTH)), jpeg(strip))


def stills_of(path: Path) -> Stills:
    """`stills` of an mp4 that the evaluation wrote."""
    return stills(np.stack([picture.rgb for picture in iter_frames(path)]))
