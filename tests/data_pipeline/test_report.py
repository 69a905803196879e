from __future__ import annotations

import re

from data_pipeline.report import funnel, histogram, margin, summarise

RANGES = {"flow_motion": (1, 11), "vmaf_motion": (0, 10), "saturation": (0, 100), "overall": (0, 1)}
SCORE = {"flow_motion": 6.0, "vmaf_motion": 5.0, "saturation": 50.0, "overall": 0.5}


def choice(clip: str, *reasons: str, subset: str = "train") -> dict[str, object]:
    return {
        "clip_id": clip,
        "source": "s",
        "keep": not reasons,
        "reason": reasons[0] if reasons else None,
        "reasons": list(reasons),
        "subset": None if reasons else subset,
    }


ROWS = {
    "videos": [{"reason": None}, {"reason": "UNREADABLE: no"}],
    "clips": [{"clip_id": c, "frames": 32, "fps": 16.0, "reason": "SHORT" if c == "e" else None} for c in "abcde"],
    "scores": [{"clip_id": c, "reason": None} for c in "abcd"],
    "selection": [
        choice("a"),
        choice("b", subset="val"),
        choice("c", "TWIN"),
        choice("d", "FLOW_MOTION_LOW", "TWIN"),
        choice("e", "SHORT: 1 s"),
    ],
}


def test_the_funnel_never_grows_and_ends_at_what_is_kept() -> None:
    steps = funnel(ROWS)
    assert steps == [
        ("spans", 5),
        ("clips", 4),
        ("scored", 4),
        ("in range", 3),
        ("without copies", 2),
        ("kept", 2),
        ("train", 1),
        ("val", 1),
    ]


def test_the_summary_counts_by_reason_and_source() -> None:
    summary = summarise(ROWS)
    assert summary["dropped"] == {"FLOW_MOTION_LOW": 1, "SHORT": 1, "TWIN": 1}
    assert (summary["kept"], summary["kept_fraction"], summary["rejected_videos"]) == (2, 0.4, 1)
    assert summary["kept_hours"] == round(4.0 / 3600, 5)


def test_margin_tells_how_far_inside_the_ranges_a_clip_lies() -> None:
    assert margin(SCORE, RANGES) == 0.5
    assert margin({**SCORE, "flow_motion": 2.0}, RANGES) == 0.1
    assert margin({**SCORE, "saturation": 110.0}, RANGES) == -0.1


def test_a_histogram_counts_every_clip_and_draws_the_thresholds() -> None:
    picture = histogram([0.0, 1.0, 1.0, 2.0, 500.0, None], [0.5, 3.0, 900.0])  # type: ignore[list-item]
    assert sum(map(int, re.findall(r"<title>(\d+) clips", picture))) == 5
    assert picture.count("<line") == 2
    assert histogram([], [1.0]).startswith("<p>")
