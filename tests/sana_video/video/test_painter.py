"""The cheap looks at a frame against its full picture: luma to the bit, colours to the step, grey in full range."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from films import write

from sana_video.video.io import Film
from sana_video.video.painter import Painter

PQ = 16


def smooth(height: int, width: int, low: float, high: float, seed: int) -> np.ndarray:
    coarse = np.random.default_rng(seed).uniform(low, high, (5, 7)).astype(np.float32)
    return np.clip(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), 0, 255).astype(np.uint8)


def frame_of(size: tuple[int, int], layout: str = "yuv420p", matrix: int = 1, full: bool = False) -> av.VideoFrame:
    """Soft shapes in soft colours, in code values that both ranges allow; halves of the colours rounded up."""
    height, width = size
    frame = av.VideoFrame(width, height, layout)
    for k, plane in enumerate(frame.planes):
        low, high = (90, 150) if k else (60, 180)
        rows = np.zeros((plane.height, plane.line_size), np.uint8)
        rows[:, : plane.width] = smooth(plane.height, plane.width, low, high, k)
        plane.update(rows.tobytes())
    frame.colorspace, frame.color_range, frame.pts = matrix, 2 if full else 1, 0
    return frame


@pytest.mark.parametrize("layout", ["yuv420p", "yuv422p", "yuv444p"])
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("matrix", [1, 6, 9])
def test_a_sketch_is_the_picture_with_half_its_colours(matrix: int, full: bool, layout: str) -> None:
    """Luma is the same plane; an RGB step is one step of chroma, up to 2.4 of 255, and roundings on both sides."""
    painter, frame = Painter(Fraction(1), short_side=96), frame_of((288, 512), layout, matrix, full)
    sketch, picture = painter.sketch(frame), painter.picture(frame)
    np.testing.assert_array_equal(sketch.luma, picture.luma)
    assert sketch.luma.shape == (96, 170) and sketch.rgb.shape == (48, 85, 3)
    halved = cv2.resize(picture.rgb, (85, 48), interpolation=cv2.INTER_AREA).astype(int)
    assert np.abs(sketch.rgb - halved)[2:-2, 2:-2].max() <= 4
    assert np.abs((sketch.rgb - halved).mean((0, 1))).max() <= 0.7


def test_a_sketch_of_an_odd_picture_keeps_its_size() -> None:
    sketch = Painter(Fraction(1)).sketch(frame_of((75, 121)))
    assert sketch.luma.shape == (75, 121) and sketch.rgb.shape == (38, 61, 3)


def test_a_turned_film_is_sketched_upright(tmp_path: Path, make_video: object) -> None:
    path = make_video(tmp_path / "a.mp4", seconds=1, rotate=90)  # type: ignore[operator]
    with Film(path) as film:
        frame = next(film.frames())
        painter = film.painter(48)
        sketch, grey, picture = painter.sketch(frame), painter.grey(frame), painter.picture(frame)
        points = painter.points(frame)
    assert sketch.luma.shape == grey.shape == (80, 48) and sketch.rgb.shape == (40, 24, 3)
    np.testing.assert_array_equal(sketch.luma, picture.luma)
    halved = cv2.resize(picture.rgb, (24, 40), interpolation=cv2.INTER_AREA).astype(int)
    assert np.abs(sketch.rgb - halved).mean() < 2
    assert points.shape == picture.rgb.shape and np.abs(points.astype(int) - picture.rgb).mean() < 20


@pytest.mark.parametrize("layout", ["yuv420p", "yuv422p", "yuv444p"])
@pytest.mark.parametrize("full", [False, True])
def test_points_are_pixels_of_the_frame_itself(full: bool, layout: str) -> None:
    """At a third of its size each is the middle of nine; a step of chroma, not interpolated, is 2.4 of 255."""
    frame = frame_of((288, 510), layout, full=full)
    points, picture = Painter(Fraction(1), short_side=96).points(frame), Painter(Fraction(1)).picture(frame)
    assert points.shape == (96, 170, 3)
    assert np.abs(points.astype(int) - picture.rgb[1::3, 1::3])[2:-2, 2:-2].max() <= 6


def test_a_small_frame_is_enlarged_only_where_asked() -> None:
    frame = frame_of((80, 60))
    assert Painter(Fraction(1), short_side=96).sketch(frame).luma.shape == (80, 60)
    assert Painter(Fraction(1), short_side=96, enlarge=True).sketch(frame).luma.shape == (128, 96)


@pytest.mark.parametrize("matrix", [1, 5, 7, 9])  # AVCOL_SPC_*
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("layout", ["yuv420p", "yuv444p10le", "nv12", "rgb24", "gray"])
def test_grey_is_luma_in_full_range(full: bool, matrix: int, layout: str) -> None:
    """Within 1.2: luma is rounded here in steps of 255/219, grey in steps of one."""
    painter, frame = Painter(Fraction(1), short_side=96), frame_of((288, 512), full=full)
    pts = frame.pts
    frame = frame.reformat(format=layout)
    frame.pts, frame.colorspace, frame.color_range = pts, matrix, 2 if full else 1
    coded = painter.picture(frame).luma.astype(float)
    expected = coded if full else (coded - 16) * 255 / 219
    assert np.abs(painter.grey(frame) - expected).max() <= 1.2


def test_hdr_is_sketched_as_it_is_shown(tmp_path: Path) -> None:
    """Through linear light: the picture's own RGB, halved, and its luma."""
    tags = {"colorspace": 9, "color_range": 1, "color_primaries": 9, "color_trc": PQ}
    frames = [frame_of((96, 160)).reformat(format="yuv420p10le")] * 2
    path = write(tmp_path / "a.mkv", frames, codec="ffv1", options={}, tags=tags)
    with Film(path) as film:
        frame, painter = next(film.frames()), film.painter(48)
        sketch, picture, grey = painter.sketch(frame), painter.picture(frame), painter.grey(frame)
    np.testing.assert_array_equal(sketch.luma, picture.luma)
    np.testing.assert_array_equal(sketch.rgb, cv2.resize(picture.rgb, (40, 24), interpolation=cv2.INTER_AREA))
    assert np.abs(grey - (picture.luma.astype(float) - 16) * 255 / 219).max() <= 1.1
