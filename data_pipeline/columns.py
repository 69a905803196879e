"""Whole columns at once: tables of ten million clips are joined and counted without a Python object per row."""

from __future__ import annotations

from typing import cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


def numbers(column: pa.ChunkedArray) -> Floats:
    """A numeric column as float64, NaN where it is null."""
    return cast(Floats, pc.cast(column, pa.float64()).to_numpy(zero_copy_only=False))


def filled(column: pa.ChunkedArray) -> Bools:
    return cast(Bools, column.is_valid().to_numpy(zero_copy_only=False))


def places(keys: pa.ChunkedArray, among: pa.ChunkedArray) -> Ints:
    """Where each of `keys` stands in `among`, which has no key twice; -1 where it does not."""
    return np.arange(len(keys)) if keys.equals(among) else _first_places(keys, among)


def firsts(column: pa.ChunkedArray) -> Ints:
    """Where the value of each row stands first."""
    return _first_places(column, column)


def _first_places(keys: pa.ChunkedArray, among: pa.ChunkedArray) -> Ints:
    found = pc.index_in(keys, value_set=among, skip_nulls=True)
    return cast(Ints, pc.fill_null(found, -1).to_numpy().astype(np.int64))


def at(values: npt.NDArray[np.generic], places: Ints, missing: object) -> npt.NDArray[np.generic]:
    """values[places], and `missing` where the place is -1."""
    return np.append(values, np.array([missing], values.dtype))[places]


def codes(column: pa.ChunkedArray) -> tuple[Ints, list[str]]:
    """(index into the names, names in order) of a column of strings without nulls."""
    encoded = pc.dictionary_encode(column).combine_chunks()
    if isinstance(encoded, pa.ChunkedArray):  # of no rows, no chunks
        return np.empty(0, np.int64), []
    order = pc.sort_indices(encoded.dictionary).to_numpy()
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    return rank[encoded.indices.to_numpy()], encoded.dictionary.take(pa.array(order)).to_pylist()


def sorted_by(table: pa.Table, key: str) -> pa.Table:
    """The rows in the order of `key`; the table itself where they stand so."""
    column = table.column(key)
    rising = pc.less_equal(column.slice(0, max(0, len(column) - 1)), column.slice(1))
    return table if pc.all(rising, min_count=0).as_py() else table.take(pc.sort_indices(column))


def first_rows(table: pa.Table, key: str) -> pa.Table:
    """Of rows with the same `key`, the first."""
    column = table.column(key)
    if pc.all(pc.less(column.slice(0, max(0, len(column) - 1)), column.slice(1)), min_count=0).as_py():
        return table
    first = firsts(column) == np.arange(table.num_rows)
    return table if first.all() else table.filter(pa.array(first))
