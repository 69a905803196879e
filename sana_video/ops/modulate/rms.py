"""RMSNorm over a full row in one pass over memory, forward and backward (Triton); built like `triton.py` beside it."""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, import-untyped, assignment"

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from sana_video.ops.modulate.triton import (
    BACKWARD,
    FORWARD,
    Rows,
    load_rows,
    plus,
    row_mean,
    scaled,
    store_rows,
    store_sums,
    tiles_of,
    times,
    zeros,
)


@triton.jit(do_not_specialize=["tokens"])
def _forward_kernel(
    x_ptr, weight_ptr, y_ptr, tokens, eps, D: tl.constexpr, CHUNK: tl.constexpr, ROWS: tl.constexpr
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    row_ok, at = row < tokens, row * D
    rows = load_rows(x_ptr, at, row_ok, D, CHUNK)
    weight = load_rows(weight_ptr, tl.zeros([ROWS], tl.int64), row_ok, D, CHUNK)
    inverse = 1.0 / tl.sqrt_rn(row_mean(times(rows, rows), D) + eps)
    store_rows(y_ptr, at, row_ok, times(scaled(rows, inverse), weight), D, CHUNK)


@triton.jit(do_not_specialize=["tokens"])
def _backward_kernel(
    x_ptr, weight_ptr, dy_ptr, dx_ptr, partial_ptr, tokens, eps,
    D: tl.constexpr, CHUNK: tl.constexpr, ROWS: tl.constexpr, TILES: tl.constexpr,
):  # fmt: skip
    d_weight = zeros(ROWS, D, CHUNK)
    for tile in range(TILES):
        row = (tl.program_id(0).to(tl.int64) * TILES + tile) * ROWS + tl.arange(0, ROWS)
        row_ok, at = row < tokens, row * D
        rows = load_rows(x_ptr, at, row_ok, D, CHUNK)
        dy = load_rows(dy_ptr, at, row_ok, D, CHUNK)
        weight = load_rows(weight_ptr, tl.zeros([ROWS], tl.int64), row_ok, D, CHUNK)
        inverse = 1.0 / tl.sqrt_rn(row_mean(times(rows, rows), D) + eps)
        normed = scaled(rows, inverse)
        d_weight = plus(d_weight, times(dy, normed))
        dy = times(dy, weight)
        along = row_mean(times(dy, normed), D)
        dx = scaled(plus(dy, scaled(normed, -along)), inverse)
        store_rows(dx_ptr, at, row_ok, dx, D, CHUNK)
    store_sums(partial_ptr + tl.program_id(0) * D, d_weight, D, CHUNK)


def forward(x: Tensor, weight: Tensor, eps: float, cut: Rows = FORWARD) -> Tensor:
    """`naive.rms_norm` of contiguous rows."""
    D, y = x.shape[-1], torch.empty_like(x)
    tokens = x.numel() // D
    _forward_kernel[(triton.cdiv(tokens, cut.rows),)](
        x, weight, y, tokens, eps, D=D, CHUNK=cut.chunk, ROWS=cut.rows, num_warps=cut.warps, maxnreg=cut.registers
    )
    return y


def backward(dy: Tensor, x: Tensor, weight: Tensor, eps: float, cut: Rows = BACKWARD) -> tuple[Tensor, Tensor]:
    """Gradients of x and of weight."""
    D, dx = x.shape[-1], torch.empty_like(x)
    tokens = x.numel() // D
    tiles = tiles_of(cut, tokens)
    programs = triton.cdiv(tokens, cut.rows * tiles)
    partial = x.new_empty(programs, D, dtype=torch.float32)
    _backward_kernel[(programs,)](
        x, weight, dy, dx, partial, tokens, eps,
        D=D, CHUNK=cut.chunk, ROWS=cut.rows, TILES=tiles, num_warps=cut.warps, maxnreg=cut.registers,
    )  # fmt: skip
    return dx, partial.sum(0).to(weight.dtype)


@torch.library.custom_op("sana_video::rms_norm", mutates_args=())
def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """`naive.rms_norm` by kernels, for widths that `triton.fits` takes."""
    return forward(x.contiguous(), weight, eps)


@torch.library.custom_op("sana_video::rms_norm_backward", mutates_args=())
def rms_norm_backward(dy: Tensor, x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Gradients of x and of weight."""
    return backward(dy.contiguous(), x.contiguous(), weight, eps)


@rms_norm.register_fake
def _(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x.new_empty(x.shape)


@rms_norm_backward.register_fake
def _(dy: Tensor, x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), torch.empty_like(weight)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, ctx.eps = inputs
    ctx.save_for_backward(x, weight)


def _differentiate(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor, None]:
    dx, d_weight = rms_norm_backward(dy, *ctx.saved_tensors, ctx.eps)
    return dx, d_weight, None


rms_norm.register_autograd(_differentiate, setup_context=_keep)
