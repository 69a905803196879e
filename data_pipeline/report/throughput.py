"""How fast each stage was, as a page of its own beside the report.

The report is an output of DVC: equal tables must give equal bytes, or whoever repeats a run is told that something
changed. Seconds differ from run to run and machine to machine, so they are kept out of it: this page is no output of
the graph, is written anew with each report, and by `sana-video data report --throughput` alone when only a stage
upstream ran again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.columns import numbers
from data_pipeline.params import LimitParams
from data_pipeline.report.page import data_table, document
from data_pipeline.tables import read
from infra.html import Safe, el
from infra.storage import atomic_text

Row = Mapping[str, Any]
PAGE = Path("reports/data/throughput.html")
COUNTED = ("scores", "captions", "clips", "samples", "videos")  # the counter that says how much a stage has done
STAGES = ("ingest", "split", "score", "caption", "dedup", "quarantine", "curate", "gate_data", "shards", "encode")


def write(root: Path, batches: Sequence[str], limit: LimitParams) -> dict[str, float | int | str]:
    """The page, from runs/status and the lengths of the films; returns how many stages it tells of."""
    stages = statuses(root)
    atomic_text(root / PAGE, render(stages, film_hours(root, batches, limit)))
    return {"stages": len(stages)}


def statuses(root: Path) -> list[Row]:
    """What the stages of the data pipeline left when they last ended, in the order of the graph.

    Raises ValueError naming a status that is damaged.
    """
    found = []
    for path in sorted((root / "runs" / "status").glob("*.json")):
        try:
            status = json.loads(path.read_bytes())
        except ValueError as error:
            raise ValueError(f"{path} is no status of a stage ({error}): delete it, or run the stage again") from error
        if (name := str(status["stage"]).partition("@")[0]) in STAGES:
            found.append((STAGES.index(name), str(status["stage"]), status))
    return [status for _, _, status in sorted(found, key=lambda entry: entry[:2])]


def film_hours(root: Path, batches: Sequence[str], limit: LimitParams) -> dict[str, float]:
    """Hours of film that each batch has read, by `data.limit` where it reads only the beginning."""
    found = {}
    for batch in batches:
        table = read("videos", root / "data" / "videos" / f"{batch}.parquet", ["duration", "reason"])
        used = table.filter(table.column("reason").is_null())
        seconds = np.nan_to_num(numbers(used.column("duration")))
        found[batch] = float(np.minimum(seconds, limit.seconds or np.inf).sum()) / 3600
    return found


def speed(status: Row, hours: Mapping[str, float]) -> list[Child]:
    """Stage, how it ended, rows done, seconds, rows a second, seconds for an hour of film."""
    counted = next((name for name in COUNTED if name in status["counters"]), None)
    done, seconds = status["counters"].get(counted), float(status["seconds"])
    batch = str(status["stage"]).partition("@")[2]
    film = hours.get(batch, sum(hours.values()))
    return [
        status["stage"],
        status["kind"],
        f"{done:,} {counted}" if done is not None else "",
        f"{seconds:.1f}",
        f"{done / seconds:.2f}" if done is not None and seconds else "",
        f"{seconds / film:.0f}" if film else "",
    ]


Child = str


def render(stages: Sequence[Row], hours: Mapping[str, float]) -> str:
    """The page."""
    head = ("stage", "ended", "done", "seconds", "a second", "seconds for an hour of film")
    note = (
        f"What each stage said when it last ended, over {sum(hours.values()):.3f} hours of film read. A stage that "
        "finds its work in a cache (measures, captions) is faster than one that does it for the first time."
    )
    table = data_table("Throughput", head, [speed(status, hours) for status in stages], numbers=(3, 4, 5))
    body: list[Safe] = [
        el("h1", "Throughput"),
        el("p", note, class_="lead"),
        table if stages else el("p", "No stage has left a status in runs/status."),
        el("p", el("a", "Back to the data report", href="report.html")),
    ]
    return document("Training data: throughput", body)
