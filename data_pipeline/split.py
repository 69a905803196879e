"""split: videos -> shots -> clips, as spans of PTS. Pixels stay where they are.

PySceneDetect's detectors are fed frame by frame with true time stamps, so variable rates and late first frames cost
nothing. A shot is trimmed at both ends (a cut is never quite sharp after coding) and filled with clips end to end, each
exactly `frames` at `fps` on the clock of the stream; what is left over at its end is dropped. A shot that holds no
clip is a row with its reason. Each video is read once, small, in a sandbox.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa

from data_pipeline.ingest import short_id
from data_pipeline.params import LimitParams, SplitParams
from data_pipeline.tables import Row
from infra.storage import is_remote, local_copy
from sana_video.video.sandbox import Sandboxes

SPLIT_VERSION = 1

DETECTION_SIDE = 144  # PySceneDetect's own choice is 256 pixels of width: 144 lines of a 16:9 picture
SECONDS_PER_FRAME = 0.1  # wall time that a sandbox may take, per frame of the video, before it counts as hung

T = TypeVar("T")
Track = Callable[[Iterable[T], int, str], Iterable[T]]


def run(videos: pa.Table, limit: LimitParams, params: SplitParams, root: Path, track: Track[Any]) -> list[Row]:
    """Rows of the clips table for the videos without a reason. ValueError if there is none.

    A video whose decoding fails gives one row with that reason and no clip; its neighbours are unharmed.
    """
    good = [row for row in videos.to_pylist() if row["reason"] is None]
    if not good:
        raise ValueError(f"no video to split: all {videos.num_rows} were rejected, see the reasons in the videos table")
    cores = len(os.sched_getaffinity(0))
    workers = min(cores, len(good))
    threads = max(1, cores // workers)  # of each decoder
    with Sandboxes(workers) as sandboxes, ThreadPoolExecutor(workers) as pool:
        done = pool.map(lambda row: _split_one(row, limit, params, root, sandboxes, threads), good)
        return [row for rows in track(done, len(good), "split") for row in rows]


def _split_one(
    video: Row, limit: LimitParams, params: SplitParams, root: Path, sandboxes: Sandboxes, threads: int
) -> list[Row]:
    side = min(limit.short_side or DETECTION_SIDE, DETECTION_SIDE)
    frames = min(video["duration"], limit.seconds or video["duration"]) * video["fps"]
    place = video["uri"] if is_remote(video["uri"]) else str(root / video["uri"])
    with local_copy(place) as path:
        try:
            found = sandboxes.call(
                "data_pipeline.split:find_shots",
                within=120.0 + SECONDS_PER_FRAME * frames,
                path=str(path),
                detector=params.detector,
                threshold=params.threshold,
                min_shot_seconds=params.min_shot_seconds,
                seconds=limit.seconds,
                short_side=side,
                threads=threads,
            )
        except ValueError as error:
            return [_row(video, 0, 0, 0, Fraction(1), params, reason=str(error))]
    return list(clips_of(video, found["shots"], Fraction(found["time_base"]), params))


def find_shots(
    path: str,
    detector: str,
    threshold: float,
    min_shot_seconds: float,
    seconds: float | None,
    short_side: int,
    threads: int,
) -> dict[str, Any]:
    """{"time_base": "1/12288", "shots": [[start_pts, end_pts], …]}: half-open, covering what is read without a gap.

    `threshold` is the detector's: content value 0-255, or ratio to its surroundings for `adaptive`. Reads the first
    `seconds`, or all for None. Runs in the sandbox. ValueError with a reason code.
    """
    from scenedetect.common import FrameTimecode, Timecode

    from sana_video.video.io import Film

    detect = _detector(detector, threshold, min_shot_seconds)
    with Film(Path(path), short_side=short_side, threads=threads) as film:
        rate = film.stream.average_rate or Fraction(25)
        first, end, cuts = None, 0, set()
        for frame in film.frames():
            pts = film.pts(frame)
            first = pts if first is None else first
            if seconds is not None and (pts - first) * film.time_base >= seconds:
                end = pts
                break
            moment = FrameTimecode(Timecode(pts=pts - first, time_base=film.time_base), rate)
            cuts |= {first + cut.pts for cut in detect.process_frame(moment, film.picture(frame).rgb[..., ::-1])}
            end = film.end(frame)
        if first is None:
            raise ValueError("DECODE_FAILED: no frame came out of the decoder")
        edges = [first, *sorted(cuts - {first}), end]
        return {"time_base": str(film.time_base), "shots": [list(shot) for shot in itertools.pairwise(edges)]}


def _detector(name: str, threshold: float, min_shot_seconds: float) -> Any:
    from scenedetect.detectors import AdaptiveDetector, ContentDetector

    if name == "content":
        return ContentDetector(threshold=threshold, min_scene_len=min_shot_seconds)
    return AdaptiveDetector(adaptive_threshold=threshold, min_scene_len=min_shot_seconds)


def clips_of(video: Row, shots: list[list[int]], time_base: Fraction, params: SplitParams) -> Iterator[Row]:
    """The rows of one video: for each shot its clips, or one row SHOT_TOO_SHORT with frames = 0."""
    for index, (start, end) in enumerate(shots):
        spans = list(spans_in(start, end, time_base, params.fps, params.frames, params.trim_frames))
        for span in spans:
            yield _row(video, index, *span, time_base, params, frames=params.frames)
        if not spans:
            seconds = float((end - start) * time_base)
            reason = f"SHOT_TOO_SHORT: {seconds:.2f} s hold no {params.frames} frames at {params.fps} fps"
            yield _row(video, index, start, end, time_base, params, reason=reason)


def spans_in(
    start: int, end: int, time_base: Fraction, fps: int, frames: int, trim_frames: int
) -> Iterator[tuple[int, int]]:
    """Half-open spans of `frames / fps` seconds, end to end inside [start, end) less `trim_frames` at both ends.

    A start is the first tick at or after its true time, so the error never adds up, whatever the time base.
    """
    ticks = 1 / (fps * time_base)  # of one frame at `fps`
    begin, last = start + trim_frames * ticks, end - trim_frames * ticks
    length = frames * ticks
    for k in range(max(0, math.floor((last - begin) / length))):
        span = math.ceil(begin + k * length), math.ceil(begin + (k + 1) * length)
        if span[1] <= last:
            yield span


def clip_id(video_id: str, start_us: int, end_us: int, frames: int, fps: int) -> str:
    """Named by the pixels it holds, not by how it was found: equal spans keep their scores under a new detector."""
    spec = hashlib.sha256(f"{frames} frames at {fps} fps".encode()).hexdigest()
    return short_id(hashlib.sha256(f"{video_id}|{start_us}|{end_us}|{spec}".encode()).digest())


def _row(
    video: Row,
    shot: int,
    start_pts: int,
    end_pts: int,
    time_base: Fraction,
    params: SplitParams,
    *,
    frames: int = 0,
    reason: str | None = None,
) -> Mapping[str, Any]:
    start, end = start_pts * time_base, end_pts * time_base
    return {
        "clip_id": clip_id(video["video_id"], round(start * 10**6), round(end * 10**6), frames, params.fps),
        "video_id": video["video_id"],
        "source": video["source"],
        "shot": shot,
        "start_pts": start_pts,
        "end_pts": end_pts,
        "time_base": str(time_base),
        "start": float(start),
        "end": float(end),
        "frames": frames,
        "fps": float(params.fps),
        "detector": params.detector,
        "reason": reason,
    }
