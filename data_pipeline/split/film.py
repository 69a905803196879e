"""One reading of a film for split: where its cuts are, which frames are black, how much each frame changes.

PySceneDetect's detectors are fed frame by frame with true time stamps, so variable rates and late first frames cost
nothing. They report every cut (no minimal distance): what lies between two cuts is a shot, however short, and is never
merged into its neighbour. All numbers are of one small picture per frame. Runs in the sandbox.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from data_pipeline.split.reading import Reading
from sana_video.video.io import Film

Pixels = NDArray[np.uint8]
Keep = Callable[[Pixels], None]

BRIGHT_SHARE = 0.01  # of a black frame's pixels, which may be brighter than the level: stars, noise, a logo
LOOKAHEAD = 2  # frames on each side that PySceneDetect's adaptive detector looks at


def read(
    path: str,
    detector: str,
    threshold: float,
    black_level: int | None,
    seconds: float | None,
    short_side: int,
    threads: int,
    frames_at: str | None = None,
    frame_size: tuple[int, int] | None = None,
) -> dict[str, Any]:
    """The fields of `Reading` for the first `seconds` of a film, all for None.

    With `frames_at` no cut is sought: each frame goes into that file, uint8 RGB stretched to `frame_size` (H, W), for a
    network in its worker. ValueError with a reason code.
    """
    with Film(Path(path), short_side=short_side, threads=threads) as film, contextlib.ExitStack() as opened:
        if frames_at is None or frame_size is None:
            return asdict(_read(film, seconds, black_level, find=scene_detector(detector, threshold)))
        file = opened.enter_context(Path(frames_at).open("wb"))  # scratch of the worker, which drops it
        return asdict(_read(film, seconds, black_level, keep=_into(file, frame_size)))


def _into(file: Any, size: tuple[int, int]) -> Keep:
    def keep(rgb: Pixels) -> None:
        file.write(cv2.resize(rgb, size[::-1], interpolation=cv2.INTER_AREA).tobytes())

    return keep


def _read(
    film: Film, seconds: float | None, black_level: int | None, find: Any = None, keep: Keep | None = None
) -> Reading:
    rate = film.stream.average_rate or Fraction(25)
    seen, before, starts = Reading(str(film.time_base), [], 0, [], [], [], [], []), None, set()
    for frame in _first_seconds(film, seconds, seen):
        picture = film.picture(frame)
        if find is not None:
            starts |= _starts(find, picture.rgb, picture.pts - (seen.pts or [picture.pts])[0], film.time_base, rate)
        if keep is not None:
            keep(picture.rgb)
        seen.pts.append(picture.pts)
        seen.level.append(round(float(picture.luma.mean()), 2))
        seen.change.append(0.0 if before is None else round(float(cv2.absdiff(picture.luma, before).mean()), 2))
        seen.black.append(black_level is not None and _is_black(picture.rgb, black_level))
        before = picture.luma
    if not seen.pts:
        raise ValueError("DECODE_FAILED: no frame came out of the decoder")
    index = {pts - seen.pts[0]: at for at, pts in enumerate(seen.pts)}
    seen.cuts = sorted({index[start] for start in starts} - {0})
    seen.outside = list(seen.black)
    if find is not None and find.event_buffer_length:
        _leave_unjudged(seen)
    return seen


def _first_seconds(film: Film, seconds: float | None, seen: Reading) -> Iterator[av.VideoFrame]:
    """The frames before `seconds` are over; `seen.end` becomes the PTS where the last of them ends."""
    for frame in film.frames():
        pts = film.pts(frame)
        if seconds is not None and seen.pts and (pts - seen.pts[0]) * film.time_base >= seconds:
            seen.end = pts
            return
        yield frame
        seen.end = film.end(frame)


def _starts(find: Any, rgb: Pixels, pts: int, time_base: Fraction, rate: Fraction) -> set[int]:
    from scenedetect.common import FrameTimecode, Timecode

    moment = FrameTimecode(Timecode(pts=pts, time_base=time_base), rate)
    return {cut.pts for cut in find.process_frame(moment, rgb[..., ::-1])}


def _is_black(rgb: Pixels, level: int) -> bool:
    brightest = np.maximum(np.maximum(rgb[..., 0], rgb[..., 1]), rgb[..., 2])
    return bool(np.count_nonzero(brightest > level) <= BRIGHT_SHARE * brightest.size)


def _leave_unjudged(seen: Reading) -> None:
    """The adaptive detector says nothing of the first and last two frames: a cut there would go unseen."""
    for index in range(min(LOOKAHEAD, len(seen.pts))):
        seen.outside[index] = seen.outside[-1 - index] = True


def scene_detector(name: str, threshold: float) -> Any:
    """PySceneDetect's detector of that name, with its own meaning of `threshold` and no minimal length of a shot."""
    from scenedetect import detectors

    if name == "content":
        return detectors.ContentDetector(threshold=threshold, min_scene_len=0)
    if name == "adaptive":
        return detectors.AdaptiveDetector(adaptive_threshold=threshold, min_scene_len=0, window_width=LOOKAHEAD)
    if name == "hash":
        return detectors.HashDetector(threshold=threshold, min_scene_len=0)
    return detectors.HistogramDetector(threshold=threshold, min_scene_len=0)
