"""Which form of an operation runs: the kernels, or the definition in plain torch.

The kernels are written and tuned for Hopper (compute capability 9.0). Everything else, the CPU included, takes the
definition, which is right everywhere. The choice is made once per device; `sample` and `train` say it when they start.
Where kernels run, an operation that they do not take says so once, as a warning.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

HOPPER = (9, 0)

_log = logging.getLogger(__name__)
_off = 0  # depth of `disabled` contexts
_told: set[tuple[str, torch.dtype]] = set()  # what `fall_back` has said


def kernels_for(x: Tensor) -> bool:
    """Whether operations on `x` may take their kernels; each operation still checks its own shapes and dtypes."""
    return x.is_cuda and not _off and _capable(x.device.index)


@contextmanager
def disabled() -> Iterator[None]:
    """Inside, every operation takes its definition. What torch.compile compiled earlier keeps its choice."""
    global _off
    _off += 1
    try:
        yield
    finally:
        _off -= 1


def fall_back(operation: str, x: Tensor, needs: str) -> None:
    """Say, once for each operation and dtype, that it takes its definition where kernels run, and what they need."""
    if torch.compiler.is_compiling() or (operation, x.dtype) in _told:
        return
    _told.add((operation, x.dtype))
    dtype = str(x.dtype).removeprefix("torch.")
    _log.warning("%s of %s %s runs as plain torch: its kernels take %s", operation, dtype, list(x.shape), needs)


def describe(device: torch.device | None = None) -> str:
    """One line for people: which form runs on `device`, by default this machine's, and why."""
    if not torch.cuda.is_available():
        return "plain torch (no CUDA device)"
    if device is not None and device.type != "cuda":
        return f"plain torch (on {device.type})"
    index = None if device is None else device.index
    return _reason(torch.cuda.current_device() if index is None else index)[1]


def _capable(index: int | None) -> bool:
    return _found(torch.cuda.current_device() if index is None else index)


# all that torch.compiler.assume_constant_result does; calling it imports the compiler, 2 s of every process
_capable._dynamo_marked_constant = True  # type: ignore[attr-defined]


@cache
def _found(index: int) -> bool:
    return _reason(index)[0]


def _reason(index: int) -> tuple[bool, str]:
    name, capability = torch.cuda.get_device_name(index), torch.cuda.get_device_capability(index)
    if capability != HOPPER:
        return False, f"plain torch ({name} has compute capability {capability[0]}.{capability[1]}; kernels need 9.0)"
    if find_spec("triton") is None:
        return False, f"plain torch ({name}, but triton is not installed)"
    return True, f"Triton kernels ({name})"
