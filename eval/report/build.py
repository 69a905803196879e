"""From the tables to the report: reads what the evaluation wrote, adds where it came from, writes summary and page."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eval import tables
from eval.params import EvalParams
from eval.report.page import MOST_PROMPTS, render
from eval.report.pictures import Stills, stills_of
from eval.report.summary import dumps, summarise
from infra.storage import atomic_text, atomic_write, digest

Row = dict[str, Any]

TABLES = ("vae", "heldout", "t2v")


def read_tables(out: Path) -> dict[str, list[Row]]:
    """The three tables of an evaluation. Raises ValueError for one that is missing."""
    return {name: tables.read(name, out / f"{name}.parquet") for name in TABLES}


def build(root: Path, params: EvalParams, line: Sequence[str], sources: Sequence[Row]) -> dict[str, int]:
    """Write summary.json and report.html to reports/eval; `line`: the stages behind the model, first to last."""
    out = root / "reports" / "eval"
    rows = read_tables(out)
    summary = summarise(rows, params, _about(root, params, line, sources, rows["t2v"]))
    atomic_write(out / "summary.json", dumps(summary))
    curves = {stage: _curve(root / "models" / stage / "curve.csv") for stage in line}
    atomic_text(out / "report.html", render(summary, rows, _stills(rows["t2v"], out), curves))
    return {"measures": len(summary["measures"]), "failed": summary["coverage"]["failed"]}


def training_summary(root: Path, stage: str) -> Row:
    """models/<stage>/summary.json. Raises ValueError when it is missing or not a summary."""
    path = root / "models" / stage / "summary.json"
    return json_object(path, "summary of training", f"sana-video train run --stage {stage}")


def json_object(path: Path, what: str, command: str) -> Row:
    """The JSON object in `path`; ValueError when it is missing (`command` makes it), damaged or no `what`."""
    if not path.is_file():
        raise ValueError(f"{path} is missing: run `{command}`")
    try:
        found = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path} is no {what}: it holds {type(found).__name__}")
    return found


def _about(root: Path, params: EvalParams, line: Sequence[str], sources: Sequence[Row], clips: Sequence[Row]) -> Row:
    trained = {stage: training_summary(root, stage) for stage in line}
    measured = next((row for row in clips if row["frames"]), None)
    if measured is None:
        raise ValueError(
            "no clip of the evaluation could be measured, not even a real one: see t2v.parquet for the reasons"
        )
    estimators = {row[column] or "" for row in clips for column in ("flow_estimator", "aesthetic_scorer")}
    stand_ins = {said for summary in trained.values() for said in summary.get("stand_ins", [])}
    stand_ins |= {name for name in estimators if "stand-in" in name}
    read = [f"models/{params.stage}", params.autoencoder, "data/shards/pixels", f"data/shards/{params.view}"]
    return {
        "model": "SANA-Video",
        "stage": params.stage,
        "objective": trained[params.stage]["objective"],
        "view": params.view,
        "size": {key: measured[key] for key in ("height", "width", "frames", "fps")},
        "stand_ins": sorted(stand_ins),
        "sources": list(sources),
        "digests": {name: digest(root / name) for name in read},
    }


def _curve(path: Path) -> list[Row]:
    """Rows of step, loss and heldout; a value that is absent or not finite is None. Empty where there is no curve."""
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return [
            {"step": int(row["step"]), "loss": _number(row, "loss"), "heldout": _number(row, "heldout")}
            for row in csv.DictReader(file)
        ]


def _number(row: Mapping[str, str | None], name: str) -> float | None:
    value = float(row.get(name) or "nan")
    return value if math.isfinite(value) else None


def _stills(rows: Sequence[Row], out: Path) -> dict[str, Stills]:
    """Stills of the clips that the page will show."""
    shown = sorted({row["prompt_id"] for row in rows})[:MOST_PROMPTS]
    return {row["file"]: stills_of(out / row["file"]) for row in rows if row["file"] and row["prompt_id"] in shown}
