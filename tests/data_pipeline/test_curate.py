from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml

from data_pipeline import tables
from data_pipeline.curate import CURATE_VERSION, failures, join, load, percentiles, run, size
from data_pipeline.params import CurateParams, Ranges
from data_pipeline.subsets import GUARD_SECONDS, held_out, sides

RANGES = {
    "flow_motion": (1.0, 30.0),
    "vmaf_motion": (0.5, 50.0),
    "saturation": (0.0, 180.0),
    "overall": (0.1, 1.0),
    "cuts_inside": (0, 0),
}
PARAMS = CurateParams.model_validate(
    {"ranges": {"default": RANGES, "still": {**RANGES, "flow_motion": (0.0, 1.0)}}, "validation": 0.2}
)
GOOD = {"flow_motion": 3.0, "vmaf_motion": 2.0, "saturation": 80.0, "overall": 0.5, "cuts_inside": 0}


def table(name: str, rows: list[dict[str, object]]) -> pa.Table:
    blank = dict.fromkeys(tables.SCHEMAS[name].names)
    return pa.Table.from_pylist([{**blank, **row} for row in rows], schema=tables.SCHEMAS[name])


def clip(number: int, video: str = "v", source: str = "film", **more: object) -> dict[str, object]:
    start = number * 2.1
    return {"clip_id": f"{video}-{number:03d}", "video_id": video, "source": source, "shot": number // 2,
            "start": start, "end": start + 2.0, "frames": 33, **more}  # fmt: skip


def choose(clips, scores=None, captions=None, twins=(), videos=None, params=PARAMS):  # type: ignore[no-untyped-def]
    names = [c["clip_id"] for c in clips]
    scores = scores if scores is not None else [{"clip_id": n, **GOOD} for n in names]
    captions = captions if captions is not None else [{"clip_id": n, "text": "a film"} for n in names]
    videos = videos or [
        {"video_id": v, "width": 1280, "height": 720, "rotation": 0} for v in sorted({c["video_id"] for c in clips})
    ]
    given = {"videos": videos, "clips": clips, "scores": scores, "captions": captions, "twins": list(twins)}
    chosen = run(**{name: table(name, rows) for name, rows in given.items()}, params=params)
    assert chosen.schema.equals(tables.SELECTION)
    return {row["clip_id"]: row for row in chosen.to_pylist()}


def test_one_row_for_every_clip_in_the_schema() -> None:
    rows = choose([clip(n) for n in range(10)])
    assert len(rows) == 10
    assert all(row.keys() == set(tables.SELECTION.names) for row in rows.values())
    assert rows["v-000"]["bucket"] == "480x832x33"


@pytest.mark.parametrize(
    ("change", "reason"),
    [({"flow_motion": 0.9}, "FLOW_MOTION_LOW"), ({"flow_motion": 30.1}, "FLOW_MOTION_HIGH"),
     ({"vmaf_motion": 0.1}, "VMAF_MOTION_LOW"), ({"saturation": 181.0}, "SATURATION_HIGH"),
     ({"overall": 0.05}, "OVERALL_LOW"), ({"cuts_inside": 1}, "CUTS_INSIDE_HIGH"),
     ({"flow_motion": None}, "MISSING_FLOW_MOTION"), ({"overall": float("nan")}, "MISSING_OVERALL"),
     ({"reason": "DECODE_FAILED"}, "DECODE_FAILED")],
)  # fmt: skip
def test_each_rule_names_itself(change: dict[str, object], reason: str) -> None:
    row = choose([clip(0)], scores=[{"clip_id": "v-000", **GOOD, **change}])["v-000"]
    assert (row["keep"], row["reason"], row["reasons"], row["subset"]) == (False, reason, [reason], None)


def test_bounds_are_inclusive_and_a_source_may_have_its_own() -> None:
    at_the_edge = [{"clip_id": "v-000", **GOOD, "flow_motion": 1.0, "overall": 1.0}]
    assert choose([clip(0)], scores=at_the_edge)["v-000"]["keep"]
    assert choose([clip(0, source="still")])["v-000"]["reasons"] == ["FLOW_MOTION_HIGH"]


