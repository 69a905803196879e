"""What a causal video decoder does between its convolutions, each in one pass over memory.

Frames are channels-last, (B, T, H, W, C). A convolution leaves out its bias, and what follows adds it with the residual
that it meets. A causal convolution over three frames is one over a single frame of three times the channels: `beside`
lays out what it reads so, since cuDNN has fast kernels for such pictures of any width, and for films of few.
No gradients: decoders are not trained here.
"""

import torch
from torch import Tensor

from sana_video.ops import select
from sana_video.ops.decoder import naive
from sana_video.ops.decoder.naive import beside

__all__ = ["beside", "doubled", "norm_silu"]


def norm_silu(
    x: Tensor,
    gain: Tensor,
    before: Tensor | None = None,
    *,
    bias: Tensor | None = None,
    skip: Tensor | None = None,
    keep: bool = True,
) -> tuple[Tensor | None, Tensor]:
    """What a causal convolution reads, and the sum that it is made of.

    x (B, T, H, W, C), contiguous, is the output of a convolution; bias (C,), skip like x. The sum is x + bias + skip in
    the dtype of x, x itself where both are absent. gain (C,). before (B, 1, H, W, 2C): the end of what was read last,
    None at the start of a video, which is zeros.

    Returns the sum, None unless `keep`, and silu(sum / ‖sum‖ · √C · gain) with the two frames before each beside it:
    (B, T, H, W, 3C), the oldest first.
    """
    if _kernels_take("norm_silu", x, skip):
        from sana_video.ops.decoder import triton

        summed, read = triton.norm_silu(x, gain, before, bias, skip, keep)
        return (summed if summed.numel() else x) if keep else None, read
    return naive.norm_silu(x, gain, before, bias, skip, keep)


def doubled(x: Tensor, *, bias: Tensor | None = None, skip: Tensor | None = None) -> Tensor:
    """The sum x + bias + skip with each pixel four times: (B, T, H, W, C) -> (B, T, 2H, 2W, C)."""
    if _kernels_take("doubled", x, skip):
        from sana_video.ops.decoder import triton

        larger: Tensor = triton.doubled(x, bias, skip)
        return larger
    return naive.doubled(x, bias, skip)


def _kernels_take(operation: str, x: Tensor, skip: Tensor | None) -> bool:
    if not select.kernels_for(x):
        return False
    ordered = x.is_contiguous() and (skip is None or skip.is_contiguous())
    if x.dtype == torch.bfloat16 and ordered and not torch.is_grad_enabled():
        return True
    select.fall_back(operation, x, "contiguous bf16 under torch.no_grad()")
    return False
