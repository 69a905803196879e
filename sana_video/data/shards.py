"""Shards: the one contract between the data pipeline, which writes them, and training, which reads them.

A view is a folder of plain WebDataset tars (`00000.tar`, one member `<key>.safetensors` per sample) and an
`index.parquet` that says where each sample lies. The tars can be streamed by anything that reads tar; the index makes
every sample reachable by one `pread`, so that the order of training is arithmetic and never a shuffle buffer. Samples
of one `bucket` have one shape: a batch is of one bucket. Beside latents lies `null_embedding.safetensors`: what the
network is told where a caption is dropped.

Equal samples give equal bytes: fixed tar headers, no time, no owner, one parquet writer. The folder appears as a whole:
shards are written first, the index last, then the folder is renamed into place. A finished shard and the rows of its
samples may be kept elsewhere until then, so that a writer that was killed goes on behind it. The index carries the
sha256 of every shard and of the null embedding, so its own sha256 stands for the whole view (`data_digest`).

Pixel views hold `pixels` uint8 (F, H, W, 3) RGB and `fps` (scalar f32). Latent views hold `latents` (C, T, H, W),
normalised, `text` (L, D) f16, `mask` (L,) bool, `motion` (scalar f32) and `caption` (UTF-8 bytes as uint8).
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import shutil
import tarfile
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from sana_video.weights import NULL_FILE

INDEX = pa.schema(
    [
        ("key", pa.string()),
        ("shard", pa.string()),
        ("offset", pa.int64()),  # of the payload inside the tar, bytes
        ("size", pa.int64()),  # of the payload, bytes
        ("bucket", pa.string()),  # "HxWxF", pixels
        ("subset", pa.string()),  # train | val
        ("sha256", pa.string()),  # of the shard file
    ]
)
INDEX_NAME = "index.parquet"
_KEY = re.compile(r"[A-Za-z0-9_-]{1,80}")  # no dot: WebDataset splits a member's name at the first one
_SUBSETS = ("train", "val")
_NULL_DIGEST = b"null_embedding"  # in the metadata of the index: the sha256 of NULL_FILE


class ShardWriter:
    """Writes a view. Use as a context manager: the folder appears when the block ends, and not at all if it raises.

    with ShardWriter(Path("data/shards/low"), max_bytes=64 << 20) as shards:
        shards.add(clip_id, {"latents": latents, ...}, bucket="48x80x17", subset="train")
    """

    def __init__(
        self, folder: Path, max_bytes: int, null: tuple[Tensor, Tensor] | None = None, kept: Path | None = None
    ) -> None:
        """`null`: states (L, D) and mask (L,) of no caption, for a view that holds captions.

        `kept`: a folder, best on the same disk, where finished shards wait for the others, for this view and these
        samples alone. A writer that finds some there has their keys in `done`; the samples behind them are added as
        ever, in the same order, and the bytes are those of one run. The folder goes when the view stands.
        """
        if max_bytes <= 0:
            raise ValueError(f"max_bytes must be positive, not {max_bytes}")
        self.folder, self.max_bytes, self._null, self._kept = Path(folder), max_bytes, null, kept
        self._incomplete = self.folder.with_name(self.folder.name + ".incomplete")
        self._work = kept or self._incomplete
        self._rows: list[dict[str, Any]] = []
        self._keys: set[str] = set()
        self._tar: tarfile.TarFile | None = None
        self._shards = 0

    def __enter__(self) -> Self:
        shutil.rmtree(self._incomplete, ignore_errors=True)
        if self._kept is None:
            self._incomplete.mkdir(parents=True)
        else:
            self._kept.mkdir(parents=True, exist_ok=True)
            self._take_finished()
        return self

    @property
    def done(self) -> frozenset[str]:
        """The keys of the samples that are written."""
        return frozenset(self._keys)

    def add(self, key: str, tensors: Mapping[str, Tensor], bucket: str, subset: str) -> None:
        """Append one sample. Raises ValueError on a key that is unfit or stands twice, or on an unknown subset."""
        if not _KEY.fullmatch(key):
            raise ValueError(f"key {key!r} is unfit for a shard: 1 to 80 of A-Z a-z 0-9 _ -")
        if key in self._keys:
            raise ValueError(f"key {key!r} stands twice")
        if subset not in _SUBSETS:
            raise ValueError(f"subset {subset!r} is none of {_SUBSETS}")
        payload = save_tensors({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
        tar = self._tar_with_room(len(payload))
        header = tarfile.TarInfo(f"{key}.safetensors")  # mtime, uid, gid are 0 and the names empty by default
        header.size = len(payload)
        self._keys.add(key)
        place = {"shard": self._shard_name, "offset": tar.offset + tarfile.BLOCKSIZE, "size": len(payload)}
        self._rows.append({"key": key, **place, "bucket": bucket, "subset": subset})  # a ustar header is one block
        tar.addfile(header, io.BytesIO(payload))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._close_shard()
                self._publish()
        finally:
            if self._tar is not None:
                with contextlib.suppress(OSError):  # a full disk: what failed first is told
                    self._tar.close()
                self._open_tar.unlink(missing_ok=True)
            shutil.rmtree(self._incomplete, ignore_errors=True)

    def _take_finished(self) -> None:
        """The shards from the first on that are whole; what else lies in the folder is removed."""
        while (rows := _finished(self._work, name := f"{self._shards:05d}.tar")) is not None:
            self._shards += 1
            self._rows += [row | {"shard": name} for row in rows]
            self._keys |= {row["key"] for row in rows}
        whole = {f"{number:05d}.{suffix}" for number in range(self._shards) for suffix in ("tar", "json")}
        for path in self._work.iterdir():
            if path.name not in whole:
                path.unlink()

    @property
    def _shard_name(self) -> str:
        return f"{self._shards - 1:05d}.tar"

    @property
    def _open_tar(self) -> Path:
        """Where the shard that is being written lies: it takes its name when it is whole."""
        return self._work / f"{self._shard_name}.part"

    def _tar_with_room(self, size: int) -> tarfile.TarFile:
        if self._tar is not None and self._tar.offset + size > self.max_bytes and self._tar.offset > 0:
            self._close_shard()
        if self._tar is None:
            self._shards += 1
            self._tar = tarfile.open(  # noqa: SIM115 - stays open until the shard is full
                self._open_tar, "w", format=tarfile.USTAR_FORMAT
            )
        return self._tar

    def _write_null(self) -> dict[bytes, bytes] | None:
        """What the index says of the null embedding, once that is on disk."""
        if self._null is None:
            return None
        path = self._incomplete / NULL_FILE
        text, mask = (tensor.detach().cpu().contiguous() for tensor in self._null)
        path.write_bytes(save_tensors({"text": text, "mask": mask}))
        _fsync(path)
        return {_NULL_DIGEST: file_sha256(path).encode()}

    def _close_shard(self) -> None:
        if self._tar is None:
            return
        self._tar.close()
        _fsync(self._open_tar)
        sha256 = file_sha256(self._open_tar)
        self._tar = None
        path = self._work / self._shard_name
        os.replace(self._open_tar, path)
        mine = [row for row in self._rows if row["shard"] == path.name]
        for row in mine:
            row["sha256"] = sha256
        if self._kept is not None:
            _write_rows(path.with_suffix(".json"), mine)

    def _publish(self) -> None:
        self._incomplete.mkdir(parents=True, exist_ok=True)
        if self._kept is not None:
            for shard in sorted({str(row["shard"]) for row in self._rows}):
                _link(self._kept / shard, self._incomplete / shard)
        rows = sorted(self._rows, key=lambda row: str(row["key"]))
        table = pa.Table.from_pylist(rows, schema=INDEX).replace_schema_metadata(self._write_null())
        index = self._incomplete / INDEX_NAME
        pq.write_table(table, index, row_group_size=65_536, compression="zstd", version="2.6")
        _fsync(index)
        old = self.folder.with_name(self.folder.name + ".old")
        shutil.rmtree(old, ignore_errors=True)
        if self.folder.exists():
            self.folder.rename(old)
        self._incomplete.rename(self.folder)
        _fsync(self.folder.parent)
        shutil.rmtree(old, ignore_errors=True)
        if self._kept is not None:
            shutil.rmtree(self._kept, ignore_errors=True)


def _link(path: Path, name: Path) -> None:
    """A second name for a file, which costs no space; a copy where the disk has no such thing."""
    try:
        os.link(path, name)
    except OSError:
        shutil.copyfile(path, name)
        _fsync(name)


def _write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """What the index will say of a shard: written behind the shard, it says that the shard is whole."""
    part = path.with_suffix(".json.part")
    part.write_text(json.dumps(rows))
    _fsync(part)
    os.replace(part, path)
    _fsync(path.parent)


def _finished(folder: Path, shard: str) -> list[dict[str, Any]] | None:
    """The rows of a shard that was kept whole; None where there is none, or it has other bytes than its rows say."""
    try:
        rows: list[dict[str, Any]] = json.loads((folder / shard).with_suffix(".json").read_bytes())
        whole = bool(rows) and {file_sha256(folder / shard)} == {row["sha256"] for row in rows}
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return rows if whole else None


def read_null(folder: Path) -> tuple[Tensor, Tensor]:
    """States (L, D) and mask (L,) of no caption, as they were encoded with the view's captions.

    Raises FileNotFoundError for a view without them, ValueError for a damaged file.
    """
    path = Path(folder) / NULL_FILE
    if not path.is_file():
        raise FileNotFoundError(
            f"view {folder} has no {NULL_FILE}, it is older than that file: run `sana-video data encode --view "
            f"{Path(folder).name}` again"
        )
    try:
        stored = load_tensors(path.read_bytes())
        return stored["text"], stored["mask"]
    except (SafetensorError, KeyError) as error:
        raise ValueError(f"{path} is damaged: {error}") from None


def read_index(folder: Path) -> pa.Table:
    """The index of a view, sorted by key. Raises FileNotFoundError for none, ValueError for a damaged one."""
    path = Path(folder) / INDEX_NAME
    if not path.is_file():
        raise FileNotFoundError(f"no {INDEX_NAME} in {folder}: the view is missing or was never finished")
    try:
        table = pq.read_table(path)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if not table.schema.equals(INDEX):
        raise ValueError(f"{path} is no index of shards: its columns are {table.schema.names}")
    return table


class ShardReader:
    """Random access to the samples of a view, by row of its index. Safe to share between threads."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self.index = read_index(self.folder)
        columns = [self.index.column(name).to_pylist() for name in ("shard", "offset", "size")]
        self._places: list[tuple[str, int, int]] = list(zip(*columns, strict=True))
        self._files: dict[str, int] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._places)

    def sample(self, row: int) -> dict[str, Tensor]:
        """The tensors of one sample. Raises ValueError naming the shard when it is shorter than the index says."""
        shard, offset, size = self._places[row]
        payload = os.pread(self._file(shard), size, offset)
        if len(payload) != size:
            raise ValueError(f"shard {self.folder / shard} is damaged: it ends before sample {row}")
        return load_tensors(payload)

    def _file(self, shard: str) -> int:
        with self._lock:
            if shard not in self._files:
                self._files[shard] = os.open(self.folder / shard, os.O_RDONLY)
            return self._files[shard]

    def close(self) -> None:
        with self._lock:
            for file in self._files.values():
                os.close(file)
            self._files.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def verify(folder: Path) -> None:
    """Read every file once. Raises ValueError naming the first that is missing, damaged, or not in the index."""
    folder = Path(folder)
    index = read_index(folder)
    expected = dict(zip(index.column("shard").to_pylist(), index.column("sha256").to_pylist(), strict=True))
    for shard, sha256 in sorted(expected.items()):
        if not (folder / shard).is_file():
            raise ValueError(f"shard {folder / shard} is missing")
        if file_sha256(folder / shard) != sha256:
            raise ValueError(f"shard {folder / shard} is damaged: its sha256 is not the one in {INDEX_NAME}")
    null = (pq.read_schema(folder / INDEX_NAME).metadata or {}).get(_NULL_DIGEST)
    path = folder / NULL_FILE
    if null is not None and (not path.is_file() or file_sha256(path) != null.decode()):
        raise ValueError(f"{path} is missing or damaged: its sha256 is not the one in {INDEX_NAME}")
    strangers = sorted({path.name for path in folder.glob("*.tar")} - set(expected))
    if strangers:
        raise ValueError(f"shard {folder / strangers[0]} is not in {INDEX_NAME}")


def data_digest(folder: Path) -> str:
    """What names the data of a view: the sha256 of its index, which holds that of every other file."""
    read_index(folder)
    return file_sha256(Path(folder) / INDEX_NAME)


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fsync(path: Path) -> None:
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