def test_every_failing_rule_is_told_and_missing_is_never_a_pass() -> None:
    rows = choose(
        [clip(0), clip(1), clip(2, reason="TOO_SHORT")],
        scores=[{"clip_id": "v-001", **GOOD, "flow_motion": 0.0, "saturation": 200.0}],
        captions=[],
    )
    assert rows["v-000"]["reasons"] == ["MISSING_SCORE"]
    assert rows["v-001"]["reasons"] == ["FLOW_MOTION_LOW", "SATURATION_HIGH", "MISSING_CAPTION"]
    assert rows["v-002"]["reasons"] == ["TOO_SHORT"]


def test_of_a_group_of_near_copies_one_is_kept() -> None:
    twins = [
        {"clip_id": "v-001", "twin_of": "v-000", "distance": 1.0},
        {"clip_id": "v-002", "twin_of": "v-000", "distance": 2.0},
    ]
    rows = choose([clip(n) for n in range(3)], twins=twins)
    assert [rows[f"v-00{n}"]["reasons"] for n in range(3)] == [[], ["TWIN"], ["TWIN"]]
    scores = [
        {"clip_id": "v-000", **GOOD, "flow_motion": 0.0},
        {"clip_id": "v-001", **GOOD},
        {"clip_id": "v-002", **GOOD},
    ]
    rows = choose([clip(n) for n in range(3)], scores=scores, twins=twins)
    assert [rows[f"v-00{n}"]["reasons"] for n in range(3)] == [["FLOW_MOTION_LOW"], [], ["TWIN"]]


def test_one_film_is_held_out_from_a_cut_on_with_a_gap() -> None:
    rows = choose([clip(n) for n in range(40)])
    val = sorted(c for c, row in rows.items() if row["subset"] == "val")
    assert val == [f"v-{n:03d}" for n in range(32, 40)]
    guard = [c for c, row in rows.items() if row["reason"] == "SPLIT_GUARD"]
    assert guard == ["v-031"]
    assert clip(32)["start"] - clip(30)["end"] >= GUARD_SECONDS  # type: ignore[operator]


def test_no_shot_stands_on_both_sides() -> None:
    start = np.arange(10) * 2.1
    shot = np.array([0] * 9 + [9])
    side = sides(np.zeros(10, int), np.zeros(10, int), shot, start, start + 2.0, 0.4)
    assert len(set(side[:8].tolist())) == 1


@pytest.mark.parametrize(
    ("sizes", "wanted", "held"), [([9, 1], 0.4, 1), ([5, 5], 0.1, 0), ([1] * 10, 0.25, 2), ([4], 0.4, 0)]
)
def test_the_held_out_share_comes_nearest_to_what_was_asked(sizes: list[int], wanted: float, held: int) -> None:
    assert held_out(np.array(sizes), wanted) == held


def test_several_videos_are_held_out_whole_and_order_does_not_matter() -> None:
    clips = [clip(n, video=f"v{v}") for v in range(10) for n in range(4)]
    rows = choose(clips)
    val = {row["video_id"] for row in rows.values() if row["subset"] == "val"}
    train = {row["video_id"] for row in rows.values() if row["subset"] == "train"}
    assert len(val) == 2
    assert not val & train
    assert choose(clips[::-1]) == rows


def test_small_sources_still_give_a_held_out_part_and_a_single_shot_none() -> None:
    both = choose([clip(n, shot=int(n > 2)) for n in range(5)])
    assert [both[f"v-00{n}"]["subset"] for n in range(5)] == ["train", "train", None, "val", "val"]
    single = choose([clip(n, shot=0) for n in range(5)])
    assert {row["subset"] for row in single.values()} == {"train"}


