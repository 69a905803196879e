"""Each measure against a picture whose value is known, and against its slow definition."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from sana_video.video import measures
from sana_video.video.io import decode_span
from sana_video.video.mp4 import encode_mp4


def texture(height: int = 128, width: int = 256, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(-70, 70, (height // 11, width // 11, 1)) + rng.uniform(-20, 20, (height // 11, width // 11, 3))
    picture = cv2.resize(coarse.astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(picture + rng.uniform(80, 175, 3), 0, 255).astype(np.uint8)


def pan(picture: np.ndarray, speed: int, frames: int) -> np.ndarray:
    return np.stack([np.roll(picture, k * speed, axis=1) for k in range(frames)])


def test_versions_are_those_of_the_file() -> None:
    stated = yaml.safe_load((Path(__file__).parents[3] / "versions.yaml").read_text())
    assert stated["measures"] == measures.MEASURE_VERSIONS


@pytest.mark.parametrize(("frames", "expected"), [(33, [0, 8, 16, 24, 32]), (17, [0, 8, 16]), (8, [0])])
def test_samples_are_never_beyond_the_clip_nor_repeated(frames: int, expected: list[int]) -> None:
    assert measures.sample_indices(frames, 16, 0.5) == expected


@pytest.mark.parametrize("transpose", [False, True])
def test_flow_of_a_pan_is_its_speed(transpose: bool) -> None:
    clip = pan(texture(320, 576), 1, 33)  # 1 px a frame at 16 fps: 8 px between samples half a second apart
    luma = measures.to_grey(clip)
    pairs = measures.flow_motion(np.ascontiguousarray(luma.transpose(0, 2, 1)) if transpose else luma, 16)
    assert len(pairs) == 4
    assert pairs == pytest.approx([8.0] * 4, abs=0.8)


def test_flow_of_a_still_is_zero_and_of_half_a_second_at_least_one_pair() -> None:
    still = measures.to_grey(np.repeat(texture()[None], 9, axis=0))
    assert measures.flow_motion(still, 16) == pytest.approx([0.0], abs=1e-3)
    with pytest.raises(ValueError, match="TOO_SHORT"):
        measures.flow_motion(still[:8], 16)


@pytest.mark.parametrize("size", [(95, 161), (96, 160), (480, 832)])
def test_vmaf_motion_agrees_with_the_integer_definition(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(3)
    clip = cv2.cvtColor(texture(128, 256), cv2.COLOR_RGB2GRAY)
    moving = np.stack([cv2.resize(np.roll(clip, 3 * k, axis=1), size[::-1]) for k in range(4)])
    noisy = np.clip(moving + rng.normal(0, 6, moving.shape), 0, 255).astype(np.uint8)
    for luma in (moving, noisy):
        exact = measures.vmaf_motion_exact(luma)
        assert exact[0] == 0.0
        assert measures.vmaf_motion(luma) == pytest.approx(np.mean(exact[1:]), abs=0.001)


def test_vmaf_motion_of_a_brightness_step_is_the_step() -> None:
    luma = np.stack([np.full((32, 48), level, np.uint8) for level in (100, 103, 109)])
    assert measures.vmaf_motion(luma) == pytest.approx((3 + 6) / 2, abs=1e-4)
    with pytest.raises(ValueError, match="TOO_FEW_FRAMES"):
        measures.vmaf_motion(luma[:1])


def test_saturation_brightness_colour_of_known_pictures() -> None:
    grey = np.full((2, 8, 8, 3), 90, np.uint8)
    red = np.zeros((2, 8, 8, 3), np.uint8)
    red[..., 0] = 200
    assert measures.saturation(measures.to_hsv(grey)) == 0.0
    assert measures.saturation(measures.to_hsv(red)) == 255.0
    assert [measures.brightness(measures.to_hsv(each)) for each in (grey, red)] == [90.0, 200.0]
    assert measures.mean_colour(red) == [200.0, 0.0, 0.0]


def test_content_values_are_pyscenedetects() -> None:
    from scenedetect import FrameTimecode
    from scenedetect.detectors import ContentDetector

    clip = np.stack([texture(seed=seed) for seed in range(4)])
    detector = ContentDetector()
    theirs = [detector._calculate_frame_score(FrameTimecode(k, 16.0), p[..., ::-1].copy()) for k, p in enumerate(clip)]
    assert measures.content_values(measures.to_hsv(clip)) == pytest.approx(theirs[1:], abs=1e-9)


def test_a_cut_inside_is_counted_and_a_pan_is_not() -> None:
    def cuts(*parts: np.ndarray) -> int:
        return measures.cuts_inside(measures.to_hsv(np.concatenate(parts)), 27.0)

    first, second = texture(seed=1), texture(seed=2)
    assert cuts(pan(first, 4, 12)) == 0
    assert cuts(pan(first, 2, 12), pan(second, 2, 12)) == 1
    assert cuts(pan(first, 2, 12), second[None]) == 1  # in the last frame
    assert cuts(pan(first, 100, 12)) == 0  # wild, but evenly so
    twos = np.repeat(pan(first, 60, 12), 2, axis=0)[1:-1]
    assert max(measures.content_values(measures.to_hsv(twos))) > 27 and cuts(twos) == 0  # every second frame


def bits(a: int, b: int) -> int:
    return (a ^ b).bit_count()


def test_hash_survives_coding_and_scaling_and_tells_pictures_apart(tmp_path: Path) -> None:
    clip = pan(texture(), 1, 8)
    encode_mp4(tmp_path / "a.mp4", clip, 16, {}, crf=33)
    again = decode_span(tmp_path / "a.mp4", 0, 16384 // 2, 16, 8, short_side=80)
    near = [bits(measures.phash(a), measures.phash(b)) for a, b in zip(clip, again, strict=True)]
    far = bits(measures.phash(clip[0]), measures.phash(texture(seed=5)))
    assert np.mean(near) <= 3 and far >= 16
    assert 0 <= measures.phash(clip[0]) < 2**64


def test_each_quality_measure_answers_to_its_fault() -> None:
    good = texture()
    blurred = cv2.GaussianBlur(good, (0, 0), 3.0)
    noisy = np.clip(good + np.random.default_rng(0).normal(0, 25, good.shape), 0, 255).astype(np.uint8)
    blocky = cv2.resize(
        cv2.resize(good, (32, 16), interpolation=cv2.INTER_AREA), (256, 128), interpolation=cv2.INTER_NEAREST
    )
    dark = (good * 0.1).astype(np.uint8)
    grey = np.repeat(good.mean(axis=2, keepdims=True), 3, axis=2).astype(np.uint8)
    sharp, soft, grainy, cut = (cv2.cvtColor(each, cv2.COLOR_RGB2GRAY) for each in (good, blurred, noisy, blocky))
    assert measures.sharpness(soft) < measures.sharpness(sharp)
    assert measures.noise(grainy) > 3 * measures.noise(sharp)
    assert measures.blockiness(cut) > 0.9 and measures.blockiness(sharp) < 0.1
    assert measures.exposure(dark) < measures.exposure(good)
    assert measures.contrast(dark) < measures.contrast(good)
    assert measures.colourfulness(grey) < 0.01 < measures.colourfulness(good)
    assert measures.technical(soft[None]) < measures.technical(sharp[None])
    assert measures.aesthetic(dark[None]) < measures.aesthetic(good[None])


def noisy(sigma: float) -> np.ndarray:
    grain = np.random.default_rng(0).normal(0, sigma, (128, 256, 1))
    return np.clip(texture() + grain, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("sigma", [0.0, 4.0, 25.0])
def test_the_quality_measures_are_what_they_say(sigma: float) -> None:
    picture = noisy(sigma)
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    deep = np.pad(grey.astype(float), 1, "reflect")
    around = [deep[1 + dy : 129 + dy, 1 + dx : 257 + dx] for dy, dx in ((0, 1), (0, -1), (1, 0), (-1, 0))]
    strength = np.abs(sum(around) - 4.0 * grey).mean()
    assert measures.sharpness(grey) == pytest.approx(strength / (strength + 4.0))
    bent = deep[:, :-2] - 2 * deep[:, 1:-1] + deep[:, 2:]
    response = np.abs(bent[:-2] - 2 * bent[1:-1] + bent[2:])
    level = np.median(response) / (6 * 0.6745)
    assert measures.noise(grey) == pytest.approx(
        level / (level + 20.0), abs=0.015
    )  # of every fourth pixel, whole steps
    red, green, blue = picture.reshape(-1, 3).T.astype(float)
    rg, yb = red - green, (red + green) / 2 - blue
    colour = np.hypot(rg.std(), yb.std()) + 0.3 * np.hypot(rg.mean(), yb.mean())
    assert measures.colourfulness(picture) == pytest.approx(min(1.0, colour / 109.0))
    assert measures.contrast(picture) == pytest.approx(min(1.0, grey.std() / 64))


def test_blockiness_is_the_excess_on_the_grid() -> None:
    grey = cv2.cvtColor(noisy(4.0), cv2.COLOR_RGB2GRAY).astype(float)
    grey[:, 64:] = np.minimum(grey[:, 64:] + 40, 255)  # a step on the grid, and none across it
    excess = []
    for picture in (grey, grey.T):
        steps = np.abs(np.diff(picture, axis=1))
        on = np.arange(steps.shape[1]) % 8 == 7
        at, off = steps[:, on].mean(), steps[:, ~on].mean()
        excess.append(max(0.0, (at - off) / (at + off)))
    assert measures.blockiness(grey.astype(np.uint8)) == pytest.approx(np.mean(excess)) and excess[0] > 0.03


@pytest.mark.parametrize("level", [0, 128, 255])
def test_flat_pictures_score_low_and_within_bounds(level: int) -> None:
    flat = np.full((3, 64, 96, 3), level, np.uint8)
    a, t = measures.aesthetic(flat), measures.technical(flat[..., 0])
    assert 0.0 <= t <= a <= 0.4
    assert measures.overall(a, t) < measures.overall(
        measures.aesthetic(texture()[None]), measures.technical(measures.to_grey(texture()[None]))
    )
    assert measures.overall(1.0, 1.0) == pytest.approx(1.0)
