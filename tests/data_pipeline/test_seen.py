"""What measures look at: saturation and light are those of the film's own size, whatever is averaged beside them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from films import picture, write

from data_pipeline.score.clip import measure_clips
from data_pipeline.score.seen import Onlooker, ahead
from data_pipeline.score.settings import Settings
from sana_video.video import io, measures

SETTINGS = Settings(
    fps=16, frames=0, short_side=480, sample_seconds=0.5, cut_threshold=27.0,
    flow="dis", flow_digest=None, aesthetic="classical", dover=None, text=None, nsfw=None,
)  # fmt: skip


def scores(path: Path, names: Sequence[str], frames: int, settings: Settings = SETTINGS) -> dict[str, Any]:
    with io.Film(path) as film:
        last = int(frames / settings.fps / film.time_base) + 1
    found = measure_clips(str(path), [("a", 0, last, frames)], names, settings.as_json(), None)["a"]
    assert "reason" not in found, found
    return found


def textured(size: tuple[int, int], layout: str) -> av.VideoFrame:
    """Luma that changes from pixel to pixel over soft colours; with 4:4:4, colours that change likewise."""
    rng, (height, width) = np.random.default_rng(0), size
    chroma = size if layout == "yuv444p" else (height // 2, width // 2)
    coarse = [cv2.resize(rng.uniform(60, 200, (4, 6)), chroma[::-1], interpolation=cv2.INTER_CUBIC) for _ in range(2)]
    if layout == "yuv444p":
        coarse = [128 + (each - 128) * rng.choice((-1, 1), size) for each in coarse]
    planes = [rng.choice((50, 180), size), *coarse]
    return picture([np.clip(each, 16, 240).astype(np.uint8) for each in planes], layout)


@pytest.mark.parametrize("layout", ["yuv420p", "yuv444p"])
@pytest.mark.parametrize("size", [(720, 960), (480, 360), (122, 160)])
def test_saturation_and_light_are_those_of_the_films_own_size(
    tmp_path: Path, size: tuple[int, int], layout: str
) -> None:
    """Within 1.5 of 255, three deviations of a mean of some 19,200 pixels that know nothing of each other: no real film
    is so rough."""
    path = write(tmp_path / "a.mkv", [textured(size, layout)] * 9, rate=16, codec="ffv1", options={})
    found = scores(path, ("saturation", "saturation_lit"), 9)
    with io.Film(path) as film:
        frame = next(film.frames())
        shown = film.picture(frame).rgb, film.painter(240).sketch(frame).rgb
        full, small = (measures.to_hsv(rgb[None]) for rgb in shown)
    whole = measures.Box(0, size[0], 0, size[1])
    assert found["saturation"] == pytest.approx(measures.saturation(full), abs=1.5)
    assert found["saturation_lit"] == pytest.approx(measures.saturation_lit(full, whole), abs=1.5)
    assert found["brightness"] == pytest.approx(measures.brightness(full), abs=1.5)
    assert abs(measures.saturation(small) - measures.saturation(full)) > 5, "a texture that means of pixels make pale"


def pan(path: Path, lines: int, fps: int, frames: int = 40) -> Path:
    """A soft landscape that moves by a third of its height a second, under a hard edge, at any size and rate."""
    rng = np.random.default_rng(4)
    wide = cv2.resize(rng.uniform(40, 200, (9, 26)).astype(np.float32), (960, 480), interpolation=cv2.INTER_CUBIC)
    wide[:160] += 30
    size = (round(lines * 4 / 3), lines)

    def at(k: int) -> av.VideoFrame:
        shift = np.array([[1, 0, -160.0 * k / fps], [0, 1, 0]], np.float32)
        seen = cv2.warpAffine(wide, shift, (640, 480), flags=cv2.INTER_LINEAR)
        luma = np.clip(cv2.resize(seen, size, interpolation=cv2.INTER_AREA), 16, 235).astype(np.uint8)
        return picture([luma, *[np.full((lines // 2, size[0] // 2), 128, np.uint8)] * 2], "yuv420p")

    return write(path, (at(k) for k in range(frames)), rate=fps, codec="ffv1", options={})


@pytest.mark.parametrize("lines", [96, 144, 480])
def test_vmaf_motion_does_not_know_the_size_of_its_film(lines: int, tmp_path: Path) -> None:
    """Within 2 %: soft shapes are alike at all sizes; what a small film has lost in detail is lost."""
    fixed = scores(pan(tmp_path / "a.mkv", 240, 16), ("vmaf_motion",), 33)
    other = scores(pan(tmp_path / "b.mkv", lines, 16), ("vmaf_motion",), 33)
    assert other["vmaf_motion"] == pytest.approx(fixed["vmaf_motion"], rel=0.02)
    assert (other["height"], other["width"]) == (240, 320)


@pytest.mark.parametrize("fps", [20, 24, 48])
def test_vmaf_motion_is_taken_at_16_fps_of_a_clip_at_more(fps: int, tmp_path: Path) -> None:
    """Within 5 %: of 24 fps the steps are 1 and 2 frames by turns, and soft shapes change nearly in proportion."""
    slow = scores(pan(tmp_path / "a.mkv", 240, 16), ("vmaf_motion",), 33)["vmaf_motion"]
    settings, frames = replace(SETTINGS, fps=fps), 2 * fps + 1
    fast = scores(pan(tmp_path / "b.mkv", 240, fps, frames + 2), ("vmaf_motion",), frames, settings)["vmaf_motion"]
    assert fast == pytest.approx(slow, rel=0.05)


def test_frames_come_in_order_and_no_more_are_held_than_asked() -> None:
    """Frames of 8 pixels: three are decoded, then looked at; one that is larger than all that is asked comes alone."""
    decoded: list[int] = []

    def frames() -> Iterator[av.VideoFrame]:
        for pts in range(8):
            frame = av.VideoFrame(4, 2, "gray")
            frame.pts = pts
            decoded.append(pts)
            yield frame

    seen = [(frame.pts, len(decoded)) for frame in ahead(frames(), 24)]
    assert seen == [(0, 3), (1, 3), (2, 3), (3, 6), (4, 6), (5, 6), (6, 8), (7, 8)]
    decoded.clear()
    assert [len(decoded) for _ in ahead(frames(), 7)] == list(range(1, 9))


def test_a_look_knows_nothing_of_the_one_before(tmp_path: Path, make_video: Any) -> None:
    path, measured = make_video(tmp_path / "a.mp4", seconds=4, fps=24, shots=2), ("flow_motion", "aesthetic")
    with io.Film(path) as film:
        halves = [(0, int(2 / film.time_base), 30), (int(2 / film.time_base), int(4 / film.time_base), 20)]
        look = Onlooker(film, measured, (), SETTINGS)
        both = [look(*span)[0].luma.copy() for span in halves]
    for span, luma in zip(halves, both, strict=True):
        with io.Film(path) as film:
            alone, _ = Onlooker(film, measured, (), SETTINGS)(*span)
        np.testing.assert_array_equal(luma, alone.luma)
