"""The numbers of the report: pure functions of columns. Each is counted once over all clips, then cut by source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from data_pipeline.columns import Floats, Ints, filled, numbers
from data_pipeline.params import Range
from data_pipeline.report.load import Chosen, code

BINS = 40
Row = dict[str, Any]
Counts = npt.NDArray[np.int64]


def summarise(chosen: Chosen, videos: pa.Table) -> dict[str, Any]:
    """The numbers that `dvc metrics diff` compares: counts, hours, fraction kept, drops by reason, counts by source."""
    good, kept = int((~filled(videos.column("reason"))).sum()), int(chosen.keep.sum())
    dropped = _count(chosen.reason, len(chosen.reasons))
    by_source = _count(chosen.source[chosen.keep], len(chosen.sources))
    return {
        "videos": good,
        "rejected_videos": len(videos) - good,
        "clips": len(chosen),
        "kept": kept,
        "kept_fraction": round(kept / len(chosen), 4) if len(chosen) else 0.0,
        "kept_hours": round(float(chosen.seconds[chosen.keep].sum()) / 3600, 5),
        "train": int((chosen.keep & ~chosen.val).sum()),
        "val": int((chosen.keep & chosen.val).sum()),
        "dropped": dict(zip(chosen.reasons, dropped.tolist(), strict=True)),
        "sources": dict(zip(chosen.sources, by_source.tolist(), strict=True)),
    }


def funnel(chosen: Chosen) -> list[tuple[str, Counts]]:
    """(step, clips left after it by source) from all spans to the two subsets; each clip leaves at its first reason."""
    steps = (
        ("spans", np.ones(len(chosen), bool)),
        ("clips", chosen.cut),
        ("scored", chosen.scored),
        ("in range", chosen.in_range),
        ("without copies", chosen.alone),
        ("kept", chosen.keep),
        ("train", chosen.keep & ~chosen.val),
        ("val", chosen.keep & chosen.val),
    )
    return [(name, _count(chosen.source[left], len(chosen.sources))) for name, left in steps]


def drops(chosen: Chosen) -> list[tuple[str, Counts]]:
    """(first reason, clips dropped for it by source), most first."""
    out = chosen.reason >= 0
    sources = len(chosen.sources)
    table = _count(chosen.reason[out] * sources + chosen.source[out], len(chosen.reasons) * sources)
    rows = list(zip(chosen.reasons, table.reshape(len(chosen.reasons), sources), strict=True))
    return sorted(rows, key=lambda row: (-int(row[1].sum()), row[0]))


def buckets(chosen: Chosen) -> list[tuple[str, int, int]]:
    """(bucket, clips to train on, clips held out) of what is kept, largest first."""
    known = chosen.keep & (chosen.bucket >= 0)
    train, val = (_count(chosen.bucket[known & side], len(chosen.buckets)) for side in (~chosen.val, chosen.val))
    rows = [(name, int(a), int(b)) for name, a, b in zip(chosen.buckets, train, val, strict=True) if a + b]
    return sorted(rows, key=lambda row: (-row[1] - row[2], row[0]))


@dataclass(frozen=True)
class Histogram:
    """One measure in one source: `counts` of equal bins over `span`, and how many of `rows` each end drops.

    What lies beyond `span` is counted in its first or last bin, so the bins and `missing` sum to `rows`.
    """

    source: str
    rows: int
    counts: list[int]
    span: tuple[float, float]
    bounds: Range | None
    below: int
    above: int
    missing: int
    median: float | None


def histograms(
    values: Floats,
    source: Ints,
    names: Sequence[str],
    bounds: Mapping[str, Range | None],
    scored: npt.NDArray[np.bool_],
) -> list[Histogram]:
    """Of each source that has scored clips, over one axis: from the 0.5th to the 99.5th percentile and thresholds near.

    `bounds`: {source: (low, high)} where it has any.
    """
    finite = np.isfinite(values) & scored
    low, high, bins = _axis(values[finite], [end for each in bounds.values() if each for end in each])
    place = np.clip((values[finite] - low) / (high - low) * bins, 0, bins - 1).astype(np.int64)
    counts = _count(source[finite] * bins + place, len(names) * bins).reshape(-1, bins)
    rows = _count(source[scored], len(names))
    found = []
    for at in np.flatnonzero(rows).tolist():
        here = values[finite & (source == at)]
        least, most = bounds.get(names[at]) or (-np.inf, np.inf)
        found.append(
            Histogram(
                names[at],
                int(rows[at]),
                counts[at].tolist(),
                (low, high),
                bounds.get(names[at]),
                int((here < least).sum()),
                int((here > most).sum()),
                int(rows[at]) - len(here),
                float(np.median(here)) if len(here) else None,
            )
        )
    return found


def _axis(values: Floats, marks: Sequence[float]) -> tuple[float, float, int]:
    """Both ends and the number of bins: a threshold is taken in unless that would squeeze the clips into a third.

    Whole numbers stand in the middle of their bins.
    """
    if not len(values):
        return 0.0, 1.0, BINS
    low, high = (float(end) for end in np.percentile(values, [0.5, 99.5]))
    room = 2.0 * max(high - low, abs(high) / 2, 1e-6)
    near = [mark for mark in marks if np.isfinite(mark) and low - room <= mark <= high + room]
    low, high = min([low, *near]), max([high, *near])
    if (values == np.rint(values)).all():
        low, high = np.floor(low) - 0.5, np.ceil(high) + 0.5
        return float(low), float(high), min(BINS, int(high - low))
    return low, high if high - low > 1e-9 * max(1.0, abs(high)) else low + max(1.0, abs(low)), BINS


def by_source(videos: pa.Table) -> list[Row]:
    """Files, rejected files and hours by source, origin, licence and attribution, in order."""
    rejected = filled(videos.column("reason"))
    hours = np.where(rejected, 0.0, np.nan_to_num(numbers(videos.column("duration")))) / 3600
    keys = ["source", "origin", "licence", "attribution"]
    table = videos.select(keys).append_column("rejected", pa.array(rejected.astype(np.int64)))
    grouped = table.append_column("hours", pa.array(hours)).group_by(keys, use_threads=False)
    found = grouped.aggregate([("rejected", "count"), ("rejected", "sum"), ("hours", "sum")]).to_pylist()
    return sorted(found, key=lambda row: tuple(str(row[key] or "") for key in keys))


def refused_files(videos: pa.Table, examples: int) -> list[tuple[str, int, list[Row]]]:
    """(reason, files, the first few of them as uri and reason), most first."""
    bad = videos.filter(pc.is_valid(videos.column("reason"))).select(["uri", "reason"])
    grouped: dict[str, tuple[int, list[Row]]] = {}
    for part in bad.to_batches():
        for row in part.to_pylist():
            count, rows = grouped.get(code(row["reason"]), (0, []))
            grouped[code(row["reason"])] = count + 1, rows if len(rows) == examples else [*rows, row]
    return sorted(((name, *each) for name, each in grouped.items()), key=lambda row: (-row[1], row[0]))


def _count(index: Ints, length: int) -> Counts:
    return np.bincount(index[index >= 0], minlength=length)
