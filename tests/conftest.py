"""Fixtures for all packages: real video files, rendered on the spot."""

from __future__ import annotations

import os
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Protocol

# Before anything brings torch: there is a test process for each core, and threads beyond the cores wait by spinning.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import av
import numpy as np
import pytest


class MakeVideo(Protocol):
    def __call__(
        self,
        path: Path,
        seconds: float = 3.0,
        fps: float = 24,
        size: tuple[int, int] = (96, 160),
        shots: int = 1,
        *,
        times: Sequence[float] | None = None,
        speed: float = 2.0,
        rotate: int = 0,
        audio: bool = False,
        seed: int = 0,
        codec: str = "libx264",
    ) -> Path: ...


def _texture(size: tuple[int, int], shot: int, seed: int) -> np.ndarray:
    """A smooth, coloured, wrapping texture (H, W, 3) that differs from shot to shot in hue and pattern."""
    height, width = size
    rng = np.random.default_rng([seed, shot])
    y, x = np.mgrid[0:height, 0:width] / np.array([height, width]).reshape(2, 1, 1)
    waves = sum(
        np.sin(2 * np.pi * (rng.integers(1, 6) * x + rng.integers(1, 5) * y) + rng.uniform(0, 6.3)) for _ in range(4)
    )
    base = np.array([(40, 90, 200), (210, 160, 30), (30, 190, 80), (200, 50, 120)][(shot + seed) % 4])
    return np.clip(base + 24 * waves[..., None] * np.array([1.0, 0.8, 0.6]), 0, 255)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first: one that begins late leaves the other core without work at the end."""
    items.sort(key=lambda item: "e2e" not in item.path.parts and item.path.stem != "test_interpreted")


@pytest.fixture(scope="session")
def make_video() -> MakeVideo:
    """`make_video(path, seconds, fps, size (H, W), shots)`: panning textures, hard cuts at equal distances.

    `times` gives each frame's time stamp instead of a constant rate; `speed` is the pan in pixels a frame; `rotate`
    (90, 180, 270) is written as a display matrix, clockwise; `audio` adds a silent track.
    """

    def render(
        path: Path,
        seconds: float = 3.0,
        fps: float = 24,
        size: tuple[int, int] = (96, 160),
        shots: int = 1,
        *,
        times: Sequence[float] | None = None,
        speed: float = 2.0,
        rotate: int = 0,
        audio: bool = False,
        seed: int = 0,
        codec: str = "libx264",
    ) -> Path:
        stamps = list(times) if times is not None else [k / fps for k in range(round(seconds * fps))]
        textures = [_texture(size, shot, seed) for shot in range(shots)]
        path.parent.mkdir(parents=True, exist_ok=True)
        with av.open(str(path), "w") as container:
            stream = container.add_stream(codec, rate=Fraction(fps).limit_denominator(1001))
            stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
            if codec == "libx264":
                stream.options = {"crf": "12", "preset": "veryfast", "g": "24"}
            if times is not None:
                stream.codec_context.time_base = Fraction(1, 12000)
            if rotate:
                stream.set_display_rotation(-rotate)
            sound = container.add_stream("aac", rate=16000, layout="mono") if audio else None
            for index, stamp in enumerate(stamps):
                texture = textures[index * shots // len(stamps)]
                picture = np.roll(texture, -round(index * speed), axis=1).astype(np.uint8)
                frame = av.VideoFrame.from_ndarray(picture, "rgb24").reformat(format="yuv420p")
                frame.time_base = stream.codec_context.time_base or Fraction(1, round(fps))
                frame.pts = index if times is None else round(stamp * 12000)
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
            if sound is not None:
                for index in range(round(len(stamps) / fps * 16000 / 1024)):
                    silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
                    silence.sample_rate, silence.pts = 16000, index * 1024
                    container.mux(sound.encode(silence))
                container.mux(sound.encode(None))
        return path

    return render
