"""Which form of an operation runs: the kernels, or the definition in plain torch.

The kernels are written and tuned for Hopper (compute capability 9.0). Everything else, the CPU included, takes the
definition, which is right everywhere. The choice is made once per device and said once in the log.
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


def describe() -> str:
    """One line for people: which form runs on this machine, and why."""
    if not torch.cuda.is_available():
        return "plain torch (no CUDA device)"
    return _reason(torch.cuda.current_device())[1]


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _capable(index: int | None) -> bool:
    return _logged(torch.cuda.current_device() if index is None else index)


@cache
def _logged(index: int) -> bool:
    capable, reason = _reason(index)
    _log.info("operations run as %s", reason)
    return capable


def _reason(index: int) -> tuple[bool, str]:
    name, capability = torch.cuda.get_device_name(index), torch.cuda.get_device_capability(index)
    if capability != HOPPER:
        return False, f"plain torch ({name} has compute capability {capability[0]}.{capability[1]}; kernels need 9.0)"
    if find_spec("triton") is None:
        return False, f"plain torch ({name}, but triton is not installed)"
    return True, f"Triton kernels ({name})"
