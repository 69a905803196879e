"""Writes that are whole or not there, digests, and S3 against a real HTTP server."""

from __future__ import annotations

import errno
import os
import resource
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from infra.storage import (
    atomic_dir,
    atomic_text,
    atomic_write,
    digest,
    list_files,
    local_copy,
    require_space,
    sha256_file,
)


@contextmanager
def full_disk(after: int) -> Iterator[None]:
    """Writes fail with EFBIG past `after` bytes of a file, as they fail with ENOSPC on a disk that fills up."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (after, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_atomic_write_replaces_and_leaves_nothing_beside(tmp_path: Path) -> None:
    target = tmp_path / "new" / "table.parquet"
    atomic_write(target, b"one")
    atomic_write(target, b"two")
    assert target.read_bytes() == b"two"
    assert [file.name for file in target.parent.iterdir()] == ["table.parquet"]
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(target.stat().st_mode) == 0o666 & ~mask


def test_a_disk_that_fills_up_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "table.parquet"
    atomic_write(target, b"old")
    with full_disk(after=1000), pytest.raises(OSError, match=r"no space left while writing .*table.parquet") as caught:
        atomic_write(target, b"x" * 5000)
    assert caught.value.errno == errno.ENOSPC
    assert target.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["table.parquet"]


def test_a_write_larger_than_the_disk_is_refused_before_it_starts(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"no space left: 1,152,921,504,606,846,976 bytes to write") as caught:
        require_space(tmp_path, 1 << 60)
    assert caught.value.errno == errno.ENOSPC


def test_atomic_dir_swaps_whole_folders(tmp_path: Path) -> None:
    target = tmp_path / "shards"
    for name in ("first", "second"):
        with atomic_dir(target) as folder:
            atomic_text(folder / "deep" / name, name)
    assert [file.name for file in target.rglob("*") if file.is_file()] == ["second"]
    assert [file.name for file in tmp_path.iterdir()] == ["shards"]


def test_atomic_dir_keeps_the_old_folder_when_the_block_fails(tmp_path: Path) -> None:
    target = tmp_path / "shards"
    with atomic_dir(target) as folder:
        atomic_text(folder / "a", "old")
    with pytest.raises(OSError, match="no space left"), full_disk(after=10), atomic_dir(target) as folder:
        (folder / "a").write_text("x" * 5000)
    assert (target / "a").read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["shards"]


def test_digest_of_a_folder_sees_names_bytes_and_nothing_else(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        atomic_text(tmp_path / folder / "x" / "a", "A")
        atomic_text(tmp_path / folder / "b", "B")
    assert digest(tmp_path / "one") == digest(tmp_path / "two")
    (tmp_path / "two" / "b").rename(tmp_path / "two" / "c")
    assert digest(tmp_path / "one") != digest(tmp_path / "two")
    assert digest(tmp_path / "one" / "b") == sha256_file(tmp_path / "one" / "b")


def test_local_listing_and_what_it_refuses(tmp_path: Path) -> None:
    for name in ("b.MP4", "a.mp4", "sub/c.mov", "notes.txt"):
        atomic_text(tmp_path / name, name)
    found = list_files(str(tmp_path), (".mp4", ".mov"))
    assert found == [str(tmp_path / name) for name in ("a.mp4", "b.MP4", "sub/c.mov")]
    with pytest.raises(FileNotFoundError, match="gone: no such folder"):
        list_files(str(tmp_path / "gone"), (".mp4",))
    with pytest.raises(ValueError, match="ftp://"), local_copy("ftp://host/a.mp4"):
        pass


def test_s3_prefix_is_listed_and_copied(s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import boto3

    client = boto3.client("s3", endpoint_url=s3)
    client.create_bucket(Bucket="films")
    client.put_object(Bucket="films", Key="raw/b.mp4", Body=b"B" * 1000)
    client.put_object(Bucket="films", Key="raw/deep/a.mp4", Body=b"A")
    client.put_object(Bucket="films", Key="raw/notes.txt", Body=b"-")
    monkeypatch.setenv("SANA_SCRATCH", str(tmp_path))

    assert list_files("s3://films/raw", (".mp4",)) == ["s3://films/raw/b.mp4", "s3://films/raw/deep/a.mp4"]
    with local_copy("s3://films/raw/b.mp4") as path:
        assert path.suffix == ".mp4" and path.read_bytes() == b"B" * 1000
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(FileNotFoundError, match=r"s3://films/none: nothing there"):
        list_files("s3://films/none", (".mp4",))
    with pytest.raises(FileNotFoundError, match=r"s3://films/raw/c.mp4"), local_copy("s3://films/raw/c.mp4"):
        pass
