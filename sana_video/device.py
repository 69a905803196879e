"""Where the network runs and in which precision, decided in one place for evaluation, encoding and sampling.

Training decides for itself: there a device belongs to a process (train/parallelize.py), a precision to params.yaml.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def best_device() -> torch.device:
    """The first GPU; the CPU where there is none."""
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def sampling_dtype(device: torch.device) -> torch.dtype:
    """Of the network's weights when it samples: bf16, as it was trained, on a GPU; fp32 on the CPU, which is slow at
    bf16."""
    import torch

    return torch.bfloat16 if device.type == "cuda" else torch.float32
