"""ReLU linear attention with rotary positions: both ways, chunk-causal, and continued from a running state.

`naive` is the definition. `triton` computes the like for bf16 on Hopper, with a backward of its own.
"""

from collections.abc import Sequence

from torch import Tensor

from sana_video.ops import select
from sana_video.ops.linear_attention import naive
from sana_video.ops.linear_attention.naive import LinearState, linear_attention
from sana_video.rope import Rotary

__all__ = ["LinearState", "linear_attention", "normed_linear_attention"]

NEEDS = "bf16, heads of 32 to 128 channels by sixteens, samples below 2^31 numbers and an epsilon of at most 1e-6"


def normed_linear_attention(
    qkv: Tensor,
    q_weight: Tensor,
    k_weight: Tensor,
    rotary: Rotary,
    *,
    heads: int,
    norm_eps: float,
    eps: float,
    starts: Sequence[int] = (0,),
    state: LinearState | None = None,
) -> tuple[Tensor, LinearState]:
    """`naive.normed_linear_attention`, by kernels where they run and fit."""
    attend = naive.normed_linear_attention
    if select.kernels_for(qkv):
        from sana_video.ops.linear_attention import triton

        if triton.fits(qkv, heads, eps):
            attend = triton.normed_linear_attention
        else:
            select.fall_back("linear_attention", qkv, NEEDS)
    return attend(qkv, q_weight, k_weight, rotary, heads=heads, norm_eps=norm_eps, eps=eps, starts=starts, state=state)
