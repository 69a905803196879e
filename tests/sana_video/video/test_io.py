"""Pictures by time, whatever the time stamps; sizes and rotation. (Colours: test_colour, fields: test_fields.)"""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from films import flat, grey, picture, write

from sana_video.video.io import Film, decode_clip, decode_span, decode_spans, iter_frames
from sana_video.video.probe import VideoInfo, describe


def numbered(path: Path, times: list[Fraction | float], step: int = 4, **how: Any) -> Path:
    """A video whose k-th frame is grey of level 20 + k * step, shown from times[k]."""
    return write(path, [grey(20 + k * step) for k in range(len(times))], times=[Fraction(t) for t in times], **how)


def seen(pictures: np.ndarray, step: int = 4) -> list[int]:
    """Which frame each picture shows."""
    return [round((float(level) - 20) / step) for level in pictures.mean(axis=(1, 2, 3))]


def nearest(times: list[Fraction], moments: list[Fraction], last: int) -> list[int]:
    """The number of the frame nearest to each moment, of two the earlier, none after `last`: by looking at them all."""
    return [min(range(last + 1), key=lambda k: (abs(times[k] - moment), k)) for moment in moments]


def ticks(path: Path, seconds: float) -> int:
    with Film(path) as film:
        return round(seconds / film.time_base)


RATES = [Fraction(24000, 1001), 24, 25, Fraction(30000, 1001), 30, 50, 60]


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("start", [0.0, 0.31])
def test_each_frame_of_a_clip_is_the_nearest_in_time(tmp_path: Path, rate: Fraction, start: float) -> None:
    """33 frames at 16 fps; the shot ends right after the clip, and its next frame is never taken."""
    period = 1 / Fraction(rate)
    count = math.ceil((Fraction(start) + Fraction(33, 16)) / period)  # frames of the shot; what follows is another
    times = [k * period for k in range(count + 10)]
    path = write(
        tmp_path / "a.mp4", [flat((40 + k, 128, 128), (64, 64), "yuv420p") for k in range(len(times))], times=times
    )
    with Film(path) as film:
        exact = [film.pts(frame) * film.time_base for frame in film.frames()]  # as the container could keep them
        base = film.time_base
        first, end = math.ceil(Fraction(start) / base), round(exact[count] / base)
        shown = [int(level) - 40 for level in decode_clip(film, first, end, 16, 33).luma[:, 32, 32]]
    assert max(abs(a - b) for a, b in zip(exact, times, strict=True)) < Fraction(1, 10000)
    moments = [first * base + Fraction(k, 16) for k in range(33)]
    assert len(shown) == 33 and shown == nearest(exact, moments, count - 1)
    assert max(abs(exact[k] - m) for k, m in zip(shown[:-1], moments, strict=False)) <= period / 2 + base


def test_variable_rate_is_sampled_by_time_not_by_count(tmp_path: Path) -> None:
    times = [Fraction(k, 24) for k in range(24)] + [1 + Fraction(k, 6) for k in range(12)]
    path = numbered(tmp_path / "vfr.mp4", list(times))
    shown = seen(decode_span(path, ticks(path, 0.5), ticks(path, 2.6), 8, 16))
    moments = [Fraction(1, 2) + Fraction(k, 8) for k in range(16)]
    assert shown == nearest(times, moments, len(times) - 1)


@pytest.mark.parametrize("last", [11, 12, 13])
def test_no_frame_of_the_next_shot(tmp_path: Path, last: int) -> None:
    """At 10 fps the moments of 16 fps lie anywhere: what comes at the end of the span is nearer, and not taken."""
    times = [Fraction(k, 10) for k in range(30)]
    path = numbered(tmp_path / "a.mp4", list(times))
    end = ticks(path, 0.1 * (last + 1))
    fitting = math.ceil((last + 1) / 10 * 16)
    shown = seen(decode_span(path, 0, end, 16, fitting))
    assert len(shown) == fitting and max(shown) == last


@pytest.mark.parametrize("name", ["a.mp4", "a.ts", "a.mkv"])
@pytest.mark.parametrize("first", [Fraction(5), Fraction(100, 3)])
def test_a_late_first_frame(tmp_path: Path, name: str, first: Fraction) -> None:
    times = [first + Fraction(k, 25) for k in range(50)]
    path = numbered(tmp_path / name, list(times), container_options={"avoid_negative_ts": "disabled"})
    check_whole(path)


def test_a_negative_first_frame(tmp_path: Path) -> None:
    times = [Fraction(k - 20, 25) for k in range(50)]
    path = numbered(tmp_path / "a.ts", list(times), container_options={"avoid_negative_ts": "disabled"})
    with Film(path) as film:
        assert film.pts(next(film.frames())) < 0
    check_whole(path)
    hidden = numbered(tmp_path / "a.mp4", list(times), container_options={"avoid_negative_ts": "disabled"})
    fields = describe(str(hidden), 1 << 20)  # an edit list starts it at zero: 30 frames are shown
    assert (fields["start"], fields["duration"]) == (0.0, pytest.approx(1.2, abs=0.01))
    assert seen(decode_span(hidden, 0, ticks(hidden, 1.2), 25, 30)) == list(range(20, 50))


