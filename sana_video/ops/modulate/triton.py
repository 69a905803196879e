"""Residual, gate, LayerNorm and modulation of the stream in one pass over memory, forward and backward (Triton).

One pair of kernels serves `modulate`, `gated_add` and both at once; what is absent costs nothing. A program takes a few
rows of one group (the tokens that share a shift, scale and gate) and keeps them in registers from the load to the
store. A row is cut into chunks as wide as the warps that share it read at once: a width such as 2240 is not padded to
4096, chunks are added up before threads are, and with one warp to a row no thread waits for another warp. Gradients of
shift, scale and gate are summed per program, and then over programs in a fixed order: the same bits on every run.
"""

# ruff: noqa: RUF005 - Triton has no starred tuples
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, import-untyped, assignment"

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor


@dataclass(frozen=True)
class Rows:
    """How a kernel is cut: rows at a time, columns of a chunk, warps, and tiles that a program takes in turn."""

    rows: int
    chunk: int
    warps: int
    tiles: int = 1
    registers: int | None = None  # most per thread


# Each the fastest of the sweep on an H100 (benchmarks/modulate.py).
FORWARD = Rows(rows=1, chunk=256, warps=1)
FORWARD_ALONE = Rows(rows=1, chunk=512, warps=4)  # norm and modulation of a stream that nothing is added to
PROGRAMS = 528  # four for each of an H100's multiprocessors: fewer tokens are not given to fewer programs
BACKWARD = Rows(rows=1, chunk=512, warps=4, tiles=64)
BACKWARD_ALONE = Rows(rows=1, chunk=512, warps=4, tiles=32)


@triton.jit
def load_rows(ptr, at, row_ok, D: tl.constexpr, CHUNK: tl.constexpr):
    """The rows at offsets `at` as a tuple of float32 [rows, CHUNK]; zeros beyond D."""
    columns = tl.arange(0, CHUNK)[None, :]
    chunks = ()
    for low in tl.static_range(0, D, CHUNK):
        ok = row_ok[:, None] & (low + columns < D) if low + CHUNK > D else row_ok[:, None] & (columns >= 0)
        chunks = chunks + (tl.load(ptr + at[:, None] + low + columns, mask=ok, other=0.0).to(tl.float32),)
    return chunks


@triton.jit
def store_rows(ptr, at, row_ok, chunks, D: tl.constexpr, CHUNK: tl.constexpr):
    columns = tl.arange(0, CHUNK)[None, :]
    for i in tl.static_range(len(chunks)):
        ok = row_ok[:, None] & (i * CHUNK + columns < D)
        tl.store(ptr + at[:, None] + i * CHUNK + columns, chunks[i].to(ptr.dtype.element_ty), mask=ok)


@triton.jit
def zeros(ROWS: tl.constexpr, D: tl.constexpr, CHUNK: tl.constexpr):
    chunks = ()
    for _ in tl.static_range(0, D, CHUNK):
        chunks = chunks + (tl.zeros([ROWS, CHUNK], tl.float32),)
    return chunks


@triton.jit
def plus(a, b):
    chunks = ()
    for i in tl.static_range(len(a)):
        chunks = chunks + (a[i] + b[i],)
    return chunks


@triton.jit
def times(a, b):
    chunks = ()
    for i in tl.static_range(len(a)):
        chunks = chunks + (a[i] * b[i],)
    return chunks


@triton.jit
def scaled(a, by):
    """Rows times one number each."""
    chunks = ()
    for i in tl.static_range(len(a)):
        chunks = chunks + (a[i] * by[:, None],)
    return chunks


@triton.jit
def row_mean(a, D: tl.constexpr):
    total = a[0]
    for i in tl.static_range(1, len(a)):
        total += a[i]
    return tl.sum(total, 1) / D


@triton.jit
def store_sums(ptr, chunks, D: tl.constexpr, CHUNK: tl.constexpr):
    """Sums over the rows."""
    columns = tl.arange(0, CHUNK)
    for i in tl.static_range(len(chunks)):
        tl.store(ptr + i * CHUNK + columns, tl.sum(chunks[i], 0), mask=i * CHUNK + columns < D)


@triton.jit
def modulated_rows(a, scale, shift):
    chunks = ()
    for i in tl.static_range(len(a)):
        chunks = chunks + (a[i] * (1.0 + scale[i]) + shift[i],)
    return chunks


