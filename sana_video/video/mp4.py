"""mp4 files out of arrays, all at once or frame by frame while they are made (PyAV).

A file appears under its name when it is whole, and not before: what an interrupted run leaves is nothing.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Self

import av
import numpy as np
from av.container import OutputContainer
from av.video.reformatter import ColorRange, Colorspace
from av.video.stream import VideoStream

from sana_video.video.painter import SCALE, Pixels
from sana_video.video.probe import open_video

THREADS = 8  # of x264, whatever the machine has: the bytes depend on their number, not on their order
METADATA_KEYS = frozenset({"title", "artist", "comment", "copyright", "description", "genre", "date"})


class Mp4Writer:
    """A context manager that takes frames in pieces: H.264 yuv420p, tagged BT.709, index first, equal bytes for equal
    frames. The file appears when the block ends well; after an exception there is none, and an older one stays.

    `size` (H, W) even; `metadata` keys are those of METADATA_KEYS, else ValueError. OSError if the disk is full.
    """

    def __init__(
        self, path: Path, size: tuple[int, int], fps: int | Fraction, metadata: Mapping[str, str], *, crf: int = 18
    ) -> None:
        if size[0] % 2 or size[1] % 2:
            raise ValueError(f"H.264 yuv420p needs even sizes, not {size[0]}x{size[1]}")
        if unknown := set(metadata) - METADATA_KEYS:
            raise ValueError(f"mp4 has no place for metadata {sorted(unknown)}; it has {sorted(METADATA_KEYS)}")
        self._path, self._size, self._fps, self._metadata, self._crf = path, size, Fraction(fps), dict(metadata), crf
        self._tmp = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        self._container: OutputContainer
        self._stream: VideoStream
        self.frames = 0

    def __enter__(self) -> Self:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        options = {"movflags": "+faststart", "fflags": "+bitexact"}  # bitexact: no encoder version, no time stamps
        self._container = av.open(str(self._tmp), "w", format="mp4", options=options)
        self._container.metadata.update(self._metadata)
        self._stream = _stream(self._container, self._size, self._fps, self._crf)
        return self

    def add(self, frames: Pixels) -> None:
        """Append uint8 (F, H, W, 3) RGB. ValueError for another type or size."""
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[1:] != (*self._size, 3):
            height, width = self._size
            raise ValueError(f"frames must be uint8 (F, {height}, {width}, 3), not {frames.dtype} {frames.shape}")
        for picture in frames:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), "rgb24").reformat(
                format="yuv420p", src_color_range=ColorRange.JPEG, dst_color_range=ColorRange.MPEG,
                dst_colorspace=Colorspace.ITU709, interpolation=SCALE,
            )  # fmt: skip
            self._container.mux(self._stream.encode(frame))
            self.frames += 1

    def __exit__(self, failed: type[BaseException] | None, *_: object) -> None:
        try:
            if failed is None and self.frames:
                self._finish()
                return
            with contextlib.suppress(OSError):  # what failed first is told, such as a full disk
                self._container.close()
            if failed is None:
                raise ValueError(f"{self._path}: a video has at least one frame")
        finally:
            self._tmp.unlink(missing_ok=True)

    def _finish(self) -> None:
        self._container.mux(self._stream.encode(None))
        self._container.close()
        with open(self._tmp, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(self._tmp, self._path)


def encode_mp4(path: Path, frames: Pixels, fps: int | Fraction, metadata: Mapping[str, str], *, crf: int = 18) -> None:
    """Write uint8 (F, H, W, 3) RGB as `Mp4Writer` does. ValueError as there, and on no frames."""
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or not len(frames):
        raise ValueError(f"frames must be uint8 (F, H, W, 3) with F > 0, not {frames.dtype} {frames.shape}")
    height, width = frames.shape[1:3]
    with Mp4Writer(path, (height, width), fps, metadata, crf=crf) as file:
        file.add(frames)


def _stream(container: OutputContainer, size: tuple[int, int], fps: Fraction, crf: int) -> VideoStream:
    options = {
        "crf": str(crf),
        "preset": "veryfast",  # 2.5 times as fast as medium, a film 3 % larger: a GPU that decodes must not wait for it
        "flags": "+bitexact",
        "threads": str(THREADS),
        # the lookahead's macroblock tree gave other bytes for equal input in one encode of five (x264 with assembly)
        "x264-params": "no-mbtree=1:rc-lookahead=0",
    }
    stream = container.add_stream("libx264", rate=fps, options=options)
    stream.height, stream.width = size
    stream.pix_fmt = "yuv420p"
    context = stream.codec_context
    context.color_range, context.colorspace, context.color_primaries, context.color_trc = 1, 1, 1, 1
    return stream


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata that was written, as far as it is text of METADATA_KEYS."""
    with open_video(path) as container:
        return {key: value for key, value in container.metadata.items() if key in METADATA_KEYS}
