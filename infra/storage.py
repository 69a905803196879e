"""Files: atomic writes, digests, and the one door to S3 (s3fs), in and out.

A reader sees the old bytes or the new ones, never half of them: everything is written beside its place, synced and
renamed. A disk that fills up in the middle leaves what was there before and raises one clear OSError.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Unavailable(FileNotFoundError):
    """What S3 does not give: it is not there, or not for us. Who asks again gets the same answer."""


def atomic_write(path: Path, data: bytes) -> None:
    """Replace the file `path` by `data` in one step, making its folder if needed. OSError if the disk is full."""
    path.parent.mkdir(parents=True, exist_ok=True)
    require_space(path.parent, len(data))
    tmp = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(tmp, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(tmp, path)
    except OSError as error:
        raise _told_plainly(error, path) from error
    finally:
        tmp.unlink(missing_ok=True)
    _sync_folder(path.parent)


def atomic_text(path: Path, text: str) -> None:
    """`atomic_write` of UTF-8 text."""
    atomic_write(path, text.encode())


@contextmanager
def atomic_dir(path: Path) -> Iterator[Path]:
    """Yield an empty folder beside `path`; when the block ends well it takes the place of `path` as a whole.

    If the block raises, the new folder is removed and the old one is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    tmp = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
    tmp.chmod(0o777 & ~_umask())
    try:
        yield tmp
        for file in _files(tmp):
            _sync(file)
        _swap(tmp, path)
    except OSError as error:
        raise _told_plainly(error, path) from error
    finally:
        shutil.rmtree(tmp, ignore_errors=True)
    _sync_folder(path.parent)


def require_space(folder: Path, needed: int) -> None:
    """Raise OSError(ENOSPC) if the disk of `folder` has less than `needed` bytes free."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(errno.ENOSPC, f"no space left: {needed:,} bytes to write, {free:,} free on the disk of {folder}")


def sha256_file(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(path: Path) -> str:
    """Hex sha256 of a file, or of a folder: over the sorted relative names of its files and the sha256 of each."""
    if not path.is_dir():
        return sha256_file(path)
    lines = [f"{file.relative_to(path).as_posix()}\0{sha256_file(file)}\n" for file in _files(path)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def list_files(uri: str, suffixes: tuple[str, ...]) -> list[str]:
    """All files below a local folder or s3:// prefix whose name ends in one of `suffixes` (any case), sorted.

    Entries are paths or s3:// addresses as `local_copy` takes them. FileNotFoundError if there is no such folder.
    """
    wanted = tuple(suffix.lower() for suffix in suffixes)
    if is_remote(uri):
        found = [f"s3://{name}" for name in _s3_find(uri)]
    else:
        if not Path(uri).is_dir():
            raise FileNotFoundError(f"{uri}: no such folder")
        found = [str(file) for file in _files(Path(uri))]
    return sorted(name for name in found if name.lower().endswith(wanted))


@contextmanager
def local_copy(uri: str) -> Iterator[Path]:
    """Yield a local path with the bytes of `uri`: the file itself, or a download that is removed afterwards."""
    if not is_remote(uri):
        if not Path(uri).is_file():
            raise FileNotFoundError(f"{uri}: no such file")
        yield Path(uri)
        return
    from infra.settings import machine

    with tempfile.TemporaryDirectory(prefix="sana-video-", dir=machine().scratch) as folder:
        target = Path(folder) / uri.rsplit("/", 1)[-1]
        _s3_get(uri, target)
        yield target


def sizes_at(uri: str) -> dict[str, int]:
    """{path below an s3:// prefix: bytes} of every object there; empty where there is none."""
    prefix = uri.removeprefix("s3://").rstrip("/") + "/"
    with _s3_errors(uri):
        found: dict[str, dict[str, Any]] = _s3().find(prefix, detail=True)
    return {name.removeprefix(prefix): int(info["size"]) for name, info in found.items()}


def send(folder: Path, uri: str, last: str) -> int:
    """Copy every file below `folder` to an s3:// prefix, the file `last` after all others; returns how many went.

    What is there in the same size is not sent again. `Unavailable` where writing is refused.
    """
    there = sizes_at(uri)
    names = {file.relative_to(folder).as_posix(): file for file in _files(folder)}
    missing = [name for name, file in names.items() if there.get(name) != file.stat().st_size]
    for name in sorted(missing, key=lambda name: (name == last, name)):
        with _s3_errors(f"{uri.rstrip('/')}/{name}"):
            _s3().put_file(str(names[name]), f"{uri.rstrip('/')}/{name}")
    return len(missing)


def is_remote(uri: str) -> bool:
    """True for s3:// addresses. ValueError for any other scheme."""
    scheme, mark, _ = uri.partition("://")
    if mark and scheme != "s3":
        raise ValueError(f"{uri}: only local paths and s3:// addresses are read, not {scheme}://")
    return bool(mark)


def _s3_find(uri: str) -> list[str]:
    with _s3_errors(uri):
        found: list[str] = _s3().find(uri)
    if not found:
        raise FileNotFoundError(f"{uri}: nothing there")
    return found


def _s3_get(uri: str, target: Path) -> None:
    with _s3_errors(uri):
        size = int(_s3().info(uri)["size"])
        require_space(target.parent, size)
        _s3().get_file(uri, str(target))
    if (got := target.stat().st_size) != size:
        raise ConnectionError(f"{uri}: {got:,} of {size:,} bytes came")


@contextmanager
def _s3_errors(uri: str) -> Iterator[None]:
    """Credentials and absence are the user's to mend, so say which; network trouble passes as it is, to be retried."""
    try:
        yield
    except FileNotFoundError as error:
        raise Unavailable(f"{uri}: nothing there") from error
    except PermissionError as error:
        raise Unavailable(f"{uri}: access refused; check the AWS_* credentials") from error
    except Exception as error:
        if type(error).__name__ in ("NoCredentialsError", "PartialCredentialsError", "ProfileNotFound"):
            raise ValueError(f"{uri}: no S3 credentials; set AWS_ACCESS_KEY_ID … or SANA_S3_ANONYMOUS=true") from error
        raise


def _s3() -> Any:
    # one instance a process and setting: s3fs caches by arguments
    import s3fs

    from infra.settings import machine

    return s3fs.S3FileSystem(anon=machine().s3_anonymous, endpoint_url=machine().s3_endpoint, use_listings_cache=False)


def _files(folder: Path) -> list[Path]:
    return sorted((file for file in folder.rglob("*") if file.is_file()), key=lambda file: file.as_posix())


def _swap(tmp: Path, path: Path) -> None:
    """Put folder `tmp` where `path` is. Between the two renames a crash leaves the old one as `.NAME.old`."""
    old = path.with_name(f".{path.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if path.exists():
        os.rename(path, old)
    os.rename(tmp, path)
    shutil.rmtree(old, ignore_errors=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable."""
    _sync(folder)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _told_plainly(error: OSError, path: Path) -> OSError:
    if error.errno not in _FULL or str(error).startswith(f"[Errno {errno.ENOSPC}] no space left:"):
        return error
    return OSError(errno.ENOSPC, f"no space left while writing {path}; what was there before is as it was")
