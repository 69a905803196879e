"""A gate is green only when every rule was seen to hold: each mutant of good data, and each broken check, is caught."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import great_expectations.expectations as gxe
import pandas as pd
import pytest

from infra.gates import (
    GateBroken,
    GateRed,
    Overlay,
    Rule,
    Section,
    Verdict,
    check,
    evaluate,
    expect,
    page_path,
    require,
    write,
)
from infra.storage import digest

RULES = (
    expect("ExpectColumnValuesToBeUnique", column="clip_id"),
    expect("ExpectColumnValuesToBeBetween", column="motion", min_value=0.0, max_value=30.0),
    expect("ExpectColumnValuesToBeInSet", column="subset", value_set=["train", "val"]),
    expect("ExpectColumnPairValuesAToBeGreaterThanB", column_A="end", column_B="start"),
    expect("ExpectCompoundColumnsToBeUnique", column_list=["video_id", "start"]),
    expect("ExpectColumnMeanToBeBetween", column="keep", min_value=0.2, max_value=1.0),
    expect("ExpectTableRowCountToBeBetween", min_value=3),
)


class ExpectColumnValuesToBeCheckedByABrokenRule(gxe.ExpectColumnValuesToBeBetween):
    """An expectation that dies while it runs."""

    def _validate(self, *arguments: Any, **keywords: Any) -> Any:
        raise RuntimeError(f"broken at {object()}")


def good() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "clip_id": [f"c{i:02d}" for i in range(30)],
            "video_id": [f"v{i // 10}" for i in range(30)],
            "start": [float(i % 10) for i in range(30)],
            "end": [i % 10 + 2.0 for i in range(30)],
            "motion": [i / 10 for i in range(30)],
            "subset": ["train"] * 25 + ["val"] * 5,
            "keep": [1.0] * 20 + [0.0] * 10,
            "reason": [None] * 20 + ["dark"] * 10,
        }
    )


def judged(frame: pd.DataFrame, rules: Sequence[Rule] = RULES, **section: Any) -> Verdict:
    return evaluate("data", {"clips": Section(frame, rules, "clip_id", **section)}, {"data/clips": "0" * 64})


def changed(column: str, row: int, value: Any) -> Callable[[], pd.DataFrame]:
    def build() -> pd.DataFrame:
        frame = good()
        frame.loc[row, column] = value
        return frame

    return build


def test_good_data_are_green() -> None:
    verdict = judged(good())
    assert (verdict.verdict, verdict.problems, verdict.failures()) == ("green", [], [])
    rules = verdict.sections["clips"]["rules"]
    assert [rule["rule"] for rule in rules[-len(RULES) :]] == [rule.name for rule in RULES]
    assert rules[-1]["observed"] == 30
    check(verdict)


@pytest.mark.parametrize(
    ("mutant", "names"),
    [
        (changed("clip_id", 3, "c00"), {"ExpectColumnValuesToBeUnique"}),
        (changed("motion", 4, 30.5), {"ExpectColumnValuesToBeBetween"}),
        (changed("motion", 4, math.nan), {"ExpectColumnValuesToNotBeNull"}),
        (changed("motion", 4, math.inf), {"ExpectColumnValuesToBeBetween"}),
        (changed("subset", 5, "test"), {"ExpectColumnValuesToBeInSet"}),
        (changed("end", 6, 0.0), {"ExpectColumnPairValuesAToBeGreaterThanB"}),
        (changed("start", 11, 0.0), {"ExpectCompoundColumnsToBeUnique"}),
        (lambda: good().assign(keep=0.1), {"ExpectColumnMeanToBeBetween"}),
        (lambda: good().head(2), {"ExpectTableRowCountToBeBetween"}),
    ],
)
def test_each_rule_kills_its_mutant_and_no_other(mutant: Callable[[], pd.DataFrame], names: set[str]) -> None:
    verdict = judged(mutant())
    assert verdict.verdict == "red"
    failing = {rule["rule"] for rule in verdict.sections["clips"]["rules"] if not rule["ok"]}
    assert failing == names
    with pytest.raises(GateRed, match=next(iter(names))):
        check(verdict)


def test_a_failure_names_the_rows() -> None:
    frame = good()
    frame.loc[2:28, "motion"] = -1.0
    rule = next(r for r in judged(frame).sections["clips"]["rules"] if r["column"] == "motion" and not r["ok"])
    assert rule["unexpected_count"] == 27
    assert rule["examples"] == [f"c{i:02d}" for i in range(2, 22)]


def test_the_rows_of_a_pair_a_combination_and_a_null_are_named() -> None:
    frame = good()
    frame.loc[6, "end"] = 0.0
    frame.loc[[11, 12], "start"] = 0.0
    frame.loc[4, "motion"] = math.nan
    told = {rule["rule"]: rule["examples"] for rule in judged(frame).sections["clips"]["rules"] if not rule["ok"]}
    assert told == {
        "ExpectColumnPairValuesAToBeGreaterThanB": ["c06"],
        "ExpectCompoundColumnsToBeUnique": ["c10", "c11", "c12"],
        "ExpectColumnValuesToNotBeNull": ["c04"],
    }


def test_sections_may_come_one_after_another() -> None:
    rules = [expect("ExpectColumnValuesToBeUnique", column="clip_id")]
    two = [("a", Section(good(), rules, "clip_id")), ("b", Section(good().head(0), rules, "clip_id"))]
    assert evaluate("data", iter(two), {}) == evaluate("data", dict(two), {})
    assert evaluate("data", iter([]), {}).verdict == "broken"


def test_words_and_key_of_a_rule_stand_in_the_failure_and_on_the_page(tmp_path: Path) -> None:
    rule = expect("ExpectColumnMaxToBeBetween", column="motion", max_value=1.0, about="moves little", param="data.x")
    verdict = judged(good(), [rule])
    assert verdict.failures() == [
        "clips: ExpectColumnMaxToBeBetween(motion) max_value 1.0 [data.x]: observed 2.9; wanted: moves little"
    ]
    write(verdict, tmp_path / "gates" / "data.json")
    page = page_path(tmp_path / "gates" / "data.json").read_text()
    assert "<small>moves little</small>" in page and "at most 1<small><code>data.x</code></small>" in page
    assert page.index("<details>") > page.index("moves little"), "what is taken for granted is folded away"


def test_small_tables_and_two_spreads_are_shown(tmp_path: Path) -> None:
    frame = pd.DataFrame([{"what": "<motion>", "distance": 0.25}])
    rules = [expect("ExpectColumnValuesToBeBetween", column="distance", max_value=0.5)]
    picture = Overlay("<motion> apart", 0.0, 30.0, {"film": [0.5, 0.5, 0.0, 0.0], "more": [0.0, 0.0, 0.25, 0.75]})
    section = Section(frame, rules, "what", pictures=[picture], shown=True)
    path = tmp_path / "gates" / "data.json"
    write(evaluate("data", {"drift": section}, {}), path)
    assert json.loads(path.read_text())["sections"]["drift"]["table"] == [{"what": "<motion>", "distance": 0.25}]
    page = page_path(path).read_text()
    assert "<td>&lt;motion&gt;</td><td>0.25</td>" in page and "<motion>" not in page
    assert page.count("<svg") == 1 and "grey: film, line: more" in page
    area, line = re.findall(r'<path class="\w+" d="([^"]+)"', page)
    lowest = [min(float(y) for y in re.findall(r"L[\d.]+ ([\d.]+)", path)) for path in (area, line)]
    assert lowest == [39.3, 4.0], "both are drawn to one scale: 0.5 reaches two thirds of the height of 0.75"


def of_one_row(**values: Any) -> Verdict:
    rules = [
        expect("ExpectColumnValuesToBeBetween", column="change", max_value=-0.2),
        expect("ExpectColumnValuesToBeInSet", column="objective", value_set=["causal"]),
    ]
    frame = pd.DataFrame([{"stage": "t2i", "change": -0.5, "objective": "causal", **values}])
    return evaluate("train-t2i", {"training": Section(frame, rules, "stage")}, {})


def test_a_rule_tells_the_value_it_saw() -> None:
    rules = of_one_row().sections["training"]["rules"]
    assert [rule["observed"] for rule in rules[-2:]] == [-0.5, "causal"]
    with pytest.raises(GateRed, match=r"\(change\) max_value -0.2: observed 0.07, first t2i"):
        check(of_one_row(change=0.07))
    for value, seen in ((math.nan, "nan"), (math.inf, "inf"), (-math.inf, "-inf")):
        assert of_one_row(change=value).sections["training"]["rules"][-2]["observed"] == seen
    assert of_one_row(objective=None).sections["training"]["rules"][-1]["observed"] == "null"


def test_of_many_rows_it_tells_the_range_or_how_many() -> None:
    observed = {rule["rule"]: rule["observed"] for rule in judged(good()).sections["clips"]["rules"]}
    assert observed["ExpectColumnValuesToBeBetween"] == {"lowest": 0.0, "highest": 2.9}
    assert observed["ExpectColumnValuesToBeInSet"] == {"values": 30}
    assert observed["ExpectColumnPairValuesAToBeGreaterThanB"] == {"values": 30}
    assert observed["ExpectColumnMeanToBeBetween"] == pytest.approx(2 / 3)


def test_the_page_speaks_of_values_and_limits(tmp_path: Path) -> None:
    path = tmp_path / "gates" / "train-t2i.json"
    write(of_one_row(change=0.0703125), path)
    page = page_path(path).read_text()
    for cells in (
        "<td>change</td><td>finite</td><td>0.0703125</td>",
        "<td>change</td><td>at most -0.2</td><td>0.0703125</td><td>1</td>",
        "<td>objective</td><td>causal</td><td>causal</td>",
        '<span title="ExpectColumnValuesToBeBetween">each value within limits</span>',
    ):
        assert cells in page
    assert "e+308" not in page
    write(judged(good(), [*RULES, expect("ExpectColumnValuesToMatchRegex", column="subset", regex="a")]), path)
    page = page_path(path).read_text()
    for words in ("<td>0 to 30</td><td>0 to 2.9</td>", "<td>train, val</td><td>30 values</td>", "at least 3"):
        assert words in page
    assert "column values match regex</span>" in page and "<td>regex a</td>" in page


@pytest.mark.parametrize(
    ("frame", "verdict"),
    [
        (lambda: good().head(0), "broken"),
        (pd.DataFrame, "broken"),
        (lambda: good().assign(motion=None), "red"),
        (lambda: good().assign(motion=math.nan), "red"),
        (lambda: good().drop(columns="motion"), "broken"),
        (lambda: good().drop(columns="clip_id"), "broken"),
        (lambda: good().assign(motion="fast"), "broken"),
        (lambda: good().assign(motion=[{}] * 30), "broken"),
    ],
)
def test_what_cannot_be_checked_is_never_green(frame: Callable[[], pd.DataFrame], verdict: str) -> None:
    assert judged(frame()).verdict == verdict
    for rule in RULES[1:2]:
        assert judged(frame(), [rule]).verdict == verdict


def test_nulls_pass_only_where_the_section_says_so() -> None:
    rules = [expect("ExpectColumnValuesToBeInSet", column="reason", value_set=["dark"])]
    assert judged(good(), rules).verdict == "red"
    assert judged(good(), rules, nullable=["reason"]).verdict == "green"


@pytest.mark.parametrize(
    "rules",
    [
        [],
        [*RULES, expect("ExpectColumnValuesToBeLovely", column="motion")],
        [*RULES, expect("ExpectColumnValuesToBeBetween", column="motion", minimum=0)],
        [*RULES, expect("ExpectColumnValuesToBeCheckedByABrokenRule", column="motion", min_value=0.0)],
        [*RULES, expect("ExpectColumnValuesToBeCheckedByABrokenRule", "warning", column="motion", min_value=0.0)],
    ],
    ids=["none", "unknown", "wrong argument", "raises", "raises, a warning"],
)
def test_a_rule_that_does_not_run_breaks_the_gate(rules: list[Rule]) -> None:
    verdict = judged(good(), rules)
    assert verdict.verdict == "broken"
    with pytest.raises(GateBroken, match="gate data is broken"):
        check(verdict)


def test_no_section_is_broken() -> None:
    assert evaluate("data", {}, {}).verdict == "broken"


def test_a_warning_is_shown_and_does_not_stop() -> None:
    rules = [*RULES, expect("ExpectColumnMaxToBeBetween", "warning", column="motion", max_value=1.0)]
    verdict = judged(good(), rules)
    assert verdict.verdict == "green" and verdict.failures() == []
    assert len(verdict.failures("warning")) == 1
    with pytest.raises(ValueError, match="'fatal' is not one of critical, warning"):
        expect("ExpectColumnMaxToBeBetween", "fatal", column="motion")


@pytest.mark.parametrize("frame", [good, changed("motion", 4, math.inf), lambda: good().drop(columns="motion")])
def test_two_runs_give_the_same_bytes(frame: Callable[[], pd.DataFrame], tmp_path: Path) -> None:
    for name in ("one", "two"):
        write(judged(frame(), [*RULES, expect("ExpectColumnValuesToBeCheckedByABrokenRule", column="end")]), tmp_path / name / "gates" / "data.json")  # fmt: skip # noqa: E501
    one, two = (tmp_path / name / "gates" / "data.json" for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()
    assert page_path(one).read_bytes() == page_path(two).read_bytes()
    assert page_path(one).parent.name == "gates-pages"


def test_the_params_digest_follows_rules_and_context() -> None:
    section = {"clips": Section(good(), RULES, "clip_id")}
    first = evaluate("data", section, {}, {"min_clips": 3})
    assert first.params == evaluate("data", section, {}, {"min_clips": 3}).params
    assert first.params != evaluate("data", section, {}, {"min_clips": 4}).params
    assert (
        first.params != evaluate("data", {"clips": Section(good(), RULES[1:], "clip_id")}, {}, {"min_clips": 3}).params
    )


def test_the_page_stands_alone_and_escapes(tmp_path: Path) -> None:
    path = tmp_path / "reports" / "gates" / "data.json"
    write(judged(changed("subset", 5, "<script>")().assign(clip_id="<b>x</b>")), path)
    page = page_path(path).read_text()
    assert "<script>" not in page and "<b>x</b>" not in page and "&lt;b&gt;x" in page
    assert "http" not in page and "src=" not in page
    assert page.index("What does not hold") < page.index("clips: 30 rows")


@pytest.fixture
def gated(tmp_path: Path) -> tuple[Path, Path]:
    """A green verdict on a table and a folder, as a gate stage writes it."""
    (tmp_path / "data" / "shards").mkdir(parents=True)
    (tmp_path / "data" / "shards" / "0.tar").write_bytes(b"tar")
    (tmp_path / "data" / "selection.parquet").write_bytes(b"rows")
    names = ("data/selection.parquet", "data/shards")
    verdict = evaluate(
        "data", {"clips": Section(good(), RULES, "clip_id")}, {name: digest(tmp_path / name) for name in names}
    )
    path = tmp_path / "reports" / "gates" / "data.json"
    write(verdict, path)
    return path, tmp_path


def test_require_passes_on_what_was_checked(gated: tuple[Path, Path]) -> None:
    path, root = gated
    require(path, tables={name: root / name for name in ("data/selection.parquet", "data/shards")})


def test_require_tells_missing_red_broken_unreadable_and_stale_apart(gated: tuple[Path, Path]) -> None:
    path, root = gated
    tables = {"data/shards": root / "data/shards"}
    with pytest.raises(GateRed, match=r"there is no verdict at .*other.json"):
        require(path.with_name("other.json"), tables=tables)
    with pytest.raises(GateRed, match="stale: its verdict does not cover data/twins"):
        require(path, tables={"data/twins": root / "data/shards"})
    with pytest.raises(FileNotFoundError, match="gone: no such table"):
        require(path, tables={"data/shards": root / "gone"})
    (root / "data" / "shards" / "1.tar").touch()
    with pytest.raises(GateRed, match="stale: data/shards changed since"):
        require(path, tables=tables)
    write(judged(good().head(2)), path)
    with pytest.raises(GateRed, match=r"gate data is red: clips: ExpectTableRowCountToBeBetween\(\) min_value 3"):
        require(path, tables=tables)
    write(judged(good().head(0)), path)
    with pytest.raises(GateBroken, match="the table is empty"):
        require(path, tables=tables)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"verdict": "green"}', "null", b"\xff\xfe"])
def test_an_unreadable_verdict_is_broken(gated: tuple[Path, Path], text: str | bytes) -> None:
    path, _ = gated
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(GateBroken, match="cannot be read"):
        require(path, tables={})


def test_a_forged_word_is_no_verdict(gated: tuple[Path, Path]) -> None:
    path, _ = gated
    document = json.loads(path.read_text())
    path.write_text(json.dumps({**document, "verdict": "greenish"}))
    with pytest.raises(GateBroken):
        require(path, tables={})
    with pytest.raises(GateRed):
        check(replace(judged(good()), verdict="greenish"))


def test_require_is_cheap_to_import() -> None:
    program = (
        "import sys, infra.gates, infra.stage; sys.exit('great_expectations' in sys.modules or 'pandas' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
