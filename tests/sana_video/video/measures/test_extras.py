"""The optional detectors on drawn pictures, where they are installed; and the line for where they are not."""

from __future__ import annotations

import sys

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
