"""Bars and marks: against FFmpeg's filter, against slow definitions, and drawn on rendered clips."""

from __future__ import annotations

from fractions import Fraction

import av
import cv2
import numpy as np
import pytest

from sana_video.video import measures


def texture(height: int, width: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(40, 220, (max(2, height // 12), max(2, width // 12), 3)).astype(np.float32)
    return np.clip(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), 0, 255).astype(np.uint8)


def moving(frames: int = 12, size: tuple[int, int] = (120, 200)) -> np.ndarray:
    picture = texture(*size)
    return np.stack([np.roll(picture, 9 * k, axis=1) for k in range(frames)])


def luma_of(pictures: np.ndarray) -> np.ndarray:
    return np.stack([16 + (cv2.cvtColor(p, cv2.COLOR_RGB2GRAY) * (219 / 255)).astype(np.uint8) for p in pictures])


def barred(luma: np.ndarray, top: int, bottom: int, left: int, right: int) -> np.ndarray:
    height, width = luma.shape[1:]
    result = np.full_like(luma, 16)
    result[:, top : height - bottom, left : width - right] = luma[:, top : height - bottom, left : width - right]
    return result


def borders(luma: np.ndarray) -> float:
    return measures.borders(luma, measures.picture_box(luma))


def watermark(luma: np.ndarray) -> float | None:
    return measures.watermark(luma, measures.picture_box(luma))


BARS = [(0, 0, 0, 0), (15, 15, 0, 0), (0, 0, 30, 30), (12, 20, 3, 9)]


@pytest.mark.parametrize("bars", BARS)
def test_the_box_is_what_ffmpeg_finds(bars: tuple[int, int, int, int]) -> None:
    luma = barred(luma_of(moving()), *bars)
    box = measures.picture_box(luma)
    assert box is not None
    graph = av.filter.Graph()
    source = graph.add_buffer(width=200, height=120, format="gray", time_base=Fraction(1, 16))
    middle, sink = graph.add("bbox", f"min_val={24}"), graph.add("buffersink")
    source.link_to(middle)
    middle.link_to(sink)
    graph.configure()
    frame = av.VideoFrame.from_ndarray(luma.max(axis=0), format="gray")
    source.push(frame)
    told = {key.rsplit(".", 1)[-1]: int(value) for key, value in sink.pull().metadata.items()}
    assert (box.left, box.top) == (told["x1"], told["y1"])
    assert (box.right - box.left, box.bottom - box.top) == (told["w"], told["h"])


@pytest.mark.parametrize("bars", BARS)
def test_borders_are_the_share_of_the_bars(bars: tuple[int, int, int, int]) -> None:
    top, bottom, left, right = bars
    expected = 1 - (120 - top - bottom) * (200 - left - right) / (120 * 200)
    assert borders(barred(luma_of(moving()), *bars)) == pytest.approx(expected)


def test_a_dark_picture_among_others_makes_no_bars_and_black_is_all_bars() -> None:
    luma = luma_of(moving())
    luma[3] = 16
    assert borders(luma) == 0.0
    assert measures.picture_box(np.full((4, 60, 80), 16, np.uint8)) is None
    assert borders(np.full((4, 60, 80), 16, np.uint8)) == 1.0
    night = np.random.default_rng(0).integers(28, 60, (4, 60, 80)).astype(np.uint8)
    assert borders(night) == 0.0


def test_saturation_without_bars_and_dark_pixels() -> None:
    pictures = np.zeros((2, 60, 80, 3), np.uint8)
    pictures[:, 10:50] = (200, 100, 100)  # S = 127.5, between black bars
    pictures[:, 10:20] = (20, 0, 0)  # nearly black, fully saturated
    luma = np.full((2, 60, 80), 16, np.uint8)
    luma[:, 10:50] = 100
    hsv, box = measures.to_hsv(pictures), measures.picture_box(luma)
    assert measures.saturation_lit(hsv, box) == pytest.approx(128, abs=1)
    assert measures.saturation(hsv) == pytest.approx((128 * 30 + 255 * 10) / 60, abs=1)
    assert measures.saturation_lit(np.zeros_like(hsv), box) is None
    assert measures.saturation_lit(hsv, None) is None


def marked(pictures: np.ndarray, corner: tuple[int, int], text: str = "LOGO") -> np.ndarray:
    result = pictures.copy()
    for picture in result:
        cv2.putText(picture, text, corner, cv2.FONT_HERSHEY_SIMPLEX, 0.5, (255, 255, 255), 2)
    return result


@pytest.mark.parametrize("corner", [(4, 18), (150, 18), (4, 112), (150, 112)])
def test_a_mark_in_any_corner_stands_out(corner: tuple[int, int]) -> None:
    plain = watermark(luma_of(moving()))
    found = watermark(luma_of(marked(moving(), corner)))
    assert plain is not None and found is not None
    assert plain < 0.3 < 0.75 < found


def test_bars_do_not_hide_a_mark_and_are_none() -> None:
    bars = (12, 12, 0, 0)
    clean, found = (watermark(barred(luma_of(p), *bars)) for p in (moving(), marked(moving(), (4, 34))))
    assert clean is not None and found is not None and clean < 0.3 < 0.75 < found


def test_a_still_picture_and_words_in_its_middle_are_no_mark() -> None:
    still = np.repeat(moving(1), 12, axis=0)
    titled = marked(moving(), (70, 66), "TITLE")
    for pictures in (still, titled):
        found = watermark(luma_of(pictures))
        assert found is not None and found < 0.5
    assert watermark(luma_of(moving(2))) is None


@pytest.mark.parametrize("count", [3, 4, 7, 8])
def test_planes_are_ordered_as_numpy_orders_them(count: int) -> None:
    from sana_video.video.measures.frame import _median, _second_least

    planes = np.random.default_rng(count).integers(-1020, 1021, (count, 9, 13)).astype(np.int16)
    np.testing.assert_array_equal(_median(list(planes)), np.median(planes, axis=0))
    floats = list(planes.astype(np.float32))
    np.testing.assert_array_equal(_second_least(floats), np.partition(planes, 1, axis=0)[1])


def test_a_box_at_half_the_size_holds_no_bar() -> None:
    assert measures.Box(3, 20, 0, 31).halved == measures.Box(2, 10, 0, 15)


def test_lasting_edges_against_the_slow_definition() -> None:
    from sana_video.video.measures.frame import MARK_FROM, _lasting_edges

    pictures = list(luma_of(marked(moving(5, (30, 40)), (2, 14)))[:, :30, :40])
    found = _lasting_edges(pictures)
    for y in range(1, 29, 3):
        for x in range(1, 39, 3):
            p = [picture[y - 1 : y + 2, x - 1 : x + 2].astype(int) for picture in pictures]
            dx = np.array([q[0, 2] + 2 * q[1, 2] + q[2, 2] - q[0, 0] - 2 * q[1, 0] - q[2, 0] for q in p])
            dy = np.array([q[2, 0] + 2 * q[2, 1] + q[2, 2] - q[0, 0] - 2 * q[0, 1] - q[0, 2] for q in p])
            way = np.array([np.median(dx), np.median(dy)])
            along = sorted((dx * way[0] + dy * way[1]) / max(1e-6, np.hypot(*way)))
            assert found[y, x] == (along[1] >= MARK_FROM)
