"""The page to judge the data by: one static file that needs no network, and its numbers for DVC.

`load` reads columns, `figures` and `examples` are pure functions of them, `pictures` decodes the clips that are shown,
`page` and `charts` draw, `throughput` is a page of its own. Equal tables and films give equal bytes. Nothing here takes
an object for each clip, so that ten million are as little trouble as ten.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_pipeline.expectations.facts import on_disk
from data_pipeline.params import DataParams, Ranges
from data_pipeline.report import examples, figures, load, throughput
from data_pipeline.report.load import Chosen
from data_pipeline.report.page import MOST_LINES, MOST_SOURCES, Content, Measure, render
from data_pipeline.report.pictures import decode
from data_pipeline.report.words import ESTIMATORS
from infra.storage import atomic_text

Track = Callable[[Iterable[Any], int, str], Iterable[Any]]
PAGE = Path("reports/data/report.html")
EXAMPLES = 5  # refused files named for each reason


def run(root: Path, batches: Sequence[str], params: DataParams, track: Track) -> dict[str, float | int | str]:
    """Write report.html, summary.json and funnel.csv to `root`/reports/data; returns what was counted."""
    load.check(root, batches)
    folder = (root / PAGE).parent
    content = gather(root, batches, params, track)
    steps = "".join(f"{step},{int(counts.sum())}\n" for step, counts in content.funnel)
    atomic_text(root / PAGE, render(content))
    atomic_text(folder / "summary.json", json.dumps(content.summary, indent=1, sort_keys=True) + "\n")
    atomic_text(folder / "funnel.csv", "step,clips\n" + steps)
    throughput.write(root, batches, params.limit)
    return {"clips": content.summary["clips"], "kept": content.summary["kept"]}


def gather(root: Path, batches: Sequence[str], params: DataParams, track: Track) -> Content:
    """All that the page shows."""
    read = on_disk(root, batches)
    chosen = load.chosen(root, batches)
    videos = read("videos", ["source", "origin", "uri", "duration", "licence", "attribution", "reason"])
    made_by = _made_by(root, batches)
    measures = list(measured(chosen, params, dict(made_by)))
    dropped, captioned = examples.by_reason(chosen), examples.captioned(chosen)
    drops, pairs = (
        figures.drops(chosen),
        examples.pairs(read("twins", ["clip_id", "twin_of", "kind", "distance", "embedder"])),
    )
    ids = [
        *examples.clip_ids([captioned]),
        *(row[key] for _, _, rows in pairs for row in rows for key in ("twin_of", "clip_id")),
        *(one.clip_id for reason, _ in drops[:MOST_LINES] for one in dropped[reason]),
        *_at_edges(measures),
    ]
    films = load.rows_of(root, batches, "clips", ids, ["video_id", "start_pts", "end_pts"])
    files = load.rows_of(root, batches, "videos", [row["video_id"] for row in films.values()], ["uri", "reason"])
    return Content(
        summary=figures.summarise(chosen, videos),
        sources=chosen.sources,
        funnel=figures.funnel(chosen),
        measures=measures,
        drops=drops,
        dropped=dropped,
        pairs=pairs,
        twin_limits={"hash": params.dedup.max_distance, "embedding": params.dedup.max_embedding_distance},
        captioned=captioned,
        buckets=figures.buckets(chosen),
        videos=figures.by_source(videos),
        refused=figures.refused_files(videos, EXAMPLES),
        made_by=made_by,
        captions=load.rows_of(root, batches, "captions", ids, ["text", "category", "style", "reason"]),
        pictures=decode(ids, films, {key: row for key, row in files.items() if row["reason"] is None}, root, track),
    )


def measured(chosen: Chosen, params: DataParams, made_by: Mapping[str, list[str]]) -> Iterable[Measure]:
    """Each measure that some clip has or some source asks for: those with thresholds first, in the order of params."""
    ranges = {source: params.curate.ranges_of(source) for source in chosen.sources}
    asked = {name for each in ranges.values() for name in each}
    for name in sorted(Ranges.model_fields, key=lambda name: name not in asked):
        values, bounds = chosen.values(name), {source: each.get(name) for source, each in ranges.items()}
        found = figures.histograms(values, chosen.source, chosen.sources, bounds, chosen.scored)
        if name in asked or any(one.median is not None for one in found):
            edges = examples.edges(name, values, chosen, bounds)
            yield Measure(name, found[:MOST_SOURCES], edges, made_by.get(ESTIMATORS.get(name, ""), []))


def _at_edges(measures: Sequence[Measure]) -> list[str]:
    """The clips at thresholds, those first that drop something: as often as they are shown."""
    every = sorted((edge for one in measures for edge in one.edges), key=lambda edge: not edge.beyond)
    return [one.clip_id for edge in every for one in (*edge.inside, *edge.outside)]


def _made_by(root: Path, batches: Sequence[str]) -> list[tuple[str, list[str]]]:
    names = ["flow_estimator", "aesthetic_scorer", "text_detector", "nsfw_detector", "embedder"]
    told = load.labels(root, batches, "scores", names)
    told |= {"captions": load.labels(root, batches, "captions", ["captioner"])["captioner"]}
    return list(told.items())