@triton.jit
def rounded(a, dtype: tl.constexpr):
    chunks = ()
    for i in tl.static_range(len(a)):
        chunks = chunks + (a[i].to(dtype).to(tl.float32),)
    return chunks


@triton.jit
def normed_rows(a, eps, D: tl.constexpr, CHUNK: tl.constexpr):
    """LayerNorm of rows, and 1/σ; what lies beyond D stays zero."""
    mean = row_mean(a, D)
    columns = tl.arange(0, CHUNK)[None, :]
    centred = ()
    for i in tl.static_range(len(a)):
        kept = a[i] - mean[:, None]
        if (i + 1) * CHUNK > D:
            kept = tl.where(i * CHUNK + columns < D, kept, 0.0)
        centred = centred + (kept,)
    inverse = 1.0 / tl.sqrt_rn(row_mean(times(centred, centred), D) + eps)
    return scaled(centred, inverse), inverse


@triton.jit
def _through_norm(dy, normed, inverse, D: tl.constexpr):
    """Gradient of what was normed, from the gradient of the normed rows."""
    mean, along = row_mean(dy, D), row_mean(times(dy, normed), D)
    chunks = ()
    for i in tl.static_range(len(dy)):
        chunks = chunks + ((dy[i] - mean[:, None] - normed[i] * along[:, None]) * inverse[:, None],)
    return chunks


@triton.jit(do_not_specialize=["tokens"])
def _forward_kernel(
    x_ptr,
    branch_ptr,
    skip_ptr,
    gate_ptr,
    shift_ptr,
    scale_ptr,
    stream_ptr,
    y_ptr,
    tokens,  # of a group
    gate_stride,
    shift_stride,
    scale_stride,
    eps,
    D: tl.constexpr,
    CHUNK: tl.constexpr,
    ROWS: tl.constexpr,
    BRANCH: tl.constexpr,
    SKIP: tl.constexpr,
    GATE: tl.constexpr,
    COPY: tl.constexpr,
    NORM: tl.constexpr,
):
    group = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    row_ok = row < tokens
    at = (group * tokens + row) * D
    of_group = tl.zeros([ROWS], tl.int64)  # every row reads its group's modulation itself: one layout, no exchange

    rows = load_rows(x_ptr, at, row_ok, D, CHUNK)
    if BRANCH:
        branch = load_rows(branch_ptr, at, row_ok, D, CHUNK)
        if SKIP:
            branch = plus(branch, load_rows(skip_ptr, at, row_ok, D, CHUNK))
        if GATE:
            branch = times(branch, load_rows(gate_ptr, of_group + group * gate_stride, row_ok, D, CHUNK))
        rows = rounded(plus(rows, branch), stream_ptr.dtype.element_ty)
        store_rows(stream_ptr, at, row_ok, rows, D, CHUNK)
        if COPY:
            store_rows(y_ptr, at, row_ok, rows, D, CHUNK)
    if NORM:
        scale = load_rows(scale_ptr, of_group + group * scale_stride, row_ok, D, CHUNK)
        shift = load_rows(shift_ptr, of_group + group * shift_stride, row_ok, D, CHUNK)
        normed, _ = normed_rows(rows, eps, D, CHUNK)
        store_rows(y_ptr, at, row_ok, modulated_rows(normed, scale, shift), D, CHUNK)


