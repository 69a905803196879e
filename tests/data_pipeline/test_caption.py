from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
import yaml

from data_pipeline import tables
from data_pipeline.caption import CAPTIONER, run
from data_pipeline.caption.pictures import pictures_of
from data_pipeline.caption.template import MAX_CHARACTERS, colour_name, describe, title
from data_pipeline.caption.text import clean
from data_pipeline.params import CaptionParams, DataParams

ROOT = Path(__file__).resolve().parents[2]
PARAMS = CaptionParams(captioner="template", prompt_version=1)
MEASURED = {
    "flow_motion": 3.0,
    "saturation": 90.0,
    "brightness": 120.0,
    "technical": 0.5,
    "colour": [40.0, 90.0, 180.0],
    "reason": None,
}


def track(items, total, label):  # type: ignore[no-untyped-def]
    return items


def table(name: str, rows: list[dict[str, object]]) -> pa.Table:
    blank = dict.fromkeys(tables.SCHEMAS[name].names)
    return pa.Table.from_pylist([{**blank, **row} for row in rows], schema=tables.SCHEMAS[name])


def caption_rows(score: dict[str, object] | None, root: Path) -> list[dict[str, object]]:
    video = {"video_id": "v", "uri": "raw/v.mp4", "width": 160, "height": 96, "rotation": 90}
    videos = table("videos", [video])
    (root / "raw").mkdir()
    clips = table(
        "clips",
        [{"clip_id": "a", "video_id": "v", "source": "s"}, {"clip_id": "b", "video_id": "v", "reason": "SHORT"}],
    )
    scores = table("scores", [{"clip_id": "a", **score}] if score is not None else [])
    return run(videos, clips, scores, PARAMS, "raw", root, track)


def test_a_caption_names_source_shape_light_colour_and_motion() -> None:
    text = describe("clip-1", "big-buck-bunny", 16 / 9, MEASURED)
    assert "Big Buck Bunny" in text
    assert "blue" in text
    assert "landscape" in text
    assert text.endswith(".")


def test_captions_vary_by_clip_and_are_the_same_for_the_same_clip() -> None:
    texts = {describe(f"clip-{i}", "film", 1.7, MEASURED) for i in range(60)}
    assert len(texts) > 8
    assert describe("clip-3", "film", 1.7, MEASURED) == describe("clip-3", "film", 1.7, MEASURED)


@pytest.mark.parametrize(("flow", "words"), [(0.1, "still nothing"), (4.0, "steady even"), (40.0, "fast quickly")])
def test_motion_words_follow_the_measure(flow: float, words: str) -> None:
    text = describe("clip-1", "film", 1.7, {**MEASURED, "flow_motion": flow})
    assert any(word in text for word in words.split())


def test_every_live_clip_gets_a_row_and_rotation_counts(tmp_path: Path) -> None:
    (row,) = caption_rows(MEASURED, tmp_path)
    assert row["captioner"] == row["model"] == CAPTIONER
    assert "stand-in" in CAPTIONER
    assert "portrait" in str(row["text"])
    assert row["reason"] is None
    assert row.keys() == set(tables.CAPTIONS.names)


@pytest.mark.parametrize(
    ("score", "reason"),
    [
        (None, "MISSING_SCORE"),
        ({**MEASURED, "brightness": None}, "MISSING_SCORE"),
        ({**MEASURED, "reason": "DECODE_FAILED"}, "DECODE_FAILED"),
    ],
)
def test_a_clip_without_scores_has_a_reason_and_no_text(
    score: dict[str, object] | None, reason: str, tmp_path: Path
) -> None:
    (row,) = caption_rows(score, tmp_path)
    assert (row["text"], row["reason"]) == (None, reason)


def test_hostile_source_names_become_plain_words() -> None:
    assert clean("a\u202eb\x00c\n d", 300) == "abc d"
    assert clean("\u2066a\u2069\u200b\ufeff\u00adb\x1b[31m\u2028c", 300) == "ab[31m c"
    assert "motion" not in clean("x motion score: 9. Motion_Score y", 300).lower()
    assert "motion score" not in clean("motion motion score score: 3", 300)
    assert len(clean("word " * 200, 300)) <= 300
    assert len(clean("x" * 1000, 300)) == 300
    assert len(title("x" * 1000)) <= MAX_CHARACTERS
    assert title("big-buck_bunny") == "Big Buck Bunny"
    assert title("\u202e") == "an unnamed source"
    assert "otion score" not in describe("c", "motion-score", 1.0, MEASURED)


@pytest.mark.parametrize(
    ("rgb", "name"),
    [([10, 10, 12], "black"), ([120, 120, 125], "grey"), ([240, 240, 240], "white"), ([200, 30, 40], "red"),
     ([30, 160, 40], "green"), ([120, 80, 40], "brown"), ([20, 30, 110], "dark blue"), ([250, 180, 210], "pale pink")],
)  # fmt: skip
def test_colour_names(rgb: list[float], name: str) -> None:
    assert colour_name(rgb) == name


