"""Mutation tests: each rule of the gate `data` has one change of good tables that turns exactly its section red."""

from __future__ import annotations

import copy
import functools
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from good_tables import ROOT, Rows, good_rows, params, reader, row, set_aside, table

from data_pipeline import tables
from data_pipeline.curate import failures
from data_pipeline.expectations import SUITES, data_sections, document, files, table_sections
from data_pipeline.expectations.budgets import budgets
from data_pipeline.expectations.facts import on_disk
from data_pipeline.expectations.rows import BOUNDARIES
from data_pipeline.expectations.selection import choices
from data_pipeline.params import DataParams
from infra.gates import Verdict, evaluate

PARAMS = params()


@functools.cache
def made() -> Rows:
    return good_rows(PARAMS)


@pytest.fixture
def good() -> Rows:
    return copy.deepcopy(made())


def judge(rows: Rows, *sections: str, asked: DataParams = PARAMS, only: str = "") -> Verdict:
    """The verdict on the named sections, or all; with `only`, by the rules that read exactly these columns."""
    suites = {name: SUITES[name] for name in sections or SUITES if SUITES[name].asked(asked)}
    made = [each for name, suite in suites.items() for each in suite.sections(name, reader(rows), asked)]
    if only:
        made = [(n, replace(s, rules=[r for r in s.rules if ", ".join(r.columns) == only])) for n, s in made]
    return evaluate("data", [(name, section) for name, section in made if section.rules], {})


def failing(verdict: Verdict, severity: str = "critical") -> set[str]:
    return {
        r["column"] for s in verdict.sections.values() for r in s["rules"] if not r["ok"] and r["severity"] == severity
    }


def test_good_tables_are_green(good: Rows) -> None:
    verdict = judge(good)
    assert verdict.verdict == "green", (verdict.problems, verdict.failures())
    assert not verdict.failures("warning")
    assert judge(good, asked=params(reference="one")).verdict == "green"


def put(name: str, column: str, value: Any, at: int = 0) -> Callable[[Rows], None]:
    return lambda rows: rows[name][at].update({column: value})


def every(name: str, **values: Any) -> Callable[[Rows], None]:
    def change(rows: Rows) -> None:
        for each in rows[name]:
            each.update(values)

    return change


def drop(name: str, at: int = 0) -> Callable[[Rows], None]:
    return lambda rows: rows[name].__delitem__(at)


def first_kept(column: str, value: Any) -> Callable[[Rows], None]:
    return lambda rows: next(r for r in rows["selection"] if r["keep"]).update({column: value})


# Each breaks one row, in the first of the boundary's rows that go on.
BY_ROW: list[tuple[str, str, Any]] = [
    ("ingest", "video_id", "<a>"),
    ("ingest", "source", " "),
    ("ingest", "licence", ""),
    ("ingest", "licence", None),
    ("ingest", "bytes", 0),
    ("ingest", "width", 8),
    ("ingest", "height", None),
    ("ingest", "rotation", 45),
    ("ingest", "fps", float("inf")),
    ("ingest", "duration", 0.1),
    ("split", "frames", 32),
    ("split", "fps", 24.0),
    ("split", "end, start", {"end": -1.0}),
    ("split", "end_pts, start_pts", {"end_pts": 0}),
    ("split", "frames_off", {"end": 2.5}),
    ("split", "detector", "guess"),
    *(("scores", name, 1401.0) for name in ("flow_motion", "camera_motion", "camera_jitter", "object_motion")),
    ("scores", "flow_motion", None),
    ("scores", "vmaf_motion", 256.0),
    ("scores", "saturation", float("nan")),
    ("scores", "saturation_lit", 256.0),
    ("scores", "brightness", -1.0),
    ("scores", "flicker", float("inf")),
    ("scores", "aesthetic", 1.1),
    ("scores", "technical", -0.1),
    ("scores", "overall", float("nan")),
    *(("scores", name, 1.5) for name in ("borders", "watermark", "stillness", "duplicate_frames", "text_area", "nsfw")),
    ("scores", "cuts_inside", -1),
    ("scores", "hashes", {"phash": []}),
    ("scores", "hashes", {"phash": None}),
    ("scores", "height", 8),
    ("scores", "width", 8),
    ("scores", "flow_estimator", "UniMatch"),
    ("scores", "aesthetic_scorer", "DOVER"),
    ("captions", "words", {"text": "Too short a caption."}),
    ("captions", "words", {"text": None}),
    ("captions", "characters", {"text": "a b c d e"}),
    ("captions", "plain", {"text": "A fine \u202e film of a bunny."}),
    ("captions", "refuses", {"text": "I'm sorry, I cannot describe this video of a bunny."}),
    ("captions", "tells_motion_score", {"text": "A fine film of a bunny. Motion score: 9."}),
    ("captions", "captioner", "Qwen2.5-VL"),
    ("captions", "prompt_version", 2),
]