def test_bucket_follows_the_picture_as_shown() -> None:
    assert size({"width": 1280, "height": 720, "rotation": 90}) == "832x480"
    assert size({"width": 720, "height": 576, "rotation": 0, "sample_aspect": 64 / 45}) == "480x832"
    assert size({"width": None, "height": None, "rotation": None}) is None


NUMBERS = {f.name for f in tables.SCORES if pa.types.is_floating(f.type) or pa.types.is_integer(f.type)}


def test_every_number_of_the_scores_may_have_a_range() -> None:
    assert set(Ranges.model_fields) == NUMBERS | {"vmaf_percentile"}


def test_a_source_states_only_what_differs_and_may_lift_a_bound() -> None:
    params = CurateParams.model_validate(
        {
            "ranges": {"default": RANGES, "game": {"watermark": [0, 0.2], "saturation": None, "overall": [0.3, 1]}},
            "validation": 0.1,
        }
    )
    assert params.ranges_of("film") == PARAMS.ranges_of("film")
    own = params.ranges_of("game")
    assert list(own) == ["flow_motion", "vmaf_motion", "overall", "watermark", "cuts_inside"]
    assert (own["overall"], own["watermark"]) == ((0.3, 1.0), (0.0, 0.2))
    again = CurateParams.model_validate(yaml.safe_load(yaml.safe_dump(params.model_dump(mode="json"))))
    assert again == params and again.ranges_of("game") == own


@pytest.mark.parametrize("bounds", [[3, 1], [float("nan"), 1]])
def test_ends_in_the_wrong_order_are_refused(bounds: list[float]) -> None:
    with pytest.raises(ValueError, match="nsfw: the low end"):
        Ranges.model_validate({"nsfw": bounds})


def test_a_range_on_what_was_not_measured_drops() -> None:
    params = CurateParams.model_validate({"ranges": {"default": {**RANGES, "nsfw": [0, 0.5]}}, "validation": 0.2})
    scores = [{"clip_id": "v-000", **GOOD, "nsfw": 0.1}, {"clip_id": "v-001", **GOOD}]
    rows = choose([clip(0), clip(1)], scores=scores, params=params)
    assert [row["reasons"] for row in rows.values()] == [[], ["MISSING_NSFW"]]


def test_the_percentile_is_taken_within_the_source() -> None:
    source = np.array([0, 1, 0, 0, 1, 0, 0])
    values = np.array([5.0, 9.0, 1.0, 5.0, 9.0, np.nan, 7.0])
    found = percentiles(source, values, np.array([True] * 7))
    assert np.array_equal(found, [50.0, 50.0, 12.5, 50.0, 50.0, np.nan, 87.5], equal_nan=True)
    params = CurateParams.model_validate(
        {"ranges": {"default": {**RANGES, "vmaf_percentile": [20, 80]}}, "validation": 0.2}
    )
    scores = [{"clip_id": f"v-{n:03d}", **GOOD, "vmaf_motion": 1.0 + n} for n in range(10)]
    rows = choose([clip(n) for n in range(10)], scores=scores, params=params)
    outside = {name: row["reason"] for name, row in rows.items() if row["vmaf_percentile"] in (5, 15, 85, 95)}
    assert outside == {"v-000": "VMAF_PERCENTILE_LOW", "v-001": "VMAF_PERCENTILE_LOW",
                       "v-008": "VMAF_PERCENTILE_HIGH", "v-009": "VMAF_PERCENTILE_HIGH"}  # fmt: skip
    assert rows["v-002"]["vmaf_percentile"] == 25


def test_the_next_best_stands_in_where_the_best_fails() -> None:
    twins = [
        {"clip_id": "v-001", "twin_of": "v-000", "rank": 2},
        {"clip_id": "v-002", "twin_of": "v-000", "rank": 1},
    ]
    scores = [{"clip_id": f"v-00{n}", **GOOD, "saturation": 200.0 if n == 0 else 9.0} for n in range(3)]
    rows = choose([clip(n) for n in range(3)], scores=scores, twins=twins)
    assert [row["reasons"] for row in rows.values()] == [["SATURATION_HIGH"], ["TWIN"], []]


