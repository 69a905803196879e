"""Mutation tests: each rule of the gate `sft` has one change of a good set that turns it red."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from good_tables import row, table

from data_pipeline import tables
from data_pipeline.expectations import sft as suite
from data_pipeline.params import SftParams
from data_pipeline.sft import choose
from data_pipeline.sft.reviews import Review
from infra.gates import Verdict, evaluate

Rows = dict[str, list[dict[str, Any]]]
PARAMS = SftParams.model_validate(
    {
        "target": 12,
        "moves": {"object_motion": 1.0, "camera_motion": 1.0},
        "ranges": {"flow_motion": (3, 20), "camera_jitter": (0, 1)},
        "quotas": {"human/realistic": 2, "unknown": 1},
    }
)
GOOD = {"flow_motion": 5.0, "object_motion": 4.0, "camera_motion": 0.2, "camera_jitter": 0.1, "technical": 0.8,
        "brightness": 120.0, "flicker": 1.0, "saturation": 90.0, "overall": 0.7}  # fmt: skip


def made(params: SftParams = PARAMS) -> Rows:
    """Four clips for two places, one rejected; one that shakes; one whose captioner did not look; one dropped."""
    kinds = dict.fromkeys("abcde", ("human", "realistic")) | dict.fromkeys("fg", (None, None))
    selection = [row("selection", clip_id=i, video_id=i, source="s", keep=i != "g") for i in kinds]
    scores = [row("scores", clip_id=i, **GOOD | ({"camera_jitter": 5.0} if i == "e" else {})) for i in kinds]
    captions = [row("captions", clip_id=i, category=kind, style=style) for i, (kind, style) in kinds.items()]
    rows = {"selection": selection, "scores": scores, "captions": captions}
    said = {"b": Review(reviewer="ana", decision="reject", failed=(), time="2026-01-31T12:00:00Z")}
    found = choose.run(*(table(name, listed) for name, listed in rows.items()), said, params)
    return {**rows, "sft": found.to_pylist()}


def judge(rows: Rows, params: SftParams = PARAMS) -> Verdict:
    sft, selection, scores = (table(name, rows[name]) for name in ("sft", "selection", "scores"))
    return evaluate("sft", suite.table_sections(sft, selection, scores, params), {})


def failing(verdict: Verdict, severity: str = "critical") -> set[str]:
    return {
        r["column"] for s in verdict.sections.values() for r in s["rules"] if not r["ok"] and r["severity"] == severity
    }


def test_a_set_as_it_was_chosen_is_green_and_cells_that_lack_clips_warn() -> None:
    verdict = judge(made())
    assert verdict.verdict == "green", (verdict.problems, verdict.failures())
    assert failing(verdict, "warning") == {"shortfall"}
    assert [each["clip_id"] for each in made()["sft"] if each["chosen"]] == ["a", "c", "f"]


def put(clip: str, **values: Any) -> Callable[[Rows], None]:
    return lambda rows: next(each for each in rows["sft"] if each["clip_id"] == clip).update(values)


MUTATIONS: list[tuple[str, Callable[[Rows], None]]] = [
    ("lost", lambda rows: rows["sft"].__delitem__(-1)),
    ("foreign", lambda rows: rows["selection"][0].update(keep=False)),
    ("rules_broken", put("e", place=5, reasons=[])),
    ("rules_broken", put("b", place=5, reasons=[])),
    ("rules_broken", put("b", chosen=True)),
    ("rules_broken", lambda rows: rows["scores"][0].update(flow_motion=None)),
    ("rules_broken", lambda rows: rows["scores"][0].update(object_motion=0.0)),
    ("explained", put("a", reasons=["NO_MOTION"])),
    ("explained", put("e", reasons=[])),
    ("cell, told_cell", put("a", cell="animal/cartoon")),
    ("chosen, wanted", put("a", chosen=False)),
    ("quota, chosen", put("d", chosen=True)),
]


@pytest.mark.parametrize(("column", "mutate"), MUTATIONS, ids=[f"{c}-{i}" for i, (c, _) in enumerate(MUTATIONS)])
def test_each_rule_catches_its_mutation(column: str, mutate: Callable[[Rows], None]) -> None:
    rows = copy.deepcopy(made())
    mutate(rows)
    verdict = judge(rows)
    assert verdict.verdict == "red" and column in failing(verdict), (verdict.problems, verdict.failures())


def test_every_rule_has_a_mutation() -> None:
    rules = [*suite.rules_of_rows(), *suite.rules_of_clips(), *suite.rules_of_cells()]
    assert {", ".join(rule.columns) for rule in rules if rule.severity == "critical"} == {name for name, _ in MUTATIONS}


def test_where_a_person_must_have_accepted_nobody_unseen_is_chosen() -> None:
    strict = PARAMS.model_copy(update={"accepted_only": True})
    assert judge(made(strict), strict).verdict == "green", "an empty set is small, not wrong"
    assert failing(judge(made(), strict)) >= {"rules_broken"}


def test_who_comes_after_others_of_the_film_needs_no_reason() -> None:
    one = PARAMS.model_copy(update={"per_video": 1})
    rows = made(one)
    assert judge(rows, one).verdict == "green"


def test_from_disk_a_table_of_other_columns_is_red_and_a_missing_one_an_error(tmp_path: Path) -> None:
    rows, path = made(), tmp_path / "data" / "sft.parquet"
    tables.write("sft", rows["sft"], path)
    tables.write("selection", rows["selection"], tmp_path / "data/selection.parquet")
    tables.write("scores", rows["scores"], tmp_path / "data/scores/one.parquet")
    sections = lambda: evaluate("sft", suite.sft_sections(path, tmp_path, ["one"], PARAMS), {})  # noqa: E731
    assert sections().verdict == "green" and list(sections().sections) == ["files", "rows", "clips", "cells"]
    tables.write("twins", [], path)
    assert sections().verdict == "red" and list(sections().sections) == ["files"]
    path.unlink()
    with pytest.raises(ValueError, match="table sft is missing"):
        sections()