@pytest.mark.parametrize(
    ("boundary", "column", "value"), BY_ROW, ids=[f"{b}-{c}-{i}" for i, (b, c, _) in enumerate(BY_ROW)]
)
def test_a_row_that_breaks_a_rule_is_set_aside_over_budget_and_never_goes_on(
    good: Rows, boundary: str, column: str, value: Any
) -> None:
    of = next(each for name, each in BOUNDARIES.items() if name == boundary)
    bad = good[of.table][0]
    bad.update(value if isinstance(value, dict) else {column: value})
    verdict = judge(good, boundary, only=column)
    assert verdict.verdict == "red" and column in failing(verdict), "what is not set aside does not go on either"
    good["quarantine"] = set_aside(good, PARAMS)
    [entry] = [each for each in good["quarantine"] if each["reason"].startswith("RULE:")]
    assert entry["key"] == bad[of.key] and set(column.split(", ")) <= set(entry["reason"][5:].split(","))
    assert judge(good, boundary, only=column).verdict == "green", "what goes on keeps the rule"
    over = budgets(reader(good), PARAMS).frame
    [told] = over["reason"][over["share"] > over["budget"]]
    assert told.startswith(f"{boundary} RULE: 1 of")


OF_TABLES = [
    ("rows", "lost", put("videos", "reason", "", at=2)),
    ("rows", "lost", put("videos", "video_id", "")),
    ("rows", "lost", lambda rows: rows["clips"].__delitem__(slice(0, 10))),
    ("rows", "lost", drop("scores")),
    ("rows", "lost", drop("captions")),
    ("rows", "lost", drop("selection")),
    ("rows", "lost", drop("quarantine")),
    ("rows", "foreign", put("clips", "video_id", "z")),
    ("rows", "foreign", lambda rows: rows["scores"].append({**rows["scores"][0], "clip_id": "z"})),
    ("rows", "foreign", lambda rows: rows["captions"].append({**rows["captions"][0], "clip_id": "z"})),
    ("rows", "foreign", lambda rows: rows["selection"].append({**rows["selection"][0], "clip_id": "z"})),
    ("rows", "foreign", lambda rows: rows["quarantine"].append({**rows["quarantine"][0], "entry": "ingest:z"})),
    ("nulls", "most, nulls", every("scores", watermark=None)),
    ("nulls", "most, nulls", every("captions", model=None)),
    ("nulls", "most, nulls", every("clips", shot_end=float("nan"))),
    ("budgets", "budget, share", lambda rows: [r.update(reason="X: y") for r in rows["quarantine"][1:]] and None),
    ("budgets", "budget, share", put("quarantine", "reason", "in lower letters", at=1)),
    ("releases", "unfounded", put("quarantine", "released", True)),
    ("twins", "clip_known", put("twins", "clip_id", "z")),
    ("twins", "first_known", put("twins", "twin_of", "z")),
    ("twins", "first_is_twin", lambda rows: rows["twins"].append({**rows["twins"][0], "clip_id": "a1"})),
    ("twins", "hash_distance", put("twins", "distance", 40.0)),
    ("twins", "hash_distance", put("twins", "distance", None)),
    ("twins", "kind", put("twins", "kind", "name")),
    ("twins", "kind", put("twins", "kind", None)),
    ("twins", "embedding_distance", lambda rows: rows["twins"][0].update(kind="embedding", distance=0.5)),
    ("twins", "copies_kept", every("selection", keep=True)),
    ("classes", "lost", drop("classes")),
    ("classes", "lost", put("classes", "entry", "game:a1")),
    ("classes", "foreign", put("classes", "clip_id", "b1")),
    ("classes", "foreign", put("classes", "classifier", "cartoon")),
    ("classes", "outside", put("classes", "probability", 1.5)),
    ("classes", "outside", put("classes", "probability", float("nan"))),
    ("classes", "versions", put("classes", "version", None)),
    ("classes", "most, nulls", put("classes", "probability", None)),
    ("selection", "explained", first_kept("reason", "X")),
    ("selection", "explained", first_kept("reasons", ["X"])),
    ("selection", "rules_broken", first_kept("clip_id", "z")),
    ("selection", "rules_broken", every("scores", flow_motion=0.0)),
    ("selection", "rules_broken", every("scores", overall=None)),
    ("selection", "rules_broken", every("scores", reason="DECODE_FAILED")),
    ("selection", "rules_broken", lambda rows: rows["captions"].clear()),
    ("selection", "rules_broken", every("classes", probability=0.9)),
    ("selection", "rules_broken", put("classes", "probability", None)),
    ("selection", "rules_broken", lambda rows: rows["classes"].clear()),
    ("selection", "rules_broken", put("videos", "reason", "TRUNCATED")),
    ("selection", "side", first_kept("subset", None)),
    ("selection", "bucket", first_kept("bucket", "480x832x32")),
    ("sources", "kept_fraction", every("selection", keep=False, reasons=["X"])),
    ("sources", "kept_fraction", put("videos", "source", "three")),
    ("amounts", "videos", drop("videos")),
    ("amounts", "clips", lambda rows: rows["clips"].__delitem__(slice(0, 9))),
    ("amounts", "kept", lambda rows: [r.update(keep=False) for r in rows["selection"][:12]] and None),
    ("amounts", "train", every("selection", subset="val")),
    ("amounts", "val", every("selection", subset="train")),
    ("amounts", "shots_on_both_sides", every("clips", shot=0, video_id="a")),
    ("amounts", "set_aside_and_kept", lambda rows: rows["quarantine"].append(of_rule("scores", "a0", "a"))),
    ("amounts", "set_aside_and_kept", lambda rows: rows["quarantine"].append(of_rule("ingest", "a.mp4", "a"))),
    ("drift", "bound, beyond_chance", every("scores", flow_motion=float("nan"))),
]  # fmt: skip


