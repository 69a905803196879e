"""What the report is made of: whole columns of the selection, and the few rows that it shows.

Ten million clips are counted without a Python object for each; a measure is read when its histogram is made and let go
again; of texts and spans only those of the clips shown are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_pipeline import tables
from data_pipeline.columns import Bools, Floats, Ints, at, codes, filled, numbers, places
from data_pipeline.expectations.facts import Read, on_disk
from infra import parquet

Row = dict[str, Any]
AFTER_RANGES = ("TWIN", "SPLIT_GUARD")  # reasons that look at other clips, asked once a clip is within its ranges


@dataclass(frozen=True)
class Chosen:
    """The selection, a row for each clip in the order of `clip_id`. `source`, `reason` and `bucket` index their names.

    `reason` is the first, without its detail; -1 of a clip that is kept, as `bucket` is of one whose size is unknown.
    `values` gives a measure of every clip, NaN where it is missing or the clip was not scored.
    """

    clip_id: pa.ChunkedArray
    source: Ints
    sources: list[str]
    keep: Bools
    val: Bools
    reason: Ints
    reasons: list[str]
    cut: Bools
    scored: Bools
    in_range: Bools
    alone: Bools
    seconds: Floats
    bucket: Ints
    buckets: list[str]
    values: Callable[[str], Floats]

    def __len__(self) -> int:
        return len(self.keep)


def check(root: Path, batches: Sequence[str]) -> None:
    """Raises ValueError naming a table that is missing or has other columns than its schema."""
    for table in ("videos", "clips", "scores", "captions"):
        tables.read_batches(table, root / "data" / table, sorted(batches), [])
    for table in ("twins", "selection"):
        tables.read(table, root / "data" / f"{table}.parquet", [])


def chosen(root: Path, batches: Sequence[str]) -> Chosen:
    """The selection of exactly the named batches."""
    return from_tables(on_disk(root, batches))


def from_tables(read: Read) -> Chosen:
    """The same from a reader of columns."""
    keys = ("clip_id", "source", "keep", "reason", "reasons", "bucket", "subset")
    table = read("selection", keys)
    ids = table.column("clip_id")
    clips = read("clips", ["clip_id", "frames", "fps", "reason"])
    clip_at = places(ids, clips.column("clip_id"))
    cut = cast(Bools, at(~filled(clips.column("reason")), clip_at, False))
    seconds = at(numbers(clips.column("frames")) / numbers(clips.column("fps")), clip_at, np.nan)
    score_at = places(ids, read("scores", ["clip_id"]).column("clip_id"))
    scored = cut & cast(Bools, at(~filled(read("scores", ["reason"]).column("reason")), score_at, False))
    in_range, alone = _passing(table.column("reasons"), scored)
    source, sources = _coded(table.column("source"))
    reason, reasons = _first_codes(table.column("reason"))
    bucket, buckets = _coded(table.column("bucket"))
    val = pc.fill_null(pc.equal(table.column("subset"), "val"), False).to_numpy(zero_copy_only=False)

    def values(name: str) -> Floats:
        if name == "vmaf_percentile":
            return np.where(scored, numbers(read("selection", [name]).column(name)), np.nan)
        return np.where(
            scored, cast(Floats, at(numbers(read("scores", [name]).column(name)), score_at, np.nan)), np.nan
        )

    keep = filled(table.column("keep")) & pc.fill_null(table.column("keep"), False).to_numpy(zero_copy_only=False)
    return Chosen(
        ids, source, sources, keep, cast(Bools, val), reason, reasons, cut, scored, in_range, alone,
        np.nan_to_num(cast(Floats, seconds), posinf=0.0), bucket, buckets, values,
    )  # fmt: skip


def _passing(reasons: pa.ChunkedArray, scored: Bools) -> tuple[Bools, Bools]:
    """(within all ranges, and no copy of another) of each clip."""
    words = pc.list_flatten(reasons)
    rows = pc.list_parent_indices(reasons).to_numpy()
    by_itself = pc.invert(pc.is_in(words, value_set=pa.array(AFTER_RANGES))).to_numpy(zero_copy_only=False)
    twin = pc.equal(words, "TWIN").to_numpy(zero_copy_only=False)
    in_range = scored & (np.bincount(rows[by_itself], minlength=len(scored)) == 0)
    return in_range, in_range & (np.bincount(rows[twin], minlength=len(scored)) == 0)


def code(reason: str) -> str:
    """The reason without its detail: `TOO_SHORT: 0.3 s` -> `TOO_SHORT`."""
    return reason.partition(":")[0]


def _coded(column: pa.ChunkedArray) -> tuple[Ints, list[str]]:
    """(index into names, names in order); -1 where the column is null."""
    index, names = codes(pc.fill_null(column, ""))
    if names[:1] != [""]:
        return index, names
    return index - 1, names[1:]


def _first_codes(column: pa.ChunkedArray) -> tuple[Ints, list[str]]:
    index, told = _coded(column)
    names = sorted({code(reason) for reason in told})
    place = np.array([*(names.index(code(reason)) for reason in told), -1], np.int64)
    return place[index], names


def rows_of(
    root: Path, batches: Sequence[str], table: str, ids: Iterable[str], columns: Sequence[str]
) -> Mapping[str, Row]:
    """{key: row} of the wanted keys of a table, read row group by row group: their texts may be gigabytes.

    Of `videos` by `video_id`, with `reason` among the columns, and only what goes on: a refused file may hold the same
    bytes.
    """
    key, wanted = tables.KEYS[table] if table != "videos" else "video_id", pa.array(sorted(set(ids)), pa.string())
    found: dict[str, Row] = {}
    for batch in sorted(batches):
        path = root / "data" / table / f"{batch}.parquet"
        for part in parquet.batches(path, tables.ROW_GROUP, [key, *columns]):
            asked = pc.is_in(part.column(key), value_set=wanted)
            if table == "videos":
                asked = pc.and_(asked, pc.is_null(part.column("reason")))
            for row in part.filter(asked).to_pylist():
                found.setdefault(row[key], row)  # of a repeated clip the first batch's row counts
    return found


def labels(root: Path, batches: Sequence[str], table: str, columns: Sequence[str]) -> dict[str, list[str]]:
    """What made the numbers: the different names in each of `columns`, in order."""
    found: dict[str, set[str]] = {name: set() for name in columns}
    for batch in batches:
        path = root / "data" / table / f"{batch}.parquet"
        for part in parquet.batches(path, tables.ROW_GROUP, columns, dictionaries=columns):
            for name in columns:
                found[name] |= {each for each in pc.unique(part.column(name)).to_pylist() if each}
    return {name: sorted(names) for name, names in found.items()}
