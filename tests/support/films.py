"""Films rendered for one property each: colour tags, fields, odd pixels, open GOPs, time stamps of any kind."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

TICK = Fraction(1, 12000)


def picture(planes: Sequence[NDArray[np.generic]], pixel_format: str) -> av.VideoFrame:
    """A frame of exactly these samples: one (H, W) array a plane, uint8 or uint16."""
    frame = av.VideoFrame(planes[0].shape[1], planes[0].shape[0], pixel_format)
    for samples, plane in zip(planes, frame.planes, strict=True):
        width = plane.line_size // samples.dtype.itemsize
        rows = np.zeros((samples.shape[0], width), samples.dtype)
        rows[:, : samples.shape[1]] = samples
        plane.update(rows.tobytes())
    return frame


def flat(ycc: tuple[int, int, int], size: tuple[int, int], pixel_format: str) -> av.VideoFrame:
    """One colour of a planar Y'CbCr format, in its own code values."""
    kind = np.uint16 if "10" in pixel_format or "16" in pixel_format or "12" in pixel_format else np.uint8
    half = "420" in pixel_format
    height, width = size
    chroma = (height // 2, width // 2) if half else size
    return picture([np.full(chroma if k else size, value, kind) for k, value in enumerate(ycc)], pixel_format)


def grey(level: int, size: tuple[int, int] = (64, 64), pixel_format: str = "yuv420p") -> av.VideoFrame:
    """A frame of one grey, RGB 0-255."""
    return av.VideoFrame.from_ndarray(np.full((*size, 3), level, np.uint8), "rgb24").reformat(format=pixel_format)


def waves(level: int, size: tuple[int, int] = (64, 64), pixel_format: str = "yuv420p") -> av.VideoFrame:
    """A soft grey pattern about a level, RGB 0-255: unlike a flat grey, no detector takes a step of it for a cut."""
    rows, columns = np.mgrid[0 : size[0], 0 : size[1]]
    pattern = level + 30 * np.sin(columns / 7) * np.cos(rows / 5)
    rgb = np.repeat(np.clip(pattern, 0, 255).astype(np.uint8)[..., None], 3, axis=-1)
    return av.VideoFrame.from_ndarray(rgb, "rgb24").reformat(format=pixel_format)


def write(
    path: Path,
    frames: Iterable[av.VideoFrame],
    *,
    times: Sequence[Fraction] | None = None,
    rate: Fraction | int = 25,
    codec: str = "libx264",
    options: Mapping[str, str] | None = None,
    container_options: Mapping[str, str] | None = None,
    container_format: str | None = None,
    sample_aspect: Fraction | None = None,
    tags: Mapping[str, int] | None = None,
    time_base: Fraction | None = None,
) -> Path:
    """Encode `frames`, shown from `times` (seconds; else at `rate`). `tags` are set on the codec context."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lossless = {"libx264": {"qp": "0", "preset": "ultrafast"}}.get(codec, {})
    with av.open(str(path), "w", format=container_format, options=dict(container_options or {})) as container:
        stream = None
        for index, frame in enumerate(frames):
            if stream is None:
                stream = container.add_stream(codec, rate=rate, options=dict(lossless if options is None else options))
                stream.width, stream.height, stream.pix_fmt = frame.width, frame.height, frame.format.name
                stream.codec_context.time_base = time_base or (1 / Fraction(rate) if times is None else TICK)
                if sample_aspect is not None:
                    stream.codec_context.sample_aspect_ratio = sample_aspect
                for name, value in (tags or {}).items():
                    setattr(stream.codec_context, name, value)
            base = stream.codec_context.time_base
            assert base is not None
            frame.time_base = base
            frame.pts = round((times[index] if times is not None else index / Fraction(rate)) / base)
            container.mux(stream.encode(frame))
        assert stream is not None
        container.mux(stream.encode(None))
    return path
