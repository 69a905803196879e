"""The definition of what stands between a block's matrix products: norms, modulation and gated sums, in plain torch.

Statistics and arithmetic are float32 at least; each result is rounded once: sums to the dtype of the stream x, rows for
the next product to that of shift or branch, so that a stream in float32 may run through a network in bf16. Shift, scale
and gate are (B, 1, 1, D), one for a sample, or (B, T, 1, D), one for a frame, beside x (B, T, S, D).
"""

import torch
from torch import Tensor


def modulate(x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
    """LN(x) · (1 + scale) + shift; the LayerNorm is over the last axis and learns nothing."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    normed = torch.nn.functional.layer_norm(wide, x.shape[-1:], eps=eps)
    return (normed * (1 + scale.to(wide.dtype)) + shift.to(wide.dtype)).to(shift.dtype)


def gated_add(x: Tensor, branch: Tensor, gate: Tensor | None = None, skip: Tensor | None = None) -> Tensor:
    """x + gate · (branch + skip); a gate of None is one, a skip of None is zero."""
    wide = branch.to(torch.promote_types(x.dtype, torch.float32))
    if skip is not None:
        wide = wide + skip.to(wide.dtype)
    if gate is not None:
        wide = wide * gate.to(wide.dtype)
    return (x.to(wide.dtype) + wide).to(x.dtype)


def gated_add_both(x: Tensor, branch: Tensor, gate: Tensor | None) -> tuple[Tensor, Tensor]:
    """The sum that goes on as the stream, and the same in the dtype of the branch for the next product."""
    stream = gated_add(x, branch, gate)
    return stream, stream.to(branch.dtype)


def gated_add_modulate(
    x: Tensor,
    branch: Tensor,
    gate: Tensor | None,
    shift: Tensor,
    scale: Tensor,
    eps: float,
    skip: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The sum that goes on as the stream, and the same modulated for the next branch."""
    stream = gated_add(x, branch, gate, skip)
    return stream, modulate(stream, shift, scale, eps)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / rms(x) · weight over the last axis."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    inverse_rms = torch.rsqrt(wide.square().mean(dim=-1, keepdim=True) + eps)
    return (wide * inverse_rms * weight.to(wide.dtype)).to(x.dtype)
