"""Weights in and out of safetensors files: strict, whole or not at all, and never a pickle.

A pickle runs code when it is read, so none is. A file is written beside its place, forced to disk and renamed, so a
crash or a full disk leaves the old one. What does not fit a module is named, all of it, in one error.
"""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

FILE_NAME = "model.safetensors"
NULL_FILE = "null_embedding.safetensors"  # what a network is told instead of a prompt: `text` (L, D), `mask` (L)
PICKLES = {".pt", ".pth", ".bin", ".ckpt", ".pkl"}
NAMED_AT_MOST = 6  # keys of one kind spelled out in an error; the rest are counted


def save(path: Path | str, tensors: Mapping[str, Tensor]) -> None:
    """Write `tensors` to `path`, which must end in .safetensors. OSError if the disk refuses."""
    path = Path(path)
    refuse_pickle(path)
    ready = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with replacing(path) as temporary:
        try:
            safetensors.torch.save_file(ready, temporary)
        except safetensors.SafetensorError as error:
            raise OSError(f"cannot write {path}: {error}") from None


def load(path: Path | str, *, device: torch.device | str = "cpu") -> dict[str, Tensor]:
    """Every tensor in `path`. FileNotFoundError if there is none; ValueError for a pickle or a damaged file."""
    path = Path(path)
    refuse_pickle(path)
    if not path.is_file():
        pickles = sorted(p.name for p in path.parent.glob("*") if p.suffix in PICKLES)
        beside = f" ({pickles[0]} beside it is a pickle, which is never loaded)" if pickles else ""
        raise FileNotFoundError(f"{path} is missing{beside}")
    try:
        return safetensors.torch.load_file(path, device=str(device))
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} is damaged, truncated or no safetensors file: {error}") from None


def load_into(
    module: nn.Module, path: Path | str, *, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
) -> None:
    """Put the weights in `path` into `module`, which may stand on the meta device; `dtype` converts on the way.

    Raises ValueError that names missing, unexpected and wrongly shaped keys, or weights that are not finite.
    """
    tensors = load(path, device=device)
    check_fit(module, tensors, str(path))
    if dtype is not None:
        tensors = {name: tensor.to(dtype) for name, tensor in tensors.items()}
    module.load_state_dict(tensors, assign=True)


def check_fit(module: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    """ValueError unless `tensors` are exactly the weights of `module`, all finite; `source` is named in it."""
    faults = misfits(module.state_dict(), tensors)
    faults["not finite"] = [name for name, tensor in tensors.items() if not finite(tensor)]
    refuse(source, type(module).__name__, faults)


def misfits(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """What keeps `found` from being `wanted`, by kind of fault; only names and shapes count, so both may be meta."""
    shapes = [
        f"{name} {list(found[name].shape)} instead of {list(wanted[name].shape)}"
        for name in wanted
        if name in found and found[name].shape != wanted[name].shape
    ]
    return {
        "missing": [name for name in wanted if name not in found],
        "unexpected": [name for name in found if name not in wanted],
        "wrong shape": shapes,
    }


def refuse(source: str, what: str, faults: Mapping[str, list[str]]) -> None:
    """ValueError that names every fault in one line, if there is any."""
    told = "; ".join(f"{kind}: {listed(names)}" for kind, names in faults.items() if names)
    if told:
        raise ValueError(f"{source} does not hold the weights of this {what}: {told}")


def finite(tensor: Tensor) -> bool:
    """No NaN and no infinity in `tensor`."""
    return bool(torch.isfinite(tensor).all())


def write_atomically(path: Path, data: bytes) -> None:
    """Write a small file whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def listed(names: list[str]) -> str:
    """The first few of `names`, and how many more there are."""
    rest = len(names) - NAMED_AT_MOST
    return ", ".join(names[:NAMED_AT_MOST]) + (f" and {rest} more" if rest > 0 else "")


def refuse_pickle(path: Path) -> None:
    """ValueError for a path that by its name is a pickle."""
    if path.suffix in PICKLES:
        raise ValueError(f"{path} is a pickle, which can run code; only .safetensors files are read or written")


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place once written and on disk; nothing is left on failure."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        _force_to_disk(temporary)
        temporary.rename(path)
        _force_to_disk(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def replacing_folder(path: Path, own: Collection[str]) -> Iterator[Path]:
    """A temporary folder beside `path` that takes its place as a whole once written; on failure `path` is as it was.

    What else lies in `path` goes along (linked where the disk can), but for the names in `own`: those are written anew
    or are gone. ValueError if `path` is a file.
    """
    path = path.resolve()
    if path.exists() and not path.is_dir():
        raise ValueError(f"{path} is a file; a folder is to be written")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        temporary.chmod(0o755)
        yield temporary
        if path.is_dir():
            _carry_over(path, temporary, own)
        _swap(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def link(source: Path, target: Path) -> None:
    """The file `source` at `target` too: a hard link, or a copy where the file system does not link."""
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)


def _carry_over(old: Path, new: Path, own: Collection[str]) -> None:
    for entry in old.iterdir():
        place = new / entry.name
        if entry.name in own or place.exists():
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.copytree(entry, place, symlinks=True, copy_function=lambda a, b: link(Path(a), Path(b)))
        elif entry.is_symlink():
            place.symlink_to(entry.readlink())
        else:
            link(entry, place)


def _swap(new: Path, place: Path) -> None:
    if not place.exists():
        new.rename(place)
        _force_to_disk(place.parent)
        return
    old = new.with_name(f"{new.name}.old")
    place.rename(old)
    try:
        new.rename(place)
    except OSError:
        old.rename(place)
        raise
    _force_to_disk(place.parent)
    shutil.rmtree(old, ignore_errors=True)


def _force_to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
