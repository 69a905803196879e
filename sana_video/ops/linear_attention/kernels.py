"""The forward kernels of linear attention, and the sum over partial states that both directions use.

All read the merged qkv (B, N, 3D) where it lies. Two adjacent bf16 channels are one int32, so that a rotary pair is
unpacked by a shift and a mask instead of a shuffle. Inside, features stand as [even | odd]: each half is padded from
HALF to HALF_PAD, values from HEAD to HEAD_PAD (powers of two; 112 = 2 x 56 -> 128). Angles are
float16 pairs in one int32.

A program takes one head and every STRIDE-th tile of tokens of one chunk: (low, high, first tile, stride, chunk) in
`parts`. All programs then walk the video together, and rows, tables and DRAM pages are shared while they are in cache.
"""

# Triton's language is typed by its compiler, not by mypy.
# mypy: ignore-errors

import triton
import triton.language as tl

# Triton's interpreter, which tests use on the CPU, truncates where the GPU rounds, and cannot multiply bf16
INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)


@triton.jit
def to_bf16(x):
    """Round float32 to the nearest bf16, ties to even."""
    if INTERPRETED:
        bits = x.to(tl.int32, bitcast=True)
        x = ((bits + 0x7FFF + ((bits >> 16) & 1)) & -65536).to(tl.float32, bitcast=True)
    return x.to(tl.bfloat16)


@triton.jit
def operand(x):
    """A bf16 tensor as tl.dot takes it."""
    if INTERPRETED:
        x = x.to(tl.float32)
    return x


@triton.jit
def unpack(pairs):
    """int32 -> the two bf16 it holds, as float32; exact, since bf16 is the high half of a float32."""
    return (pairs << 16).to(tl.float32, bitcast=True), (pairs & -65536).to(tl.float32, bitcast=True)


@triton.jit
def pack(even, odd):
    """Two float32 -> int32 holding both as bf16."""
    low = to_bf16(even).to(tl.int16, bitcast=True).to(tl.int32) & 0xFFFF
    return low | (to_bf16(odd).to(tl.int16, bitcast=True).to(tl.int32) << 16)


@triton.jit
def angles(packed):
    """int32 -> (cos, sin) float32 from its two float16."""
    cos = (packed & 0xFFFF).to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32)
    return cos, (packed >> 16).to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32)


@triton.jit
def rotate(even, odd, cos, sin):
    return even * cos - odd * sin, even * sin + odd * cos


