"""The door to parquet files: what cannot be read is one line that names the file.

pyarrow says what is wrong inside a file and not in which one, and its errors look like accidents of ours. A table that
was cut short by a full disk is the user's to make again, so every reader of tables reads them through this door.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq


def schema(path: Path) -> pa.Schema:
    """The columns of the file at `path` with their types. ValueError if it is damaged or no parquet file."""
    with _named(path):
        return pq.read_schema(path)


def table(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """The whole file at `path`, or only its `columns`. ValueError if it is damaged or no parquet file."""
    with _named(path):
        return pq.read_table(path, columns=None if columns is None else list(columns))


def batches(
    path: Path, rows: int, columns: Sequence[str], dictionaries: Sequence[str] = ()
) -> Iterator[pa.RecordBatch]:
    """`columns` of the file at `path`, `rows` rows at a time; those in `dictionaries` as indices into few names.

    Raises ValueError if the file is damaged or no parquet file.
    """
    with contextlib.ExitStack() as opened:
        with _named(path):
            file = opened.enter_context(pq.ParquetFile(path, read_dictionary=list(dictionaries)))
            parts = file.iter_batches(rows, columns=list(columns))
        while True:
            with _named(path):  # around the reading alone: what is done with a batch is not the file's fault
                part = next(parts, None)
            if part is None:
                return
            yield part


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowInvalid, OSError) as error:
        if isinstance(error, OSError) and (type(error) is not OSError or error.errno is not None):
            raise  # it is not there, or the disk failed: pyarrow's own have neither a kind nor a number
        told = " ".join(str(error).split())
        raise ValueError(
            f"{path} is damaged, or no parquet file ({told}): run the stage that writes it again"
        ) from error
