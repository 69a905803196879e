"""Shots where they are, spans of exactly the stated frames, and no frame of the next shot in any of them."""

from __future__ import annotations

import itertools
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline import ingest, split, tables
from data_pipeline.params import IngestParams, LimitParams, SplitParams
from data_pipeline.split import film, shots
from sana_video.video.io import decode_span

INGEST = IngestParams(min_seconds=0.1, max_seconds=60.0, max_pixels=1 << 22, min_short_side=16)
PARAMS = SplitParams(detector="content", threshold=27.0, min_shot_seconds=0.6, fps=16, frames=17, trim_frames=1)
ALL = LimitParams()


def track(items: Any, total: int, label: str) -> Any:
    return items


def videos_of(root: Path) -> pa.Table:
    return tables.write("videos", ingest.run("film", "raw", INGEST, root, track), root / "videos.parquet")


def clips_of(root: Path, params: SplitParams = PARAMS, limit: LimitParams = ALL) -> list[dict[str, Any]]:
    rows = split.run(videos_of(root), limit, params, root, track)
    return tables.write("clips", rows, root / "clips.parquet").sort_by("start").to_pylist()


def test_a_kept_film_that_is_damaged_is_split_again(
    tmp_path: Path, make_video: Any, caplog: pytest.LogCaptureFixture
) -> None:
    make_video(tmp_path / "raw" / "a.mp4", seconds=3)
    first = clips_of(tmp_path)
    (damaged,) = (tmp_path / "runs" / "splits").glob("*/*.json")
    damaged.write_bytes(damaged.read_bytes()[:-20])
    assert clips_of(tmp_path) == first
    assert f"{damaged} is damaged" in caplog.text


THRESHOLDS = {"content": 27.0, "adaptive": 3.0, "hash": 0.35, "histogram": 0.2}


@pytest.mark.parametrize(("detector", "threshold"), [("content", 27.0), ("adaptive", 3.0), ("histogram", 0.2)])
def test_cuts_are_found_where_they_are(tmp_path: Path, make_video: Any, detector: str, threshold: float) -> None:
    make_video(tmp_path / "raw" / "a.mp4", seconds=9, shots=3)
    params = PARAMS.model_copy(update={"detector": detector, "threshold": threshold})
    rows = clips_of(tmp_path, params)
    assert [row["shot"] for row in rows] == [0, 0, 1, 1, 2, 2]  # 3 s less trim hold two clips of 17/16 s
    for row in rows:
        first, last = 3 * row["shot"], 3 * row["shot"] + 3
        assert first + 1 / 16 <= row["start"] + 1e-9 and row["end"] <= last - 1 / 16 + 1e-9
        assert row["end"] - row["start"] == pytest.approx(17 / 16, abs=1e-4)
        assert row["frames"] == 17 and row["reason"] is None and row["detector"] == detector


@pytest.mark.parametrize(("detector", "threshold"), THRESHOLDS.items())
@pytest.mark.parametrize("fps", [24, 60])
def test_cuts_equal_those_of_pyscenedetect(
    tmp_path: Path, make_video: Any, detector: str, threshold: float, fps: int
) -> None:
    """Its own `detect` on the same file, which decodes with OpenCV, finds the same frames."""
    import scenedetect

    path = make_video(tmp_path / "a.mp4", seconds=4, fps=fps, shots=9)  # some nearer than its usual minimum
    found = film.read(str(path), detector, threshold, None, None, 96, 1)
    scenes = scenedetect.detect(str(path), film.scene_detector(detector, threshold), start_in_scene=True)
    assert found["cuts"] == [start.frame_num for start, _ in scenes[1:]]
    assert len(found["cuts"]) >= 4


