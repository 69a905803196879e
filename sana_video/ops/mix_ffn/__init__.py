"""The Mix-FFN's two convolutions over channels-last tokens: gated depthwise 3×3, and full-width over three frames."""

from collections.abc import Sequence

import torch
from torch import Tensor

from sana_video.ops import select
from sana_video.ops.mix_ffn import naive

__all__ = ["gated_depthwise", "temporal_conv"]

FLOATS = (torch.bfloat16, torch.float32)
NEEDS = "bf16 or float32, channels of thirty-twos, frames below 2^31 numbers and at most 65535 of them"


def gated_depthwise(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """SiLU, depthwise 3×3, value · SiLU(gate): (frames, H, W, 2M) -> (frames, H, W, M); see `naive`."""
    if select.kernels_for(x):
        from sana_video.ops.mix_ffn import triton

        if x.dtype in FLOATS and triton.fits(x):
            out: Tensor = triton.gated_depthwise(x, weight, bias)
            return out
        select.fall_back("gated_depthwise", x, NEEDS)
    return naive.gated_depthwise(x, weight, bias)


def temporal_conv(u: Tensor, weight: Tensor, starts: Sequence[int] = (0,), last_u: Tensor | None = None) -> Tensor:
    """Convolution over three frames of u (B, T, S, D), chunk by chunk, without u itself; see `naive`."""
    if select.kernels_for(u):
        from sana_video.ops.mix_ffn import temporal

        out: Tensor = temporal.temporal_conv(u, weight, list(starts), last_u)
        return out
    return naive.temporal_conv(u, weight, starts, last_u)