def of_rule(boundary: str, key: str, video_id: str) -> dict[str, Any]:
    return row(
        "quarantine", entry=f"{boundary}:{key}", boundary=boundary, key=key, video_id=video_id, source="one",
        reason="RULE:x", released=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("section", "column", "mutate"), OF_TABLES, ids=[f"{s}-{c}-{i}" for i, (s, c, _) in enumerate(OF_TABLES)]
)
def test_each_rule_of_a_table_catches_its_mutation(
    good: Rows, section: str, column: str, mutate: Callable[[Rows], None]
) -> None:
    asked = params(reference="one") if section == "drift" else PARAMS
    mutate(good)
    verdict = judge(good, section, asked=asked, only=column)
    assert verdict.verdict == "red", verdict.problems
    assert column in failing(verdict), verdict.failures()


def test_every_declared_rule_has_a_mutation() -> None:
    told = {(section, column) for section, column, _ in [*BY_ROW, *OF_TABLES]}
    asked = params(reference="one", production=False)
    for name, suite in SUITES.items():
        for rule in suite.rules(asked):
            assert rule.severity == "warning" or (name, ", ".join(rule.columns)) in told
            assert rule.about, f"{name}: {rule} says in no words what it wants"


def test_a_released_row_goes_on_and_one_without_effect_is_told(good: Rows) -> None:
    good["scores"][0]["saturation"] = 256.0
    free = params(released={"a0": "looked at by A. Name"})
    good["quarantine"] = set_aside(good, free)
    assert [each["key"] for each in good["quarantine"] if each["released"]] == ["a0"]
    assert judge(good, "scores", "budgets", "releases", "amounts", asked=free).verdict == "green"
    assert failing(judge(good, "releases")) == {"unfounded"}, "params must name it"
    elsewhere = params(released={"a0": "looked at", "a1": "no rule broken", "bad.mp4": "refused, not set aside"})
    verdict = judge(good, "releases", asked=elsewhere)
    assert verdict.verdict == "green" and failing(verdict, "warning") == {"without_effect"}
    assert "a1, bad.mp4" in str(verdict.failures("warning"))


