"""Rows of the clips table: clips of equal length laid into shots, and a reason where there is none."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from data_pipeline.ids import short_id
from data_pipeline.split.shots import Shot

if TYPE_CHECKING:
    from data_pipeline.params import SplitParams
    from data_pipeline.tables import Row


def clips_of(video: Row, shots: Iterable[Shot], time_base: Fraction, params: SplitParams) -> Iterator[Row]:
    """The rows of one video: for each shot its clips, or one row with a reason and frames = 0.

    What a shot has beyond `max_shot_seconds` is a row of its own.
    """
    number = 0
    for shot in shots:
        limit = shot.start + math.floor(params.max_shot_seconds / time_base) if params.max_shot_seconds else shot.end
        end = min(shot.end, limit)
        spans = list(_spans(shot, end, time_base, params))
        for span in spans:
            yield _row(video, number, *span, time_base, params, frames=params.frames, shot=shot)
        if not spans:
            yield _row(
                video,
                number,
                shot.start,
                end,
                time_base,
                params,
                shot=shot,
                reason=_too_short(shot, end, time_base, params),
            )
        if end < shot.end:
            reason = f"SHOT_TOO_LONG: clips are taken from its first {params.max_shot_seconds:g} s"
            yield _row(video, number, end, shot.end, time_base, params, shot=shot, reason=reason)
        number += shot.count


def _spans(shot: Shot, end: int, time_base: Fraction, params: SplitParams) -> Iterator[tuple[int, int]]:
    if shot.count == 1 and (shot.end - shot.start) * time_base >= params.min_shot_seconds:
        yield from spans_in(
            shot.start, end, time_base, params.fps, params.frames, params.trim_frames, params.stride_seconds
        )


def _too_short(shot: Shot, end: int, time_base: Fraction, params: SplitParams) -> str:
    seconds = float((end - shot.start) * time_base)
    if shot.count > 1:
        return f"SHOT_TOO_SHORT: {shot.count} shots within {seconds:.2f} s, each below {params.min_shot_seconds:g} s"
    return f"SHOT_TOO_SHORT: {seconds:.2f} s hold no {params.frames} frames at {params.fps} fps"


def spans_in(
    start: int,
    end: int,
    time_base: Fraction,
    fps: int,
    frames: int,
    trim_frames: int,
    stride_seconds: float | None = None,
) -> Iterator[tuple[int, int]]:
    """Half-open spans of `frames / fps` seconds inside [start, end) less `trim_frames` at both ends.

    One begins every `stride_seconds`, so they overlap or leave gaps; None lays them end to end. A start is the first
    tick at or after its true time, so the error never adds up, whatever the time base.
    """
    ticks = 1 / (fps * time_base)  # of one frame at `fps`
    begin, last = start + trim_frames * ticks, end - trim_frames * ticks
    length = frames * ticks
    stride = length if stride_seconds is None else Fraction(str(stride_seconds)) / time_base
    for k in range(max(0, math.floor((last - begin - length) / stride) + 1)):
        span = math.ceil(begin + k * stride), math.ceil(begin + k * stride + length)
        if span[1] <= last:
            yield span


def clip_id(video_id: str, start_us: int, end_us: int, frames: int, fps: int) -> str:
    """Named by the pixels it holds, not by how it was found: equal spans keep their scores under a new detector."""
    spec = hashlib.sha256(f"{frames} frames at {fps} fps".encode()).hexdigest()
    return short_id(hashlib.sha256(f"{video_id}|{start_us}|{end_us}|{spec}".encode()).digest())


def failed(video: Row, params: SplitParams, reason: str) -> Row:
    """The one row of a video that gives no shot at all."""
    return _row(video, 0, 0, 0, Fraction(1), params, reason=reason)


def _row(
    video: Row,
    number: int,
    start_pts: int,
    end_pts: int,
    time_base: Fraction,
    params: SplitParams,
    *,
    frames: int = 0,
    shot: Shot | None = None,
    reason: str | None = None,
) -> Mapping[str, Any]:
    start, end = start_pts * time_base, end_pts * time_base
    return {
        "clip_id": clip_id(video["video_id"], round(start * 10**6), round(end * 10**6), frames, params.fps),
        "video_id": video["video_id"],
        "source": video["source"],
        "shot": number,
        "start_pts": start_pts,
        "end_pts": end_pts,
        "time_base": str(time_base),
        "start": float(start),
        "end": float(end),
        "frames": frames,
        "fps": float(params.fps),
        "shot_start": float(shot.start * time_base) if shot else None,
        "shot_end": float(shot.end * time_base) if shot else None,
        "cut_before": shot.cut_before if shot else None,
        "cut_after": shot.cut_after if shot else None,
        "change_inside": shot.change_inside(start_pts, end_pts) if shot and frames else None,
        "detector": params.detector,
        "reason": reason,
    }
