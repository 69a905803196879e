"""What a frozen, a black and a moving clip measure."""

from __future__ import annotations

import numpy as np
import pytest

from eval.metrics.noref import black, frozen, luma, measure


def moving(pixels_per_frame: int = 2) -> np.ndarray:
    y, x = np.mgrid[0:64, 0:96]
    wave = 120 + 60 * np.sin(2 * np.pi * x / 48) + 40 * np.sin(2 * np.pi * (x / 32 + y / 32))
    picture = np.repeat(wave[..., None], 3, axis=2).astype(np.uint8)
    return np.stack([np.roll(picture, pixels_per_frame * i, axis=1) for i in range(17)])


def test_a_moving_clip_moves_and_a_still_one_does_not() -> None:
    alive, still = measure(moving(), 16.0), measure(moving(0), 16.0)
    assert alive["frozen"] == 0.0 and still["frozen"] == 1.0
    assert alive["flow_motion"] > 10 * still["flow_motion"]
    assert alive["vmaf_motion"] > 1.0 > still["vmaf_motion"]
    assert (alive["frames"], alive["height"], alive["width"]) == (17, 64, 96)


def test_half_frozen() -> None:
    clip = moving()[:5].copy()
    clip[3], clip[4] = clip[2], clip[2]
    assert frozen(clip) == 0.5
    assert frozen(clip[:1]) == 1.0


def test_black_frames_are_counted() -> None:
    clip = moving()[:4].copy()
    clip[1] = 5
    assert black(clip) == 0.25


def test_luma_is_of_limited_range() -> None:
    clip = np.zeros((2, 1, 1, 3), np.uint8)
    clip[1] = 255
    assert luma(clip).ravel().tolist() == [16, 235]


def test_a_clip_without_motion_to_measure_is_refused() -> None:
    with pytest.raises(ValueError, match="TOO_SHORT"):
        measure(moving()[:4], 16.0)
