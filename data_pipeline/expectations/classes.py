"""What classifiers told: of every measured clip of their sources, and of nothing else."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from data_pipeline.columns import filled, numbers, places
from data_pipeline.expectations.balance import filled_true
from data_pipeline.expectations.facts import Read
from data_pipeline.expectations.rules import above, within
from data_pipeline.params import ClassifierParams, DataParams
from infra.gates import Rule, Section

COLUMNS = ("entry", "classifier", "clip_id", "probability", "version")


def rules_of_classes(params: DataParams) -> list[Rule]:
    return [
        within("lost", 0, 0, "every measured clip of its sources was judged"),
        within("foreign", 0, 0, "no other clip was, and none by a classifier that params do not name", "data.classify"),
        within("outside", 0, 0, "a probability is within 0 and 1"),
        within("versions", 0, 1, "all were judged by one version"),
        above("most", "nulls", "of its clips, the share without a probability", or_equal=True,
              param="data.gate.max_nulls"),
    ]  # fmt: skip


def classes(read: Read, params: DataParams) -> Section:
    """One row a classifier, and one for what is told of any that params do not name."""
    told = read("classes", COLUMNS)
    named = pa.array(params.classify, pa.string())
    others = told.filter(pc.invert(pc.is_in(told.column("classifier"), value_set=named)))
    rows = list(_rows(read, told, params)) if params.classify else []
    rows.append({"classifier": "others", "lost": 0, "foreign": len(others), "outside": 0, "versions": 0, "nulls": 0.0})
    return Section(
        pd.DataFrame(rows).assign(most=params.gate.max_nulls), rules_of_classes(params), "classifier", shown=True
    )


def _rows(read: Read, told: pa.Table, params: DataParams) -> Iterator[dict[str, object]]:
    clips, scores = read("clips", ["clip_id", "source"]), read("scores", ["clip_id", "reason"])
    measured = scores.column("clip_id").filter(pc.is_null(scores.column("reason")))
    for name, asked in params.classify.items():
        yield _row(name, told.filter(pc.equal(told.column("classifier"), name)), clips, measured, asked)


def _row(
    name: str, told: pa.Table, clips: pa.Table, measured: pa.ChunkedArray, asked: ClassifierParams
) -> dict[str, object]:
    of_sources = pc.is_in(clips.column("source"), value_set=pa.array(asked.thresholds, pa.string()))
    wanted = measured.filter(pc.is_in(measured, value_set=clips.column("clip_id").filter(of_sources)))
    as_named = pc.equal(told.column("entry"), pc.binary_join_element_wise(name, told.column("clip_id"), ":"))
    at = np.where(filled_true(as_named), places(told.column("clip_id"), wanted), -1)
    probability = numbers(told.column("probability"))
    there = np.isfinite(probability)
    return {
        "classifier": f"{name}: {len(told):,} judged of {len(wanted):,}",
        "lost": len(wanted) - len(np.unique(at[at >= 0])),
        "foreign": int((at < 0).sum()),
        "outside": int((filled(told.column("probability")) & ~((probability >= 0.0) & (probability <= 1.0))).sum()),
        "versions": pc.count_distinct(told.column("version"), mode="all").as_py(),
        "nulls": 1.0 - float(there.mean()) if len(told) else 0.0,
    }
