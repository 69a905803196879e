"""How often what may be absent is absent: a measure that is missing from half of a batch has broken, not abstained."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
import pyarrow.compute as pc

from data_pipeline.expectations.facts import Read
from data_pipeline.expectations.rules import above
from data_pipeline.params import DataParams
from infra.gates import Rule, Section

MEASURES = (
    "camera_motion", "camera_jitter", "object_motion", "saturation_lit", "borders", "watermark", "stillness", "flicker",
    "duplicate_frames", "embedder",
)  # fmt: skip


def asked_for(params: DataParams) -> Mapping[str, tuple[str, ...]]:
    """{table: columns that a row without a reason has as a rule}."""
    score, looks = params.score, params.caption.captioner != "template"
    extras = {"text_area": score.text, "nsfw": score.nsfw}
    return {
        "clips": ("shot_start", "shot_end", "change_inside"),
        "scores": (*MEASURES, *(name for name, asked in extras.items() if asked)),
        "captions": ("model", *(("category", "style") if looks else ())),
    }


def rules_of_nulls(params: DataParams) -> list[Rule]:
    about = "of the rows without a reason, the share in which a column is empty"
    return [above("most", "nulls", about, or_equal=True, param="data.gate.max_nulls")]


def nulls(read: Read, params: DataParams) -> Section:
    """One row a column."""
    rows = []
    for table, columns in asked_for(params).items():
        found = read(table, ["reason", *columns])
        found = found.filter(pc.is_null(found.column("reason")))
        for name in columns:
            gone = pc.sum(found.column(name).is_null(nan_is_null=True)).as_py() or 0
            rows.append({"column": f"{table}.{name}", "nulls": gone / len(found) if len(found) else 1.0})
    return Section(pd.DataFrame(rows).assign(most=params.gate.max_nulls), rules_of_nulls(params), "column", shown=True)
