"""RMS norm and SiLU before a causal convolution in one pass over memory: what Wan's decoder does between them."""

import torch
from torch import Tensor

from sana_video.ops import select
from sana_video.ops.norm_silu import naive

__all__ = ["norm_silu"]


def norm_silu(
    x: Tensor, gain: Tensor, before: Tensor | None = None, *, bias: Tensor | None = None, skip: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """What a causal convolution reads, and the sum that it is made of.

    x (B, T, H, W, C), contiguous, is the output of a convolution that has not added its bias yet; bias (C,), skip like
    x. The sum is x + bias + skip in the dtype of x, x itself where both are absent. gain (C,). before
    (B, 2, H, W, C): the two frames that the convolution read last, None at the start of a video, which is zeros.

    Returns the sum and (B, 2 + T, H, W, C): `before`, then silu(sum / ‖sum‖ · √C · gain). No gradient: decoders are
    not trained here.
    """
    if select.kernels_for(x) and x.dtype == torch.bfloat16 and not torch.is_grad_enabled():
        from sana_video.ops.norm_silu import triton

        both: tuple[Tensor, Tensor] = triton.norm_silu(x, gain, before, bias, skip)
        return both
    return naive.norm_silu(x, gain, before, bias, skip)
