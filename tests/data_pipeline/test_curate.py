from __future__ import annotations

import pyarrow as pa
import pytest

from data_pipeline import tables
from data_pipeline.curate import GUARD_SECONDS, bucket, run, subsets
from data_pipeline.params import CurateParams

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


def choose(clips, scores=None, captions=None, twins=(), videos=None):  # type: ignore[no-untyped-def]
    names = [c["clip_id"] for c in clips]
    scores = scores if scores is not None else [{"clip_id": n, **GOOD} for n in names]
    captions = captions if captions is not None else [{"clip_id": n, "text": "a film"} for n in names]
    videos = videos or [
        {"video_id": v, "width": 1280, "height": 720, "rotation": 0} for v in sorted({c["video_id"] for c in clips})
    ]
    rows = run(
        table("videos", videos),
        table("clips", clips),
        table("scores", scores),
        table("captions", captions),
        table("twins", list(twins)),
        PARAMS,
    )
    return {row["clip_id"]: row for row in rows}


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
    clips = [clip(n, shot=0 if n < 9 else n) for n in range(10)]
    sides = subsets(clips, 0.4)
    assert len({sides[str(c["clip_id"])] for c in clips[:8]}) == 1


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
    assert bucket({"width": 1280, "height": 720, "rotation": 90}, 17) == "832x480x17"
    assert bucket({"width": None, "height": None, "rotation": None}, 17) is None
