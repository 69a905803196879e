"""Pictures of a video by the time they are shown (PyAV); `sana_video.video.mp4` writes them.

Time is PTS in the stream's time base throughout: frame k of a clip is the source frame whose PTS is nearest to
`start + k/fps` (of two, the earlier) and not of what follows the clip, so variable frame rates, odd time bases and
late first frames need no special case. Interlaced frames are rebuilt (`fields`). A frame is scaled once, in YCbCr,
then turned to RGB by the matrix and range that it is tagged with (untagged: BT.709 from 720 lines up, BT.601 below,
limited range), or to BT.709 through linear light where it is HDR or wide (`colour`), then turned and mirrored as its
display matrix says (`orientation`). Square pixels come out.
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

from sana_video.video.colour import matrix_and_range, needs_light, to_sdr
from sana_video.video.fields import Deinterlacer
from sana_video.video.orientation import Orientation, orientation
from sana_video.video.probe import open_video, sample_aspect
from sana_video.video.probe import probe as probe

Pixels = NDArray[np.uint8]

SEEK_OVER = Fraction(4)  # seconds: a gap longer than this is jumped, a shorter one is decoded through

SCALE = Interpolation.AREA | Interpolation.ACCURATE_RND | Interpolation.BITEXACT | Interpolation.FULL_CHR_H_INT
BEFORE = Fraction(1, 2)  # seconds: an interlaced frame is rebuilt from the one before, so decoding starts earlier


@dataclass(frozen=True)
class Picture:
    """One frame as shown: `rgb` uint8 (H, W, 3) 0-255, `luma` uint8 (H, W) the Y plane as coded (16-235 if limited).

    Of an HDR or wide picture it is the limited-range BT.709 luma of `rgb`.
    """

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
        self._aspect = sample_aspect(self.stream)
        self._deinterlacer = Deinterlacer(self.stream)
        self._coded: tuple[int, int] | None = None
        self._seeks = self.container.format.name != "mpeg"  # FFmpeg gives other PTS after a seek in a program stream
        self._reach = SEEK_OVER if self._seeks else Fraction(10**9)
        self._scaler, self._painter = VideoReformatter(), VideoReformatter()
        self._source: Iterator[av.VideoFrame] = iter(())
        self._now: av.VideoFrame | None = None
        self._next: av.VideoFrame | None = None

    def __enter__(self) -> Film:
        return self

    def __exit__(self, *_: object) -> None:
        self.container.close()

    def at(self, time: Fraction, before: Fraction | None = None) -> Picture:
        """The picture whose PTS is nearest to `time` and below `before`; fastest for rising times. Seconds by the
        stream's own clock.

        Raises ValueError TOO_FEW_FRAMES before the first and after the end of the last frame, DECODE_FAILED.
        """
        if self._now is None or not 0 <= time - self._time(self._now) <= self._reach:
            self._seek(time)
        while self._next is not None and self._time(self._next) <= time:
            self._now, self._next = self._next, self._decode()
        assert self._now is not None
        if self._next is None and time >= self._time(self._now) + self._shown(self._now):
            raise ValueError(f"TOO_FEW_FRAMES: the video ends before {float(time):.3f} s")
        return self.picture(self._nearest(self._now, self._next, time, before))

    def _nearest(
        self, now: av.VideoFrame, following: av.VideoFrame | None, time: Fraction, before: Fraction | None
    ) -> av.VideoFrame:
        if following is None or (before is not None and self._time(following) >= before):
            return now
        return following if self._time(following) - time < time - self._time(now) else now

    def frames(self) -> Iterator[av.VideoFrame]:
        """Every frame from the beginning, in display order, undamaged and with a PTS. ValueError DECODE_FAILED."""
        self._rewind()
        while (frame := self._decode()) is not None:
            yield frame

    def picture(self, frame: av.VideoFrame) -> Picture:
        """Scale, colour-convert, crop and rotate one decoded frame. ValueError UNSUPPORTED for odd colours or turns."""
        way = orientation(frame)
        height, width = self._scaled_size(frame, way)
        if needs_light(frame):
            rgb, luma = to_sdr(frame, width, height, SCALE, self._scaler)
        else:
            rgb, luma = self._to_rgb(frame, width, height)
        return Picture(self.pts(frame), self._upright(rgb, way), self._upright(luma, way))

    def _to_rgb(self, frame: av.VideoFrame, width: int, height: int) -> tuple[Pixels, Pixels]:
        """(rgb, luma) of a frame of standard range and primaries."""
        matrix, span = matrix_and_range(frame)
        small = self._scaler.reformat(
            frame, width, height, "yuv444p", src_colorspace=matrix, dst_colorspace=matrix,
            src_color_range=span, dst_color_range=span, interpolation=SCALE,
        )  # fmt: skip
        rgb = self._painter.reformat(
            small, format="rgb24", src_colorspace=matrix, dst_colorspace=Colorspace.DEFAULT,
            src_color_range=span, dst_color_range=ColorRange.JPEG, interpolation=SCALE,
        ).to_ndarray()  # fmt: skip
        luma = np.frombuffer(memoryview(small.planes[0]), np.uint8).reshape(height, -1)[:, :width]
        return rgb.astype(np.uint8, copy=False), luma

    def end(self, frame: av.VideoFrame) -> int:
        """PTS at which a frame leaves the screen, as the file states it (else one average frame later)."""
        return self.pts(frame) + max(1, round(self._shown(frame) / self.time_base))

    def _scaled_size(self, frame: av.VideoFrame, way: Orientation) -> tuple[int, int]:
        """(height, width) before rotation: square pixels, and large enough for what is asked."""
        height, width = Fraction(frame.height), Fraction(frame.width) * self._aspect
        if self._size is not None:
            want_h, want_w = self._size[::-1] if way.transposed else self._size
            scale = max(want_h / height, want_w / width)
            return max(want_h, round(height * scale)), max(want_w, round(width * scale))
        if self._short_side is None or self._short_side >= min(height, width):
            return int(height), round(width)
        scale = self._short_side / min(height, width)
        return max(self._short_side, 2 * round(height * scale / 2)), max(self._short_side, 2 * round(width * scale / 2))

    def _upright(self, picture: Pixels, way: Orientation) -> Pixels:
        picture = way.apply(picture)
        if self._size is not None:
            top, left = ((have - want) // 2 for have, want in zip(picture.shape, self._size, strict=False))
            picture = picture[top : top + self._size[0], left : left + self._size[1]]
        return np.ascontiguousarray(picture)

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


def decode_clip(film: Film, start_pts: int, end_pts: int, fps: int, frames: int) -> Clip:
    """The clip [start_pts, end_pts) of an open film, `frames` pictures at `fps`, none from `end_pts` on.

    Raises ValueError TOO_FEW_FRAMES if the span or the film ends before the last of them: nothing is padded.
    """
    start, end = start_pts * film.time_base, end_pts * film.time_base
    times = [start + Fraction(k, fps) for k in range(frames)]
    if times[-1] >= end:
        raise ValueError(f"TOO_FEW_FRAMES: {float(end - start):.3f} s hold fewer than {frames} frames at {fps} fps")
    pictures = [film.at(time, before=end) for time in times]
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
