"""Quantisation to e4m3 in the kernels that make the rows (Triton, inference only).

One kernel serves every place: a row is loaded, perhaps a gated branch is added and the sum stored as the stream,
perhaps it is normed and modulated, and then its largest magnitude is known without another pass, because the whole row
is in registers (see `ops.modulate.triton`, whose parts these are). Quantised rows are written at one byte a value, so
that folding it in saves memory traffic. What reaches e4m3 was not rounded to bf16 before.

Three products have no such kernel before them, and take the bare form, which reads bf16 and writes e4m3, predicted at
2.97 TB/s and 32,760 tokens: the two out projections (2240 wide, 0.074 ms each) and the point product of the Mix-FFN
(6720 wide, 0.222 ms). Its producer, the strip kernel, cannot write e4m3: a program owns 64 channels of many tokens, and
the scale of a token needs all 6720. The ways round it cost more than the pass. A second sweep of the strips repeats
all of their work (about 1 ms); scales for blocks of 64 or 128 channels leave the product's fast path, and 6720 is no
multiple of 128; a scale carried over from the step before would save 0.296 ms, but then a video depends on what was
sampled before it. The product gains some 0.6 ms by fp8, and the pass leaves two thirds of that.

The temporal convolution's own form reads u once (neighbours in time come from the cache) and writes three e4m3 copies
side by side, 0.123 ms. That turns three products that add to each other, which the fp8 product cannot, into one of
K = 6720: about 0.9 ms instead of 1.4.
"""

# ruff: noqa: RUF005 - Triton has no starred tuples
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, import-untyped, assignment"

from collections.abc import Sequence
from itertools import pairwise

import torch
import triton
import triton.language as tl
from torch import Tensor

from sana_video.ops.fp8.naive import LEAST
from sana_video.ops.modulate.triton import (
    Rows,
    groups_of,
    load_rows,
    modulated_rows,
    normed_rows,
    plus,
    rounded,
    scaled,
    store_rows,
    takes_width,
    times,
)

FORWARD = Rows(rows=1, chunk=256, warps=1)
WIDE = Rows(rows=1, chunk=1024, warps=4)  # rows that do not fit into the registers of one warp
FRAMES = Rows(rows=1, chunk=256, warps=2)
WIDEST = 8192


@triton.jit
def _larger(a, b):
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def _largest(chunks):
    """Largest magnitude of each row; NaN if any is."""
    most = tl.abs(chunks[0])
    for i in tl.static_range(1, len(chunks)):
        most = _larger(most, tl.abs(chunks[i]))
    return tl.reduce(most, 1, _larger)


@triton.jit
def _on_grid(chunks):
    """Rounded to what e4m3 can hold, in float32: Triton's interpreter does not carry when it casts, a GPU does."""
    out = ()
    for i in tl.static_range(len(chunks)):
        x = chunks[i]
        exponent = tl.maximum((x.to(tl.int32, bitcast=True) >> 23) & 255, 121)  # of 2⁻⁶, the least normal
        magic = ((exponent + 20) << 23).to(tl.float32, bitcast=True) * 1.5  # adding it leaves three binary places
        out = out + ((x + magic) - magic,)
    return out


@triton.jit
def _clamped(chunks, most: tl.constexpr):
    out = ()
    for i in tl.static_range(len(chunks)):
        out = out + (tl.clamp(chunks[i], -most, most, propagate_nan=tl.PropagateNan.ALL),)
    return out


@triton.jit
def _quantize(chunks, largest, CAST: tl.constexpr):
    """Values to be cast to e4m3; `naive.quantize` to the bit."""
    chunks = _clamped(scaled(chunks, tl.div_rn(tl.full(largest.shape, 448.0, tl.float32), largest)), 448.0)
    return chunks if CAST else _on_grid(chunks)


