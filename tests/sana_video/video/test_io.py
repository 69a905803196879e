"""Pictures by time, colours, rotation; and mp4 files that can be read back."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.video.reformatter import ColorRange, Colorspace

from sana_video.video.io import Film, decode_span, decode_spans, iter_frames

RED, GREEN = (210, 40, 60), (50, 190, 90)


def numbered(path: Path, times: list[float], step: int = 4) -> Path:
    """A video whose k-th frame is grey of level 20 + k * step, shown from times[k]."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=24, options={"crf": "0", "preset": "ultrafast"})
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = Fraction(1, 12000)
        for k, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 20 + k * step, np.uint8), "rgb24")
            frame = frame.reformat(format="yuv420p")
            frame.pts, frame.time_base = round(time * 12000), Fraction(1, 12000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def seen(pictures: np.ndarray, step: int = 4) -> list[int]:
    """Which frame each picture shows."""
    return [round((float(level) - 20) / step) for level in pictures.mean(axis=(1, 2, 3))]


def ticks(path: Path, seconds: float) -> int:
    with Film(path) as film:
        return round(seconds / film.time_base)


def test_a_clip_shows_the_frame_on_screen_at_each_time(tmp_path: Path) -> None:
    path = numbered(tmp_path / "a.mp4", [k / 24 for k in range(48)])
    end = ticks(path, 33 / 16)
    pictures = decode_span(path, 0, end, 16, 25)
    assert pictures.shape == (25, 64, 64, 3) and pictures.dtype == np.uint8
    assert seen(pictures) == [k * 24 // 16 for k in range(25)]


def test_variable_rate_is_sampled_by_time_not_by_count(tmp_path: Path) -> None:
    times = [k / 24 for k in range(24)] + [1 + k / 6 for k in range(12)]
    path = numbered(tmp_path / "vfr.mp4", times)
    shown = seen(decode_span(path, ticks(path, 0.5), ticks(path, 2.6), 8, 16))
    assert shown == [max(i for i, t in enumerate(times) if t <= 0.5 + k / 8 + 1e-9) for k in range(16)]


def test_nothing_is_padded(tmp_path: Path) -> None:
    path = numbered(tmp_path / "a.mp4", [k / 24 for k in range(24)])
    one = ticks(path, 1.0)
    assert len(decode_span(path, 0, one, 16, 16)) == 16
    with pytest.raises(ValueError, match=r"^TOO_FEW_FRAMES: 1.000 s hold fewer than 17"):
        decode_span(path, 0, one, 16, 17)
    with pytest.raises(ValueError, match=r"^TOO_FEW_FRAMES: the video ends before"):
        decode_span(path, 0, 2 * one, 16, 17)


def test_many_spans_from_one_pass_are_those_read_one_by_one(tmp_path: Path, make_video: Any) -> None:
    path = make_video(tmp_path / "a.mp4", seconds=14)
    tick = ticks(path, 0.5)
    spans = [
        (0, 2 * tick),
        (2 * tick, 4 * tick),
        (3 * tick, 5 * tick),
        (22 * tick, 24 * tick),
    ]  # with a jump and a step back
    together = list(decode_spans(path, spans, 16, 16, short_side=48))
    alone = [decode_span(path, *span, 16, 16, short_side=48) for span in spans]
    assert together[0].shape == (16, 48, 80, 3)
    for a, b in zip(together, alone, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(("matrix", "code"), [(Colorspace.ITU709, 1), (Colorspace.ITU601, 6)])
@pytest.mark.parametrize("span", [ColorRange.MPEG, ColorRange.JPEG])
def test_the_tagged_matrix_and_range_give_the_colours_back(
    tmp_path: Path, matrix: Colorspace, code: int, span: ColorRange
) -> None:
    picture = np.zeros((64, 64, 3), np.uint8)
    picture[:, :32], picture[:, 32:] = RED, GREEN
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"crf": "1"})
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        stream.codec_context.colorspace, stream.codec_context.color_range = code, span
        for _ in range(3):
            frame = av.VideoFrame.from_ndarray(picture, "rgb24")
            container.mux(
                stream.encode(
                    frame.reformat(
                        format="yuv420p", dst_colorspace=matrix, src_color_range=ColorRange.JPEG, dst_color_range=span
                    )
                )
            )
        container.mux(stream.encode(None))
    first = next(iter_frames(path))
    assert np.abs(first.rgb[32, 16].astype(int) - RED).max() <= 4
    assert np.abs(first.rgb[32, 48].astype(int) - GREEN).max() <= 4


@pytest.mark.parametrize("turn", [90, 180, 270])
def test_rotation_is_applied(tmp_path: Path, make_video: Any, turn: int) -> None:
    upright = next(iter_frames(make_video(tmp_path / "a.mp4", seconds=1)))
    turned = next(iter_frames(make_video(tmp_path / "b.mp4", seconds=1, rotate=turn)))
    np.testing.assert_array_equal(turned.rgb, np.rot90(upright.rgb, -turn // 90))
    np.testing.assert_array_equal(turned.luma, np.rot90(upright.luma, -turn // 90))
    sized = next(iter_frames(tmp_path / "b.mp4", size=(80, 48)))
    assert sized.rgb.shape == (80, 48, 3) and sized.luma.shape == (80, 48)


def test_sizes(tmp_path: Path, make_video: Any) -> None:
    path = make_video(tmp_path / "a.mp4", seconds=1, size=(120, 160))
    assert next(iter_frames(path, short_side=60)).rgb.shape == (60, 80, 3)
    assert next(iter_frames(path, short_side=4000)).rgb.shape == (120, 160, 3)  # never up
    covered = next(iter_frames(path, size=(60, 100))).rgb
    whole = next(iter_frames(path, size=(75, 100))).rgb
    np.testing.assert_array_equal(covered, whole[7:67])  # cropped about the centre, not stretched


def test_damage_in_the_middle_is_found_or_harmless(tmp_path: Path, make_video: Any) -> None:
    path = make_video(tmp_path / "a.mp4", seconds=4)
    data = bytearray(path.read_bytes())
    start = data.index(b"mdat") + len(data) // 3
    data[start : start + 400] = b"\xff" * 400
    path.write_bytes(bytes(data))
    with pytest.raises(ValueError, match=r"^DECODE_FAILED: "):
        list(iter_frames(path))
