"""quarantine: what a boundary refused, or let through although it breaks a rule by row, with its reason.

Nothing is lost in silence: every file and clip that does not go on stands here once for each boundary that says why.
A row that breaks a rule (`RULE:` and its columns) is a fault that no stage saw: `curate` keeps no clip of it, and the
gate `data` counts it against a budget that is 0 unless params say otherwise. A person who looked at such a row lets it
go on by naming it, with the reason, in `data.gate.released`. What a stage itself refused has nothing to go on with:
there the file is mended, or the limit in params moved.
"""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc

from data_pipeline.columns import places
from data_pipeline.expectations.facts import Read
from data_pipeline.expectations.rows import BOUNDARIES, CODE, entry_keys, fouls
from data_pipeline.params import Boundary, DataParams
from data_pipeline.tables import QUARANTINE


def run(read: Read, params: DataParams) -> pa.Table:
    """The quarantine table, sorted by `entry`."""
    parts = [_at(boundary, read, params) for boundary in BOUNDARIES]
    every = pa.concat_tables(parts)
    return every.take(pc.sort_indices(every, [("entry", "ascending")]))


def counters(table: pa.Table) -> Mapping[str, int]:
    """How many rows each boundary refused, and how many were set aside for a rule or released from it."""
    rule = pc.starts_with(table.column("reason"), f"{CODE}:")
    refused = table.filter(pc.invert(rule)).group_by("boundary").aggregate([([], "count_all")]).to_pylist()
    told = {f"refused at {row['boundary']}": row["count_all"] for row in refused}
    free = table.column("released")
    return {
        **dict(sorted(told.items())),
        "set aside": pc.sum(pc.and_(rule, pc.invert(free))).as_py() or 0,
        "released": pc.sum(free).as_py() or 0,
    }


def _at(boundary: Boundary, read: Read, params: DataParams) -> pa.Table:
    of = BOUNDARIES[boundary]
    rows = read(of.table, [of.key, "reason"])
    rows = rows.filter(pc.is_valid(rows.column("reason")))
    foul, why = fouls(boundary, read, params)
    keys = pa.chunked_array([*rows.column(of.key).chunks, *foul.chunks], pa.string())
    reasons = pa.chunked_array([*rows.column("reason").chunks, *why.chunks], pa.string())
    named = pa.array(params.gate.released, pa.string())
    released = pc.and_(pc.is_in(keys, value_set=named), pc.starts_with(reasons, f"{CODE}:"))
    owner = BOUNDARIES["ingest" if boundary == "ingest" else "split"]
    owners = read(owner.table, [owner.key, "video_id", "source"])
    at = places(keys, owners.column(owner.key))
    at = pa.array(at, mask=at < 0)
    columns = {
        "entry": entry_keys(boundary, keys),
        "boundary": pa.repeat(boundary, len(keys)),
        "key": keys,
        "video_id": owners.column("video_id").take(at),
        "source": owners.column("source").take(at),
        "reason": reasons,
        "released": released,
    }
    return pa.table(columns, schema=QUARANTINE)
