"""The camera's share of flow: exact on fields that are made of it, told apart in rendered clips."""

from __future__ import annotations

import itertools
import time

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from sana_video.video.flow.camera import CameraSplit, fit_camera, split_motion
from sana_video.video.flow.dis import EVERY, dis_flows

Floats = NDArray[np.float64]
Y, X = np.mgrid[0:320, 0:576].astype(np.float64)
X, Y = X - 287.5, Y - 159.5  # from the centre


def field(a: float = 0, b: float = 0, c: float = 0, d: float = 0, e: float = 0, f: float = 0) -> Floats:
    """Flow (2, 320, 576) of x' = a x + b y + c, y' = d x + e y + f."""
    return np.stack((a * X + b * Y + c, d * X + e * Y + f))


def mean_length(flow: Floats) -> float:
    return float(np.hypot(*flow).mean())


PAN, ZOOM, ROLL = field(c=6, f=-2.5), field(a=0.04, e=0.04), field(b=-0.03, d=0.03)
OBJECT = (slice(None), slice(96, 224), slice(200, 400))  # 128 x 200 px, whole cells of what is looked at


@pytest.mark.parametrize(("flow", "model"), [(PAN, (0, 0, 0, 0, 6, -2.5)), (ZOOM, (0.04, 0, 0, 0.04, 0, 0))])
def test_the_model_of_a_pure_motion_is_exact(flow: Floats, model: tuple[float, ...]) -> None:
    np.testing.assert_allclose(fit_camera(flow).ravel(), model, atol=1e-9)


@pytest.mark.parametrize(
    "flow", [PAN, ZOOM, ROLL, ZOOM + ROLL + PAN, field()], ids=["pan", "zoom", "roll", "all", "none"]
)
def test_a_pure_motion_is_all_the_cameras(flow: Floats) -> None:
    split = split_motion(flow)
    assert split.camera_motion == pytest.approx(mean_length(flow), rel=2e-3)  # every eighth pixel is looked at
    assert (split.camera_jitter, split.object_motion) == (0, pytest.approx(0, abs=1e-9))


@pytest.mark.parametrize("camera", [field(), PAN, ZOOM + PAN])
def test_an_object_adds_its_length_on_its_area_whatever_the_camera_does(camera: Floats) -> None:
    flow = camera.copy()
    flow[OBJECT] += np.array([9.0, 12.0])[:, None, None]
    np.testing.assert_allclose(fit_camera(flow), fit_camera(camera), atol=1e-6)
    target = np.abs(np.stack((X, Y)) + camera)
    seen = ((target[0] <= 287.5) & (target[1] <= 159.5))[4::8, 4::8].mean()  # what every eighth pixel knows of it
    expected = 15.0 * (128 * 200) / (320 * 576) / seen
    assert split_motion(flow).object_motion == pytest.approx(expected, rel=1e-6)


def test_an_object_on_two_fifths_of_the_picture_is_still_an_object() -> None:
    flow = field()
    flow[0, :, :232] = 20.0
    assert split_motion(flow) == CameraSplit(0.0, 0.0, pytest.approx(20 * 232 / 576, rel=0.01))


def test_depth_does_not_hide_a_pan_and_chaos_is_none() -> None:
    depth = 1.0 + 0.3 * np.sin(X / 40) * np.cos(Y / 30)  # near things pass faster: few places move as the mean does
    pan = split_motion([field(c=24.0) * depth, field(c=24.0) * np.roll(depth, 60, 1)])
    assert pan.camera_motion == pytest.approx(24.0, rel=0.05)
    assert pan.camera_jitter < 3.0
    chaos = np.random.RandomState(0).normal(0, 60, PAN.shape)
    split = split_motion(chaos)
    assert split.camera_motion == 0 and split.object_motion == pytest.approx(mean_length(chaos), rel=0.03)


def test_the_estimators_noise_is_no_object() -> None:
    noisy = PAN + np.random.RandomState(0).normal(0, 0.3, PAN.shape)
    split = split_motion(noisy)
    assert split.camera_motion == pytest.approx(6.5, abs=0.02)
    assert split.object_motion < 0.01


def test_what_leaves_the_picture_does_not_count() -> None:
    flow = field(c=100.0)
    flow[0, :, 480:] = 3.0  # what is not there any more is matched with anything
    assert split_motion(flow) == CameraSplit(pytest.approx(100.0), 0.0, 0.0)


