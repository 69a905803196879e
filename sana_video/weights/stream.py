"""Safetensors files one tensor at a time, so that a checkpoint larger than memory passes through it.

The format is 8 bytes of header length, a JSON header of types, shapes and offsets, and the bytes of the tensors. The
header follows from shapes alone, so it is written first and each tensor is dropped once its bytes are on their way.
"""

import errno
import json
import shutil
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import Tensor

from sana_video.weights.files import PICKLES, refuse_pickle, replacing

TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "U8": torch.uint8,
    "I8": torch.int8,
    "BOOL": torch.bool,
}
_CODES = {dtype: code for code, dtype in TYPES.items()}


class LazyTensors(Mapping[str, Tensor]):
    """The tensors of some safetensors files by name; each is read when it is asked for, and not kept.

    `shapes` holds all of them on the meta device. FileNotFoundError for a file that is not there; ValueError for a
    pickle, for one that is damaged, or for a name that two files hold.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.shapes: dict[str, Tensor] = {}
        self._file: dict[str, Any] = {}
        for path in paths:
            file = _opened(path)
            for name in file.keys():  # noqa: SIM118 (no mapping)
                if name in self._file:
                    raise ValueError(f"{path} holds {name}, which another file beside it holds too")
                self._file[name] = file
                self.shapes[name] = _shape(file.get_slice(name), path, name)

    def __getitem__(self, name: str) -> Tensor:
        tensor: Tensor = self._file[name].get_tensor(name)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._file)

    def __len__(self) -> int:
        return len(self._file)


def _opened(path: Path) -> Any:
    refuse_pickle(path)
    if not path.is_file():
        pickles = sorted(p.name for p in path.parent.glob("*") if p.suffix in PICKLES)
        raise FileNotFoundError(f"{path} is missing{f' ({pickles[0]} beside it is a pickle)' if pickles else ''}")
    try:
        return safetensors.safe_open(path, framework="pt")
    except (safetensors.SafetensorError, OSError) as error:
        raise ValueError(f"{path} is damaged, truncated or no safetensors file: {error}") from None


def _shape(part: Any, path: Path, name: str) -> Tensor:
    code = part.get_dtype()
    if code not in TYPES:
        raise ValueError(f"{path} holds {name} as {code}; known are {', '.join(TYPES)}")
    return torch.empty(part.get_shape(), dtype=TYPES[code], device="meta")


def write(path: Path, shapes: Mapping[str, Tensor], tensors: Iterable[tuple[str, Tensor]]) -> int:
    """Write `tensors`, which come in the order of `shapes` and with those types, to `path`; whole or not at all.

    Returns the size of the file in bytes. OSError if the disk refuses.
    """
    refuse_pickle(path)
    header, size = _header(shapes)
    if shutil.disk_usage(path.parent).free < size:
        raise OSError(errno.ENOSPC, f"no space left: {path} needs {size:,} bytes")
    expected = iter(shapes.items())
    with replacing(path) as temporary:
        with temporary.open("wb") as file:
            file.write(header)
            for name, tensor in tensors:
                wanted, like = next(expected)
                assert (name, tensor.shape, tensor.dtype) == (wanted, like.shape, like.dtype), name
                file.write(_bytes(tensor))
        assert next(expected, None) is None
    return size


def _header(shapes: Mapping[str, Tensor]) -> tuple[bytes, int]:
    """The first bytes of the file, and the size of the whole."""
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in shapes.items():
        start, end = end, end + tensor.numel() * tensor.element_size()
        entries[name] = {"dtype": _CODES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # data begin at a multiple of 8
    return struct.pack("<Q", len(text)) + text, 8 + len(text) + end


def _bytes(tensor: Tensor) -> memoryview:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data
