"""The tables of the evaluation: one schema each, one writer, one reader; a row is never edited once written.

A clip that could not be scored is a row with status `failed` and its reason; it stays in every denominator.
Rows are sorted by key and every writer option is fixed, so equal scores are equal bytes.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from infra import parquet
from infra.storage import atomic_write

ROW_GROUP = 65_536

_str, _f64, _i32, _i64 = pa.string(), pa.float64(), pa.int32(), pa.int64()

VAE = pa.schema(
    [
        ("clip_id", _str),
        ("eps", _f64),  # standard deviation of the noise on the normalised latents
        ("psnr", _f64),  # dB, mean over frames
        ("psnr_pooled", _f64),  # dB, of the error pooled over frames
        ("ssim", _f64),
        ("psnr_mean_colour", _f64),  # dB, of the clip painted in its mean colour
        ("frames", _i32),
        ("height", _i32),
        ("width", _i32),
        ("status", _str),  # ok | failed
        ("reason", _str),
    ]
)

HELDOUT = pa.schema(
    [
        ("clip_id", _str),
        ("time", _f64),  # (0, 1): the share of noise that the draw was taken from
        ("loss", _f64),  # mean squared error of the velocity
        ("zero", _f64),  # the same of predicting no velocity at all
        ("status", _str),
        ("reason", _str),
    ]
)

T2V = pa.schema(
    [
        ("prompt_id", _str),  # the clip_id whose caption it is
        ("kind", _str),  # generated | real
        ("seed", _i64),  # null for the real clip
        ("prompt", _str),
        ("file", _str),  # mp4 relative to the folder of this table; null where none was made
        ("flow_motion", _f64),
        ("flow_estimator", _str),
        ("vmaf_motion", _f64),
        ("saturation", _f64),
        ("brightness", _f64),
        ("overall", _f64),
        ("aesthetic_scorer", _str),
        ("frozen", _f64),  # share of neighbouring frames that are equal
        ("black", _f64),  # share of frames with nothing to see
        ("frames", _i32),
        ("height", _i32),
        ("width", _i32),
        ("fps", _f64),
        ("status", _str),
        ("reason", _str),
    ]
)

KEYS = {"vae": ("clip_id", "eps"), "heldout": ("clip_id", "time"), "t2v": ("prompt_id", "kind", "seed")}
SCHEMAS = {"vae": VAE, "heldout": HELDOUT, "t2v": T2V}

Row = Mapping[str, Any]


def write(table: str, rows: Iterable[Row], path: Path) -> pa.Table:
    """Write `rows` as table `table` to `path`, sorted by its key, atomically; a column that a row lacks is null.

    Raises ValueError on a column that the schema does not have, or on a key that stands twice.
    """
    schema = SCHEMAS[table]
    ordered = sorted(rows, key=lambda row: _key(table, row))
    for row in ordered:
        if not row.keys() <= set(schema.names):
            raise ValueError(f"table {table}: no column {sorted(row.keys() - set(schema.names))}")
    keys = [_key(table, row) for row in ordered]
    if len(set(keys)) != len(keys):
        raise ValueError(f"table {table}: {next(k for k in keys if keys.count(k) > 1)} stands twice")
    result = pa.Table.from_pylist([{name: row.get(name) for name in schema.names} for row in ordered], schema=schema)
    buffer = io.BytesIO()
    pq.write_table(result, buffer, row_group_size=ROW_GROUP, compression="zstd", version="2.6", store_schema=True)
    atomic_write(path, buffer.getvalue())
    return result


def _key(table: str, row: Row) -> tuple[Any, ...]:
    """The key of a row; a null seed sorts before every seed."""
    values = (row.get(name) for name in KEYS[table])
    return tuple((value is not None, value if value is not None else 0) for value in values)


def read(table: str, path: Path) -> list[dict[str, Any]]:
    """The rows of table `table`. Raises ValueError when it is missing or damaged, or has other columns."""
    if not path.is_file():
        raise ValueError(
            f"table {table} is missing: {path} (run `sana-video eval {'vae' if table == 'vae' else 't2v'}`)"
        )
    result = parquet.table(path)
    if not result.schema.equals(SCHEMAS[table]):
        raise ValueError(f"{path} is not a {table} table: its columns are {result.schema.names}")
    return list(result.to_pylist())
