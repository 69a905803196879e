"""Pictures of a video by the time they are shown (PyAV); `sana_video.video.mp4` writes them.

Time is PTS in the stream's time base throughout: frame k of a clip is the source frame that is on the screen at
`start + k/fps`, so variable frame rates, odd time bases and late first frames need no special case. A frame is scaled
once, in YCbCr, then turned to RGB by the matrix and range that it is tagged with (untagged: BT.709 from 720 lines up,
BT.601 below, limited range), then rotated as its display matrix says. Square pixels come out.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray

from sana_video.video.probe import clockwise, open_video
from sana_video.video.probe import probe as probe

Pixels = NDArray[np.uint8]

SEEK_OVER = Fraction(4)  # seconds: a gap longer than this is jumped, a shorter one is decoded through

SCALE = Interpolation.AREA | Interpolation.ACCURATE_RND | Interpolation.BITEXACT | Interpolation.FULL_CHR_H_INT
_SWS_MATRIX = {1: 1, 4: 4, 5: 5, 6: 5, 7: 7, 9: 9, 10: 9}  # AVCOL_SPC_* -> SWS_CS_*


@dataclass(frozen=True)
class Picture:
    """One frame as shown: `rgb` uint8 (H, W, 3) 0-255, `luma` uint8 (H, W) the Y plane as coded (16-235 if limited)."""

    pts: int
    rgb: Pixels
    luma: Pixels


class Film:
    """An open video, read forward: `at` for pictures by time, `frames` for all of them; a context manager.

    `short_side` scales so that the shorter displayed side has that many pixels (never up); `size` (H, W) scales to
    cover and crops about the centre. Neither: the displayed size. `threads` is the decoder's.
    """

    def __init__(
        self, path: Path, *, short_side: int | None = None, size: tuple[int, int] | None = None, threads: int = 1
    ) -> None:
        self.container: InputContainer = open_video(path)
        self.stream: VideoStream = self.container.streams.video[0]
        if self.stream.time_base is None:
            raise ValueError("UNSUPPORTED: no time stamps in the stream")
        self.time_base: Fraction = self.stream.time_base
        self.stream.codec_context.thread_count = threads
        self.stream.thread_type = "AUTO"
        self._short_side, self._size = short_side, size
        self._scaler, self._painter = VideoReformatter(), VideoReformatter()
        self._source: Iterator[av.VideoFrame] = iter(())
        self._now: av.VideoFrame | None = None
        self._next: av.VideoFrame | None = None

    def __enter__(self) -> Film:
        return self

    def __exit__(self, *_: object) -> None:
        self.container.close()

    def at(self, time: Fraction) -> Picture:
        """The picture on the screen at `time` (seconds on the stream's own clock); fastest for rising times.

        Raises ValueError TOO_FEW_FRAMES before the first and after the end of the last frame, DECODE_FAILED.
        """
        if self._now is None or not 0 <= time - self._time(self._now) <= SEEK_OVER:
            self._seek(time)
        while self._next is not None and self._time(self._next) <= time:
            self._now, self._next = self._next, self._decode()
        assert self._now is not None
        if self._next is None and time >= self._time(self._now) + self._shown(self._now):
            raise ValueError(f"TOO_FEW_FRAMES: the video ends before {float(time):.3f} s")
        return self.picture(self._now)

    def frames(self) -> Iterator[av.VideoFrame]:
        """Every frame from the beginning, in display order, undamaged and with a PTS. ValueError DECODE_FAILED."""
        self._rewind()
        while (frame := self._decode()) is not None:
            yield frame

    def picture(self, frame: av.VideoFrame) -> Picture:
        """Scale, colour-convert, crop and rotate one decoded frame."""
        turn = clockwise(frame)
        height, width = self._scaled_size(frame, turn)
        matrix, span = _colour(frame)
        small = self._scaler.reformat(
            frame, width, height, "yuv444p", src_colorspace=matrix, dst_colorspace=matrix,
            src_color_range=span, dst_color_range=span, interpolation=SCALE,
        )  # fmt: skip
        rgb = self._painter.reformat(
            small, format="rgb24", src_colorspace=matrix, dst_colorspace=Colorspace.DEFAULT,
            src_color_range=span, dst_color_range=ColorRange.JPEG, interpolation=SCALE,
        ).to_ndarray()  # fmt: skip
        luma = np.frombuffer(memoryview(small.planes[0]), np.uint8).reshape(height, -1)[:, :width]
        return Picture(
            self.pts(frame), self._upright(rgb.astype(np.uint8, copy=False), turn), self._upright(luma, turn)
        )

    def end(self, frame: av.VideoFrame) -> int:
        """PTS at which a frame leaves the screen, as the file states it (else one average frame later)."""
        return self.pts(frame) + max(1, round(self._shown(frame) / self.time_base))

    def _scaled_size(self, frame: av.VideoFrame, turn: int) -> tuple[int, int]:
        """(height, width) before rotation: square pixels, and large enough for what is asked."""
        aspect = self.stream.sample_aspect_ratio or Fraction(1)
        height, width = Fraction(frame.height), Fraction(frame.width) * aspect
        if self._size is not None:
            want_h, want_w = self._size if turn in (0, 180) else self._size[::-1]
            scale = max(want_h / height, want_w / width)
            return max(want_h, round(height * scale)), max(want_w, round(width * scale))
        if self._short_side is None or self._short_side >= min(height, width):
            return int(height), round(width)
        scale = self._short_side / min(height, width)
        return max(self._short_side, 2 * round(height * scale / 2)), max(self._short_side, 2 * round(width * scale / 2))

    def _upright(self, picture: Pixels, turn: int) -> Pixels:
        picture = np.rot90(picture, -turn // 90)
        if self._size is not None:
            top, left = ((have - want) // 2 for have, want in zip(picture.shape, self._size, strict=False))
            picture = picture[top : top + self._size[0], left : left + self._size[1]]
        return np.ascontiguousarray(picture)

    def _seek(self, time: Fraction) -> None:
        """Stand on the last key frame at or before `time`, or on the first frame where the index misleads."""
        self._rewind()
        with contextlib.suppress(av.error.FFmpegError):  # then it is read from the beginning
            self.container.seek(int(time / self.time_base), stream=self.stream, backward=True)
        self._now = self._decode()
        if self._now is None or self._time(self._now) > time:
            self._rewind()
            self._now = self._decode()
        if self._now is None or self._time(self._now) > time:
            raise ValueError(f"TOO_FEW_FRAMES: nothing is shown at {float(time):.3f} s")
        self._next = self._decode()

    def _rewind(self) -> None:
        with contextlib.suppress(
            av.error.FFmpegError
        ):  # a stream that cannot seek is at its beginning when just opened
            self.container.seek(min(0, self.stream.start_time or 0), stream=self.stream, backward=True)
        self._source = self.container.decode(self.stream)
        self._now = self._next = None

    def _decode(self) -> av.VideoFrame | None:
        try:
            for frame in self._source:
                if frame.is_corrupt:
                    self._now = self._next = None  # the next `at` seeks: what follows may be whole again
                    raise ValueError(f"DECODE_FAILED: damaged frame at PTS {frame.pts}")
                if frame.pts is not None:
                    return frame
        except av.error.FFmpegError as error:
            self._now = self._next = None
            raise ValueError(f"DECODE_FAILED: {error.strerror or error}") from error
        return None

    def pts(self, frame: av.VideoFrame) -> int:
        """When a frame comes on the screen, in units of `time_base`."""
        assert frame.pts is not None  # `_decode` passes no other
        return frame.pts

    def _time(self, frame: av.VideoFrame) -> Fraction:
        return self.pts(frame) * self.time_base

    def _shown(self, frame: av.VideoFrame) -> Fraction:
        if frame.duration:
            return frame.duration * self.time_base
        return 1 / (self.stream.average_rate or Fraction(25))


def _colour(frame: av.VideoFrame) -> tuple[int, int]:
    """(SWS matrix, range) of a frame, by the usual convention where it is untagged."""
    guess = 1 if max(frame.height, frame.width) >= 1280 or min(frame.height, frame.width) >= 720 else 5
    full = int(frame.color_range) == ColorRange.JPEG or frame.format.name.startswith("yuvj")
    return _SWS_MATRIX.get(int(frame.colorspace), guess), ColorRange.JPEG if full else ColorRange.MPEG


def iter_frames(
    path: Path, *, short_side: int | None = None, size: tuple[int, int] | None = None, threads: int = 1
) -> Iterator[Picture]:
    """Every picture of a video in one pass, with its PTS. ValueError with a reason code."""
    with Film(path, short_side=short_side, size=size, threads=threads) as film:
        for frame in film.frames():
            yield film.picture(frame)


@dataclass(frozen=True)
class Clip:
    """`rgb` uint8 (F, H, W, 3), `luma` uint8 (F, H, W)."""

    rgb: Pixels
    luma: Pixels


def decode_clip(film: Film, start_pts: int, end_pts: int, fps: int, frames: int) -> Clip:
    """The clip [start_pts, end_pts) of an open film, `frames` pictures at `fps`.

    Raises ValueError TOO_FEW_FRAMES if the span or the film ends before the last of them: nothing is padded.
    """
    start, end = start_pts * film.time_base, end_pts * film.time_base
    times = [start + Fraction(k, fps) for k in range(frames)]
    if times[-1] >= end:
        raise ValueError(f"TOO_FEW_FRAMES: {float(end - start):.3f} s hold fewer than {frames} frames at {fps} fps")
    pictures = [film.at(time) for time in times]
    return Clip(np.stack([p.rgb for p in pictures]), np.stack([p.luma for p in pictures]))


def decode_span(
    path: Path,
    start_pts: int,
    end_pts: int,
    fps: int,
    frames: int,
    *,
    short_side: int | None = None,
    size: tuple[int, int] | None = None,
    threads: int = 1,
) -> Pixels:
    """uint8 (F, H, W, 3) RGB: `frames` pictures at `fps` from [start_pts, end_pts). For many spans use `decode_spans`.

    `short_side` or `size` as in `Film`. Raises ValueError with a reason code if it cannot give exactly that.
    """
    with Film(path, short_side=short_side, size=size, threads=threads) as film:
        return decode_clip(film, start_pts, end_pts, fps, frames).rgb


def decode_spans(
    path: Path,
    spans: Iterable[tuple[int, int]],
    fps: int,
    frames: int,
    *,
    short_side: int | None = None,
    size: tuple[int, int] | None = None,
    threads: int = 1,
) -> Iterator[Pixels]:
    """`decode_span` for spans in rising order, with the file opened once and read forward."""
    with Film(path, short_side=short_side, size=size, threads=threads) as film:
        for start_pts, end_pts in spans:
            yield decode_clip(film, start_pts, end_pts, fps, frames).rgb