def test_a_budget_lets_some_rows_be_set_aside(good: Rows) -> None:
    good["scores"][0]["saturation"] = 256.0
    good["quarantine"] = set_aside(good, PARAMS)
    shares = {name: dict(each) for name, each in PARAMS.gate.budgets.items()}
    for share, verdict in ((1 / 18, "green"), (0.05, "red")):
        shares["scores"]["RULE"] = share
        assert judge(good, "budgets", asked=params(budgets=shares)).verdict == verdict


def test_stand_ins_are_refused_where_production_is_demanded(good: Rows) -> None:
    asked = params(production=True)
    assert failing(judge(good, "scores", "captions", asked=asked)) == {
        "flow_estimator",
        "aesthetic_scorer",
        "captioner",
    }
    assert not [each for each in set_aside(good, asked) if each["reason"].startswith("RULE")], "no row is at fault"


def test_a_stand_ins_numbers_are_refused_where_params_ask_for_the_scorer_itself(good: Rows) -> None:
    asked = PARAMS.score.model_copy(update={"flow": "unimatch", "aesthetic": "dover"})
    strict = PARAMS.model_copy(update={"score": asked})
    assert failing(judge(good, "scores", asked=strict)) == {"flow_estimator", "aesthetic_scorer"}
    every("scores", flow_estimator="unimatch gmflow-scale2-regrefine6", aesthetic_scorer="dover (0123456789ab)")(good)
    assert not failing(judge(good, "scores", asked=strict))


@pytest.mark.parametrize("section", ["ingest", "split", "scores", "captions", "selection", "twins"])
def test_an_empty_table_is_never_green(good: Rows, section: str) -> None:
    name = {"ingest": "videos", "split": "clips", "twins": "clips"}.get(section, section)
    good[name] = []
    if section == "twins":
        good["twins"] = []
    assert judge(good, section).verdict == "broken"