def test_a_refused_caption_keeps_its_reason() -> None:
    captions = [{"clip_id": "v-000", "text": "I cannot", "reason": "REFUSED"}, {"clip_id": "v-001", "text": ""}]
    rows = choose([clip(0), clip(1)], captions=captions)
    assert [row["reasons"] for row in rows.values()] == [["REFUSED"], ["MISSING_CAPTION"]]


def test_whole_columns_agree_with_the_definition_clip_by_clip() -> None:
    rng = random.Random(5)
    params = CurateParams.model_validate(
        {
            "ranges": {"default": {**RANGES, "text_area": [0, 0.5]}, "b": {"text_area": None, "flicker": [0.2, 0.8]}},
            "validation": 0.2,
        }
    )

    def some(*values: Any) -> Any:
        return rng.choice(values)

    clips = [
        clip(n, f"v{n % 7}", some("a", "b"), reason=some(None, None, None, "SHOT_TOO_SHORT: 0.3 s")) for n in range(300)
    ]
    videos = {f"v{v}": {"video_id": f"v{v}", "width": 64, "height": 64, "rotation": 0} for v in range(6)}
    scores = {
        c["clip_id"]: {
            **dict.fromkeys(tables.SCORES.names),
            "clip_id": c["clip_id"],
            **GOOD,
            "saturation": some(0.0, 180.0, 180.5, None, float("nan")),
            "text_area": some(0.1, 0.6, None),
            "flicker": some(0.1, 0.5, None),
            "cuts_inside": some(0, 0, 0, 1),
            "reason": some(None, None, None, None, "DECODE_FAILED: at 3"),
        }
        for c in clips
        if rng.random() < 0.9
    }
    captions = {
        c["clip_id"]: {"clip_id": c["clip_id"], "text": some("x", "", None), "reason": some(None, None, "REFUSED")}
        for c in clips
        if rng.random() < 0.9
    }
    rows = choose(clips, list(scores.values()), list(captions.values()), videos=list(videos.values()), params=params)
    for c in clips:
        name = str(c["clip_id"])
        full = {**dict.fromkeys(tables.CLIPS.names), **c}
        expected = failures(
            full,
            videos.get(str(c["video_id"])),
            scores.get(name),
            captions.get(name),
            params.ranges_of(str(c["source"])),
        )
        assert [r for r in rows[name]["reasons"] if r != "SPLIT_GUARD"] == expected, name
        assert rows[name]["reason"] == (rows[name]["reasons"] or [None])[0]
    assert len({reason for row in rows.values() for reason in row["reasons"]}) > 12


def test_joined_batches_count_equal_content_once(tmp_path: Path) -> None:
    for batch, name in (("b", "two.mp4"), ("a", "one.mp4")):
        video = {**dict.fromkeys(tables.VIDEOS.names), "video_id": "v", "uri": name}
        one = {**dict.fromkeys(tables.CLIPS.names), **clip(0), "detector": batch}
        tables.write("videos", [video], tmp_path / "data/videos" / f"{batch}.parquet")
        tables.write("clips", [one], tmp_path / "data/clips" / f"{batch}.parquet")
    videos = join("videos", tmp_path, ["b", "a"]).to_pylist()
    assert [(row["uri"], row["reason"]) for row in videos] == [("one.mp4", None), ("two.mp4", "DUPLICATE_OF:one.mp4")]
    assert [row["detector"] for row in join("clips", tmp_path, ["b", "a"]).to_pylist()] == ["a"]
    with pytest.raises(ValueError, match="twins is missing"):
        load(tmp_path, ["a"])


def test_nothing_in_nothing_out_and_the_version_is_stated() -> None:
    assert choose([]) == {}
    stated = yaml.safe_load((Path(__file__).parents[2] / "versions.yaml").read_text())
    assert stated["curate"] == CURATE_VERSION
