"""The definition of SANA-Video's self-attention core, in plain torch (arXiv 2509.24695; no kernel, no shortcut).

For queries i of chunk c, with φ = ReLU and R the rotation:

    S_c = S_{c-1} + Σ_{j in c} v_j (R φ(k_j))ᵀ        z_c = z_{c-1} + Σ_{j in c} φ(k_j)
    o_i = S_c R φ(q_i) / (z_cᵀ φ(q_i) + ε)

The denominator uses the features before rotation: rotated ones may be negative and their sum may vanish, while a sum of
products of ReLUs never falls below zero. One chunk is attention both ways; a state handed in continues a longer video.
Sums run over tens of thousands of tokens, so they are kept in float32 at least, under autocast too.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor

from sana_video.ops.modulate.naive import rms_norm
from sana_video.rope import Rotary, rotate


class LinearState(NamedTuple):
    """What attention remembers of all tokens so far; its size does not depend on their number."""

    sum_kv: Tensor  # S: (B, A, E, E) float32, values by rotated key features
    sum_k: Tensor  # z: (B, A, E) float32


def linear_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rotary: Rotary,
    *,
    eps: float,
    starts: Sequence[int] = (0,),
    state: LinearState | None = None,
) -> tuple[Tensor, LinearState]:
    """Attend from each token to its chunk, to the chunks before it and to `state`.

    q, k, v: (B, N, A, E) after the norms, before the ReLU; rotary: tables (N, E/2); starts: first token of each chunk,
    rising from 0; state: sums over the tokens before these. Returns (B, N, A, E) in v's dtype, and the state after
    all N tokens.
    """
    if tuple(starts)[:1] != (0,) or any(low >= high for low, high in pairwise((*starts, q.shape[1]))):
        raise ValueError(f"chunk starts {list(starts)} must rise from 0 and stay below {q.shape[1]} tokens")
    with torch.autocast(q.device.type, enabled=False):
        wide = torch.promote_types(q.dtype, torch.float32)
        q, k, values = q.to(wide).relu(), k.to(wide).relu(), v.to(wide)
        q_turned, k_turned = rotate(q, rotary), rotate(k, rotary)
        sum_kv, sum_k = state or _empty_state(k)
        outputs = []
        for low, high in pairwise((*starts, q.shape[1])):
            sum_kv = sum_kv + torch.einsum("bnae,bnaf->baef", values[:, low:high], k_turned[:, low:high])
            sum_k = sum_k + k[:, low:high].sum(dim=1)
            numerator = torch.einsum("baef,bnaf->bnae", sum_kv, q_turned[:, low:high])
            denominator = torch.einsum("bae,bnae->bna", sum_k, q[:, low:high]) + eps
            outputs.append(numerator / denominator.unsqueeze(-1))
        return torch.cat(outputs, dim=1).to(v.dtype), LinearState(sum_kv, sum_k)


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
    """All that stands between the qkv projection and the output projection of self-attention.

    qkv: (B, N, 3D), queries, keys and values side by side; q_weight, k_weight: (D,) of the RMSNorms, which see the full
    width before the heads are split; the rest as for `linear_attention`. Returns (B, N, D) in qkv's dtype, and the
    state.
    """
    q, k, v = qkv.chunk(3, dim=-1)
    q, k = rms_norm(q, q_weight, norm_eps), rms_norm(k, k_weight, norm_eps)
    q, k, v = (rearrange(x, "b n (a e) -> b n a e", a=heads) for x in (q, k, v))
    out, after = linear_attention(q, k, v, rotary, eps=eps, starts=starts, state=state)
    return rearrange(out, "b n a e -> b n (a e)"), after


def _empty_state(k: Tensor) -> LinearState:
    B, _, A, E = k.shape
    return LinearState(k.new_zeros(B, A, E, E), k.new_zeros(B, A, E))