@triton.jit(do_not_specialize=["tokens"])
def _row_kernel(
    x_ptr,
    branch_ptr,
    gate_ptr,
    shift_ptr,
    scale_ptr,
    stream_ptr,
    values_ptr,
    row_scale_ptr,
    tokens,  # of a group
    gate_stride,
    shift_stride,
    scale_stride,
    eps,
    least,
    D: tl.constexpr,
    CHUNK: tl.constexpr,
    ROWS: tl.constexpr,
    BRANCH: tl.constexpr,
    GATE: tl.constexpr,
    NORM: tl.constexpr,
    CAST: tl.constexpr,
):
    group = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    row_ok = row < tokens
    at = (group * tokens + row) * D
    of_group = tl.zeros([ROWS], tl.int64)

    rows = load_rows(x_ptr, at, row_ok, D, CHUNK)
    if BRANCH:
        branch = load_rows(branch_ptr, at, row_ok, D, CHUNK)
        if GATE:
            branch = times(branch, load_rows(gate_ptr, of_group + group * gate_stride, row_ok, D, CHUNK))
        rows = rounded(plus(rows, branch), stream_ptr.dtype.element_ty)
        store_rows(stream_ptr, at, row_ok, rows, D, CHUNK)
    if NORM:
        scale = load_rows(scale_ptr, of_group + group * scale_stride, row_ok, D, CHUNK)
        shift = load_rows(shift_ptr, of_group + group * shift_stride, row_ok, D, CHUNK)
        normed, _ = normed_rows(rows, eps, D, CHUNK)
        rows = modulated_rows(normed, scale, shift)
    largest = _larger(_largest(rows), least)
    store_rows(values_ptr, at, row_ok, _quantize(rows, largest, CAST), D, CHUNK)
    tl.store(row_scale_ptr + group * tokens + row, largest * (1.0 / 448.0), mask=row_ok)


@triton.jit(do_not_specialize=["tokens", "frames", "low", "high"])
def _frames_kernel(
    u_ptr,
    last_ptr,
    values_ptr,
    row_scale_ptr,
    tokens,  # of a frame
    frames,
    low,  # first frame of the chunk
    high,  # after its last
    least,
    D: tl.constexpr,
    CHUNK: tl.constexpr,
    ROWS: tl.constexpr,
    LAST: tl.constexpr,
    CAST: tl.constexpr,
):
    t, sample = low + tl.program_id(1), tl.program_id(2).to(tl.int64)
    token = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    ok = token < tokens
    row = (sample * frames + t) * tokens + token
    here = load_rows(u_ptr, row * D, ok, D, CHUNK)
    before = load_rows(u_ptr, (row - tokens) * D, ok & (t > 0), D, CHUNK)
    if LAST:
        before = plus(before, load_rows(last_ptr, (sample * tokens + token) * D, ok & (t == 0), D, CHUNK))
    after = load_rows(u_ptr, (row + tokens) * D, ok & (t + 1 < high), D, CHUNK)
    largest = _larger(_larger(_largest(before), _largest(here)), _larger(_largest(after), least))
    store_rows(values_ptr, row * 3 * D, ok, _quantize(before, largest, CAST), D, CHUNK)
    store_rows(values_ptr, row * 3 * D + D, ok, _quantize(here, largest, CAST), D, CHUNK)
    store_rows(values_ptr, row * 3 * D + 2 * D, ok, _quantize(after, largest, CAST), D, CHUNK)
    tl.store(row_scale_ptr + row, largest * (1.0 / 448.0), mask=ok)


def fits(x: Tensor) -> bool:
    """Whether the bare kernel takes rows of x."""
    return x.shape[-1] % 16 == 0 and 32 <= x.shape[-1] <= WIDEST


