"""The quarantine lists what does not go on, by the same rules as the gate, and nothing of it is chosen."""

from __future__ import annotations

import copy
import random
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from good_tables import good_rows, params, set_aside, table

from data_pipeline import curate, quarantine
from data_pipeline.expectations.facts import in_memory, on_disk
from data_pipeline.expectations.rules import above, breaking, matches, one_of, within
from infra.gates import Rule, Section, evaluate

PARAMS = params()


def test_what_stages_refused_is_listed_with_video_source_and_reason() -> None:
    rows = good_rows(PARAMS)
    rows["scores"][0].update(reason="DECODE_FAILED: damaged frame at PTS 9", flow_motion=None)
    listed = {each["entry"]: each for each in set_aside(rows, PARAMS)}
    assert list(listed) == ["ingest:bad.mp4", "scores:a0", "split:a9", "split:b9"]
    entry = listed["scores:a0"]
    assert (entry["video_id"], entry["source"], entry["reason"]) == (
        "a",
        "one",
        "DECODE_FAILED: damaged frame at PTS 9",
    )
    told = quarantine.counters(table("quarantine", list(listed.values())))
    assert told == {
        "refused at ingest": 1,
        "refused at scores": 1,
        "refused at split": 2,
        "set aside": 0,
        "released": 0,
    }


@pytest.mark.parametrize(("name", "at", "column", "gone"), [
    ("videos", 0, "licence", {f"a{n}" for n in range(9)}), ("clips", 3, "detector", {"a3"}),
    ("scores", 4, "saturation", {"a4"}), ("captions", 10, "captioner", {"b1"}),
])  # fmt: skip
def test_nothing_that_is_set_aside_is_kept(name: str, at: int, column: str, gone: set[str]) -> None:
    rows = good_rows(PARAMS)
    rows[name][at][column] = 256.0 if column == "saturation" else ""
    del rows["selection"]
    chosen = choose(rows, set_aside(rows, PARAMS))
    assert {clip for clip, reasons in chosen.items() if "QUARANTINED" in reasons} == gone
    keys = {"videos": "a.mp4"}.get(name, next(iter(gone)))
    free = set_aside(rows, params(released={keys: "looked at by A. Name"}))
    assert not [clip for clip, reasons in choose(rows, free).items() if "QUARANTINED" in reasons]


def choose(rows: dict[str, list[dict[str, Any]]], listed: list[dict[str, Any]]) -> dict[str, list[str]]:
    named = {name: table(name, entries) for name, entries in {**rows, "quarantine": listed}.items()}
    loose = PARAMS.curate.model_copy(update={"ranges": {"default": PARAMS.curate.ranges["default"].model_copy()}})
    chosen = curate.run(**named, params=loose)
    return dict(zip(chosen.column("clip_id").to_pylist(), chosen.column("reasons").to_pylist(), strict=True))


def test_a_row_that_breaks_several_rules_says_all_and_stands_once() -> None:
    rows = good_rows(PARAMS)
    rows["scores"][2].update(saturation=-1.0, overall=None, phash=[])
    [entry] = [each for each in set_aside(rows, PARAMS) if each["boundary"] == "scores"]
    assert entry["reason"] == "RULE:saturation,overall,hashes"


def test_a_file_that_two_batches_hold_is_listed_and_the_first_still_goes_on() -> None:
    rows = good_rows(PARAMS)
    rows["videos"].append({**copy.deepcopy(rows["videos"][0]), "uri": "z.mp4", "reason": "DUPLICATE_OF:a.mp4"})
    del rows["selection"]
    listed = set_aside(rows, PARAMS)
    assert "ingest:z.mp4" in {each["entry"] for each in listed}
    assert not [clip for clip, reasons in choose(rows, listed).items() if "QUARANTINED" in reasons]


RULES = [
    within("x", 0.0, 1.0, "…"),
    within("x", None, 0.5, "…"),
    within("n", 3, None, "…"),
    one_of("n", [1, 2], "…"),
    one_of("flag", [True], "…"),
    matches("text", r"^a\S?$", "…"),
    above("x", "y", "…"),
    above("x", "y", "…", or_equal=True),
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule.name}-{','.join(rule.columns)}")
@pytest.mark.parametrize("nullable", [(), ("x", "y", "n", "flag", "text")], ids=["no nulls", "nulls"])
def test_whole_columns_say_what_great_expectations_says(rule: Rule, nullable: tuple[str, ...]) -> None:
    """Row by row, over values at, beside and far from every limit, with nulls and infinities."""
    draw = random.Random(1)
    values: dict[str, list[Any]] = {
        "x": [0.0, 1.0, 0.5, -1e-9, 1.0000001, np.inf, -np.inf, None],
        "y": [0.0, 0.5, 1.0, None],
        "n": [1, 2, 3, None],
        "flag": [True, False, None],
        "text": ["a", "ab", "abc", "", " a", None],
    }
    types = {"x": pa.float64(), "y": pa.float64(), "n": pa.int64(), "flag": pa.bool_(), "text": pa.string()}
    drawn = {name: pa.array([draw.choice(some) for _ in range(60)], types[name]) for name, some in values.items()}
    rows = pa.table({"key": [f"r{n:02d}" for n in range(60)], **drawn, "label": drawn["text"]})
    found = breaking(rule, rows, nullable)
    frame: pd.DataFrame = rows.to_pandas()
    judged = [
        evaluate("d", {"s": Section(frame.iloc[at : at + 20], [rule], "key", nullable)}, {}) for at in (0, 20, 40)
    ]
    told = {key for v in judged for r in v.sections["s"]["rules"] if not r["ok"] for key in r["examples"]}
    assert told == set(np.array(rows.column("key").to_pylist())[found].tolist())
    labelled = rows.set_column(rows.schema.get_field_index("text"), "text", rows.column("text").dictionary_encode())
    assert (breaking(rule, labelled, nullable) == found).all(), "labels are judged as the words that they are"


def test_facts_of_a_caption_are_those_of_the_stage_that_judges_captions() -> None:
    from data_pipeline.caption.answer import fault

    texts = [
        "A quiet shore at dusk, where two children run after their dog along the wet sand.",
        "I'm sorry, but I cannot describe this video since no pictures were provided to me.",
        "As an AI language model I will not tell anything about the people of this short film.",
        "Eine Straße in Köln, über der es schneit; niemand geht vorbei, nur ein Hund läuft daher.",
        "12 of 300 boats, l’été, the dog's ball: numbers are no words, though a hyphen-ated one is one.",
        "one two three",
    ]
    read = in_memory(
        {"captions": table("captions", [{**blank(), "clip_id": str(n), "text": t} for n, t in enumerate(texts)])}
    )
    facts = read("captions", ["words", "refuses", "characters"]).to_pylist()
    for text, fact in zip(texts, facts, strict=True):
        assert fact["characters"] == len(text)
        assert (fault(text, (1, 280)) == "REFUSAL") == fact["refuses"]
        assert fault(text, (fact["words"], fact["words"])) in (None, "REFUSAL"), "both count the same words"
        assert fault(text, (fact["words"] + 1, 280)) in ("TOO_SHORT", "REFUSAL")


def blank() -> dict[str, Any]:
    from data_pipeline.tables import CAPTIONS

    return dict.fromkeys(CAPTIONS.names)


def test_a_missing_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="table clips is missing: "):
        on_disk(tmp_path, ["film"])("clips", ["clip_id"])
