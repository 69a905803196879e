"""Colours come back by every tag; HDR and wide primaries come out as BT.709 by the stated formulas."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from films import flat, write

from sana_video.video import colour
from sana_video.video.io import iter_frames
from sana_video.video.probe import describe

LUMA = {1: (0.2126, 0.0722), 6: (0.299, 0.114), 9: (0.2627, 0.0593)}  # BT.709, BT.601, BT.2020: Kr, Kb
X265 = {"x265-params": "lossless=1:log-level=none:bframes=0:frame-threads=1:pools=none", "preset": "ultrafast"}


def coded(rgb: tuple[float, float, float], matrix: int, full: bool, bits: int = 8) -> tuple[int, int, int]:
    """Y'CbCr code values of R'G'B' in [0, 1], by H.273 equations 26 to 35."""
    kr, kb = LUMA[matrix]
    luma = kr * rgb[0] + (1 - kr - kb) * rgb[1] + kb * rgb[2]
    blue, red = (rgb[2] - luma) / (2 * (1 - kb)), (rgb[0] - luma) / (2 * (1 - kr))
    if full:
        top = 2**bits - 1
        return round(luma * top), round(blue * top) + 2 ** (bits - 1), round(red * top) + 2 ** (bits - 1)
    unit = 2 ** (bits - 8)
    return round(unit * (16 + 219 * luma)), round(unit * (128 + 224 * blue)), round(unit * (128 + 224 * red))


def shown(path: Path) -> np.ndarray:
    return next(iter_frames(path)).rgb[32, 32].astype(int)


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("matrix", [1, 6, 9])
@pytest.mark.parametrize("rgb", [(210, 40, 60), (50, 190, 90), (30, 70, 220), (255, 255, 255), (0, 0, 0)])
def test_matrix_and_range(tmp_path: Path, matrix: int, full: bool, rgb: tuple[int, int, int]) -> None:
    """Within 3 of 255: one step of 8-bit chroma is up to 2.4 steps of blue."""
    sample = flat(coded(tuple(v / 255 for v in rgb), matrix, full), (64, 64), "yuv420p")  # type: ignore[arg-type]
    tags = {"colorspace": matrix, "color_range": 2 if full else 1, "color_primaries": 1, "color_trc": 1}
    path = write(tmp_path / "a.mp4", [sample] * 2, tags=tags)
    assert np.abs(shown(path) - rgb).max() <= 3
    fields = describe(str(path), 1 << 20)
    assert fields["colour_range"] == ("full" if full else "limited")
    assert fields["colour_matrix"] == {1: "bt709", 6: "smpte170m", 9: "bt2020nc"}[matrix]
    assert fields["hdr"] is False


def hdr(path: Path, signal: tuple[float, float, float], transfer: int) -> Path:
    tags = {"colorspace": 9, "color_range": 1, "color_primaries": 9, "color_trc": transfer}
    sample = flat(coded(signal, 9, False, 10), (64, 64), "yuv420p10le")
    if path.suffix == ".mp4":
        return write(path, [sample] * 3, codec="libx265", options=X265, tags=tags)
    return write(path, [sample] * 2, codec="ffv1", options={}, tags=tags)


def pq(nits: float) -> float:
    """The inverse EOTF of SMPTE ST 2084, written out once more."""
    y = (nits / 10000) ** 0.1593017578125
    return float(((0.8359375 + 18.8515625 * y) / (1 + 18.6875 * y)) ** 78.84375)


def sdr(nits: float) -> float:
    return 255 * (min(nits, 203.0) / 203.0) ** (1 / 2.4)


@pytest.mark.parametrize("nits", [1.0, 10.0, 26.0, 60.0])
def test_pq_below_the_knee_keeps_its_light(tmp_path: Path, nits: float) -> None:
    """Greys at their own luminance, against white at 203 cd/m2; one 10-bit step of PQ is 2 % of light there."""
    path = hdr(tmp_path / "a.mkv", (pq(nits),) * 3, 16)
    assert np.abs(shown(path) - sdr(nits)).max() <= 2.5
    fields = describe(str(path), 1 << 20)
    assert (fields["hdr"], fields["colour_transfer"], fields["colour_primaries"]) == (True, "smpte2084", "bt2020")


def test_pq_highlights_are_bent_not_cut(tmp_path: Path) -> None:
    levels = [shown(hdr(tmp_path / f"{n}.mkv", (pq(n),) * 3, 16)).max() for n in (100, 203, 400, 700, 1000, 4000)]
    assert levels == sorted(levels) and len(set(levels[:4])) == 4  # still told apart above white
    assert levels[0] == pytest.approx(sdr(99.4), abs=2) and 220 <= levels[1] <= 240
    assert levels[4] >= 254 and levels[5] == 255


def test_hlg_grey_and_white(tmp_path: Path) -> None:
    """BT.2100 table 5 on 1000 cd/m2: a signal of 0.5 is scene light 1/12, 1000 * (1/12) ** 1.2 = 50.7 cd/m2."""
    assert np.abs(shown(hdr(tmp_path / "a.mp4", (0.5,) * 3, 18)) - sdr(1000 * (1 / 12) ** 1.2)).max() <= 2.5
    assert shown(hdr(tmp_path / "b.mkv", (1.0,) * 3, 18)).min() >= 254
    assert describe(str(tmp_path / "a.mp4"), 1 << 20)["colour_transfer"] == "arib-std-b67"


BT709_RED_IN_2020 = (0.6274, 0.0691, 0.0164)  # BT.2087 table 2, first column


def test_a_bt709_red_inside_bt2020_is_that_red_again(tmp_path: Path) -> None:
    signal = tuple(pq(60.0 * part) for part in BT709_RED_IN_2020)
    red, green, blue = shown(hdr(tmp_path / "a.mp4", signal, 16))  # type: ignore[arg-type]
    assert red == pytest.approx(sdr(60.0), abs=4)
    assert max(green, blue) <= 30  # 0.6 % of light: what is left of 10-bit steps at 4:2:0


def test_wide_primaries_of_standard_range(tmp_path: Path) -> None:
    signal = tuple(part ** (1 / 2.4) for part in BT709_RED_IN_2020)
    tags = {"colorspace": 9, "color_range": 1, "color_primaries": 9, "color_trc": 14}
    sample = flat(coded(signal, 9, False, 10), (64, 64), "yuv420p10le")  # type: ignore[arg-type]
    path = write(tmp_path / "a.mkv", [sample] * 2, codec="ffv1", options={}, tags=tags)
    red, green, blue = shown(path)
    assert red >= 252 and max(green, blue) <= 30
    assert describe(str(path), 1 << 20)["hdr"] is False
    assert next(iter_frames(path)).luma[32, 32] == pytest.approx(16 + 219 * 0.2126, abs=6)  # with that bit of green


def test_the_tone_curve_is_monotone_and_ends_at_white() -> None:
    light = np.linspace(0.01, 1500, 4000, dtype=np.float32)
    bent = colour.tone(light)
    assert (np.diff(bent) >= -0.02).all()  # to the rounding of float32
    assert bent[-1] == pytest.approx(203, rel=1e-3)
    np.testing.assert_allclose(bent[light < 87], light[light < 87], rtol=1e-3)


def test_pq_against_the_values_of_bt2408() -> None:
    """BT.2408 table 1: 58 % PQ is 203 cd/m2, 38 % is 26."""
    assert colour.pq_light(np.float32(0.58)) == pytest.approx(203, rel=0.01)
    assert colour.pq_light(np.float32(0.38)) == pytest.approx(26, rel=0.03)
    light = np.array([0.5, 26, 203, 1000, 10000], np.float32)
    np.testing.assert_allclose(colour.pq_light(colour.pq_signal(light)), light, rtol=2e-3)


def test_a_matrix_that_cannot_be_shown_is_refused(tmp_path: Path) -> None:
    tags = {"colorspace": 14, "color_range": 1, "color_primaries": 9, "color_trc": 16}  # ICtCp
    sample = flat((512, 512, 512), (64, 64), "yuv420p10le")
    path = write(tmp_path / "a.mkv", [sample] * 2, codec="ffv1", options={}, tags=tags)
    with pytest.raises(ValueError, match=r"^UNSUPPORTED: colour matrix 14"):
        describe(str(path), 1 << 20)


@pytest.mark.parametrize(
    ("codec", "pixel_format", "name"),
    [
        ("ffv1", "gray", "a.mkv"),
        ("ffv1", "gray16le", "a.mkv"),
        ("ffv1", "bgra", "a.mkv"),
        ("ffv1", "yuva420p", "a.mkv"),
        ("ffv1", "yuv444p16le", "a.mkv"),
        ("ffv1", "gbrp10le", "a.mkv"),
        ("libx264", "yuv422p10le", "a.mp4"),
        ("libx264", "yuv444p", "a.mp4"),
        ("png", "rgba", "a.mov"),
        ("rawvideo", "yuyv422", "a.avi"),
        ("mjpeg", "yuvj420p", "a.avi"),
    ],
)
def test_pixel_formats(tmp_path: Path, codec: str, pixel_format: str, name: str) -> None:
    """Grey 180 is grey 180 in each, within 2."""
    base = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 180, np.uint8), "rgb24")
    path = write(tmp_path / name, [base.reformat(format=pixel_format) for _ in range(3)], codec=codec, options={})
    assert np.abs(shown(path) - 180).max() <= 2
    assert describe(str(path), 1 << 20)["pixel_format"].startswith(pixel_format.replace("bgra", "bgr"))
