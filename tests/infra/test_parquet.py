from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infra import parquet

READERS: dict[str, Callable[[Path], Any]] = {
    "schema": parquet.schema,
    "table": parquet.table,
    "batches": lambda path: list(parquet.batches(path, 100, ["n"])),
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    table = pa.table({"n": list(range(1000)), "word": [f"word {n % 3}" for n in range(1000)]})
    pq.write_table(table, tmp_path / "a.parquet", compression="zstd")
    return tmp_path / "a.parquet"


def test_what_is_whole_is_read(path: Path) -> None:
    assert parquet.schema(path).names == ["n", "word"]
    assert parquet.table(path).num_rows == 1000 and parquet.table(path, ["word"]).column_names == ["word"]
    parts = list(parquet.batches(path, 300, ["word"], dictionaries=["word"]))
    assert [part.num_rows for part in parts] == [300, 300, 300, 100]
    assert pa.types.is_dictionary(parts[0].column(0).type)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("keep", [0, 5, 900])
def test_a_file_that_was_cut_short_is_named(path: Path, reader: str, keep: int) -> None:
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"a\.parquet is damaged, or no parquet file") as error:
        READERS[reader](path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("reader", ["table", "batches"])
def test_damage_under_a_whole_footer_is_named_too(path: Path, reader: str) -> None:
    data = bytearray(path.read_bytes())
    data[60:600] = bytes(540)
    path.write_bytes(data)
    assert parquet.schema(path).names == ["n", "word"]
    with pytest.raises(ValueError, match=r"a\.parquet is damaged"):
        READERS[reader](path)


@pytest.mark.parametrize("reader", READERS)
def test_what_is_no_damage_stays_what_it_is(path: Path, reader: str) -> None:
    with pytest.raises(FileNotFoundError):
        READERS[reader](path.with_name("absent.parquet"))


def test_the_error_of_who_reads_is_not_the_files(path: Path) -> None:
    with pytest.raises(pa.ArrowInvalid, match="mine"):
        for _ in parquet.batches(path, 100, ["n"]):
            raise pa.ArrowInvalid("mine")