def check_whole(path: Path) -> None:
    """Reading by time from the first PTS on gives each frame in turn, and the probe agrees about time."""
    with Film(path) as film:
        stamps = [film.pts(frame) for frame in film.frames()]
        base, end = film.time_base, stamps[-1] + round(Fraction(1, 25) / film.time_base)
    assert len(stamps) == 50
    fields = describe(str(path), 1 << 20)
    assert fields["start"] == pytest.approx(float(stamps[0] * base), abs=1e-6)
    assert fields["duration"] == pytest.approx(2.0, abs=0.05) and fields["fps"] == pytest.approx(25, rel=0.03)
    assert seen(decode_span(path, stamps[0], end, 25, 50)) == list(range(50))


OPEN_GOPS = [
    (
        "libx264",
        {"qp": "10", "x264-params": "open-gop=1:bframes=3:b-adapt=0:keyint=12:min-keyint=12:scenecut=0"},
        "a.mp4",
    ),
    (
        "libx264",
        {"qp": "10", "x264-params": "open-gop=1:bframes=3:b-adapt=0:keyint=12:min-keyint=12:scenecut=0"},
        "a.ts",
    ),
    ("libx265", {"x265-params": "open-gop=1:bframes=3:b-adapt=0:keyint=12:scenecut=0:qp=10:log-level=none"}, "a.mkv"),
    ("mpeg2video", {"g": "12", "bf": "2", "qmin": "1", "qmax": "2"}, "a.mpg"),
]


@pytest.mark.parametrize(("codec", "options", "name"), OPEN_GOPS)
def test_open_gops_and_b_frames_at_cuts(tmp_path: Path, codec: str, options: dict[str, str], name: str) -> None:
    """Every picture by a fresh seek is the one of reading through, with a cut inside each open GOP."""
    frames = [grey(30 + 60 * (k // 9 % 3) + k % 9 * 4) for k in range(54)]
    path = write(tmp_path / name, frames, codec=codec, options=options)
    with Film(path) as film:
        through = [(film.pts(frame), film.picture(frame).rgb) for frame in film.frames()]
        base = film.time_base
    assert len(through) == 54
    for k, (pts, rgb) in enumerate(through):
        assert abs(rgb.mean() - (30 + 60 * (k // 9 % 3) + k % 9 * 4)) < 3, k
        with Film(path) as film:
            np.testing.assert_array_equal(film.at(pts * base).rgb, rgb, err_msg=str(k))


def test_the_sound_does_not_matter(tmp_path: Path, make_video: Any) -> None:
    silent, loud = make_video(tmp_path / "a.mp4"), make_video(tmp_path / "b.mp4", audio=True)
    for a, b in zip(iter_frames(silent), iter_frames(loud), strict=True):
        assert a.pts == b.pts
        np.testing.assert_array_equal(a.rgb, b.rgb)
    assert (describe(str(silent), 1 << 20)["has_audio"], describe(str(loud), 1 << 20)["has_audio"]) == (False, True)


@pytest.mark.parametrize(("aspect", "shape"), [(Fraction(64, 45), (72, 128)), (Fraction(4, 5), (72, 72))])
def test_samples_that_are_not_square(tmp_path: Path, aspect: Fraction, shape: tuple[int, int]) -> None:
    """90x72 samples of 64:45 are 128x72 square pixels; a disc is round again."""
    rows, columns = np.mgrid[0:72, 0:90]
    disc = ((rows - 36) / 24) ** 2 + ((columns - 45) * float(aspect) / 24) ** 2 < 1
    luma = np.where(disc, 235, 16).astype(np.uint8)
    chroma = np.full((36, 45), 128, np.uint8)
    path = write(tmp_path / "a.mp4", [picture([luma, chroma, chroma], "yuv420p")] * 2, sample_aspect=aspect)
    fields = describe(str(path), 1 << 20)
    assert fields["sample_aspect"] == pytest.approx(float(aspect)) and VideoInfo(**fields).display_size == shape
    shown = next(iter_frames(path)).rgb[..., 0] > 128
    assert shown.shape == shape
    assert abs(int(shown.any(0).sum()) - 48) <= 2 and abs(int(shown.any(1).sum()) - 48) <= 2
    assert next(iter_frames(path, short_side=36)).rgb.shape[0] == 36


def test_another_size_in_the_middle_is_refused(tmp_path: Path) -> None:
    small = write(tmp_path / "a.ts", [grey(90)] * 30, codec="mpeg2video")
    large = write(tmp_path / "b.ts", [grey(90, (96, 128))] * 30, codec="mpeg2video")
    (tmp_path / "ab.ts").write_bytes(small.read_bytes() + large.read_bytes())
    with pytest.raises(ValueError, match=r"^UNSUPPORTED: the size changes from 64x64 to 128x96"):
        list(iter_frames(tmp_path / "ab.ts"))


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
