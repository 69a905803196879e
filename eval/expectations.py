"""The rules of the three gates of this package: after each training stage, after the evaluation, before a release.

Each function turns what lies on disk into small frames and declares rules over them; `infra.gates` evaluates, and
adds rows, columns, no nulls and finite numbers by itself. A missing file or key becomes a null here, never a default,
so that what is absent is red.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from eval.params import EvalParams, ReleaseBars
from eval.report.summary import expected_measures, summarise
from infra.gates import Section, expect
from sana_video.train.config import StageParams, TrainGateParams

Row = dict[str, Any]

BARRED = ("heldout/ratio", "vae/psnr_gain", "t2v/frozen")
BETTER = {"heldout/ratio": "lower", "vae/psnr_gain": "higher", "t2v/frozen": "lower"}
COMPARABLE = ("view", "size", "sampling")


def _number(value: Any) -> float:
    """A number as it is; NaN, which no rule passes, for what is none."""
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else math.nan


def train_sections(
    summary: Mapping[str, Any], stage: StageParams, gate: TrainGateParams, weights_sha256: str, data_digest: str
) -> dict[str, Section]:
    """The rules over models/<stage>/summary.json; the two digests are those of what lies on disk now.

    A diffusion stage from scratch is held against predicting no velocity as well as against its own start: a fresh
    network is so bad that learning to say nothing already halves its loss.
    """
    start, end, zero = (_number(summary.get(f"heldout_{name}")) for name in ("start", "end", "zero"))
    row = {
        "stage": summary.get("stage"),
        "steps": _number(summary.get("steps")),
        "loss_finite": str(summary.get("loss_finite")),
        "nonfinite_steps": _number(summary.get("nonfinite_steps")),
        "heldout_change": end / start - 1 if start > 0 else math.nan,
        "heldout_ratio": end / zero if zero > 0 else math.nan,
        "psnr_gain": _number(summary.get("psnr")) - _number(summary.get("psnr_mean_colour")),
        "checkpoint": summary.get("checkpoint_sha256"),
        "data": summary.get("data_digest"),
        "objective": summary.get("objective"),
        "from_scratch": str(summary.get("from_scratch")),
    }
    highest = -gate.scratch_improvement if stage.from_scratch else gate.later_tolerance
    rules = [
        expect("ExpectTableRowCountToEqual", value=1),
        _is("objective", stage.objective),
        _is("from_scratch", str(stage.from_scratch)),
        expect("ExpectColumnValuesToBeBetween", column="steps", min_value=stage.steps, max_value=stage.steps),
        _is("loss_finite", "True"),
        expect("ExpectColumnValuesToBeBetween", "warning", column="nonfinite_steps", max_value=0),
        expect("ExpectColumnValuesToBeBetween", column="heldout_change", max_value=highest),
        _is("checkpoint", weights_sha256),
        _is("data", data_digest),
    ]
    if stage.objective == "autoencoder":
        rules.append(expect("ExpectColumnValuesToBeBetween", column="psnr_gain", min_value=gate.autoencoder_gain_db))
    elif stage.from_scratch:
        largest = 1 - gate.scratch_improvement
        rules.append(expect("ExpectColumnValuesToBeBetween", column="heldout_ratio", min_value=0, max_value=largest))
    return {"training": Section(pd.DataFrame([row]), rules, "stage")}


def _is(column: str, value: str) -> Any:
    return expect("ExpectColumnValuesToBeInSet", column=column, value_set=[value])


def eval_sections(
    summary: Mapping[str, Any], tables: Mapping[str, Sequence[Row]], out: Path, params: EvalParams
) -> dict[str, Section]:
    """All measures present with n, seeds and interval, equal to the tables; every video there; few enough failed."""
    return {"measures": _measures(summary, tables, params), "videos": _videos(summary, tables["t2v"], out, params)}


def _measures(summary: Mapping[str, Any], tables: Mapping[str, Sequence[Row]], params: EvalParams) -> Section:
    again = _recomputed(tables, params)
    found = summary.get("measures", {})
    names = expected_measures(params)
    rows = [_measure(name, found.get(name) or {}, again.get(name, {})) for name in names]
    rules = [
        expect("ExpectTableRowCountToEqual", value=len(names)),
        expect("ExpectColumnValuesToBeBetween", column="mean", min_value=-1e9, max_value=1e9),
        expect("ExpectColumnValuesToBeBetween", column="n", min_value=1),
        expect("ExpectColumnValuesToBeBetween", column="seeds", min_value=1),
        expect("ExpectColumnValuesToBeInSet", column="interval", value_set=["around the mean", "one cluster"]),
        expect("ExpectColumnValuesToBeInSet", column="equals_tables", value_set=["yes"]),
    ]
    return Section(pd.DataFrame(rows), rules, "measure")


def _recomputed(tables: Mapping[str, Sequence[Row]], params: EvalParams) -> Row:
    """The measures anew from the tables; none where a table is empty, so that nothing equals them."""
    try:
        measures: Row = summarise({name: list(rows) for name, rows in tables.items()}, params, {})["measures"]
    except (ValueError, TypeError, ZeroDivisionError):
        return {}
    return measures


def _measure(name: str, entry: Mapping[str, Any], again: Mapping[str, Any]) -> Row:
    seeds = entry.get("seeds")
    return {
        "measure": name,
        "mean": _number(entry.get("mean")),
        "n": _number(entry.get("n")),
        "seeds": float(len(seeds)) if isinstance(seeds, list) else math.nan,
        "interval": _interval(entry),
        "equals_tables": "yes" if entry and dict(entry) == dict(again) else "no",
    }


def _interval(entry: Mapping[str, Any]) -> str:
    ends, mean = entry.get("ci95"), _number(entry.get("mean"))
    if ends is None:
        return "one cluster" if entry.get("clusters") == 1 else "missing"
    if not isinstance(ends, list) or len(ends) != 2:
        return "malformed"
    low, high = (_number(end) for end in ends)
    slack = 1e-9 * max(1.0, abs(mean))
    return "around the mean" if low - slack <= mean <= high + slack else "beside the mean"


def _videos(summary: Mapping[str, Any], rows: Sequence[Row], out: Path, params: EvalParams) -> Section:
    made = [row for row in rows if row["kind"] == "generated"]
    good = [row for row in made if row["status"] == "ok"]
    files = [row["file"] for row in rows if row["status"] == "ok"]
    seeds = {row["seed"] for row in made}
    row = {
        "evaluation": summary.get("stage"),
        "videos": float(len(good)),
        "missing": float(params.prompts * params.seeds_per_prompt - len(made)),
        "failed_share": (len(made) - len(good)) / len(made) if made else math.nan,
        "absent_files": float(sum(not file or not (out / file).is_file() for file in files)),
        "foreign_seeds": float(len(seeds ^ set(params.seeds))),
    }
    rules = [
        expect("ExpectTableRowCountToEqual", value=1),
        _is("evaluation", params.stage),
        expect("ExpectColumnValuesToBeBetween", column="videos", min_value=params.gate.min_videos),
        expect("ExpectColumnValuesToBeBetween", column="missing", min_value=0, max_value=0),
        expect("ExpectColumnValuesToBeBetween", column="failed_share", max_value=params.gate.max_failures),
        expect("ExpectColumnValuesToBeBetween", column="absent_files", max_value=0),
        expect("ExpectColumnValuesToBeBetween", column="foreign_seeds", max_value=0),
    ]
    return Section(pd.DataFrame([row]), rules, "evaluation")


def bar_sections(summary: Mapping[str, Any], bars: ReleaseBars) -> dict[str, Section]:
    """The absolute bars of a release that has nothing to compare with."""
    heldout, gain, frozen = (_number((summary.get("measures", {}).get(name) or {}).get("mean")) for name in BARRED)
    row = {"stage": summary.get("stage"), "heldout_ratio": heldout, "psnr_gain_db": gain, "frozen": frozen}
    rules = [
        expect("ExpectTableRowCountToEqual", value=1),
        expect("ExpectColumnValuesToBeBetween", column="heldout_ratio", min_value=0, max_value=bars.heldout_ratio),
        expect("ExpectColumnValuesToBeBetween", column="psnr_gain_db", min_value=bars.psnr_gain_db),
        expect("ExpectColumnValuesToBeBetween", column="frozen", min_value=0, max_value=bars.max_frozen),
    ]
    return {"bars": Section(pd.DataFrame([row]), rules, "stage")}


def baseline_sections(summary: Mapping[str, Any], baseline: Mapping[str, Any]) -> dict[str, Section]:
    """No measure is worse than the baseline's beyond both 95 % intervals, and both were measured the same way.

    `worse_by` is the gap between the candidate's better end and the baseline's worse one, in the measure's unit. A gap
    of zero or less means "not shown to be worse", which is all that a few videos can say.
    """
    rows = [_against(name, summary.get("measures", {}), baseline.get("measures", {})) for name in BARRED]
    same = [{"setting": key, "same": str(key in summary and summary[key] == baseline.get(key))} for key in COMPARABLE]
    worse = [
        expect("ExpectTableRowCountToEqual", value=len(BARRED)),
        expect("ExpectColumnValuesToBeBetween", column="worse_by", max_value=0),
    ]
    alike = [expect("ExpectTableRowCountToEqual", value=len(COMPARABLE)), _is("same", "True")]
    return {
        "against the baseline": Section(pd.DataFrame(rows), worse, "measure"),
        "measured alike": Section(pd.DataFrame(same), alike, "setting"),
    }


def _against(name: str, candidate: Mapping[str, Any], baseline: Mapping[str, Any]) -> Row:
    (low, high), (base_low, base_high) = _ends(candidate.get(name)), _ends(baseline.get(name))
    return {"measure": name, "worse_by": low - base_high if BETTER[name] == "lower" else base_low - high}


def _ends(entry: Any) -> tuple[float, float]:
    if not isinstance(entry, Mapping):
        return math.nan, math.nan
    ends = entry.get("ci95") or [entry.get("mean")] * 2
    return _number(ends[0]), _number(ends[1])