def test_a_prompt_that_came_with_a_video_stands_beside_the_caption_and_is_never_the_caption(tmp_path: Path) -> None:
    clips = table("clips", [{"clip_id": "a", "video_id": "v", "source": "s"}])
    videos = table("videos", [{"video_id": "v", "uri": "raw/deep/v.mp4", "width": 160, "height": 96}])
    (tmp_path / "raw").mkdir()
    line = json.dumps({"file": "deep/v.mp4", "prompt": "a castle\u202e\n of glass"})
    (tmp_path / "raw" / "prompts.jsonl").write_text(line + "\n\n")
    scores = table("scores", [{"clip_id": "a", **MEASURED}])
    (row,) = run(videos, clips, scores, PARAMS, "raw", tmp_path, track)
    assert row["original"] == "a castle of glass"
    assert "castle" not in str(row["text"])


@pytest.mark.parametrize(
    "line", ["not json", "[1]", '{"file": "v.mp4"}', '{"file": 3, "prompt": "x"}', "[" * 100_000, "\udcff"]
)
def test_a_faulty_line_of_prompts_is_named(line: str, tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    good = json.dumps({"file": "v.mp4", "prompt": "x"})
    (tmp_path / "raw" / "prompts.jsonl").write_bytes(f"{good}\n{line}\n".encode("utf-8", "surrogateescape"))
    clips, videos = table("clips", []), table("videos", [{"video_id": "v", "uri": "raw/v.mp4"}])
    with pytest.raises(ValueError, match=r"raw/prompts\.jsonl, line 2"):
        run(videos, clips, table("scores", []), PARAMS, "raw", tmp_path, track)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"captioner": "endpoint"}, "needs `endpoint`"),
        ({"words": [9, 3]}, "more than the most"),
        ({"ranges": {"film": {}}}, "`default` is missing"),
        ({"ranges": {"default": {"vmaf_percentile": [0, 9]}}}, "take vmaf_motion"),
        ({"endpoint": {"base_url": "ftp://host/v1", "model": "m"}}, "http://host"),
        ({"endpoint": {"base_url": "http://user:secret@host/v1", "model": "m"}}, "SANA_CAPTION_API_KEY"),
        ({"endpoint": {"base_url": "http://host/v1?key=1", "model": "m"}}, "SANA_CAPTION_API_KEY"),
    ],
)
def test_params_that_cannot_work_are_refused(changes: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        CaptionParams.model_validate({"captioner": "template", "prompt_version": 1, **changes})


def test_whatever_the_thresholds_keep_is_within_what_is_captioned() -> None:
    section = yaml.safe_load((ROOT / "params.yaml").read_text())["data"]
    section["caption"]["ranges"] = {"default": {"flow_motion": [0.05, 30.0]}, "game": {"overall": [0.5, 1.0]}}
    section["curate"]["ranges"]["game"] = {"overall": [0.6, 1.0]}
    DataParams.model_validate(section)
    for source, wide in (
        ("game", {"overall": [0.4, 1.0]}),
        ("game", {"overall": None}),
        ("x", {"flow_motion": [0, 9]}),
    ):
        section["curate"]["ranges"] = {**section["curate"]["ranges"], "game": {"overall": [0.6, 1.0]}, source: wide}
        with pytest.raises(ValueError, match=rf"{next(iter(wide))} .* of {source} is narrower than curate\.ranges"):
            DataParams.model_validate(section)


def test_pictures_are_the_same_from_any_number_of_readers_and_in_order_from_one(
    tmp_path: Path, make_video: Callable[..., Path]
) -> None:
    """Of three films; of one that is damaged only its own clips have a reason."""
    uris = {name: str(make_video(tmp_path / f"{name}.mp4", seconds=3, seed=n)) for n, name in enumerate("abc")}
    Path(uris["b"]).write_bytes(b"no film")
    clips = [
        {"clip_id": f"{name}{k}", "video_id": name, "start_pts": k * 12288, "end_pts": (k + 1) * 12288}
        for name in "cab"
        for k in range(2)
    ]
    one = list(pictures_of(clips, uris, 4, 64, tmp_path, readers=1))
    two = list(pictures_of(clips, uris, 4, 64, tmp_path, readers=2))
    assert [clip["clip_id"] for clip, _ in one] == ["a0", "a1", "b0", "b1", "c0", "c1"]
    assert {clip["clip_id"]: found for clip, found in two} == {clip["clip_id"]: found for clip, found in one}
    for clip, found in one:
        if clip["video_id"] == "b":
            assert isinstance(found, str) and found.startswith("NOT_A_VIDEO")
        else:
            assert len(found) == 4 and all(picture[:2] == b"\xff\xd8" for picture in found)
