"""Attention from video tokens to text, with the norm of its queries: one pass over them where a kernel runs."""

import torch
from torch import Tensor

from sana_video.ops import select
from sana_video.ops.cross_attention import naive

__all__ = ["normed_cross_attention"]


def normed_cross_attention(
    queries: Tensor, q_weight: Tensor, norm_eps: float, keys: Tensor, values: Tensor, bias: Tensor | None
) -> Tensor:
    """`naive.normed_cross_attention`; by a kernel, which has no gradients, where it runs and fits."""
    if select.kernels_for(queries) and not torch.is_grad_enabled():
        from sana_video.ops.cross_attention import triton

        if triton.fits(queries, keys, values):
            out: Tensor = triton.normed_cross_attention(queries, q_weight, norm_eps, keys, values, bias)
            return out
    return naive.normed_cross_attention(queries, q_weight, norm_eps, keys, values, bias)
