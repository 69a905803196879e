"""Pictures of a video by the time they are shown (PyAV); `sana_video.video.mp4` writes them.

Time is PTS in the stream's time base throughout: frame k of a clip is the source frame whose PTS is nearest to
`start + k/fps` (of two, the earlier) and not of what follows the clip, so variable frame rates, odd time bases and
late first frames need no special case. Interlaced frames are rebuilt (`fields`). What a frame looks like is the
business of `painter`: scaled, in the colours it means, upright, with square pixels.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream
from numpy.typing import NDArray

from sana_video.video.fields import Deinterlacer
from sana_video.video.painter import Painter, Picture
from sana_video.video.probe import open_video, sample_aspect
from sana_video.video.probe import probe as probe

Pixels = NDArray[np.uint8]

SEEK_OVER = Fraction(4)  # seconds: a gap longer than this is jumped, a shorter one is decoded through

BEFORE = Fraction(1, 2)  # seconds: an interlaced frame is rebuilt from the one before, so decoding starts earlier


class Film:
    """An open video, read forward: `at` for pictures by time, `frames` for all of them; a context manager.

    `short_side` and `size` are those of its pictures, as in `Painter`; `threads` is the decoder's and the scaler's.
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
        self._threads = threads
        self._painter = self.painter(short_side, size)
        self._deinterlacer = Deinterlacer(self.stream)
        self._coded: tuple[int, int] | None = None
        self._seeks = self.container.format.name != "mpeg"  # FFmpeg gives other PTS after a seek in a program stream
        self._reach = SEEK_OVER / self.time_base if self._seeks else math.inf
        self._source: Iterator[av.VideoFrame] = iter(())
        self._now: av.VideoFrame | None = None
        self._next: av.VideoFrame | None = None

    def __enter__(self) -> Film:
        return self

    def __exit__(self, *_: object) -> None:
        self.container.close()

    def painter(
        self, short_side: int | None = None, size: tuple[int, int] | None = None, *, enlarge: bool = False
    ) -> Painter:
        """A painter of this film's frames at another size than its own."""
        aspect, threads = sample_aspect(self.stream), self._threads
        return Painter(aspect, short_side=short_side, size=size, enlarge=enlarge, threads=threads)

    def at(self, time: Fraction, before: Fraction | None = None) -> Picture:
        """The picture of `frame_at`."""
        return self.picture(self.frame_at(time, before))

    def frame_at(self, time: Fraction, before: Fraction | None = None) -> av.VideoFrame:
        """The frame whose PTS is nearest to `time` and below `before`; fastest for rising times. Seconds by the
        stream's own clock.

        Raises ValueError TOO_FEW_FRAMES before the first and after the end of the last frame, DECODE_FAILED.
        """
        tick = time / self.time_base
        last = math.floor(tick)  # whole, as PTS are: comparing fractions would cost more than the loop
        if self._now is None or not 0 <= last - self.pts(self._now) <= self._reach:
            self._seek(time)
        while self._next is not None and self.pts(self._next) <= last:
            self._now, self._next = self._next, self._decode()
        assert self._now is not None
        if self._next is None and time >= self._time(self._now) + self._shown(self._now):
            raise ValueError(f"TOO_FEW_FRAMES: the video ends before {float(time):.3f} s")
        if self._next is None or (before is not None and self.pts(self._next) * self.time_base >= before):
            return self._now
        return self._next if self.pts(self._now) + self.pts(self._next) < 2 * tick else self._now

    def frames(self) -> Iterator[av.VideoFrame]:
        """Every frame from the beginning, in display order, undamaged and with a PTS. ValueError DECODE_FAILED."""
        self._rewind()
        while (frame := self._decode()) is not None:
            yield frame

    def picture(self, frame: av.VideoFrame) -> Picture:
        """One decoded frame as it is shown. ValueError UNSUPPORTED for odd colours or turns."""
        return self._painter.picture(frame)

    def end(self, frame: av.VideoFrame) -> int:
        """PTS at which a frame leaves the screen, as the file states it (else one average frame later)."""
        return self.pts(frame) + max(1, round(self._shown(frame) / self.time_base))

    def _seek(self, time: Fraction) -> None:
        """Stand on a frame at or before `time`, decoded as it is when the film is read from its beginning."""
        known = self._deinterlacer.met
        self._jump(time - BEFORE if known else time)
        if self._deinterlacer.met and not known:
            self._jump(time - BEFORE)
        if self._now is None or self._time(self._now) > time:
            self._rewind()
            self._now = self._decode()
        if self._now is None or self._time(self._now) > time:
            raise ValueError(f"TOO_FEW_FRAMES: nothing is shown at {float(time):.3f} s")
        self._next = self._decode()

    def _jump(self, time: Fraction) -> None:
        """Stand on the first frame that decodes from the last key frame at or before `time`, if the index is right."""
        self._rewind()
        with contextlib.suppress(av.error.FFmpegError):  # then it is read from the beginning
            if self._seeks:
                self.container.seek(int(time / self.time_base), stream=self.stream, backward=True)
        self._now = self._decode()

    def _rewind(self) -> None:
        with contextlib.suppress(
            av.error.FFmpegError
        ):  # a stream that cannot seek is at its beginning when just opened
            self.container.seek(min(0, self.stream.start_time or 0), stream=self.stream, backward=True)
        self._source = self._deinterlacer(self._checked(self.container.decode(self.stream)))
        self._now = self._next = None

    def _checked(self, frames: Iterator[av.VideoFrame]) -> Iterator[av.VideoFrame]:
        """Undamaged frames of one size with rising PTS. ValueError for damage and for another size."""
        last: int | None = None
        for frame in frames:
            if frame.is_corrupt:
                raise ValueError(f"DECODE_FAILED: damaged frame at PTS {frame.pts}")
            self._refuse_other_size(frame)
            if frame.pts is not None and (last is None or frame.pts > last):
                last = frame.pts
                yield frame

    def _refuse_other_size(self, frame: av.VideoFrame) -> None:
        size = frame.width, frame.height
        self._coded = self._coded or size
        if size != self._coded:
            raise ValueError("UNSUPPORTED: the size changes from {}x{} to {}x{}".format(*self._coded, *size))

    def _decode(self) -> av.VideoFrame | None:
        try:
            return next(self._source, None)
        except (av.error.FFmpegError, ValueError) as error:
            self._now = self._next = None  # the next `at` seeks: what follows may be whole again
            if isinstance(error, MemoryError) or not isinstance(error, av.error.FFmpegError):
                raise  # the sandbox's verdict, and our own
            raise ValueError(f"DECODE_FAILED: {error.strerror or error}") from error

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


def clip_frames(film: Film, start_pts: int, end_pts: int, fps: int, frames: int) -> Iterator[av.VideoFrame]:
    """The frames of the clip [start_pts, end_pts) of an open film, `frames` of them at `fps`, none from `end_pts` on.

    Raises ValueError TOO_FEW_FRAMES if the span or the film ends before the last of them: nothing is padded.
    """
    start, end = start_pts * film.time_base, end_pts * film.time_base
    times = [start + Fraction(k, fps) for k in range(frames)]
    if times[-1] >= end:
        raise ValueError(f"TOO_FEW_FRAMES: {float(end - start):.3f} s hold fewer than {frames} frames at {fps} fps")
    return (film.frame_at(time, before=end) for time in times)


def decode_clip(film: Film, start_pts: int, end_pts: int, fps: int, frames: int) -> Clip:
    """The pictures of `clip_frames`, with its errors."""
    pictures = [film.picture(frame) for frame in clip_frames(film, start_pts, end_pts, fps, frames)]
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