def test_no_clip_holds_a_frame_of_the_next_shot(tmp_path: Path, make_video: Any) -> None:
    path = make_video(tmp_path / "raw" / "a.mp4", seconds=8, fps=30, shots=3, speed=0.0)
    for row in clips_of(tmp_path):
        pictures = decode_span(path, row["start_pts"], row["end_pts"], 16, 17).astype(int)
        assert np.abs(pictures - pictures[0]).mean(axis=(1, 2, 3)).max() < 4, row  # stills: any other shot stands out


def test_a_shot_that_is_too_short_is_a_row_with_a_reason(tmp_path: Path, make_video: Any) -> None:
    make_video(tmp_path / "raw" / "a.mp4", seconds=3, shots=3)
    rows = clips_of(tmp_path)
    assert [row["reason"].split(":")[0] for row in rows] == ["SHOT_TOO_SHORT"] * 3
    assert [row["frames"] for row in rows] == [0] * 3
    assert rows[0]["end_pts"] == rows[1]["start_pts"]


def test_five_seconds_at_16_fps_are_81_frames_whatever_the_rate(tmp_path: Path, make_video: Any) -> None:
    """The published length. Cutting 5 s out by time gives 80, and a loader that asks for 81 skips every clip."""
    rates = (23.976, 25, 29.97, 50)
    films = {make_video(tmp_path / "raw" / f"{rate}.mp4", seconds=6, fps=rate).stem: rate for rate in rates}
    rows = clips_of(tmp_path, PARAMS.model_copy(update={"frames": 81}))
    assert len(rows) == len(films) and {row["frames"] for row in rows} == {81}
    names = {row["video_id"]: Path(row["uri"]).stem for row in videos_of(tmp_path).to_pylist()}
    for row in rows:
        path = tmp_path / "raw" / f"{names[row['video_id']]}.mp4"
        assert decode_span(path, row["start_pts"], row["end_pts"], 16, 81).shape == (81, 96, 160, 3)
        assert row["end"] - row["start"] == pytest.approx(81 / 16, abs=1e-3)


def test_only_the_limited_part_is_read(tmp_path: Path, make_video: Any) -> None:
    make_video(tmp_path / "raw" / "a.mp4", seconds=9, shots=3)
    rows = clips_of(tmp_path, limit=LimitParams(seconds=4.0, short_side=48))
    assert max(row["end"] for row in rows) <= 4.0
    assert {row["shot"] for row in rows} == {0, 1}