def test_what_choices_say_of_broken_rules_is_what_failures_says(good: Rows) -> None:
    """The columns against the definition for one clip, over tables with all kinds of faults."""
    draw = random.Random(0)
    ranges = PARAMS.curate.ranges_of("one")
    for rows, measures in ((good["scores"], [*ranges]), (good["captions"], ["text"]), (good["videos"], [])):
        for each in rows:
            for name in measures:
                each[name] = draw.choice([each[name], each[name], each[name], None, "" if name == "text" else 300])
            if draw.random() < 0.1:
                each["reason"] = "DECODE_FAILED"
    chosen = [{**each, "keep": True, "reason": None, "reasons": []} for each in good["selection"]]
    frame = choices(reader({**good, "selection": chosen}), PARAMS).frame
    held = {name: {each[key]: each for each in good[name]} for name, key in (("clips", "clip_id"), ("scores", "clip_id"), ("captions", "clip_id"), ("videos", "video_id"))}  # fmt: skip # noqa: E501
    videos = {key: each for key, each in held["videos"].items() if each["reason"] is None}
    seen = set()
    for clip_id, told in zip(frame["clip_id"], frame["rules_broken"].astype(str), strict=True):
        clip = held["clips"][clip_id]
        video, score, caption = videos.get(clip["video_id"]), held["scores"].get(clip_id), held["captions"].get(clip_id)
        expected = failures(clip, video, score, caption, ranges)
        assert (told == "none") == (not expected), (clip_id, told, expected)
        seen.add(told)
    assert len(seen) > 6


def lay_out(root: Path, rows: Rows) -> dict[str, Path]:
    """The tables as files of the batches `one` and `two`; of each batched table the last row is the second's."""
    paths = {}
    for name, entries in rows.items():
        parts = {"one": entries[:-1], "two": entries[-1:]}
        batched = name in ("videos", "clips", "scores", "captions")
        for batch, part in parts.items() if batched else [("", entries)]:
            place = f"data/{name}/{batch}.parquet" if batched else f"data/{name}.parquet"
            tables.write(name, part, root / place)
            paths[place] = root / place
    return paths


def test_from_disk_it_reads_what_is_there_and_judges_it_alike(good: Rows, tmp_path: Path) -> None:
    paths = lay_out(tmp_path, good)
    verdict = evaluate("data", data_sections(paths, tmp_path, PARAMS), {})
    assert verdict.verdict == "green", (verdict.problems, verdict.failures())
    here = evaluate("data", table_sections(reader(good), PARAMS), {})
    assert {name: found for name, found in verdict.sections.items() if name != "files"} == here.sections


def test_a_file_of_other_columns_or_with_a_key_twice_is_red(good: Rows, tmp_path: Path) -> None:
    paths = lay_out(tmp_path, good)
    twins, scores = paths["data/twins.parquet"], paths["data/scores/one.parquet"]
    found = pq.read_table(scores)
    pq.write_table(pa.concat_tables([found, found.slice(0, 1)]), scores)
    verdict = evaluate("data", data_sections(paths, tmp_path, PARAMS), {})
    assert failing(verdict) == {"repeats"}, "a row that stands twice counts once, but is no secret"
    pq.write_table(table("twins", good["twins"]).append_column("x", pa.array([1])), twins)
    verdict = evaluate("data", data_sections(paths, tmp_path, PARAMS), {})
    assert verdict.verdict == "red" and list(verdict.sections) == ["files"]
    assert {"columns, schema", "repeats"} == failing(verdict) == {", ".join(r.columns) for r in files.rules_of_files()}
    twins.unlink()
    with pytest.raises(ValueError, match="table twins is missing"):
        list(data_sections(paths, tmp_path, PARAMS))


def test_a_clip_of_two_batches_counts_once(good: Rows, tmp_path: Path) -> None:
    lay_out(tmp_path, good)
    tables.write("clips", [{**good["clips"][0], "detector": "other"}], tmp_path / "data/clips/two.parquet")
    found = on_disk(tmp_path, ["two", "one"])("clips", ["clip_id", "detector", "frames_off"])
    ids = found.column("clip_id").to_pylist()
    assert len(ids) == len(set(ids)) == 19 and set(found.column("detector").to_pylist()) == {"content"}
    assert np.isclose(found.column("frames_off").to_numpy(), 0.0).all()


def test_the_page_of_all_rules_is_as_written() -> None:
    page = (ROOT / "docs" / "gates.md").read_text()
    held = page.partition(document.BEGIN + "\n")[2].partition(document.END)[0]
    assert held == document.listing(PARAMS), "run python -m data_pipeline.expectations.document"