@triton.jit(do_not_specialize=["tokens"])
def _backward_kernel(
    stream_ptr,  # what was normed
    dy_ptr,  # gradient of the modulated rows
    d_stream_ptr,  # gradient of the stream from elsewhere
    branch_ptr,
    skip_ptr,
    gate_ptr,
    scale_ptr,
    dx_ptr,
    d_branch_ptr,
    partial_ptr,  # (groups, programs, 3, D) float32: shift, scale, gate
    tokens,
    gate_stride,
    scale_stride,
    eps,
    D: tl.constexpr,
    CHUNK: tl.constexpr,
    ROWS: tl.constexpr,
    TILES: tl.constexpr,
    STREAM: tl.constexpr,
    SKIP: tl.constexpr,
    GATE: tl.constexpr,
    NORM: tl.constexpr,
):
    group = tl.program_id(1).to(tl.int64)
    of_group = tl.zeros([ROWS], tl.int64)
    d_shift, d_scale = zeros(ROWS, D, CHUNK), zeros(ROWS, D, CHUNK)
    d_gate = zeros(ROWS, D, CHUNK)
    for tile in range(TILES):
        row = (tl.program_id(0) * TILES + tile) * ROWS + tl.arange(0, ROWS)
        row_ok = row < tokens
        at = (group * tokens + row) * D
        if NORM:
            rows = load_rows(stream_ptr, at, row_ok, D, CHUNK)
            dy = load_rows(dy_ptr, at, row_ok, D, CHUNK)
            scale = load_rows(scale_ptr, of_group + group * scale_stride, row_ok, D, CHUNK)
            normed, inverse = normed_rows(rows, eps, D, CHUNK)
            d_shift, d_scale = plus(d_shift, dy), plus(d_scale, times(dy, normed))
            dx = _through_norm(plus(dy, times(dy, scale)), normed, inverse, D)
            if STREAM:
                dx = plus(dx, load_rows(d_stream_ptr, at, row_ok, D, CHUNK))
            store_rows(dx_ptr, at, row_ok, dx, D, CHUNK)
        else:
            dx = load_rows(d_stream_ptr, at, row_ok, D, CHUNK)
        if GATE:
            branch = load_rows(branch_ptr, at, row_ok, D, CHUNK)
            if SKIP:
                branch = plus(branch, load_rows(skip_ptr, at, row_ok, D, CHUNK))
            d_gate = plus(d_gate, times(dx, branch))
            gate = load_rows(gate_ptr, of_group + group * gate_stride, row_ok, D, CHUNK)
            store_rows(d_branch_ptr, at, row_ok, times(dx, gate), D, CHUNK)

    partial_ptr += (group * tl.num_programs(0) + tl.program_id(0)) * 3 * D
    if NORM:
        store_sums(partial_ptr, d_shift, D, CHUNK)
        store_sums(partial_ptr + D, d_scale, D, CHUNK)
    if GATE:
        store_sums(partial_ptr + 2 * D, d_gate, D, CHUNK)


def fits(x: Tensor, *others: Tensor | None) -> bool:
    """Whether the kernels take a stream x (B, T, S, D) and its likes: of one shape, of a width that fits."""
    given = [other for other in others if other is not None]
    return (
        takes_width(x.shape[-1]) and x.shape[0] * x.shape[1] <= 65535 and all(other.shape == x.shape for other in given)
    )


def takes_width(D: int) -> bool:
    """Rows of 16-byte pieces that fit into the registers of a few warps."""
    return D % 16 == 0 and 32 <= D <= 4096


def tiles_of(cut: Rows, tokens: int) -> int:
    """Tiles that a program takes in turn, so that `tokens` fill the card; a power of two, to compile few kernels."""
    wanted: int = triton.next_power_of_2(triton.cdiv(tokens, cut.rows * PROGRAMS))
    return min(cut.tiles, wanted)


def groups_of(x: Tensor, modulation: Tensor) -> tuple[int, int, Tensor]:
    """Groups of tokens that share a modulation, tokens of a group, and the modulation as (groups, D)."""
    flat = modulation.reshape(-1, x.shape[-1])
    flat = flat if flat.stride(-1) == 1 else flat.contiguous()
    return flat.shape[0], x.shape[:-1].numel() // flat.shape[0], flat


def forward(
    x: Tensor,
    branch: Tensor | None,
    skip: Tensor | None,
    gate: Tensor | None,
    shift: Tensor | None,
    scale: Tensor | None,
    eps: float,
    cut: Rows | None = None,
    *,
    copy: bool = False,
) -> tuple[Tensor, Tensor]:
    """The stream after `branch`, and its modulation, or a `copy` in the dtype of branch; x stands in for the absent."""
    cut = cut or (FORWARD if branch is not None else FORWARD_ALONE)
    anything = scale if scale is not None else gate
    if anything is None:
        anything = x.new_empty(1, x.shape[-1])
    groups, tokens, _ = groups_of(x, anything)
    flat_gate, flat_shift, flat_scale = (None if m is None else groups_of(x, m)[2] for m in (gate, shift, scale))
    stream = x if branch is None else torch.empty_like(x)
    asked = branch if copy else shift
    y = x if asked is None else torch.empty_like(x, dtype=asked.dtype)
    _forward_kernel[(triton.cdiv(tokens, cut.rows), groups)](
        x,
        branch,
        skip,
        flat_gate,
        flat_shift,
        flat_scale,
        stream,
        y,
        tokens,
        0 if flat_gate is None else flat_gate.stride(0),
        0 if flat_shift is None else flat_shift.stride(0),
        0 if flat_scale is None else flat_scale.stride(0),
        eps,
        D=x.shape[-1],
        CHUNK=cut.chunk,
        ROWS=cut.rows,
        BRANCH=branch is not None,
        SKIP=skip is not None,
        GATE=gate is not None,
        COPY=copy,
        NORM=scale is not None,
        num_warps=cut.warps,
        maxnreg=cut.registers,
    )
    return stream, y


