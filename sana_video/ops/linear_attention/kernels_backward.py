"""The backward kernels of linear attention; conventions as in `kernels`.

With G the gradient that reaches a chunk's sum S from its own tokens and all later ones, and g that of z:

    queries:  dnum = do / den,  dden = -(do·o) / den,  dφ(q) = Rᵀ Sᵀ dnum + z dden,  G += dnum (Rφ(q))ᵀ,  g += dden φ(q)
    values:   dv = G Rφ(k)
    keys:     dφ(k) = Rᵀ Gᵀ v + g,  then through ReLU and RMSNorm

The norm of a key takes Σ dφ(k)·φ(k) over all heads; a head's share is dv·v + g·φ(k), so the values' kernel yields it
before the keys' kernel needs it, and each tensor is read and written once per kernel. The norm of a query has no such
term: o does not change with the query's scale.
"""

# mypy: ignore-errors

import triton
import triton.language as tl

from sana_video.ops.linear_attention.kernels import (
    angles,
    fold,
    fold_mma,
    load_halves,
    load_matrix,
    operand,
    pack,
    part_of,
    rotate,
    store_halves,
    store_matrix,
    to_bf16,
    unpack,
)


@triton.jit(do_not_specialize=["N", "CHUNKS"])
def query_backward_kernel(
    qkv_pairs, q_weight, table, parts, chunk_kv, chunk_k, out, grad_out, grad_pairs,
    partial_kv, partial_k, partial_weight, N, CHUNKS, eps,
    HEADS: tl.constexpr, HEAD: tl.constexpr, HALF_PAD: tl.constexpr, HEAD_PAD: tl.constexpr, TILE: tl.constexpr,
    STAGES: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Gradient of the queries; one part's sums for S, z and the norm's weight. Grid: (heads, parts, batch)."""
    head, part, batch = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    low, high, first, stride, chunk = part_of(parts, part)
    HALF: tl.constexpr = HEAD // 2
    D: tl.constexpr = HEADS * HEAD
    i, e = tl.arange(0, HALF_PAD)[None, :], tl.arange(0, HEAD_PAD)[None, :]
    queries = batch * N * (3 * D // 2) + head * HALF + i
    outputs = batch * N * D + head * HEAD + e
    at = (batch * HEADS + head) * CHUNKS + chunk
    kv_even, kv_odd = load_matrix(chunk_kv + at * (2 * HALF_PAD * HEAD_PAD), HALF_PAD, HEAD_PAD)
    k_even, k_odd = load_halves(chunk_k + at * HEAD, HEAD, HALF_PAD)
    w_even, w_odd = load_halves(q_weight + head * HEAD, HEAD, HALF_PAD)
    sum_even = tl.zeros((HEAD_PAD, HALF_PAD), tl.float32)
    sum_odd = tl.zeros((HEAD_PAD, HALF_PAD), tl.float32)
    dk_even = tl.zeros((ROWS, HALF_PAD), tl.float32)
    dk_odd = tl.zeros((ROWS, HALF_PAD), tl.float32)
    dw_even = tl.zeros((TILE // 16, 8, HALF_PAD), tl.float32)
    dw_odd = tl.zeros((TILE // 16, 8, HALF_PAD), tl.float32)
    for start in tl.range(low + first * TILE, high, stride * TILE, num_stages=STAGES):
        n = start + tl.arange(0, TILE)
        inside = n[:, None] < high
        q_rows = queries + n[:, None] * (3 * D // 2)
        o_rows = outputs + n[:, None] * D
        raw_even, raw_odd = unpack(tl.load(qkv_pairs + q_rows, mask=inside & (i < HALF), other=0))
        cos, sin = angles(tl.load(table + n[:, None] * HALF + i, mask=inside & (i < HALF), other=0))
        do = operand(tl.load(grad_out + o_rows, mask=inside & (e < HEAD), other=0.0))
        o = tl.load(out + o_rows, mask=inside & (e < HEAD), other=0.0).to(tl.float32)

        even, odd = tl.maximum(raw_even * w_even[None, :], 0.0), tl.maximum(raw_odd * w_odd[None, :], 0.0)
        inverse = 1.0 / (tl.sum(even * k_even[None, :] + odd * k_odd[None, :], 1) + eps)
        dden = -tl.sum(do.to(tl.float32) * o, 1) * inverse
        turned_even, turned_odd = rotate(even, odd, cos * inverse[:, None], sin * inverse[:, None])
        sum_even = tl.dot(tl.trans(do), operand(to_bf16(turned_even)), sum_even)
        sum_odd = tl.dot(tl.trans(do), operand(to_bf16(turned_odd)), sum_odd)
        dk_even += fold(even * dden[:, None], ROWS, TILE, HALF_PAD)
        dk_odd += fold(odd * dden[:, None], ROWS, TILE, HALF_PAD)

        d_even, d_odd = rotate(tl.dot(do, kv_even), tl.dot(do, kv_odd), cos, -sin)
        d_even = tl.where(even > 0, d_even * inverse[:, None] + k_even[None, :] * dden[:, None], 0.0)
        d_odd = tl.where(odd > 0, d_odd * inverse[:, None] + k_odd[None, :] * dden[:, None], 0.0)
        dw_even += fold_mma(d_even * raw_even, TILE, HALF_PAD)
        dw_odd += fold_mma(d_odd * raw_odd, TILE, HALF_PAD)
        gradient = pack(d_even * w_even[None, :], d_odd * w_odd[None, :])
        tl.store(grad_pairs + q_rows, gradient, mask=inside & (i < HALF))
    dw_even, dw_odd = tl.sum(dw_even, 0), tl.sum(dw_odd, 0)
    at = (batch * HEADS + head) * tl.num_programs(1) + part
    store_matrix(partial_kv + at * (2 * HALF_PAD * HEAD_PAD), sum_even, sum_odd, HALF_PAD, HEAD_PAD)
    store_halves(partial_k + at * HEAD, tl.sum(dk_even, 0), tl.sum(dk_odd, 0), HEAD, HALF_PAD)
    store_halves(partial_weight + at * HEAD, tl.sum(dw_even, 0), tl.sum(dw_odd, 0), HEAD, HALF_PAD)


@triton.jit(do_not_specialize=["N", "CHUNKS"])
def value_backward_kernel(
    qkv, qkv_pairs, k_weight, table, inverse, parts, chunk_kv, chunk_k, grad_qkv, share, N, CHUNKS,
    HEADS: tl.constexpr, HEAD: tl.constexpr, HALF_PAD: tl.constexpr, HEAD_PAD: tl.constexpr, TILE: tl.constexpr,
    STAGES: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Gradient of the values, and each head's share (B, A, N) of what the keys' norm takes.

    Grid: (heads, parts, batch).
    """
    head, part, batch = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    low, high, first, stride, chunk = part_of(parts, part)
    HALF: tl.constexpr = HEAD // 2
    D: tl.constexpr = HEADS * HEAD
    i, e = tl.arange(0, HALF_PAD)[None, :], tl.arange(0, HEAD_PAD)[None, :]
    keys = qkv_pairs + batch * N * (3 * D // 2) + (D // 2 + head * HALF) + i
    values = batch * N * (3 * D) + 2 * D + head * HEAD + e
    at = (batch * HEADS + head) * CHUNKS + chunk
    kv_even, kv_odd = load_matrix(chunk_kv + at * (2 * HALF_PAD * HEAD_PAD), HALF_PAD, HEAD_PAD)
    k_even, k_odd = load_halves(chunk_k + at * HEAD, HEAD, HALF_PAD)
    w_even, w_odd = load_halves(k_weight + head * HEAD, HEAD, HALF_PAD)
    for start in tl.range(low + first * TILE, high, stride * TILE, num_stages=STAGES):
        n = start + tl.arange(0, TILE)
        inside = n[:, None] < high
        raw_even, raw_odd = unpack(tl.load(keys + n[:, None] * (3 * D // 2), mask=inside & (i < HALF), other=0))
        v = tl.load(qkv + values + n[:, None] * (3 * D), mask=inside & (e < HEAD), other=0.0).to(tl.float32)
        scale = tl.load(inverse + batch * N + n, mask=n < high, other=0.0)[:, None]
        cos, sin = angles(tl.load(table + n[:, None] * HALF + i, mask=inside & (i < HALF), other=0))
        even = tl.maximum(raw_even * w_even[None, :], 0.0) * scale
        odd = tl.maximum(raw_odd * w_odd[None, :], 0.0) * scale
        turned_even, turned_odd = rotate(even, odd, cos, sin)
        dv = tl.dot(kv_even, tl.trans(operand(to_bf16(turned_even))))
        dv = tl.trans(tl.dot(kv_odd, tl.trans(operand(to_bf16(turned_odd))), dv))
        mine = tl.sum(dv * v, 1) + tl.sum(even * k_even[None, :] + odd * k_odd[None, :], 1)
        tl.store(share + (batch * HEADS + head) * N + n, mine, mask=n < high)
        tl.store(grad_qkv + values + n[:, None] * (3 * D), to_bf16(dv), mask=inside & (e < HEAD))


@triton.jit(do_not_specialize=["N", "CHUNKS"])
def key_backward_kernel(
    qkv, qkv_pairs, k_weight, table, inverse, shares, parts, chunk_kv, chunk_k, grad_pairs, partial_weight, N, CHUNKS,
    HEADS: tl.constexpr, HEAD: tl.constexpr, HALF_PAD: tl.constexpr, HEAD_PAD: tl.constexpr, TILE: tl.constexpr,
    STAGES: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Gradient of the keys, and one part's sum for the norm's weight; `shares` (B, N) over all heads.

    Grid: (heads, parts, batch).
    """
    head, part, batch = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    low, high, first, stride, chunk = part_of(parts, part)
    HALF: tl.constexpr = HEAD // 2
    D: tl.constexpr = HEADS * HEAD
    i, e = tl.arange(0, HALF_PAD)[None, :], tl.arange(0, HEAD_PAD)[None, :]
    keys = batch * N * (3 * D // 2) + (D // 2 + head * HALF) + i
    values = qkv + batch * N * (3 * D) + 2 * D + head * HEAD + e
    at = (batch * HEADS + head) * CHUNKS + chunk
    kv_even, kv_odd = load_matrix(chunk_kv + at * (2 * HALF_PAD * HEAD_PAD), HALF_PAD, HEAD_PAD)
    k_even, k_odd = load_halves(chunk_k + at * HEAD, HEAD, HALF_PAD)
    w_even, w_odd = load_halves(k_weight + head * HEAD, HEAD, HALF_PAD)
    dw_even = tl.zeros((TILE // 16, 8, HALF_PAD), tl.float32)
    dw_odd = tl.zeros((TILE // 16, 8, HALF_PAD), tl.float32)
    for start in tl.range(low + first * TILE, high, stride * TILE, num_stages=STAGES):
        n = start + tl.arange(0, TILE)
        inside = n[:, None] < high
        k_rows = keys + n[:, None] * (3 * D // 2)
        raw_even, raw_odd = unpack(tl.load(qkv_pairs + k_rows, mask=inside & (i < HALF), other=0))
        v = operand(tl.load(values + n[:, None] * (3 * D), mask=inside & (e < HEAD), other=0.0))
        scale = tl.load(inverse + batch * N + n, mask=n < high, other=0.0)[:, None]
        drift = tl.load(shares + batch * N + n, mask=n < high, other=0.0)[:, None] * scale * scale / D
        cos, sin = angles(tl.load(table + n[:, None] * HALF + i, mask=inside & (i < HALF), other=0))
        d_even, d_odd = rotate(tl.dot(v, kv_even), tl.dot(v, kv_odd), cos, -sin)
        d_even = tl.where(raw_even * w_even[None, :] > 0, d_even + k_even[None, :], 0.0) * scale
        d_odd = tl.where(raw_odd * w_odd[None, :] > 0, d_odd + k_odd[None, :], 0.0) * scale
        dw_even += fold_mma(d_even * raw_even, TILE, HALF_PAD)
        dw_odd += fold_mma(d_odd * raw_odd, TILE, HALF_PAD)
        gradient = pack(d_even * w_even[None, :] - raw_even * drift, d_odd * w_odd[None, :] - raw_odd * drift)
        tl.store(grad_pairs + k_rows, gradient, mask=inside & (i < HALF))
    dw_even, dw_odd = tl.sum(dw_even, 0), tl.sum(dw_odd, 0)
    at = (batch * HEADS + head) * tl.num_programs(1) + part
    store_halves(partial_weight + at * HEAD, tl.sum(dw_even, 0), tl.sum(dw_odd, 0), HEAD, HALF_PAD)