def test_jitter_is_the_change_from_pair_to_pair() -> None:
    shaken = [field(c=6.0 + 4.0 * (-1) ** k, f=3.0 * (-1) ** k) for k in range(6)]
    assert split_motion(shaken).camera_jitter == pytest.approx(10.0)  # 8 across and 6 down, each time
    assert split_motion([PAN] * 6).camera_jitter == pytest.approx(0.0)
    speeding_up = [field(c=2.0 * k) for k in range(5)]
    assert split_motion(speeding_up).camera_jitter == pytest.approx(2.0)
    rolled = [field(), ROLL]
    assert split_motion(rolled).camera_jitter == pytest.approx(np.sqrt((ROLL**2).sum(0).mean()), rel=2e-3)


@pytest.mark.parametrize("every", [2, 4])
def test_a_field_of_every_second_pixel_has_the_same_split(every: int) -> None:
    flow = ZOOM + ROLL + PAN
    flow[OBJECT] += np.array([9.0, 12.0])[:, None, None]
    halved = cv2.resize(flow.transpose(1, 2, 0), None, fx=1 / every, fy=1 / every, interpolation=cv2.INTER_AREA)
    coarse = halved.transpose(2, 0, 1)
    np.testing.assert_allclose(fit_camera(coarse, every), fit_camera(flow), atol=1e-9)
    split, expected = split_motion([coarse, -coarse], every=every), split_motion([flow, -flow])
    assert split.camera_motion == pytest.approx(expected.camera_motion, rel=2e-3)
    assert split.camera_jitter == pytest.approx(expected.camera_jitter, rel=2e-3)
    assert split.object_motion == pytest.approx(expected.object_motion, rel=1e-3)
    with pytest.raises(ValueError, match="not every 3"):
        split_motion(flow, every=3)


def test_a_steady_pan_in_uneven_pairs_is_steady() -> None:
    uneven = [PAN * 0.96, PAN * 1.04, PAN]
    assert split_motion(uneven, [0.48, 0.52, 0.5]).camera_jitter == pytest.approx(0.0, abs=1e-9)
    assert split_motion(uneven).camera_jitter > 0.3


def test_the_same_field_gives_the_same_numbers_and_a_broken_one_none() -> None:
    noisy = PAN + np.random.RandomState(0).normal(0, 2.0, PAN.shape)
    assert split_motion(noisy) == split_motion(noisy.copy())
    for wrong in (np.zeros((3, 320, 576)), np.zeros((2, 16, 16)), np.zeros((320, 576))):
        with pytest.raises(ValueError, match=r"flow must be "):
            split_motion([wrong])
    for none in ([], [PAN, PAN[:, :64]]):
        with pytest.raises(ValueError, match=r"flow must be one or more \(2, h, w\) of one size"):
            split_motion(none)
    with pytest.raises(ValueError, match="not finite"):
        split_motion(np.full((2, 320, 576), np.nan))


def test_a_field_takes_a_few_milliseconds() -> None:
    """2.2 ms on one core of a Xeon; the bound leaves room for a busy machine."""
    noisy = PAN + np.random.RandomState(0).normal(0, 0.5, PAN.shape)
    split_motion(noisy)
    started = time.process_time()
    split_motion([noisy] * 10)
    assert (time.process_time() - started) / 10 < 0.02


def texture(seed: int, size: tuple[int, int]) -> NDArray[np.uint8]:
    noise = np.random.RandomState(seed).randint(0, 256, (size[0] // 8, size[1] // 8)).astype(np.uint8)
    return cv2.resize(noise, size[::-1], interpolation=cv2.INTER_CUBIC)


def rendered(pan: list[tuple[int, int]], ball: list[tuple[int, int]]) -> CameraSplit:
    """A view of a larger texture at the offsets `pan`, with a textured square at the places `ball`, through DIS."""
    scene, square = texture(0, (560, 960)), texture(1, (80, 96))
    pictures = []
    for (x, y), (left, top) in itertools.zip_longest(pan, ball, fillvalue=(0, 0)):
        picture = scene[120 + y : 440 + y, 192 + x : 768 + x].copy()
        picture[top : top + 80, left : left + 96] = square
        pictures.append(picture)
    return split_motion(dis_flows(pictures), every=EVERY)


def test_rendered_clips_are_told_apart() -> None:
    resting = [(240, 120)] * 6
    pan = rendered([(8 * k, 0) for k in range(6)], [(240 - 8 * k, 120) for k in range(6)])  # the square goes along
    ball = rendered([(0, 0)] * 6, [(100 + 12 * k, 120) for k in range(6)])
    shake = rendered([(8 * k + 6 * (-1) ** k, 5 * (-1) ** k) for k in range(6)], resting)
    assert pan.camera_motion == pytest.approx(8.0, abs=0.1) and pan.object_motion < 0.2
    assert ball.camera_motion < 0.1 and ball.object_motion == pytest.approx(12 * 80 * 96 / (320 * 576), rel=0.35)
    assert pan.camera_jitter < 0.2
    assert shake.camera_jitter == pytest.approx(np.hypot(24.0, 20.0), rel=0.05)