@triton.jit
def fold(x, ROWS: tl.constexpr, TILE: tl.constexpr, HALF_PAD: tl.constexpr):
    """Add a tile's rows up to ROWS sums; with as many as the warps hold side by side, no thread waits for another."""
    return tl.sum(tl.reshape(x, (TILE // ROWS, ROWS, HALF_PAD)), 0)


@triton.jit
def fold_mma(x, TILE: tl.constexpr, HALF_PAD: tl.constexpr):
    """The like for what a matrix product left in registers, where a thread holds rows r and r + 8 of each 16."""
    return tl.sum(tl.reshape(x, (TILE // 16, 2, 8, HALF_PAD)), 1)


@triton.jit
def part_of(parts, part):
    at = parts + part * 5
    return tl.load(at), tl.load(at + 1), tl.load(at + 2), tl.load(at + 3), tl.load(at + 4)


@triton.jit
def load_halves(base, HEAD: tl.constexpr, HALF_PAD: tl.constexpr):
    """Even and odd entries of a head's vector at `base`, float32, zero in the padding."""
    i = tl.arange(0, HALF_PAD)
    even = tl.load(base + 2 * i, mask=2 * i < HEAD, other=0.0)
    return even.to(tl.float32), tl.load(base + 2 * i + 1, mask=2 * i < HEAD, other=0.0).to(tl.float32)


@triton.jit
def store_halves(base, even, odd, HEAD: tl.constexpr, HALF_PAD: tl.constexpr):
    i = tl.arange(0, HALF_PAD)
    tl.store(base + 2 * i, even, mask=2 * i < HEAD)
    tl.store(base + 2 * i + 1, odd, mask=2 * i < HEAD)


@triton.jit
def load_matrix(base, HALF_PAD: tl.constexpr, HEAD_PAD: tl.constexpr):
    """The even and odd features (HEAD_PAD, HALF_PAD) of a padded state: values by features."""
    at = tl.arange(0, HEAD_PAD)[:, None] * HALF_PAD + tl.arange(0, HALF_PAD)[None, :]
    return operand(tl.load(base + at)), operand(tl.load(base + HALF_PAD * HEAD_PAD + at))


@triton.jit
def store_matrix(base, even, odd, HALF_PAD: tl.constexpr, HEAD_PAD: tl.constexpr):
    at = tl.arange(0, HEAD_PAD)[:, None] * HALF_PAD + tl.arange(0, HALF_PAD)[None, :]
    tl.store(base + at, even)
    tl.store(base + HALF_PAD * HEAD_PAD + at, odd)


@triton.jit(do_not_specialize=["rows"])
def key_norm_kernel(
    qkv_pairs, inverse, rows, eps, WIDTH: tl.constexpr, WIDE: tl.constexpr, REST: tl.constexpr, TILE: tl.constexpr
):
    """inverse[n] = 1 / rms of key row n over the full width. Grid: tiles of rows.

    A row of WIDTH int32 is read as WIDE (a power of two) and the rest padded to REST: 1120 = 1024 + 96, not 2048. The
    last rows go first, so that what stays in cache is what the next kernel reads first.
    """
    row = (tl.num_programs(0) - 1 - tl.program_id(0)).to(tl.int64) * TILE + tl.arange(0, TILE)
    at = qkv_pairs + row[:, None] * (3 * WIDTH) + WIDTH
    column, rest = tl.arange(0, WIDE)[None, :], WIDE + tl.arange(0, REST)[None, :]
    inside = row[:, None] < rows
    even, odd = unpack(tl.load(at + column, mask=inside, other=0))
    more_even, more_odd = unpack(tl.load(at + rest, mask=inside & (rest < WIDTH), other=0))
    squares = tl.sum(even * even + odd * odd, 1) + tl.sum(more_even * more_even + more_odd * more_odd, 1)
    tl.store(inverse + row, tl.rsqrt(squares / (2 * WIDTH) + eps), mask=row < rows)


@triton.jit(do_not_specialize=["N"])
def state_kernel(
    qkv, qkv_pairs, k_weight, table, inverse, parts, partial_kv, partial_k, N,
    HEADS: tl.constexpr, HEAD: tl.constexpr, HALF_PAD: tl.constexpr, HEAD_PAD: tl.constexpr, TILE: tl.constexpr,
    STAGES: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """One part's sums of Rφ(k) vᵀ and of φ(k). Grid: (heads, parts, batch)."""
    head, part, batch = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    low, high, first, stride, _ = part_of(parts, part)
    HALF: tl.constexpr = HEAD // 2
    D: tl.constexpr = HEADS * HEAD
    i, e = tl.arange(0, HALF_PAD)[None, :], tl.arange(0, HEAD_PAD)[None, :]
    keys = qkv_pairs + batch * N * (3 * D // 2) + (D // 2 + head * HALF) + i
    values = qkv + batch * N * (3 * D) + 2 * D + head * HEAD + e
    w_even, w_odd = load_halves(k_weight + head * HEAD, HEAD, HALF_PAD)
    kv_even = tl.zeros((HEAD_PAD, HALF_PAD), tl.float32)
    kv_odd = tl.zeros((HEAD_PAD, HALF_PAD), tl.float32)
    k_even = tl.zeros((ROWS, HALF_PAD), tl.float32)
    k_odd = tl.zeros((ROWS, HALF_PAD), tl.float32)
    for start in tl.range(low + first * TILE, high, stride * TILE, num_stages=STAGES):
        n = start + tl.arange(0, TILE)
        inside = n[:, None] < high
        raw_even, raw_odd = unpack(tl.load(keys + n[:, None] * (3 * D // 2), mask=inside & (i < HALF), other=0))
        v = operand(tl.load(values + n[:, None] * (3 * D), mask=inside & (e < HEAD), other=0.0))
        scale = tl.load(inverse + batch * N + n, mask=n < high, other=0.0)[:, None]
        cos, sin = angles(tl.load(table + n[:, None] * HALF + i, mask=inside & (i < HALF), other=0))
        even = tl.maximum(raw_even * w_even[None, :], 0.0) * scale
        odd = tl.maximum(raw_odd * w_odd[None, :], 0.0) * scale
        k_even += fold(even, ROWS, TILE, HALF_PAD)
        k_odd += fold(odd, ROWS, TILE, HALF_PAD)
        turned_even, turned_odd = rotate(even, odd, cos, sin)
        kv_even = tl.dot(tl.trans(v), operand(to_bf16(turned_even)), kv_even)
        kv_odd = tl.dot(tl.trans(v), operand(to_bf16(turned_odd)), kv_odd)
    at = (batch * HEADS + head) * tl.num_programs(1) + part
    store_matrix(partial_kv + at * (2 * HALF_PAD * HEAD_PAD), kv_even, kv_odd, HALF_PAD, HEAD_PAD)
    store_halves(partial_k + at * HEAD, tl.sum(k_even, 0), tl.sum(k_odd, 0), HEAD, HALF_PAD)


@triton.jit(do_not_specialize=["PARTS", "CHUNKS"])
def reduce_kernel(
    partial_kv, partial_k, first_part, start_kv, start_k, chunk_kv, chunk_k, end_kv, end_k, PARTS, CHUNKS,
    GIVEN: tl.constexpr, REVERSE: tl.constexpr, HEAD: tl.constexpr, HALF_PAD: tl.constexpr, HEAD_PAD: tl.constexpr,
    ROWS: tl.constexpr,
):  # fmt: skip
    """Running sums of partial states over chunks, in a fixed order.

    From `start` (zero unless GIVEN) on, stores the sum after each chunk, padded and in bf16 for the kernels, and the
    last sum in the natural order of channels, float32. REVERSE goes from the last chunk to the first: for gradients.
    Grid: (2 HEAD_PAD / ROWS, batch x heads); ROWS divides HEAD_PAD.
    """
    block, head = tl.program_id(0), tl.program_id(1).to(tl.int64)
    row = block * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, HALF_PAD)
    e, feature = row % HEAD_PAD, 2 * column + block * ROWS // HEAD_PAD
    padded = row[:, None] * HALF_PAD + column[None, :]
    natural = head * (HEAD * HEAD) + e[:, None] * HEAD + feature[None, :]
    kept = feature < HEAD
    both_kept = (e < HEAD)[:, None] & kept[None, :]
    kv = tl.zeros((ROWS, HALF_PAD), tl.float32)
    k = tl.zeros((HALF_PAD,), tl.float32)
    if GIVEN:
        kv += tl.load(start_kv + natural, mask=both_kept, other=0.0)
        k += tl.load(start_k + head * HEAD + feature, mask=kept, other=0.0)
    for step in range(CHUNKS):
        chunk = CHUNKS - 1 - step if REVERSE else step
        for part in range(tl.load(first_part + chunk), tl.load(first_part + chunk + 1)):
            at = head * PARTS + part
            kv += tl.load(partial_kv + at * (2 * HALF_PAD * HEAD_PAD) + padded)
            k += tl.load(partial_k + at * HEAD + feature, mask=kept, other=0.0)
        at = head * CHUNKS + chunk
        tl.store(chunk_kv + at * (2 * HALF_PAD * HEAD_PAD) + padded, to_bf16(kv))
        tl.store(chunk_k + at * HEAD + feature, k, mask=kept)
    tl.store(end_kv + natural, kv, mask=both_kept)
    tl.store(end_k + head * HEAD + feature, k, mask=kept)


@triton.jit(do_not_specialize=["N", "CHUNKS"])
def apply_kernel(
    qkv_pairs, q_weight, table, parts, chunk_kv, chunk_k, out, N, CHUNKS, eps,
    HEADS: tl.constexpr, HEAD: tl.constexpr, HALF_PAD: tl.constexpr, HEAD_PAD: tl.constexpr, TILE: tl.constexpr,
    STAGES: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """out = S Rφ(q) / (z·φ(q) + eps) for one part's tokens. Grid: (heads, parts, batch)."""
    head, part, batch = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    low, high, first, stride, chunk = part_of(parts, part)
    HALF: tl.constexpr = HEAD // 2
    D: tl.constexpr = HEADS * HEAD
    i, e = tl.arange(0, HALF_PAD)[None, :], tl.arange(0, HEAD_PAD)[None, :]
    queries = qkv_pairs + batch * N * (3 * D // 2) + head * HALF + i
    outputs = out + batch * N * D + head * HEAD + e
    at = (batch * HEADS + head) * CHUNKS + chunk
    kv_even, kv_odd = load_matrix(chunk_kv + at * (2 * HALF_PAD * HEAD_PAD), HALF_PAD, HEAD_PAD)
    k_even, k_odd = load_halves(chunk_k + at * HEAD, HEAD, HALF_PAD)
    w_even, w_odd = load_halves(q_weight + head * HEAD, HEAD, HALF_PAD)
    for start in tl.range(low + first * TILE, high, stride * TILE, num_stages=STAGES):
        n = start + tl.arange(0, TILE)
        inside = n[:, None] < high
        raw_even, raw_odd = unpack(tl.load(queries + n[:, None] * (3 * D // 2), mask=inside & (i < HALF), other=0))
        cos, sin = angles(tl.load(table + n[:, None] * HALF + i, mask=inside & (i < HALF), other=0))
        even, odd = tl.maximum(raw_even * w_even[None, :], 0.0), tl.maximum(raw_odd * w_odd[None, :], 0.0)
        denominator = tl.sum(even * k_even[None, :] + odd * k_odd[None, :], 1) + eps
        turned_even, turned_odd = rotate(even, odd, cos, sin)
        mixed = tl.dot(kv_even, tl.trans(operand(to_bf16(turned_even))))
        mixed = tl.dot(kv_odd, tl.trans(operand(to_bf16(turned_odd))), mixed)
        mixed = to_bf16(tl.trans(mixed) * (1.0 / denominator)[:, None])
        tl.store(outputs + n[:, None] * D, mixed, mask=inside & (e < HEAD))