def backward(
    stream: Tensor,
    dy: Tensor | None,
    d_stream: Tensor | None,
    branch: Tensor | None,
    skip: Tensor | None,
    gate: Tensor | None,
    scale: Tensor | None,
    eps: float,
    cut: Rows | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, of the branch (where there is a gate) and of shift, scale, gate (groups, 3, D) in float32."""
    cut = cut or (BACKWARD if gate is not None else BACKWARD_ALONE)
    anything = scale if scale is not None else gate
    assert anything is not None
    groups, tokens, _ = groups_of(stream, anything)
    flat_gate, flat_scale = (None if m is None else groups_of(stream, m)[2] for m in (gate, scale))
    tiles = tiles_of(cut, groups * tokens)
    programs = triton.cdiv(tokens, cut.rows * tiles)
    dx = torch.empty_like(stream) if dy is not None else stream.new_empty(0)
    d_branch = torch.empty_like(branch) if gate is not None and branch is not None else stream.new_empty(0)
    partial = stream.new_empty(groups, programs, 3, stream.shape[-1], dtype=torch.float32)
    _backward_kernel[(programs, groups)](
        stream,
        dy,
        d_stream,
        branch,
        skip,
        flat_gate,
        flat_scale,
        dx,
        d_branch,
        partial,
        tokens,
        0 if flat_gate is None else flat_gate.stride(0),
        0 if flat_scale is None else flat_scale.stride(0),
        eps,
        D=stream.shape[-1],
        CHUNK=cut.chunk,
        ROWS=cut.rows,
        TILES=tiles,
        STREAM=d_stream is not None,
        SKIP=skip is not None,
        GATE=gate is not None,
        NORM=dy is not None,
        num_warps=cut.warps,
        maxnreg=cut.registers,
    )
    return dx, d_branch, partial.sum(1)


def _rows_in_order(*tensors: Tensor | None) -> Any:
    """Each contiguous: the stream starts as a transposed view, and sums would hand that layout on."""
    return tuple(None if t is None else t.contiguous() for t in tensors)


@torch.library.custom_op("sana_video::modulate", mutates_args=())
def modulate(x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
    """`naive.modulate` by kernels, for x that `fits`."""
    return forward(x.contiguous(), None, None, None, shift, scale, eps)[1]


@torch.library.custom_op("sana_video::gated_add", mutates_args=())
def gated_add(x: Tensor, branch: Tensor, gate: Tensor | None, skip: Tensor | None) -> Tensor:
    """`naive.gated_add` by kernels."""
    x, branch, skip = _rows_in_order(x, branch, skip)
    return forward(x, branch, skip, gate, None, None, 0.0)[0]


@torch.library.custom_op("sana_video::gated_add_both", mutates_args=())
def gated_add_both(x: Tensor, branch: Tensor, gate: Tensor | None) -> tuple[Tensor, Tensor]:
    """`naive.gated_add_both` by kernels, for x of another dtype than branch."""
    x, branch = _rows_in_order(x, branch)
    return forward(x, branch, None, gate, None, None, 0.0, copy=True)


@torch.library.custom_op("sana_video::gated_add_modulate", mutates_args=())
def gated_add_modulate(
    x: Tensor,
    branch: Tensor,
    gate: Tensor | None,
    shift: Tensor,
    scale: Tensor,
    eps: float,
    skip: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """`naive.gated_add_modulate` by kernels."""
    x, branch, skip = _rows_in_order(x, branch, skip)
    return forward(x, branch, skip, gate, shift, scale, eps)


@torch.library.custom_op("sana_video::modulate_backward", mutates_args=())
def modulate_backward(
    stream: Tensor,
    dy: Tensor | None,
    d_stream: Tensor | None,
    branch: Tensor | None,
    skip: Tensor | None,
    gate: Tensor | None,
    scale: Tensor | None,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """`backward`, for tensors of any layout."""
    stream, dy, d_stream, branch, skip = _rows_in_order(stream, dy, d_stream, branch, skip)
    return backward(stream, dy, d_stream, branch, skip, gate, scale, eps)


@modulate.register_fake
def _(x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
    return shift.new_empty(x.shape)


@gated_add.register_fake
def _(x: Tensor, branch: Tensor, gate: Tensor | None, skip: Tensor | None) -> Tensor:
    return x.new_empty(x.shape)


@gated_add_modulate.register_fake
def _(
    x: Tensor,
    branch: Tensor,
    gate: Tensor | None,
    shift: Tensor,
    scale: Tensor,
    eps: float,
    skip: Tensor | None,
) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), shift.new_empty(x.shape)


@gated_add_both.register_fake
def _(x: Tensor, branch: Tensor, gate: Tensor | None) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), branch.new_empty(x.shape)


@modulate_backward.register_fake
def _(
    stream: Tensor,
    dy: Tensor | None,
    d_stream: Tensor | None,
    branch: Tensor | None,
    skip: Tensor | None,
    gate: Tensor | None,
    scale: Tensor | None,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    dx = stream.new_empty(stream.shape) if dy is not None else stream.new_empty(0)
    d_branch = branch.new_empty(branch.shape) if gate is not None and branch is not None else stream.new_empty(0)
    modulation = scale if scale is not None else gate
    assert modulation is not None
    groups = modulation.shape[:-1].numel()
    return dx, d_branch, stream.new_empty(groups, 3, stream.shape[-1], dtype=torch.float32)


def _like(sums: Tensor, modulation: Tensor | None) -> Tensor | None:
    return None if modulation is None else sums.reshape(modulation.shape).to(modulation.dtype)


def _keep_modulate(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, _, scale, ctx.eps = inputs
    ctx.save_for_backward(x, scale)


def _differentiate_modulate(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    x, scale = ctx.saved_tensors
    dx, _, sums = modulate_backward(x, dy, None, None, None, None, scale, ctx.eps)
    return dx, _like(sums[:, 0], scale), _like(sums[:, 1], scale), None


def _keep_gated_add(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, branch, gate, skip = inputs
    ctx.has_skip = skip is not None
    ctx.save_for_backward(*((branch, gate, skip) if gate is not None else (None, None, None)))


def _differentiate_gated_add(ctx: Any, d_stream: Tensor) -> tuple[Tensor | None, ...]:
    branch, gate, skip = ctx.saved_tensors
    if gate is None:
        return d_stream, d_stream, None, d_stream if ctx.has_skip else None
    _, d_branch, sums = modulate_backward(branch, None, d_stream, branch, skip, gate, None, 0.0)
    return d_stream, d_branch, _like(sums[:, 2], gate), d_branch if ctx.has_skip else None


def _keep_pair(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    _keep_gated_add(ctx, (*inputs, None), output[0])


def _differentiate_pair(ctx: Any, d_stream: Tensor, d_copy: Tensor) -> tuple[Tensor | None, ...]:
    return _differentiate_gated_add(ctx, d_stream + d_copy)[:3]


def _keep_both(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    _, branch, gate, _, scale, ctx.eps, skip = inputs
    ctx.has_skip = skip is not None
    ctx.save_for_backward(output[0], scale, *((branch, gate, skip) if gate is not None else (None, None, None)))


def _differentiate_both(ctx: Any, d_stream: Tensor, dy: Tensor) -> tuple[Tensor | None, ...]:
    stream, scale, branch, gate, skip = ctx.saved_tensors
    dx, d_branch, sums = modulate_backward(stream, dy, d_stream, branch, skip, gate, scale, ctx.eps)
    d_branch = dx if gate is None else d_branch
    d_gate = _like(sums[:, 2], gate)
    d_shift, d_scale = _like(sums[:, 0], scale), _like(sums[:, 1], scale)
    return dx, d_branch, d_gate, d_shift, d_scale, None, d_branch if ctx.has_skip else None


modulate.register_autograd(_differentiate_modulate, setup_context=_keep_modulate)
gated_add.register_autograd(_differentiate_gated_add, setup_context=_keep_gated_add)
gated_add_both.register_autograd(_differentiate_pair, setup_context=_keep_pair)
gated_add_modulate.register_autograd(_differentiate_both, setup_context=_keep_both)
