"""Motion against FFmpeg's own filters, at the rates that films come in, and on clips that show one thing each."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from sana_video.video import measures
from sana_video.video.io import Film, decode_clip
from sana_video.video.mp4 import encode_mp4


def filtered(luma: np.ndarray, filter_name: str, options: str, key: str) -> list[float]:
    """What FFmpeg's own filter says of each picture, through PyAV's filter graph."""
    height, width = luma.shape[1:]
    graph = av.filter.Graph()
    source = graph.add_buffer(width=width, height=height, format="yuv420p", time_base=Fraction(1, 16))
    middle, sink = graph.add(filter_name, options), graph.add("buffersink")
    source.link_to(middle)
    middle.link_to(sink)
    graph.configure()
    told = []
    for index, picture in enumerate(luma):
        chroma = np.full((height // 2, width), 128, np.uint8)
        frame = av.VideoFrame.from_ndarray(np.concatenate([picture, chroma]), format="yuv420p")
        frame.pts, frame.time_base = index, Fraction(1, 16)
        source.push(frame)
        told.append(float(sink.pull().metadata[key]))
    return told


def scene(fps: float, seconds: float = 2.3, size: tuple[int, int] = (144, 256)) -> np.ndarray:
    """A landscape that drifts by 40 pixels a second and a ball that crosses it, drawn at any rate."""
    rng = np.random.default_rng(4)
    height, width = size
    coarse = rng.uniform(40, 200, (9, 26, 3)).astype(np.float32)
    wide = cv2.resize(coarse, (3 * width // 2, height), interpolation=cv2.INTER_CUBIC)
    pictures = []
    for k in range(round(seconds * fps)):
        time = k / fps
        shift = np.float32([[1, 0, -40.0 * time], [0, 1, 0]])
        picture = cv2.warpAffine(wide, shift, (width, height), flags=cv2.INTER_LINEAR)
        centre = (round(16 * (20 + 70 * time)), (16 * 70))
        cv2.circle(picture, centre, 16 * 18, (230, 60, 40), -1, cv2.LINE_AA, shift=4)
        pictures.append(np.clip(picture, 0, 255).astype(np.uint8))
    return np.stack(pictures)


def luma_of(pictures: np.ndarray) -> np.ndarray:
    return np.stack([cv2.cvtColor(p, cv2.COLOR_RGB2GRAY) for p in pictures])


def noisy(luma: np.ndarray, sigma: float) -> np.ndarray:
    return np.clip(luma + np.random.default_rng(1).normal(0, sigma, luma.shape), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("size", [(96, 160), (144, 256), (98, 162)])
@pytest.mark.parametrize("sigma", [0.0, 12.0])
def test_every_frame_is_that_of_ffmpegs_filter(size: tuple[int, int], sigma: float) -> None:
    luma = noisy(luma_of(scene(16, 0.5, size)), sigma)
    theirs = filtered(luma, "vmafmotion", "", "lavfi.vmafmotion.score")
    assert theirs[0] == 0.0 and max(theirs) > 0.5
    assert measures.vmaf_motion_exact(luma) == pytest.approx(theirs, abs=0.006)
    assert measures.vmaf_motion_frames(luma) == pytest.approx(theirs[1:], abs=0.006)


def test_the_mean_leaves_the_first_frame_out() -> None:
    luma = luma_of(scene(16, 1.0))
    frames = measures.vmaf_motion_frames(luma)
    assert len(frames) == len(luma) - 1
    assert measures.vmaf_motion(luma) == pytest.approx(sum(frames) / len(frames))


@pytest.fixture(scope="module")
def at_rates(tmp_path_factory: pytest.TempPathFactory) -> dict[float, tuple[np.ndarray, np.ndarray]]:
    """RGB and luma of the same two seconds, filmed at several rates and read at 16 fps."""
    folder, found = tmp_path_factory.mktemp("rates"), {}
    for fps in (Fraction(24), Fraction(25), Fraction(30000, 1001), Fraction(60)):
        path = folder / f"{float(fps):.0f}.mp4"
        encode_mp4(path, scene(float(fps)), fps, {}, crf=12)
        with Film(path) as film:
            clip = decode_clip(film, 0, round(Fraction(2) / film.time_base) + 1, 16, 33)
        found[float(fps)] = clip.rgb, clip.luma
    return found


def test_a_clip_has_the_same_measures_at_every_frame_rate(
    at_rates: dict[float, tuple[np.ndarray, np.ndarray]],
) -> None:
    def all_of(rgb: np.ndarray, luma: np.ndarray) -> dict[str, float]:
        samples = rgb[measures.sample_indices(len(rgb), 16, 0.5)]
        hsv = measures.to_hsv(samples)
        return {
            "flow": float(np.mean(measures.flow_motion(luma, 16, 0.5))),
            "vmaf": measures.vmaf_motion(luma),
            "saturation": measures.saturation(hsv),
            "lit": measures.saturation_lit(hsv, measures.picture_box(luma)) or 0.0,
            "brightness": measures.brightness(hsv),
            "aesthetic": measures.aesthetic(samples),
            "technical": measures.technical(measures.to_grey(samples)),
        }

    found = {fps: all_of(*clip) for fps, clip in at_rates.items()}
    for name, value in found[24].items():
        assert value > 0.05
        for fps, others in found.items():
            assert others[name] == pytest.approx(value, rel=0.1), f"{name} at {fps:.2f} fps"
    for rgb, luma in at_rates.values():
        assert measures.cuts_inside(measures.to_hsv(rgb), 27.0) == 0
        bars = measures.borders(luma, measures.picture_box(luma))
        assert measures.stillness(luma) == measures.duplicate_frames(luma) == bars == 0.0
        assert measures.flicker(luma) < 0.1


def test_flow_pair_against_the_slow_definition() -> None:
    flow = np.random.default_rng(0).normal(0, 3, (2, 5, 7)).astype(np.float32)
    lengths = [float((flow[0, y, x] ** 2 + flow[1, y, x] ** 2) ** 0.5) for y in range(5) for x in range(7)]
    parts = [abs(float(value)) for value in flow.ravel()]
    pair = measures.flow_pair(flow)
    assert pair.l2 == pytest.approx(sum(lengths) / 35, rel=1e-6)
    assert pair.absmean == pytest.approx(sum(parts) / 70, rel=1e-6)


def test_stillness_sees_a_slide_under_grain_and_nothing_in_a_small_movement() -> None:
    moving = luma_of(scene(16, 1.0))
    slide = np.repeat(moving[:1], 16, axis=0)
    talking = slide.copy()
    for k in range(16):
        talking[k, 60:80, 100 + k : 130 + k] = 220 - 5 * k
    large = np.stack([cv2.resize(picture, (768, 432)) for picture in slide])
    assert measures.stillness(slide) == measures.stillness(noisy(large, 3.0)) == 1.0
    assert measures.stillness(moving) == measures.stillness(talking) == 0.0
    half = np.concatenate([slide[:9], moving[1:9]])  # nine equal pictures, then movement
    assert measures.stillness(half) == pytest.approx(8 / 16)


def test_repeated_frames_are_counted_and_grain_is_not_one() -> None:
    moving = luma_of(scene(16, 1.0))
    telecine = moving[[0, 1, 2, 3, 3, 4, 5, 6, 7, 7, 8, 9, 10, 11, 11, 12]]
    slide = np.repeat(moving[:1], 16, axis=0)
    assert measures.duplicate_frames(moving) == 0.0
    assert measures.duplicate_frames(telecine) == pytest.approx(3 / 15)
    assert measures.duplicate_frames(slide) == 1.0
    assert measures.duplicate_frames(noisy(slide, 2.0)) == 0.0


def test_frames_that_a_slow_film_shows_twice_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "slow.mp4"
    encode_mp4(path, scene(8, 2.3), Fraction(8), {}, crf=20)
    with Film(path) as film:
        clip = decode_clip(film, 0, round(Fraction(2) / film.time_base) + 1, 16, 33)
    assert measures.duplicate_frames(clip.luma) == pytest.approx(0.5, abs=0.04)


def test_flicker_is_what_goes_up_and_down() -> None:
    still = np.full((16, 48, 64), 100, np.uint8)
    strobe, fade, cut = still.copy(), still.copy(), still.copy()
    strobe[1::2] += 12
    fade += np.arange(16, dtype=np.uint8)[:, None, None] * 5
    cut[8:] = 200
    assert measures.flicker(still) == measures.flicker(fade) == measures.flicker(cut) == 0.0
    assert measures.flicker(strobe) == pytest.approx(12.0)
    once = still.copy()
    once[7] = 140  # one flash of 40 levels in 14 inner frames
    assert measures.flicker(once) == pytest.approx(40 / 14)


@pytest.mark.parametrize("name", ["stillness", "duplicate_frames", "flicker", "vmaf_motion"])
def test_one_frame_has_no_motion(name: str) -> None:
    with pytest.raises(ValueError, match="TOO_FEW_FRAMES"):
        getattr(measures, name)(np.zeros((1, 32, 32), np.uint8))
