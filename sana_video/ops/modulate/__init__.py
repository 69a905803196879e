"""Norms, modulation and gated sums of the stream: each one pass over memory where kernels run."""

import torch
from torch import Tensor

from sana_video.ops import select
from sana_video.ops.modulate import naive

__all__ = ["gated_add", "gated_add_both", "gated_add_modulate", "modulate", "rms_norm"]

FLOATS = (torch.bfloat16, torch.float32)
NEEDS = "bf16 or float32 of a width of sixteens from 32 to 4096, and streams of one shape"


def modulate(x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
    """LN(x) · (1 + scale) + shift in the dtype of shift, for x (B, T, S, D), shift and scale (B, T or 1, 1, D)."""
    if _kernels_take("modulate", x):
        from sana_video.ops.modulate import triton

        out: Tensor = triton.modulate(x, shift, scale, eps)
        return out
    return naive.modulate(x, shift, scale, eps)


def gated_add(x: Tensor, branch: Tensor, gate: Tensor | None = None, skip: Tensor | None = None) -> Tensor:
    """x + gate · (branch + skip), for all (B, T, S, D) but gate (B, T or 1, 1, D); None is one, and zero."""
    if _kernels_take("gated_add", x, branch, skip):
        from sana_video.ops.modulate import triton

        out: Tensor = triton.gated_add(x, branch, gate, skip)
        return out
    return naive.gated_add(x, branch, gate, skip)


def gated_add_both(x: Tensor, branch: Tensor, gate: Tensor | None) -> tuple[Tensor, Tensor]:
    """x + gate · branch in the dtype of x, and in that of the branch; where they are one, so are the results."""
    if x.dtype == branch.dtype:
        summed = gated_add(x, branch, gate)
        return summed, summed
    if _kernels_take("gated_add_both", x, branch):
        from sana_video.ops.modulate import triton

        both: tuple[Tensor, Tensor] = triton.gated_add_both(x, branch, gate)
        return both
    return naive.gated_add_both(x, branch, gate)


def gated_add_modulate(
    x: Tensor,
    branch: Tensor,
    gate: Tensor | None,
    shift: Tensor,
    scale: Tensor,
    eps: float,
    skip: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """`gated_add`, and `modulate` of it."""
    if _kernels_take("gated_add_modulate", x, branch, skip):
        from sana_video.ops.modulate import triton

        both: tuple[Tensor, Tensor] = triton.gated_add_modulate(x, branch, gate, shift, scale, eps, skip)
        return both
    return naive.gated_add_modulate(x, branch, gate, shift, scale, eps, skip)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / rms(x) · weight over the last axis of any x."""
    if select.kernels_for(x):
        from sana_video.ops.modulate import rms, triton

        if x.dtype in FLOATS and triton.takes_width(x.shape[-1]):
            out: Tensor = rms.rms_norm(x, weight, eps)
            return out
        select.fall_back("rms_norm", x, NEEDS)
    return naive.rms_norm(x, weight, eps)


def _kernels_take(operation: str, x: Tensor, *others: Tensor | None) -> bool:
    if not select.kernels_for(x):
        return False
    from sana_video.ops.modulate import triton

    if x.dtype in FLOATS and triton.fits(x, *others):
        return True
    select.fall_back(operation, x, NEEDS)
    return False
