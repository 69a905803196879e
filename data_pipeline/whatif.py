"""What other thresholds would keep, against the selection as it stands: nothing is scored, nothing written.

The whole choice is made again (copies and held-out parts follow from what passes), so the answer is what `curate` with
the same parameters writes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_pipeline import curate, tables
from data_pipeline.columns import Bools, Floats, Ints, codes, numbers, sorted_by
from data_pipeline.params import ClassifierParams, CurateParams

Row = dict[str, Any]


def run(
    root: Path, batches: Sequence[str], params: CurateParams, classifiers: Mapping[str, ClassifierParams]
) -> dict[str, list[Row]]:
    """`sources` and `reasons`, as `compare` gives them. ValueError where a table or the selection is missing or old."""
    before = tables.read("selection", root / "data" / "selection.parquet", ["clip_id", "source", "keep", "reasons"])
    inputs = curate.load(root, batches)
    after = curate.run(**vars(inputs), params=params, classifiers=classifiers)
    return compare(before, after.select(before.schema.names), inputs.clips)


def compare(before: pa.Table, after: pa.Table, clips: pa.Table) -> dict[str, list[Row]]:
    """`sources`: clips and hours kept before and after, newly dropped, newly kept; the last row is all of them.

    `reasons`: for each source and reason, how many clips it is true of before and after, and for how many it is the
    only one after: those it alone keeps out. Raises ValueError where the two are not choices among the same clips.
    """
    if not before.column("clip_id").equals(after.column("clip_id")):
        raise ValueError("data/selection.parquet is not of these tables: run `sana-video data curate` first")
    source, names = codes(after.column("source"))
    span = sorted_by(clips, "clip_id")
    hours = np.nan_to_num(numbers(span.column("frames")) / numbers(span.column("fps"))) / 3600
    past, now = (table.column("keep").to_numpy(zero_copy_only=False) for table in (before, after))
    rows = [_source(name, source == at, past, now, hours) for at, name in enumerate(names)]
    every = np.ones(len(source), bool)
    return {
        "sources": [*rows, _source("all", every, past, now, hours)],
        "reasons": _reasons(before.column("reasons"), after.column("reasons"), source, names),
    }


def _source(name: str, own: Bools, before: Bools, after: Bools, hours: Floats) -> Row:
    return {
        "source": name,
        "clips": int(own.sum()),
        "kept_before": int((own & before).sum()),
        "kept_after": int((own & after).sum()),
        "newly_dropped": int((own & before & ~after).sum()),
        "newly_kept": int((own & ~before & after).sum()),
        "hours_before": round(float(hours[own & before].sum()), 4),
        "hours_after": round(float(hours[own & after].sum()), 4),
    }


def _reasons(before: pa.ChunkedArray, after: pa.ChunkedArray, source: Ints, names: Sequence[str]) -> list[Row]:
    past, now = _count(before, source), _count(after, source)
    alone = _count(pc.if_else(pc.equal(pc.list_value_length(after), 1), after, None), source)
    return [
        {
            "source": names[at],
            "reason": reason,
            "before": past.get((at, reason), 0),
            "after": now.get((at, reason), 0),
            "alone_after": alone.get((at, reason), 0),
        }
        for at, reason in sorted(past.keys() | now.keys())
    ]


def _count(reasons: pa.ChunkedArray, source: Ints) -> Mapping[tuple[int, str], int]:
    """Clips by (source, reason without its detail)."""
    length = pc.fill_null(pc.list_value_length(reasons), 0).to_numpy()
    plain = pc.list_element(pc.split_pattern(pc.list_flatten(reasons), ":", max_splits=1), 0)
    code, words = codes(plain if isinstance(plain, pa.ChunkedArray) else pa.chunked_array([plain]))
    found, count = np.unique(np.repeat(source, length) * max(1, len(words)) + code, return_counts=True)
    return {
        (both // len(words), words[both % len(words)]): times
        for both, times in zip(found.tolist(), count.tolist(), strict=True)
    }


def shown(answer: Mapping[str, Sequence[Row]]) -> str:
    """The answer as two tables for people."""
    return "\n\n".join(_table(rows) for rows in answer.values() if rows)


def _table(rows: Sequence[Row]) -> str:
    lines = [list(rows[0]), *([_cell(value) for value in row.values()] for row in rows)]
    widths = [max(len(line[at]) for line in lines) for at in range(len(lines[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def _cell(value: Any) -> str:
    return value if isinstance(value, str) else f"{value:,.2f}" if isinstance(value, float) else f"{value:,}"
