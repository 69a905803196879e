"""The rules by row: a row that breaks one is set aside (`quarantine`), and what goes on is judged here.

Each boundary from ingest to captions has a table, and rules of its own for the rows without a reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_pipeline.columns import Bools, filled
from data_pipeline.expectations import captions, ingest, scores, split
from data_pipeline.expectations.facts import Read
from data_pipeline.expectations.rules import breaking
from data_pipeline.params import Boundary as Name
from data_pipeline.params import DataParams
from infra.gates import Rule, Section

AT_ONCE = 4
CODE = "RULE"  # of the reason of a row that breaks a rule: `RULE:saturation`


def _no_more(params: DataParams) -> Iterable[Rule]:
    return ()


@dataclass(frozen=True)
class Boundary:
    """A table that rows go on from. A row that breaks one of `of_rows` is set aside; `of_tables` broken is red."""

    table: str
    key: str
    of_rows: Callable[[DataParams], list[Rule]]
    nullable: tuple[str, ...]
    of_tables: Callable[[DataParams], Iterable[Rule]] = _no_more


BOUNDARIES: Mapping[Name, Boundary] = {
    "ingest": Boundary("videos", "uri", ingest.of_rows, ingest.NULLABLE),
    "split": Boundary("clips", "clip_id", split.of_rows, split.NULLABLE),
    "scores": Boundary("scores", "clip_id", scores.of_rows, scores.NULLABLE, scores.of_tables),
    "captions": Boundary("captions", "clip_id", captions.of_rows, captions.NULLABLE, captions.of_tables),
}


def entry_keys(boundary: str, keys: pa.ChunkedArray) -> pa.ChunkedArray:
    """How the quarantine names rows of a boundary's table."""
    return pc.binary_join_element_wise(f"{boundary}:", keys, "")


def columns_of(rules: Sequence[Rule]) -> list[str]:
    return list(dict.fromkeys(column for rule in rules for column in rule.columns))


def fouls(boundary: Name, read: Read, params: DataParams) -> tuple[pa.ChunkedArray, pa.ChunkedArray]:
    """(keys, reasons `RULE:column,column`) of the rows without a reason that break a rule by row."""
    of = BOUNDARIES[boundary]
    rules = of.of_rows(params)
    rows = read(of.table, [of.key, "reason", *columns_of(rules)])
    rows = rows.filter(pc.is_null(rows.column("reason")))
    combination = np.zeros(len(rows), np.int64)
    for at, rule in enumerate(rules):
        combination |= breaking(rule, rows, of.nullable).astype(np.int64) << at
    bad = np.flatnonzero(combination)
    codes, told = np.unique(combination[bad], return_inverse=True)
    words = [_told([rule for at, rule in enumerate(rules) if code >> at & 1]) for code in codes.tolist()]
    reasons = pa.array(words, pa.string()).take(pa.array(told))
    return rows.column(of.key).take(pa.array(bad)), pa.chunked_array([reasons])


def _told(rules: Sequence[Rule]) -> str:
    return f"{CODE}:{','.join(columns_of(rules))}"


def sections(boundary: Name, read: Read, params: DataParams) -> Iterator[tuple[str, Section]]:
    """The rows that go on: without a reason, and not set aside. A few rules at a time, so that few columns are held."""
    of = BOUNDARIES[boundary]
    rules = [*of.of_rows(params), *of.of_tables(params)]
    rows = read(of.table, [of.key, "reason"])
    goes_on = pa.array(~filled(rows.column("reason")) & ~_set_aside(boundary, rows.column(of.key), read))
    del rows
    for begin in range(0, len(rules), AT_ONCE):
        some = rules[begin : begin + AT_ONCE]
        columns = list(dict.fromkeys([of.key, *columns_of(some)]))
        name = boundary if len(rules) <= AT_ONCE else f"{boundary} {begin // AT_ONCE + 1}/{-(-len(rules) // AT_ONCE)}"
        # no name for the frame here: it would be held while the next one is made
        yield (
            name,
            Section(read(of.table, columns).filter(goes_on).to_pandas(self_destruct=True), some, of.key, of.nullable),
        )


def _set_aside(boundary: str, keys: pa.ChunkedArray, read: Read) -> Bools:
    listed = read("quarantine", ["boundary", "key", "reason"])
    ours = pc.and_(pc.equal(listed.column("boundary"), boundary), pc.starts_with(listed.column("reason"), CODE + ":"))
    return np.asarray(pc.is_in(keys, value_set=listed.column("key").filter(ours)).to_numpy(zero_copy_only=False), bool)
