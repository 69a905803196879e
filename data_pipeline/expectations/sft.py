"""Boundary `sft`: out of kept clips alone, each chosen one by every rule it was chosen by, each cell within its quota.

Stands apart from the gate `data`, below it: what people say of a clip changes the set and no other table, and only
views of the set are to be made again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from data_pipeline import curate, tables
from data_pipeline.columns import Bools, at, filled, numbers, places
from data_pipeline.expectations.balance import filled_true
from data_pipeline.expectations.files import files, readable
from data_pipeline.expectations.rules import above, equal, one_of, within
from data_pipeline.expectations.selection import first_broken
from data_pipeline.params import UNKNOWN, SftParams
from data_pipeline.sft import choose
from data_pipeline.sft.reviews import ACCEPT, REJECT
from infra.gates import Rule, Section

Bounds = tuple[float, float]


def sft_sections(path: Path, root: Path, batches: Sequence[str], params: SftParams) -> Iterator[tuple[str, Section]]:
    """The boundary, one section after another. `path`: the set. ValueError for a missing table."""
    found = files({"data/sft.parquet": path})
    yield "files", found
    if readable(found):
        selection = tables.read("selection", root / "data" / "selection.parquet", ["clip_id", "keep"])
        scores = curate.join("scores", root, batches, ("clip_id", *choose.measures(params)))
        yield from table_sections(tables.read("sft", path), selection, scores, params)


def table_sections(
    sft: pa.Table, selection: pa.Table, scores: pa.Table, params: SftParams
) -> Iterator[tuple[str, Section]]:
    """The sections over what stands in the tables."""
    yield "rows", rows(sft, selection)
    yield "clips", clips(sft, scores, params)
    yield "cells", cells(sft, params)


def rules_of_rows() -> list[Rule]:
    return [
        within("lost", 0, 0, "every kept clip was asked about"),
        within("foreign", 0, 0, "no clip that the selection does not keep"),
    ]


def rows(sft: pa.Table, selection: pa.Table) -> Section:
    """One row."""
    kept = selection.column("clip_id").filter(pc.fill_null(selection.column("keep"), False))
    here = places(sft.column("clip_id"), kept)
    lost, foreign = len(kept) - int((here >= 0).sum()), int((here < 0).sum())
    frame = pd.DataFrame([{"rows": f"{len(kept):,} kept, {len(sft):,} asked", "lost": lost, "foreign": foreign}])
    return Section(frame, rules_of_rows(), "rows", shown=True)


def rules_of_clips() -> list[Rule]:
    return [
        one_of("rules_broken", ["none"], "a candidate meets every rule of the set, and no person rejected it",
               "data.sft"),
        one_of("explained", [True], "who is no candidate says why, or comes after others of its film"),
        equal("cell", "told_cell", "stands in the cell of its category and style"),
    ]  # fmt: skip


def clips(sft: pa.Table, scores: pa.Table, params: SftParams) -> Section:
    """One row a kept clip."""
    candidate = filled(sft.column("place"))
    reasons = pc.fill_null(pc.list_value_length(sft.column("reasons")), 0).to_numpy()
    explained = np.where(candidate, reasons == 0, (reasons > 0) | (params.per_video is not None))
    told = pc.binary_join_element_wise(sft.column("category"), sft.column("style"), "/")
    known = pc.is_in(told, value_set=pa.array(choose.CELLS))
    frame = pd.DataFrame(
        {
            "clip_id": sft.column("clip_id").to_pandas(),
            "rules_broken": first_broken(_failing(sft, scores, params), candidate | filled_true(sft.column("chosen"))),
            "explained": explained,
            "cell": sft.column("cell").to_pandas(),
            "told_cell": pc.if_else(known, told, UNKNOWN).to_pandas(),
        }
    )
    return Section(frame, rules_of_clips(), "clip_id")


def _failing(sft: pa.Table, scores: pa.Table, params: SftParams) -> Iterator[tuple[str, Bools]]:
    """(rule, which clips break it)."""
    human = sft.column("human")
    yield "HUMAN_REJECTED", filled_true(pc.equal(human, REJECT))
    if params.accepted_only:
        yield "NOT_REVIEWED", ~filled_true(pc.equal(human, ACCEPT))
    score_at = places(sft.column("clip_id"), scores.column("clip_id"))
    measured = {
        name: np.asarray(at(numbers(scores.column(name)), score_at, np.nan), np.float64)
        for name in choose.measures(params)
    }
    moves = [measured[name] >= getattr(params.moves, name) for name in ("object_motion", "camera_motion")]
    yield "NO_MOTION", ~np.logical_or(*moves)
    for name, bounds in params.ranges.stated().items():
        low, high = bounds or (-np.inf, np.inf)
        yield f"{name.upper()}_OUTSIDE", ~((measured[name] >= low) & (measured[name] <= high)) & (bounds is not None)


def rules_of_cells() -> list[Rule]:
    about = "a cell gives its quota, or all its candidates where they are fewer"
    return [
        equal("chosen", "wanted", about),
        above("quota", "chosen", "and no more", or_equal=True, param="data.sft.quotas"),
        within("shortfall", 0, 0, "no cell lacks clips", "data.sft.target", "warning"),
    ]


def cells(sft: pa.Table, params: SftParams) -> Section:
    """One row a cell. One that lacks clips warns: the set is smaller, not wrong."""
    counted = choose.cells(sft, params)
    frame = pd.DataFrame([cell._asdict() for cell in counted])
    frame["wanted"] = frame[["quota", "candidates"]].min(axis=1)
    return Section(frame, rules_of_cells(), "name", shown=True)
