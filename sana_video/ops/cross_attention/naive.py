"""The definition of attention from video tokens to text, in plain torch."""

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from sana_video.ops.modulate import rms_norm


def normed_cross_attention(
    queries: Tensor, q_weight: Tensor, norm_eps: float, keys: Tensor, values: Tensor, bias: Tensor | None
) -> Tensor:
    """softmax(rms(q) kᵀ / √E + bias) v: queries (B, N, D), not yet normed; keys and values (B, A, L, E) -> (B, N, D).

    The norm is over the full width D = A·E, before the heads are split; bias (B, 1, 1, L) is added to the logits.
    """
    normed = rearrange(rms_norm(queries, q_weight, norm_eps), "b n (a e) -> b a n e", a=keys.shape[1])
    mixed = F.scaled_dot_product_attention(normed, keys, values, attn_mask=bias)
    return rearrange(mixed, "b a n e -> b n (a e)")
