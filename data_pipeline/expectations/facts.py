"""The tables as gates look at them: only the columns that are asked for, and facts in the place of what is large.

A table of ten million captions is five gigabytes of text and their scores hold fifteen of embeddings, so texts, hashes
and time bases are turned into numbers row group by row group while they are read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from string import ascii_letters
from typing import NamedTuple, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_pipeline import tables
from data_pipeline.caption.answer import REFUSAL
from data_pipeline.caption.text import MOTION
from data_pipeline.columns import Floats, codes, firsts, numbers
from data_pipeline.curate import mark_repeated
from infra import parquet

BATCHED = ("videos", "clips", "scores", "captions")
JOINED = ("twins", "classes", "selection", "quarantine")

# Controls, C1 controls, zero-width and direction characters: what no caption may hold.
UNPLAIN = "[\x00-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff]"
WORD = r"[\p{L}\p{Nl}\p{No}]+(?:['’-][\p{L}\p{Nl}\p{No}]+)*"
LETTERS, JOINTS = (np.isin(np.arange(256, dtype=np.uint8), list(each)) for each in (ascii_letters.encode(), b"'-"))
LABELS = ("detector", "flow_estimator", "aesthetic_scorer", "captioner")


class Fact(NamedTuple):
    """A column made of others."""

    of: tuple[str, ...]
    make: Callable[..., pa.Array]


def frames_off(start: pa.Array, end: pa.Array, frames: pa.Array, fps: pa.Array, time_base: pa.Array) -> pa.Array:
    """By how many frames a span is longer or shorter than its frames at its rate, beyond one tick of the stream."""
    index, names = codes(pa.chunked_array([pc.fill_null(time_base, "0")]))
    tick = np.array([float(Fraction(name)) for name in names] or [0.0])[index]
    first, last, count, rate = (numbers(pa.chunked_array([each])) for each in (start, end, frames, fps))
    off: Floats = np.maximum(np.abs((last - first) * rate - count) - tick * rate, 0.0).round(6)
    return pa.array(off, from_pandas=True)


def words(text: pa.Array) -> pa.Array:
    """How often WORD stands in each text. Of ASCII it is counted by byte, in a quarter of the time."""
    first = np.frombuffer(text.buffers()[1], np.int32)[text.offset : text.offset + len(text) + 1]
    read = np.frombuffer(text.buffers()[2] or b"", np.uint8)[first[0] : first[-1]]
    letter, joint, first = LETTERS[read], JOINTS[read], first - first[0]
    inside = first[:-1][np.diff(first) > 0]
    joint[1:-1] &= letter[:-2] & letter[2:]  # of one word, unless a text begins there
    joint[inside] = False
    begins = letter.copy()
    begins[1:] &= ~(letter[:-1] | joint[:-1])
    begins[inside] = letter[inside]
    count = np.diff(np.searchsorted(np.flatnonzero(begins), first))
    other = ~pc.fill_null(pc.string_is_ascii(text), True).to_numpy(zero_copy_only=False)
    count[other] = pc.count_substring_regex(text.filter(pa.array(other)), WORD).to_numpy()
    return pa.array(count, mask=text.is_null().to_numpy(zero_copy_only=False))


FACTS: Mapping[str, Mapping[str, Fact]] = {
    "clips": {"frames_off": Fact(("start", "end", "frames", "fps", "time_base"), frames_off)},
    "scores": {"hashes": Fact(("phash",), lambda hashes: pc.fill_null(pc.list_value_length(hashes), 0))},
    "captions": {
        "words": Fact(("text",), words),
        "characters": Fact(("text",), pc.utf8_length),
        "plain": Fact(("text",), lambda text: pc.invert(pc.match_substring_regex(text, UNPLAIN))),
        "refuses": Fact(("text",), lambda text: pc.match_substring_regex(text, REFUSAL.pattern, ignore_case=True)),
        "tells_motion_score": Fact(
            ("text",), lambda text: pc.match_substring_regex(text, MOTION.pattern, ignore_case=True)
        ),
    },
}

Read = Callable[[str, Sequence[str]], pa.Table]


def on_disk(root: Path, batches: Sequence[str]) -> Read:
    """A reader of columns and facts of the tables of exactly the named batches; of a repeated clip the first counts.

    It raises ValueError naming a table that is missing or has other columns.
    """
    known: dict[str, pa.Array | None] = {}

    def files(table: str) -> list[Path]:
        alone = root / "data" / f"{table}.parquet"
        return [alone] if table in JOINED else [root / "data" / table / f"{batch}.parquet" for batch in sorted(batches)]

    def read(table: str, columns: Sequence[str]) -> pa.Table:
        if table == "videos":
            every = [*dict.fromkeys([*columns, "video_id", "uri", "reason"])]
            return mark_repeated(_columns(table, files(table), every)).select(list(columns))
        if table not in known:
            key = tables.KEYS[table]
            known[table] = _firsts(_columns(table, files(table), [key]).column(key))
        found = _columns(table, files(table), columns)
        return found if known[table] is None else found.filter(known[table])

    return read


def _firsts(keys: pa.ChunkedArray) -> pa.Array | None:
    """Which rows count: the first of each key; None for all of them."""
    ordered = pc.less(keys.slice(0, max(0, len(keys) - 1)), keys.slice(1))
    if pc.all(ordered, min_count=0).as_py():
        return None
    return pa.array(firsts(keys) == np.arange(len(keys)))


def in_memory(named: Mapping[str, pa.Table]) -> Read:
    """The same of tables at hand."""
    return lambda table, columns: _with_facts(table, named[table], columns)


def _columns(table: str, files: Sequence[Path], columns: Sequence[str]) -> pa.Table:
    facts = FACTS.get(table, {})
    stored = [name for column in columns for name in (facts[column].of if column in facts else (column,))]
    parts = []
    for path in files:
        tables.check(table, path)
        for batch in parquet.batches(path, tables.ROW_GROUP, list(dict.fromkeys(stored))):
            parts += _with_facts(table, pa.Table.from_batches([batch]), columns).to_batches()
    empty = _with_facts(table, tables.SCHEMAS[table].empty_table(), columns)
    return pa.Table.from_batches(parts, empty.schema).unify_dictionaries()


def _with_facts(table: str, part: pa.Table, columns: Sequence[str]) -> pa.Table:
    facts = FACTS.get(table, {})
    made = {name: _made(part, facts[name]) if name in facts else _light(part, name) for name in columns}
    return pa.table(made)


def _made(part: pa.Table, fact: Fact) -> pa.Array:
    return _wide(fact.make(*(_whole(part.column(name)) for name in fact.of)))


def _light(part: pa.Table, name: str) -> pa.Array:
    """The column; of a label that stands in millions of rows, an index into the few different ones."""
    column = _whole(part.column(name))
    return cast(pa.Array, column.dictionary_encode()) if name in LABELS else _wide(column)


def _wide(column: pa.Array) -> pa.Array:
    """Whole numbers as int64: great-expectations compares any other kind one by one, in Python."""
    return column.cast(pa.int64()) if pa.types.is_signed_integer(column.type) else column


def _whole(column: pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
