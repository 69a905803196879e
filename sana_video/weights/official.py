"""Reads published checkpoints: `.pth` with a `state_dict` or `model`, LongSANA's `.pt` with a generator. Writes none.

They are pickles, which may run code when read. Here only tensors and plain containers are let through, and the tensors
stay in the file until they are used: eight gigabytes cost no memory.
"""

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

PLAIN, AVERAGED = ("state_dict", "generator", "model"), ("state_dict_ema", "generator_ema")
_WANTED = re.compile(r"GLOBAL (\S+)")


def read(path: Path, *, ema: bool = False) -> dict[str, Tensor]:
    """The network's tensors in `path` by official name, mapped from the file; `ema` takes the averaged ones.

    FileNotFoundError if there is no such file. ValueError for a pickle that wants to run code, a damaged file, or one
    that holds no network.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    state = _network(_plain_data(path), path, ema=ema)
    if not state or not all(isinstance(name, str) and isinstance(value, Tensor) for name, value in state.items()):
        raise ValueError(f"{path} holds no network: its entries are not named tensors")
    prefix = "model." if all(name.startswith("model.") for name in state) else ""
    return {name.removeprefix(prefix): tensor for name, tensor in state.items()}


def _plain_data(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        wanted = _WANTED.search(str(error))
        wish = f"wants to use {wanted[1].rstrip('.,')}" if wanted else "is damaged or holds more than tensors"
        raise ValueError(f"{path} {wish}; only tensors are read from a pickle, for it could run code") from None
    except (RuntimeError, EOFError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path} is damaged, truncated or no checkpoint of today's torch: {reason}") from None


def _network(data: Any, path: Path, *, ema: bool) -> Mapping[str, Any]:
    if not isinstance(data, Mapping):
        raise ValueError(f"{path} holds a {type(data).__name__}, not named tensors")
    wanted = AVERAGED if ema else PLAIN
    for key in wanted:
        if isinstance(data.get(key), Mapping):
            return data[key]  # type: ignore[no-any-return]
    if ema:
        raise ValueError(f"{path} holds no averaged weights ({' or '.join(AVERAGED)}); it has {_shown(data)}")
    if any(isinstance(data.get(key), Mapping) for key in AVERAGED):
        raise ValueError(f"{path} holds averaged weights only: ask for them with --ema")
    return data


def _shown(data: Mapping[Any, Any]) -> str:
    names = sorted(map(str, data))
    return ", ".join(names[:6]) + (" …" if len(names) > 6 else "")
