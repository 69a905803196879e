"""The tables as files: columns and types of their schema, and no key twice, before anything in them is believed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from data_pipeline import tables
from data_pipeline.expectations.rules import equal, within
from infra import parquet
from infra.gates import Rule, Section


def rules_of_files() -> list[Rule]:
    return [
        equal("columns", "schema", "has the columns and types of its schema (docs/data.md)"),
        within("repeats", 0, 0, "no key stands twice"),
    ]


def files(paths: Mapping[str, Path]) -> Section:
    """One row a file. `paths`: by the project-relative name, data/<table>/<batch>.parquet or data/<table>.parquet."""
    return Section(pd.DataFrame(list(_rows(paths))), rules_of_files(), "file")


def readable(section: Section) -> bool:
    """Whether every file has the columns that the other rules read."""
    return bool((section.frame["columns"] == section.frame["schema"]).all())


def _rows(paths: Mapping[str, Path]) -> Iterator[dict[str, object]]:
    for name, path in paths.items():
        parts = Path(name).with_suffix("").parts
        table = parts[1]
        if not path.is_file():
            raise ValueError(f"table {table} is missing: {path} (run the stage that writes it)")
        told, schema = _names(parquet.schema(path)), _names(tables.SCHEMAS[table])
        repeats = _repeats(path, tables.KEYS[table]) if told == schema else 0
        yield {"file": name, "columns": told, "schema": schema, "repeats": repeats}


def _repeats(path: Path, key: str) -> int:
    keys = parquet.table(path, [key]).column(key)
    rising = pc.less(keys.slice(0, max(0, len(keys) - 1)), keys.slice(1))
    return 0 if pc.all(rising, min_count=0).as_py() else len(keys) - pc.count_distinct(keys, mode="all").as_py()


def _names(schema: pa.Schema) -> str:
    """Columns with types; a list by its values alone, since parquet renames the field inside it."""
    kinds = [f"list of {f.type.value_type}" if pa.types.is_list(f.type) else str(f.type) for f in schema]
    return ", ".join(f"{name} {kind}" for name, kind in zip(schema.names, kinds, strict=True))
