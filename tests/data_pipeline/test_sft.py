"""The SFT set: criteria as columns, equal shares, what people said, and the page they say it on."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from good_tables import row, table

from data_pipeline.params import SftParams
from data_pipeline.sft import choose, page, reviews
from data_pipeline.tables import SFT

GOOD = {
    "flow_motion": 5.0, "object_motion": 4.0, "camera_motion": 0.2, "camera_jitter": 0.1, "technical": 0.8,
    "brightness": 120.0, "flicker": 1.0, "saturation": 90.0, "overall": 0.7,
}  # fmt: skip
RANGES = {
    "flow_motion": (3, 20), "camera_jitter": (0, 1), "technical": (0.5, 1), "brightness": (40, 210), "flicker": (0, 6),
    "saturation": (20, 160),
}  # fmt: skip
WHEN = "2026-01-31T12:00:00Z"


def params(**given: Any) -> SftParams:
    base = {"target": 24, "moves": {"object_motion": 1.0, "camera_motion": 1.0}, "ranges": RANGES}
    return SftParams.model_validate({**base, **given})


def made(clips: list[dict[str, Any]], said: dict[str, reviews.Review] | None = None, **given: Any) -> dict[str, Any]:
    """{clip_id: row} of the SFT table of such clips; `kind`, `video` and measures change a good one."""
    ids = [each["id"] for each in clips]
    selection = [
        row("selection", clip_id=i, video_id=c.get("video", i), source="s", keep=c.get("keep", True))
        for i, c in zip(ids, clips, strict=True)
    ]
    scores = [
        row("scores", clip_id=i, **{name: c.get(name, value) for name, value in GOOD.items()})
        for i, c in zip(ids, clips, strict=True)
    ]
    told = [c.get("kind", ("human", "realistic")) for c in clips]
    captions = [row("captions", clip_id=i, category=kind[0], style=kind[1]) for i, kind in zip(ids, told, strict=True)]
    tables = (
        table(name, rows) for name, rows in (("selection", selection), ("scores", scores), ("captions", captions))
    )
    result = choose.run(*tables, said or {}, params(**given))
    assert result.schema.equals(SFT)
    return {each["clip_id"]: each for each in result.to_pylist()}


def review(decision: str, *failed: str, who: str = "ana") -> reviews.Review:
    return reviews.Review.model_validate({"reviewer": who, "decision": decision, "failed": failed, "time": WHEN})


@pytest.mark.parametrize(
    ("change", "criterion", "reason"),
    [
        ({"object_motion": 0.1}, "motion", "NO_MOTION"),
        ({"flow_motion": 25.0}, "motion", "FLOW_MOTION_HIGH"),
        ({"camera_jitter": 1.5}, "stable_camera", "CAMERA_JITTER_HIGH"),
        ({"technical": 0.4}, "focus", "TECHNICAL_LOW"),
        ({"brightness": 20.0}, "brightness", "BRIGHTNESS_LOW"),
        ({"flicker": 9.0}, "brightness", "FLICKER_HIGH"),
        ({"saturation": 200.0}, "natural_colour", "SATURATION_HIGH"),
        ({"saturation": None}, "natural_colour", "MISSING_SATURATION"),
    ],
)
def test_a_criterion_that_is_not_met_is_false_and_a_reason(change: dict[str, Any], criterion: str, reason: str) -> None:
    found = made([{"id": "a", **change}, {"id": "b"}])
    assert (found["a"][criterion], found["a"]["reasons"], found["a"]["chosen"]) == (False, [reason], False)
    assert found["b"]["reasons"] == [] and found["b"]["chosen"]
    measured = [name for name, of in choose.MEASURES.items() if of]
    assert all(found["b"][name] for name in measured)
    assert [name for name in choose.MEASURES if found["b"][name] is None] == [
        n for n in choose.MEASURES if n not in measured
    ]


def test_what_moves_is_told_apart() -> None:
    both, still = {"object_motion": 2.0, "camera_motion": 2.0}, {"object_motion": 0.0, "camera_motion": 0.0}
    found = made(
        [
            {"id": "a"},
            {"id": "b", "object_motion": 0.0, "camera_motion": 3.0},
            {"id": "c", **both},
            {"id": "d", **still},
        ]
    )
    assert [found[i]["moves"] for i in "abcd"] == ["object", "camera", "both", None]


def test_cells_get_equal_shares_and_a_shortfall_is_told() -> None:
    clips = [{"id": f"h{n:02d}", "overall": n / 100} for n in range(30)]
    clips += [{"id": f"s{n}", "kind": ("scene", "cinematic")} for n in range(1)]
    clips += [{"id": f"u{n}", "kind": (None, None)} for n in range(3)]
    clips += [{"id": "x", "keep": False}]
    found = made(clips)
    assert "x" not in found
    assert sorted(i for i, each in found.items() if each["chosen"]) == ["h28", "h29", "s0"], (
        "the best two; unknown gets no share"
    )
    assert made(clips, quotas={"unknown": 2})["u1"]["chosen"] and not made(clips, quotas={"unknown": 2})["u2"]["chosen"]
    counted = {
        cell.name: cell for cell in choose.cells(pa.Table.from_pylist(list(found.values()), schema=SFT), params())
    }
    assert len(counted) == 13
    assert counted["scene/cinematic"][1:] == (2, 1, 1, 0, 1, 1)
    assert counted["unknown"][1:] == (0, 3, 3, 0, 0, 0)
    told = json.loads(choose.summary(pa.Table.from_pylist(list(found.values()), schema=SFT), params(), 0))
    assert told["shortfall"] == 21 and told["criteria"]["composition"] == "human_only"


def test_quotas_by_name_leave_the_rest_to_the_others() -> None:
    shares = dict(zip(choose.CELLS, choose.quotas(params(target=5000)), strict=True))
    assert sum(shares.values()) == 5000 and set(shares.values()) == {417, 416, 0} and shares["unknown"] == 0
    named = dict(zip(choose.CELLS, choose.quotas(params(target=100, quotas={"human/cartoon": 45})), strict=True))
    assert named["human/cartoon"] == 45 and named["animal/cartoon"] == 5 and sum(named.values()) == 100
    with pytest.raises(ValueError, match="is no cell"):
        params(quotas={"human/noir": 3})
    with pytest.raises(ValueError, match="more than target"):
        params(quotas={"unknown": 25})


def test_one_of_each_film_comes_before_a_second_of_any() -> None:
    film = [{"id": f"a{n}", "video": "a", "overall": 0.9 + n / 100} for n in range(4)]
    others = [{"id": "b", "overall": 0.5}, {"id": "c", "overall": 0.6}]
    found = made([*film, *others])
    assert [found[i]["place"] for i in ("a3", "c", "b", "a2", "a1", "a0")] == [1, 2, 3, 4, 5, 6]
    capped = made([*film, *others], per_video=2)
    assert [capped[i]["place"] for i in ("a2", "a1", "a0")] == [4, None, None]


def test_people_come_before_measures_and_their_marks_fill_what_only_they_can_tell() -> None:
    clips = [{"id": i, "overall": 0.9 - n / 10} for n, i in enumerate("abcd")]
    said = {"d": review("accept", "composition"), "a": review("reject", "no_occlusion"), "gone": review("accept")}
    found = made(clips, said)
    assert [i for i in "abcd" if found[i]["chosen"]] == ["b", "d"] and found["d"]["place"] == 1
    assert found["a"]["reasons"] == ["HUMAN_REJECTED"] and found["a"]["no_occlusion"] is False
    assert found["a"]["composition"] is None, "a rejection says nothing of what was not marked"
    assert (found["d"]["engaging_subject"], found["d"]["composition"]) == (True, False)
    assert (found["d"]["human"], found["d"]["reviewer"], found["d"]["marked"]) == ("accept", "ana", ["composition"])
    only = made(clips, said, accepted_only=True)
    assert [i for i in "abcd" if only[i]["chosen"]] == ["d"] and only["b"]["reasons"] == ["NOT_REVIEWED"]


def test_the_order_of_the_tables_changes_nothing() -> None:
    rng = np.random.default_rng(3)
    clips = [{"id": f"{n:03d}", "overall": float(rng.integers(3)) / 4, "video": f"v{n % 7}"} for n in range(60)]
    assert made(clips) == made(clips[::-1])


def test_a_view_of_the_set_alone() -> None:
    selection = table("selection", [row("selection", clip_id=i, keep=True) for i in "abc"])
    sft = table("sft", [row("sft", clip_id=i, chosen=i == "b") for i in "abc"])
    assert choose.only_chosen(selection, sft).column("clip_id").to_pylist() == ["b"]
    with pytest.raises(ValueError, match="holds no clip"):
        choose.only_chosen(selection, sft.slice(0, 1))


def document(path: Path, who: str, **decisions: str) -> Path:
    listed = [{"clip_id": clip, "decision": said, "failed": [], "time": WHEN} for clip, said in decisions.items()]
    path.write_text(json.dumps({"kind": reviews.KIND, "version": 1, "reviewer": who, "decisions": listed}))
    return path


KNOWN = frozenset("abc")


def test_reviews_are_stored_once_and_added_to(tmp_path: Path) -> None:
    store = tmp_path / "reviews"
    [first] = reviews.decide([document(tmp_path / "1.json", "Ana B", a="accept")], store, KNOWN)
    assert first.name.startswith("ana-b-")
    with pytest.raises(ValueError, match="nothing new"):
        reviews.decide([tmp_path / "1.json"], store, KNOWN)
    [more] = reviews.decide([document(tmp_path / "2.json", "Ana B", a="accept", b="reject")], store, KNOWN)
    assert [each.clip_id for each in reviews.read(more).decisions] == ["b"] and first.exists()
    reviews.decide([document(tmp_path / "3.json", "Ben", b="reject")], store, KNOWN)
    standing = reviews.standing(reviews.stored(store))
    assert standing["b"].reviewer == "Ana B, Ben" and standing["a"].decision == "accept"


def test_csv_says_the_same(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    path.write_text(
        f"clip_id,decision,failed,reviewer,time\na,reject,focus composition,Ana,{WHEN}\nb,accept,,Ana,{WHEN}\n"
    )
    found = reviews.read(path)
    assert found.reviewer == "Ana" and found.decisions[0].failed == ("focus", "composition")


def test_reviewers_who_disagree_are_an_error_until_one_looks_again(tmp_path: Path) -> None:
    store = tmp_path / "reviews"
    reviews.decide([document(tmp_path / "1.json", "ana", a="accept")], store, KNOWN)
    with pytest.raises(ValueError, match="clip a: ana says accept, ben says reject"):
        reviews.decide([document(tmp_path / "2.json", "ben", a="reject", b="accept")], store, KNOWN)
    assert len(list(store.iterdir())) == 1, "all or none"
    again = document(tmp_path / "3.json", "ana", a="reject")
    again.write_text(again.read_text().replace(WHEN, "2026-02-01T12:00:00+01:00"))
    reviews.decide([again], store, KNOWN)
    reviews.decide([tmp_path / "2.json"], store, KNOWN)
    assert reviews.standing(reviews.stored(store))["a"].decision == "reject"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[]", "no review file"),
        ("{", "no review file"),
        ('{"kind": "x"}', "kind"),
        ("[" * 100_000, "no review file"),
        (None, "decided twice"),
    ],
)
def test_what_is_no_review_is_one_line(tmp_path: Path, text: str | None, said: str) -> None:
    path = document(tmp_path / "r.json", "ana", a="accept")
    if text is None:
        content = json.loads(path.read_text())
        text = json.dumps({**content, "decisions": content["decisions"] * 2})
    path.write_text(text)
    with pytest.raises(ValueError, match=said) as caught:
        reviews.read(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("change", [{"reviewer": "<b>x"}, {"version": 2}, {"extra": 1}])
def test_another_schema_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    path = document(tmp_path / "r.json", "ana", a="accept")
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ValueError, match="no review file"):
        reviews.decide([path], tmp_path / "reviews", KNOWN)


def test_an_unknown_clip_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="clip z is not among the clips"):
        reviews.decide([document(tmp_path / "r.json", "ana", z="accept")], tmp_path / "reviews", KNOWN)


def test_the_page_shows_who_waits_in_pages_and_nothing_of_theirs_is_markup(tmp_path: Path, make_video: Any) -> None:
    evil = "</script><img src=x onerror=alert(1)>&\u2028"
    film = make_video(tmp_path / "raw" / "film.mp4", seconds=2.0, fps=16, size=(64, 48), shots=1)
    clips = [{"id": i, "overall": 0.9 - n / 10} for n, i in enumerate("abcd")]
    rows = made([*clips, {"id": "e", "technical": 0.0}], {"b": review("reject")}, accepted_only=True)
    sft = pa.Table.from_pylist(list(rows.values()), schema=SFT)
    shares = choose.quotas(params())
    assert page.candidates(sft, shares, 1, 2).column("clip_id").to_pylist() == ["a", "c"]
    assert page.candidates(sft, shares, 2, 2).column("clip_id").to_pylist() == ["d"]
    assert not len(page.candidates(sft, shares, 3, 2))
    shown = page.candidates(sft, shares, 1, 9)
    videos = [
        row("videos", video_id="a", uri=str(film.relative_to(tmp_path))),
        row("videos", video_id="c", uri="none.mp4", reason="X"),
    ]
    spans = [row("clips", clip_id=i, video_id=i, start=0.0, start_pts=0, end_pts=0, frames=9, fps=16.0) for i in "acd"]
    tables = {"videos": videos, "clips": spans, "scores": [row("scores", clip_id="a", **GOOD)]}
    told = [row("captions", clip_id=i, text=evil) for i in "acd"]
    text = page.build(
        shown, **{name: table(name, listed) for name, listed in {**tables, "captions": told}.items()}, root=tmp_path,
        track=lambda each, *_: each,
    )  # fmt: skip
    assert evil not in text and "<img" not in text and text.count("</script>") == 2
    [block] = re.findall(r"<script type='application/json' id=data>(.*?)</script>", text, re.S)
    data = json.loads(block)
    assert [clip["clip_id"] for clip in data["clips"]] == ["a", "c", "d"]
    assert data["clips"][0]["caption"] == evil
    assert not re.search(r"(src|href)=.?https?:|@import|url\(", text)
    assert [name for name, _ in data["criteria"]] == list(reviews.CRITERIA) == list(choose.MEASURES)