def forward(
    x: Tensor,
    branch: Tensor | None,
    gate: Tensor | None,
    shift: Tensor | None,
    scale: Tensor | None,
    eps: float,
    cut: Rows = FORWARD,
) -> tuple[Tensor, Tensor, Tensor]:
    """The stream after `branch` (nothing without one), and its rows, modulated where there is a scale: values, scales.

    All but the modulation are contiguous.
    """
    D = x.shape[-1]
    anything = scale if scale is not None else gate
    groups, tokens, _ = groups_of(x, x.new_empty(1, D) if anything is None else anything)
    flat_gate, flat_shift, flat_scale = (None if m is None else groups_of(x, m)[2] for m in (gate, shift, scale))
    stream = x.new_empty(0) if branch is None else torch.empty_like(x)
    values = torch.empty_like(x, dtype=torch.float8_e4m3fn)
    row_scale = x.new_empty(*x.shape[:-1], 1, dtype=torch.float32)
    _row_kernel[(triton.cdiv(tokens, cut.rows), groups)](
        x,
        branch,
        flat_gate,
        flat_shift,
        flat_scale,
        stream,
        values,
        row_scale,
        tokens,
        0 if flat_gate is None else flat_gate.stride(0),
        0 if flat_shift is None else flat_shift.stride(0),
        0 if flat_scale is None else flat_scale.stride(0),
        eps,
        LEAST,
        D=D,
        CHUNK=cut.chunk,
        ROWS=cut.rows,
        BRANCH=branch is not None,
        GATE=gate is not None,
        NORM=scale is not None,
        CAST=x.is_cuda,
        num_warps=cut.warps,
        maxnreg=cut.registers,
    )
    return stream, values, row_scale


def frames_forward(
    u: Tensor, starts: Sequence[int], last_u: Tensor | None, cut: Rows = FRAMES
) -> tuple[Tensor, Tensor]:
    """`naive.three_frames` of contiguous u: values, scales."""
    B, T, S, D = u.shape
    values = u.new_empty(B, T, S, 3 * D, dtype=torch.float8_e4m3fn)
    row_scale = u.new_empty(B, T, S, 1, dtype=torch.float32)
    for low, high in pairwise((*starts, T)):
        _frames_kernel[(triton.cdiv(S, cut.rows), high - low, B)](
            u,
            last_u,
            values,
            row_scale,
            S,
            T,
            low,
            high,
            LEAST,
            D=D,
            CHUNK=cut.chunk,
            ROWS=cut.rows,
            LAST=last_u is not None,
            CAST=u.is_cuda,
            num_warps=cut.warps,
            maxnreg=cut.registers,
        )
    return values, row_scale


@torch.library.custom_op("sana_video::fp8_rows", mutates_args=())
def fp8_rows(
    x: Tensor, branch: Tensor | None, gate: Tensor | None, shift: Tensor | None, scale: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """`forward`, for tensors of any layout."""
    cut = FORWARD if takes_width(x.shape[-1]) else WIDE
    return forward(x.contiguous(), None if branch is None else branch.contiguous(), gate, shift, scale, eps, cut)


@fp8_rows.register_fake
def _(
    x: Tensor, branch: Tensor | None, gate: Tensor | None, shift: Tensor | None, scale: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    stream = x.new_empty(0 if branch is None else x.shape)
    values = x.new_empty(x.shape, dtype=torch.float8_e4m3fn)
    return stream, values, x.new_empty(*x.shape[:-1], 1, dtype=torch.float32)


@torch.library.custom_op("sana_video::fp8_three_frames", mutates_args=())
def fp8_three_frames(u: Tensor, starts: Sequence[int], last_u: Tensor | None) -> tuple[Tensor, Tensor]:
    """`frames_forward`, for tensors of any layout."""
    return frames_forward(u.contiguous(), starts, None if last_u is None else last_u.to(u.dtype).contiguous())


@fp8_three_frames.register_fake
def _(u: Tensor, starts: Sequence[int], last_u: Tensor | None) -> tuple[Tensor, Tensor]:
    values = u.new_empty(*u.shape[:-1], 3 * u.shape[-1], dtype=torch.float8_e4m3fn)
    return values, u.new_empty(*u.shape[:-1], 1, dtype=torch.float32)