def test_variable_rates_and_rotation(tmp_path: Path, make_video: Any) -> None:
    times = [k / 30 for k in range(60)] + [2 + k / 12 for k in range(24)] + [4 + k / 30 for k in range(60)]
    path = make_video(tmp_path / "raw" / "vfr.mp4", times=times, shots=2, rotate=90)
    cut = times[len(times) // 2]
    rows = clips_of(tmp_path)
    assert {row["shot"] for row in rows} == {0, 1}
    for row in rows:
        assert row["end"] <= cut if row["shot"] == 0 else row["start"] >= cut
        assert decode_span(path, row["start_pts"], row["end_pts"], 16, 17).shape == (17, 160, 96, 3)


def test_a_video_that_breaks_is_a_row_and_its_neighbour_is_unharmed(tmp_path: Path, make_video: Any) -> None:
    make_video(tmp_path / "raw" / "good.mp4", seconds=3)
    bad = make_video(tmp_path / "raw" / "bad.mp4", seconds=3, seed=1)
    videos = videos_of(tmp_path)
    data = bytearray(bad.read_bytes())
    at = data.index(b"mdat") + len(data) // 3
    data[at : at + 400] = b"\xff" * 400
    bad.write_bytes(data)  # after ingest saw it whole
    rows = split.run(videos, ALL, PARAMS, tmp_path, track)
    ids = {row["uri"]: row["video_id"] for row in videos.to_pylist()}
    assert [row["reason"] for row in rows if row["video_id"] == ids["raw/good.mp4"]] == [None, None]
    (broken,) = [row for row in rows if row["video_id"] == ids["raw/bad.mp4"]]
    assert broken["reason"].startswith("DECODE_FAILED") and broken["frames"] == 0


def test_rejected_videos_give_no_clips_and_none_at_all_is_an_error(tmp_path: Path, make_video: Any) -> None:
    make_video(tmp_path / "raw" / "a.mp4", seconds=2)
    (tmp_path / "raw" / "b.mp4").write_text("no")
    assert len({row["video_id"] for row in clips_of(tmp_path)}) == 1
    (tmp_path / "raw" / "a.mp4").unlink()
    with pytest.raises(ValueError, match="all 1 were rejected"):
        clips_of(tmp_path)


def reading(cuts: list[int] = [], level: list[float] | None = None, frames: int = 96) -> film.Reading:  # noqa: B006
    """24 frames a second; black where the level is 0."""
    levels = level or [100.0] * frames
    black = [value == 0 for value in levels]
    change = [0.0 if index == 0 else 1.0 + 50.0 * (index in cuts) for index in range(len(levels))]
    return film.Reading("1/24", list(range(len(levels))), len(levels), list(cuts), levels, change, black, list(black))


def test_black_and_fades_belong_to_no_shot() -> None:
    fade = [100.0 - 4 * k for k in range(25)]  # one second, to black
    level = [100.0] * 30 + fade + [0.0] * 5 + fade[::-1] + [100.0] * 30
    first, second = shots.shots_of(reading(level=level), 0.6)
    assert (first.start, second.end) == (0, len(level))
    assert first.end == pytest.approx(31, abs=1) and second.start == pytest.approx(len(level) - 31, abs=1)


def test_a_hard_cut_to_black_costs_only_the_black() -> None:
    found = shots.shots_of(reading(level=[100.0] * 40 + [0.0] * 3 + [90.0] * 40), 0.6)
    assert [(shot.start, shot.end) for shot in found] == [(0, 40), (43, 83)]


def test_a_shot_knows_its_edges_and_what_changes_inside() -> None:
    first, second = shots.shots_of(reading(cuts=[48]), 0.6)
    assert (first.cut_before, first.cut_after, second.cut_before, second.cut_after) == (None, 51.0, 51.0, None)
    assert first.change_inside(1, 40) == 1.0
    missed = reading()
    missed.change[60] = 80.0
    (whole,) = shots.shots_of(missed, 0.6)
    assert whole.change_inside(50, 70) == 80.0 and whole.change_inside(61, 90) == 1.0


def test_short_neighbours_are_one_row_and_keep_their_number() -> None:
    found = shots.shots_of(reading(cuts=[40, 44, 49]), 0.6)
    assert [(shot.start, shot.end, shot.count) for shot in found] == [(0, 40, 1), (40, 49, 2), (49, 96, 1)]
    rows = list(split.clips_of({"video_id": "v", "source": "s"}, found, Fraction(1, 24), PARAMS))
    assert [(row["shot"], row["frames"]) for row in rows] == [(0, 17), (1, 0), (3, 17)]
    assert rows[1]["reason"].startswith("SHOT_TOO_SHORT: 2 shots")


def test_long_shots_give_clips_by_the_stride_and_only_from_their_first_part() -> None:
    (shot,) = shots.shots_of(reading(frames=240), 0.6)
    params = PARAMS.model_copy(update={"stride_seconds": 0.5, "max_shot_seconds": 5.0})
    *clips, rest = split.clips_of({"video_id": "v", "source": "s"}, [shot], Fraction(1, 24), params)
    assert [clip["start"] for clip in clips] == pytest.approx([1 / 16 + 0.5 * k for k in range(8)], abs=1 / 24)
    assert all(clip["end"] <= 5 - 1 / 16 for clip in clips)
    assert (rest["start"], rest["end"], rest["frames"]) == (5.0, 10.0, 0) and "SHOT_TOO_LONG" in rest["reason"]


def test_transitions_that_the_network_finds_divide_shots() -> None:
    verdicts = np.zeros((96, 2), np.float32)
    verdicts[30, 0] = 0.9  # a hard cut: frame 30 is the last of its shot
    verdicts[60:70, 1], verdicts[64, 0] = 0.8, 0.7  # a dissolve
    verdicts[80:84, 1] = 0.9  # not confirmed by the first head
    found = reading()
    shots.mark_transitions(found, verdicts, 0.5)
    assert [(shot.start, shot.end) for shot in shots.shots_of(found, 0.1)] == [(0, 31), (31, 60), (70, 96)]


@pytest.mark.slow
def test_transnet_runs_over_a_film_and_is_missed_where_it_is_not(tmp_path: Path, make_video: Any) -> None:
    """With random weights: every frame judged, rows that add up; what is found means nothing."""
    from sana_video import weights
    from sana_video.video.transnet import TransNetV2

    make_video(tmp_path / "raw" / "a.mp4", seconds=3)
    params = PARAMS.model_copy(update={"detector": "transnetv2", "threshold": 1.0})
    with pytest.raises(ValueError, match="`sana-video weights fetch transnetv2`"):
        clips_of(tmp_path, params)
    (tmp_path / params.weights).mkdir(parents=True)
    weights.save(tmp_path / params.weights / "model.safetensors", TransNetV2().state_dict())
    rows = clips_of(tmp_path, params)
    assert [(row["frames"], row["reason"]) for row in rows] == [(17, None), (17, None)]  # no probability reaches 1


def test_a_film_that_is_black_throughout_is_a_row(tmp_path: Path, make_video: Any) -> None:
    make_video(tmp_path / "raw" / "a.mp4", seconds=1)
    (row,) = clips_of(tmp_path, PARAMS.model_copy(update={"black_level": 255}))
    assert row["frames"] == 0 and "black" in row["reason"]


@pytest.mark.parametrize("detector", ["hash", "histogram", "transnetv2"])
def test_a_threshold_in_another_unit_is_refused(detector: str) -> None:
    with pytest.raises(ValueError, match="is a share"):
        SplitParams.model_validate(PARAMS.model_dump() | {"detector": detector})


@given(
    start=st.integers(-1000, 10**6),
    seconds=st.fractions(0, 20),
    base=st.sampled_from([(1, 12288), (1001, 30000), (1, 90000), (1, 25), (1, 1000)]),
    fps=st.sampled_from([8, 16, 24]),
    frames=st.sampled_from([5, 17, 81]),
    trim=st.integers(0, 4),
)
def test_spans_fill_the_shot_and_hold_exactly_their_frames(
    start: int, seconds: Fraction, base: tuple[int, int], fps: int, frames: int, trim: int
) -> None:
    tick = Fraction(*base)
    end = start + int(seconds / tick)
    spans = list(split.spans_in(start, end, tick, fps, frames, trim))
    edge = Fraction(trim, fps) / tick
    for first, last in spans:
        assert start + edge <= first and last <= end - edge
        assert (last - first) * tick > Fraction(frames - 1, fps)  # the last sample lies inside
    assert all(a[1] <= b[0] for a, b in itertools.pairwise(spans))
    room = (end - start) * tick - Fraction(2 * trim, fps)
    assert len(spans) >= int(room / Fraction(frames, fps)) - 1


def test_ids_name_the_span_not_the_way_to_it() -> None:
    same = split.clip_id("v", 0, 1_000_000, 17, 16)
    assert same == split.clip_id("v", 0, 1_000_000, 17, 16) and len(same) == 26
    others = [
        ("w", 0, 1_000_000, 17, 16),
        ("v", 1, 1_000_000, 17, 16),
        ("v", 0, 1_000_000, 33, 16),
        ("v", 0, 1_000_000, 17, 8),
    ]
    assert len({same, *(split.clip_id(*other) for other in others)}) == 5


def test_version_is_that_of_the_file() -> None:
    stated = yaml.safe_load((Path(__file__).parents[2] / "versions.yaml").read_text())
    assert stated["split"] == split.SPLIT_VERSION
