"""Norm of the queries and attention to a text in one pass (Triton, sampling only).

A text without its padding is short, some thirty to three hundred tokens, so that attention to it moves hardly any data
and computes little: the queries are what costs. Apart, the norm reads and writes them and attention reads them again;
here a program takes a few tokens over all heads, reads their rows once for the norm and finds them in its cache for the
products, and no normed query ever reaches memory. Softmax is kept running over tiles of the text. Training keeps the
library's attention, whose backward pass is as fast as the forward.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, import-untyped, assignment"

from dataclasses import dataclass
from math import sqrt

import torch
import triton
import triton.language as tl
from torch import Tensor

from sana_video.ops.linear_attention.kernels import operand, to_bf16

LOG2E = tl.constexpr(1.4426950408889634)


@dataclass(frozen=True)
class Cut:
    """How the kernel is cut: video tokens of a program, text tokens of a tile, warps, stages of the loop over heads."""

    tile: int
    keys: int
    warps: int
    stages: int = 2


SHORT = Cut(tile=64, keys=64, warps=8)


@triton.jit(do_not_specialize=["N", "L"])
def _forward_kernel(
    q_ptr, weight_ptr, key_ptr, value_ptr, bias_ptr, out_ptr, N, L,
    key_batch, key_head, key_row, value_batch, value_head, value_row, eps, to_log2,
    HEADS: tl.constexpr, HEAD: tl.constexpr, HEAD_PAD: tl.constexpr, TILE: tl.constexpr, KEYS: tl.constexpr,
    BIAS: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    batch = tl.program_id(1).to(tl.int64)
    n = tl.program_id(0) * TILE + tl.arange(0, TILE)
    e = tl.arange(0, HEAD_PAD)
    at = (batch * N + n)[:, None] * (HEADS * HEAD) + e[None, :]
    inside = (n < N)[:, None] & (e < HEAD)[None, :]

    squares = tl.zeros([TILE], tl.float32)
    for head in tl.range(HEADS, num_stages=STAGES):
        x = tl.load(q_ptr + at + head * HEAD, mask=inside, other=0.0).to(tl.float32)
        squares += tl.sum(x * x, 1)
    inverse = 1.0 / tl.sqrt_rn(squares / (HEADS * HEAD) + eps)

    for head in tl.range(HEADS, num_stages=STAGES):
        x = tl.load(q_ptr + at + head * HEAD, mask=inside, other=0.0).to(tl.float32)
        weight = tl.load(weight_ptr + head * HEAD + e, mask=e < HEAD, other=0.0).to(tl.float32)
        q = operand(to_bf16(x * inverse[:, None] * weight[None, :]))
        largest = tl.full([TILE], float("-inf"), tl.float32)
        total = tl.zeros([TILE], tl.float32)
        mixed = tl.zeros([TILE, HEAD_PAD], tl.float32)
        for low in range(0, L, KEYS):
            token = low + tl.arange(0, KEYS)
            here = (token < L)[:, None] & (e < HEAD)[None, :]
            k = tl.load(
                key_ptr + batch * key_batch + head * key_head + token[:, None] * key_row + e[None, :], here, 0.0
            )
            logits = tl.dot(q, tl.trans(operand(k))) * to_log2
            if BIAS:
                told = tl.load(bias_ptr + batch * L + token, mask=token < L, other=0.0).to(tl.float32)
                logits += told[None, :] * LOG2E
            logits = tl.where((token < L)[None, :], logits, float("-inf"))
            new = tl.maximum(largest, tl.max(logits, 1))
            shrink, share = tl.exp2(largest - new), tl.exp2(logits - new[:, None])
            v = tl.load(
                value_ptr + batch * value_batch + head * value_head + token[:, None] * value_row + e[None, :], here, 0.0
            )
            mixed = tl.dot(operand(to_bf16(share)), operand(v), mixed * shrink[:, None])
            total = total * shrink + tl.sum(share, 1)
            largest = new
        tl.store(out_ptr + at + head * HEAD, to_bf16(mixed / total[:, None]), mask=inside)


def fits(queries: Tensor, keys: Tensor, values: Tensor) -> bool:
    """Whether the kernel takes these: bf16, heads of whole 16 bytes up to 128 wide, channels side by side."""
    return (
        queries.dtype == keys.dtype == values.dtype == torch.bfloat16
        and keys.shape[-1] % 8 == 0
        and 16 <= keys.shape[-1] <= 128
        and keys.shape[2] > 0
        and keys.stride(-1) == values.stride(-1) == 1
    )


def forward(
    queries: Tensor, q_weight: Tensor, norm_eps: float, keys: Tensor, values: Tensor, bias: Tensor | None,
    cut: Cut = SHORT,
) -> Tensor:  # fmt: skip
    """`naive.normed_cross_attention` of contiguous queries."""
    (B, N, _), (_, heads, L, E) = queries.shape, keys.shape
    out = torch.empty_like(queries)
    _forward_kernel[(triton.cdiv(N, cut.tile), B)](
        queries, q_weight, keys, values, None if bias is None else bias.expand(B, 1, 1, L).contiguous(), out, N, L,
        *keys.stride()[:3], *values.stride()[:3], norm_eps, LOG2E.value / sqrt(E),
        HEADS=heads, HEAD=E, HEAD_PAD=max(16, triton.next_power_of_2(E)), TILE=cut.tile, KEYS=cut.keys,
        BIAS=bias is not None, STAGES=cut.stages, num_warps=cut.warps,
    )  # fmt: skip
    return out


@torch.library.custom_op("sana_video::normed_cross_attention", mutates_args=())
def normed_cross_attention(
    queries: Tensor, q_weight: Tensor, norm_eps: float, keys: Tensor, values: Tensor, bias: Tensor | None
) -> Tensor:
    """`forward`, for queries of any layout; it has no gradients."""
    return forward(queries.contiguous(), q_weight, norm_eps, keys, values, bias)


@normed_cross_attention.register_fake
def _(queries: Tensor, q_weight: Tensor, norm_eps: float, keys: Tensor, values: Tensor, bias: Tensor | None) -> Tensor:
    return queries.new_empty(queries.shape)
