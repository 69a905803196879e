"""The optional detectors: what we make of their findings, told by an engine that finds what a picture says; the
packages themselves on drawn pictures, where they are installed; and the line for where they are not.
"""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from sana_video.video.measures import extras


def page(text: str, size: tuple[int, int] = (360, 640)) -> np.ndarray:
    height, width = size
    picture = cv2.resize(np.random.default_rng(0).uniform(60, 120, (9, 16, 3)).astype(np.float32), (width, height))
    picture = picture.astype(np.uint8)
    scale = height / 360
    if text:
        at = (round(60 * scale), round(200 * scale))
        cv2.putText(picture, text, at, cv2.FONT_HERSHEY_SIMPLEX, 1.5 * scale, (255, 255, 255), max(1, round(3 * scale)))
    return picture


def test_few_pictures_are_spread_over_the_clip() -> None:
    assert extras.few_indices(80) == [10, 30, 50, 70]
    assert extras.few_indices(3) == [0, 1, 2]


def blank(red: int, blue: int = 0, count: int = 1) -> np.ndarray:
    """Pictures of one colour: an engine that is handed BGR sees `blue` first."""
    return np.full((count, 40, 80, 3), (red, 0, blue), np.uint8)


class FindsBoxes:
    """In the place of rapidocr's engine: as many boxes as the picture's red says, two of them over each other."""

    BOXES = ((0, 0, 19, 9), (10, 0, 29, 9), (40, 20, 79, 39))

    def __init__(self, **settings: Any) -> None:
        pass

    def __call__(self, bgr: np.ndarray, use_det: bool, use_cls: bool, use_rec: bool) -> SimpleNamespace:
        assert (use_det, use_cls, use_rec) == (True, False, False) and bgr.flags.c_contiguous
        boxes = [[[a, b], [c, b], [c, d], [a, d]] for a, b, c, d in self.BOXES[: int(bgr[0, 0, 2])]]
        return SimpleNamespace(boxes=np.array(boxes, np.float32) if boxes else None)


def test_the_area_is_the_union_of_the_boxes_mean_over_the_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rapidocr", SimpleNamespace(RapidOCR=FindsBoxes))
    detector = extras.TextDetector()
    assert detector.area(blank(0)) == 0.0
    assert detector.area(blank(1)) == pytest.approx(20 * 10 / 3200)
    assert detector.area(blank(2)) == pytest.approx(30 * 10 / 3200), "what lies twice under text counts once"
    assert detector.area(blank(3)) == pytest.approx((300 + 800) / 3200)
    assert detector.area(np.concatenate([blank(0), blank(3)])) == pytest.approx(1100 / 6400)


class FindsParts:
    """In the place of nudenet's engine: an exposed part, as sure as the picture is red, and a covered one, surer."""

    def detect(self, bgr: np.ndarray) -> list[dict[str, Any]]:
        assert bgr.flags.c_contiguous
        exposed, covered = float(bgr[0, 0, 2]) / 100, float(bgr[0, 0, 0]) / 100
        found = [{"class": "FEMALE_BREAST_COVERED", "score": covered, "box": [0, 0, 1, 1]}]
        return [*found, {"class": "BUTTOCKS_EXPOSED", "score": exposed, "box": [0, 0, 1, 1]}] if exposed else found


def test_the_surest_exposed_part_counts_and_a_covered_one_never(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nudenet", SimpleNamespace(NudeDetector=FindsParts))
    detector = extras.NudityDetector()
    assert detector.score(blank(red=0, blue=99)) == 0.0
    assert detector.score(blank(red=62, blue=97)) == pytest.approx(0.62)
    assert detector.score(np.concatenate([blank(30, 97), blank(81, 97), blank(55, 97)])) == pytest.approx(0.81)


@pytest.mark.slow  # loading and four pictures take 10 s
def test_text_is_found_and_its_share_does_not_depend_on_the_size() -> None:
    pytest.importorskip("rapidocr")
    detector = extras.TextDetector()
    drawn = detector.area(page("Subscribe now 2024")[None])
    large = detector.area(page("Subscribe now 2024", (720, 1280))[None])
    (width, height), _ = cv2.getTextSize("Subscribe now 2024", cv2.FONT_HERSHEY_SIMPLEX, 1.5, 3)
    expected = width * height / (360 * 640)
    assert expected < drawn < 3 * expected
    assert large == pytest.approx(drawn, rel=0.15)
    assert detector.area(page("")[None]) == 0.0


def test_nothing_is_found_where_nobody_is() -> None:
    pytest.importorskip("nudenet")
    assert extras.NudityDetector().score(np.stack([page(""), page("Hello")])) < 0.2


@pytest.mark.parametrize(
    ("module", "make", "extra"),
    [("rapidocr", extras.TextDetector, "text"), ("nudenet", extras.NudityDetector, "nsfw")],
)
def test_an_extra_that_is_absent_is_one_clear_line(
    module: str, make: type, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)  # as Python marks what cannot be imported
    with pytest.raises(ValueError, match=rf"not installed: pip install 'sana-video-mlops\[{extra}\]'") as error:
        make()
    assert "\n" not in str(error.value)
