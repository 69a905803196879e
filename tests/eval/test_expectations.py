"""Mutation tests: the good state is green, and each single harm turns its gate away from green."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eval.expectations import bar_sections, baseline_sections, eval_sections, train_sections
from eval.params import EvalParams, ReleaseBars
from eval.report.summary import dumps, expected_measures, summarise
from infra.gates import Section, Verdict, evaluate
from sana_video.train.config import StageParams, TrainGateParams

Row = dict[str, Any]
Tables = dict[str, list[Row]]


def judged(sections: dict[str, Section]) -> Verdict:
    return evaluate("test", sections, {})


def trained(objective: str = "bidirectional", init: str = "recipes/scratch") -> tuple[Row, StageParams]:
    stage = StageParams(
        objective=objective, init=init, autoencoder="a", view="v", after="x", steps=10, batch=1, lr=0.1, warmup=1
    )  # fmt: skip
    summary = {
        "stage": "t2i", "objective": objective, "steps": 10, "target_steps": 10, "loss_finite": True,
        "nonfinite_steps": 0, "heldout_start": 1.0, "heldout_end": 0.7, "heldout_zero": 1.0, "psnr": 24.0,
        "psnr_mean_colour": 18.0, "checkpoint_sha256": "c", "data_digest": "d",
        "from_scratch": stage.from_scratch,
    }  # fmt: skip
    return summary, stage


def train_verdict(summary: Row, stage: StageParams) -> str:
    return judged(train_sections(summary, stage, TrainGateParams(), "c", "d")).verdict


@pytest.mark.parametrize("objective", ["bidirectional", "autoencoder"])
def test_a_good_stage_is_green(objective: str) -> None:
    assert train_verdict(*trained(objective)) == "green"


@pytest.mark.parametrize(
    "harm",
    [
        {"steps": 9},
        {"steps": None},
        {"objective": "autoencoder"},
        {"loss_finite": False},
        {"heldout_end": 0.9},
        {"heldout_end": float("nan")},
        {"heldout_start": None},
        {"heldout_start": 0.0},
        {"checkpoint_sha256": "other"},
        {"data_digest": "other"},
        {"from_scratch": False},
        {"stage": None},
    ],
    ids=str,
)
def test_each_harm_to_a_stage_is_red(harm: Row) -> None:
    summary, stage = trained()
    assert train_verdict({**summary, **harm}, stage) == "red"


@pytest.mark.parametrize("key", ["steps", "heldout_start", "checkpoint_sha256"])
def test_a_key_that_is_missing_is_red(key: str) -> None:
    summary, stage = trained()
    del summary[key]
    assert train_verdict(summary, stage) == "red"


def test_a_model_that_learned_to_say_nothing_is_red() -> None:
    """Half of its loss at the start, and yet no more than predicting no velocity at all."""
    summary, stage = trained()
    said_nothing = {**summary, "heldout_start": 3.85, "heldout_end": 1.96, "heldout_zero": 1.96}
    verdict = judged(train_sections(said_nothing, stage, TrainGateParams(), "c", "d"))
    assert verdict.verdict == "red" and "heldout_ratio" in "".join(verdict.failures())
    assert train_verdict({**said_nothing, "heldout_end": 1.57}, stage) == "red"
    assert train_verdict({**said_nothing, "heldout_end": 0.70}, stage) == "green"


@pytest.mark.parametrize("zero", [None, 0.0, float("nan"), -1.0])
def test_without_the_loss_of_saying_nothing_a_first_stage_is_red(zero: float | None) -> None:
    summary, stage = trained()
    assert train_verdict({**summary, "heldout_zero": zero}, stage) == "red"


@pytest.mark.parametrize(("objective", "init"), [("autoencoder", "recipes/scratch"), ("bidirectional", "models/t2i")])
def test_only_a_first_diffusion_stage_is_held_against_saying_nothing(objective: str, init: str) -> None:
    summary, stage = trained(objective, init)
    assert train_verdict({**summary, "heldout_zero": None}, stage) == "green"


@pytest.mark.parametrize("psnr", [20.9, None])
def test_an_autoencoder_must_beat_the_mean_colour(psnr: float | None) -> None:
    summary, stage = trained("autoencoder")
    assert train_verdict({**summary, "psnr": psnr}, stage) == "red"


def test_a_later_stage_may_not_end_above_its_start() -> None:
    summary, stage = trained(init="models/t2i")
    assert train_verdict({**summary, "heldout_end": 1.0}, stage) == "green"
    assert train_verdict({**summary, "heldout_end": 1.001}, stage) == "red"


@pytest.fixture
def summary(params: EvalParams, tables: Tables, about: Row) -> Row:
    return dict(json.loads(dumps(summarise(tables, params, about))))


@pytest.fixture
def out(tmp_path: Path, tables: Tables) -> Path:
    (tmp_path / "clips").mkdir()
    for row in tables["t2v"]:
        (tmp_path / row["file"]).write_bytes(b"film")
    return tmp_path


def test_a_whole_evaluation_is_green(params: EvalParams, tables: Tables, summary: Row, out: Path) -> None:
    assert judged(eval_sections(summary, tables, out, params)).verdict == "green"


HARMS: list[tuple[str, Row | None]] = [
    *((name, None) for name in ("vae/ssim@0", "vae/psnr_gain", "heldout/ratio", "t2v/flow_motion")),
    ("t2v/black", {"mean": None}),
    ("vae/psnr@0.2", {"n": 0}),
    ("vae/psnr@0.2", {"seeds": []}),
    ("vae/psnr@0.2", {"ci95": None}),
    ("vae/psnr@0.2", {"ci95": [9e8, 9.1e8]}),
    ("vae/psnr@0.2", {"mean": 25.123456}),
]


@pytest.mark.parametrize(("name", "harm"), HARMS, ids=str)
def test_each_harm_to_a_measure_is_red(
    params: EvalParams, tables: Tables, summary: Row, out: Path, name: str, harm: Row | None
) -> None:
    if harm is None:
        del summary["measures"][name]
    else:
        summary["measures"][name] |= harm
    assert judged(eval_sections(summary, tables, out, params)).verdict == "red"


def _fail(tables: Tables, summary: Row, out: Path) -> None:
    tables["t2v"][0] |= {"status": "failed", "reason": "not finite", "file": None}


def _lose_a_row(tables: Tables, summary: Row, out: Path) -> None:
    del tables["t2v"][0]


def _lose_a_file(tables: Tables, summary: Row, out: Path) -> None:
    (out / tables["t2v"][0]["file"]).unlink()


def _other_seed(tables: Tables, summary: Row, out: Path) -> None:
    tables["t2v"][0]["seed"] = 99


def _other_stage(tables: Tables, summary: Row, out: Path) -> None:
    summary["stage"] = "t2i"


def _no_videos(tables: Tables, summary: Row, out: Path) -> None:
    tables["t2v"].clear()


def _no_losses(tables: Tables, summary: Row, out: Path) -> None:
    tables["heldout"].clear()


@pytest.mark.parametrize("harm", [_fail, _lose_a_row, _lose_a_file, _other_seed, _other_stage, _no_videos, _no_losses])
def test_each_harm_to_the_videos_is_red(
    params: EvalParams, tables: Tables, summary: Row, out: Path, harm: Callable[[Tables, Row, Path], None]
) -> None:
    harm(tables, summary, out)
    assert judged(eval_sections(summary, tables, out, params)).verdict == "red"


def test_an_empty_summary_is_never_green(params: EvalParams, tables: Tables, out: Path) -> None:
    assert judged(eval_sections({}, tables, out, params)).verdict != "green"
    assert judged(bar_sections({}, BARS)).verdict != "green"
    assert judged(baseline_sections({}, {})).verdict != "green"


BARS = ReleaseBars(heldout_ratio=0.8, psnr_gain_db=3.0, max_frozen=0.5)


def test_the_bars(summary: Row) -> None:
    assert judged(bar_sections(summary, BARS)).verdict == "green"


@pytest.mark.parametrize(
    ("name", "mean"),
    [
        ("heldout/ratio", 0.81),
        ("heldout/ratio", float("nan")),
        ("vae/psnr_gain", 2.9),
        ("t2v/frozen", 0.6),
        ("t2v/frozen", None),
    ],
)
def test_below_a_bar_is_red(summary: Row, name: str, mean: float | None) -> None:
    summary["measures"][name]["mean"] = mean
    assert judged(bar_sections(summary, BARS)).verdict == "red"


def test_the_baseline_itself_passes_against_itself(summary: Row) -> None:
    assert judged(baseline_sections(summary, summary)).verdict == "green"


@pytest.mark.parametrize(
    ("name", "ends"), [("heldout/ratio", [0.6, 0.7]), ("vae/psnr_gain", [1.0, 2.0]), ("t2v/frozen", [0.2, 0.3])]
)
def test_worse_than_the_baseline_beyond_both_intervals_is_red(summary: Row, name: str, ends: list[float]) -> None:
    worse = json.loads(json.dumps(summary))
    worse["measures"][name] |= {"ci95": ends, "mean": sum(ends) / 2}
    verdict = judged(baseline_sections(worse, summary))
    assert verdict.verdict == "red"
    assert judged(baseline_sections(summary, worse)).verdict == "green"


@pytest.mark.parametrize("key", ["view", "size", "sampling"])
def test_a_baseline_measured_another_way_is_red(summary: Row, key: str) -> None:
    assert judged(baseline_sections({**summary, key: "other"}, summary)).verdict == "red"


def test_every_expected_measure_goes_through_the_gate(
    params: EvalParams, tables: Tables, summary: Row, out: Path
) -> None:
    frame = eval_sections(summary, tables, out, params)["measures"].frame
    assert list(frame["measure"]) == expected_measures(params)
