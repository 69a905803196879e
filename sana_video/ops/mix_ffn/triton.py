"""SiLU, depthwise 3×3, bias and GLU in one pass over memory, forward; two passes backward (Triton, channels-last).

The plain form moves some 13 times the hidden stream through memory; the least is one read of 2M and one write of M
channels. A program owns a block of channels and a strip of `rows` lines, and slides over the other spatial axis. Each
element is loaded and goes through SiLU once per strip (twice where strips touch): exponentials would otherwise be the
limit. An input line adds to three output lines, so two lines of running sums are all that is carried; lines of the
strip are separate values (tuples, unrolled), which keeps every neighbour in the registers of the thread that needs it.

Backward keeps nothing but the input. Pass one recomputes the convolution and leaves its gradient, and each program's
share of the weights' gradient, summed in a fixed order afterwards; pass two is the transposed convolution, times SiLU'.
"""

# ruff: noqa: RUF005 - Triton has no starred tuples
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, import-untyped, assignment, unreachable"

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor


@dataclass(frozen=True)
class Strip:
    """How a kernel is cut: lines of a strip, channels of a block, warps, and the axis that strips slide along."""

    rows: int
    channels: int
    warps: int = 1
    along: str = "w"
    sigmoid: str = "exp"  # "exp": exponential and reciprocal; "tanh": one special-function operation, error 2.5e-4
    registers: int | None = None  # most per thread, where the compiler's own choice lets too few warps live


# The fastest of the sweep on an H100 with the exact sigmoid (0.609 ms a layer, 0.532 with "tanh", floor 0.444).
FORWARD = Strip(rows=4, channels=64, along="h", registers=128)
GRADIENT = Strip(rows=3, channels=64)
TRANSPOSED = Strip(rows=5, channels=64)


@triton.jit
def _sigmoid(x, SIGMOID: tl.constexpr):
    if SIGMOID == "tanh":
        half = tl.inline_asm_elementwise("tanh.approx.f32 $0, $1;", "=f,f", [x * 0.5], tl.float32, True, 1)
        return half * 0.5 + 0.5
    if SIGMOID == "exp":
        return tl.inline_asm_elementwise(
            """{ .reg .f32 t;
            mul.ftz.f32 t, $1, 0fBFB8AA3B;
            ex2.approx.ftz.f32 t, t;
            add.ftz.f32 t, t, 0f3F800000;
            rcp.approx.ftz.f32 $0, t; }""",
            "=f,f",
            [x],
            tl.float32,
            True,
            1,
        )
    return 1.0 / (1.0 + tl.exp2(x * -1.4426950408889634))


@triton.jit
def _silu(x, SIGMOID: tl.constexpr):
    if SIGMOID == "tanh":
        half = x * 0.5
        return half + half * tl.inline_asm_elementwise("tanh.approx.f32 $0, $1;", "=f,f", [half], tl.float32, True, 1)
    return x * _sigmoid(x, SIGMOID)


@triton.jit
def _load_line(ptr, low, limit, stride, mask, COUNT: tl.constexpr):
    """COUNT neighbours from position `low` of the strip's axis; zeros outside [0, limit)."""
    line = ()
    for i in tl.static_range(COUNT):
        at = low + i
        line = line + (tl.load(ptr + at * stride, mask=mask & (at >= 0) & (at < limit), other=0.0),)
    return line


@triton.jit
def _silu_line(line, COUNT: tl.constexpr, SIGMOID: tl.constexpr):
    out = ()
    for i in tl.static_range(COUNT):
        out = out + (_silu(line[i].to(tl.float32), SIGMOID),)
    return out


@triton.jit
def _wide_line(line, COUNT: tl.constexpr):
    out = ()
    for i in tl.static_range(COUNT):
        out = out + (line[i].to(tl.float32),)
    return out


@triton.jit
def _filled(value, COUNT: tl.constexpr):
    out = ()
    for _ in tl.static_range(COUNT):
        out = out + (value,)
    return out


@triton.jit
def _add_taps(sums, line, taps, COUNT: tl.constexpr):
    """sums[r] + Σ_k taps[k]·line[r + k]."""
    out = ()
    for r in tl.static_range(COUNT):
        out = out + (sums[r] + taps[0] * line[r] + taps[1] * line[r + 1] + taps[2] * line[r + 2],)
    return out


@triton.jit
def _load_taps(ptr, j, mask, width, SLIDE_TAP: tl.constexpr, CROSS_TAP: tl.constexpr):
    """The three taps across the strip at position j along the slide, from weights laid out (9, channels)."""
    ptr += j * SLIDE_TAP * width
    return (
        tl.load(ptr, mask=mask, other=0.0).to(tl.float32),
        tl.load(ptr + CROSS_TAP * width, mask=mask, other=0.0).to(tl.float32),
        tl.load(ptr + 2 * CROSS_TAP * width, mask=mask, other=0.0).to(tl.float32),
    )


@triton.jit
def _store_line(ptr, line, first, limit, stride, mask, ROWS: tl.constexpr):
    for r in tl.static_range(ROWS):
        at = first + r
        tl.store(ptr + at * stride, line[r].to(ptr.dtype.element_ty), mask=mask & (at < limit))


@triton.jit
def _gated(value, gate, ROWS: tl.constexpr, SIGMOID: tl.constexpr):
    line = ()
    for r in tl.static_range(ROWS):
        line = line + (value[r] * _silu(gate[r], SIGMOID),)
    return line


@triton.jit(do_not_specialize=["slide", "cross", "pixels"])
def _forward_kernel(
    x_ptr,
    weight_ptr,
    bias_ptr,
    y_ptr,
    slide,  # positions along the slide
    cross,  # positions across it
    pixels,  # slide · cross
    slide_pixels,  # step of the slide in pixels
    cross_pixels,
    M,
    CHANNELS: tl.constexpr,
    ROWS: tl.constexpr,
    SLIDE_TAP: tl.constexpr,
    CROSS_TAP: tl.constexpr,
    SIGMOID: tl.constexpr,
):
    ch = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    first = tl.program_id(1) * ROWS
    frame = tl.program_id(2).to(tl.int64)
    mask = ch < M
    value_ptr = x_ptr + frame * pixels * 2 * M + ch
    gate_ptr = value_ptr + M
    y_ptr += frame * pixels * M + ch

    bias_value = tl.load(bias_ptr + ch, mask=mask, other=0.0).to(tl.float32)
    bias_gate = tl.load(bias_ptr + M + ch, mask=mask, other=0.0).to(tl.float32)
    v0 = _load_taps(weight_ptr + ch, 0, mask, 2 * M, SLIDE_TAP, CROSS_TAP)
    v1 = _load_taps(weight_ptr + ch, 1, mask, 2 * M, SLIDE_TAP, CROSS_TAP)
    v2 = _load_taps(weight_ptr + ch, 2, mask, 2 * M, SLIDE_TAP, CROSS_TAP)
    g0 = _load_taps(weight_ptr + M + ch, 0, mask, 2 * M, SLIDE_TAP, CROSS_TAP)
    g1 = _load_taps(weight_ptr + M + ch, 1, mask, 2 * M, SLIDE_TAP, CROSS_TAP)
    g2 = _load_taps(weight_ptr + M + ch, 2, mask, 2 * M, SLIDE_TAP, CROSS_TAP)

    biases_value, biases_gate = _filled(bias_value, ROWS), _filled(bias_gate, ROWS)
    value = _load_line(value_ptr, first - 1, cross, cross_pixels * 2 * M, mask, ROWS + 2)
    gate = _load_line(gate_ptr, first - 1, cross, cross_pixels * 2 * M, mask, ROWS + 2)
    step = slide_pixels * 2 * M
    value_ptr += tl.where(slide > 1, step, 0)
    gate_ptr += tl.where(slide > 1, step, 0)
    next_value = _load_line(value_ptr, first - 1, cross, cross_pixels * 2 * M, mask, ROWS + 2)
    next_gate = _load_line(gate_ptr, first - 1, cross, cross_pixels * 2 * M, mask, ROWS + 2)
    value = _silu_line(value, ROWS + 2, SIGMOID)
    gate = _silu_line(gate, ROWS + 2, SIGMOID)
    ending_value, started_value = _add_taps(biases_value, value, v1, ROWS), _add_taps(biases_value, value, v0, ROWS)
    ending_gate, started_gate = _add_taps(biases_gate, gate, g1, ROWS), _add_taps(biases_gate, gate, g0, ROWS)
    for p in range(1, slide):
        value, gate = next_value, next_gate
        further = tl.where(p + 1 < slide, step, 0)  # the last line is loaded twice: no mask inside the loop
        value_ptr += further
        gate_ptr += further
        next_value = _load_line(value_ptr, first - 1, cross, cross_pixels * 2 * M, mask, ROWS + 2)
        next_gate = _load_line(gate_ptr, first - 1, cross, cross_pixels * 2 * M, mask, ROWS + 2)

        value = _silu_line(value, ROWS + 2, SIGMOID)
        gate = _silu_line(gate, ROWS + 2, SIGMOID)
        done_value = _add_taps(ending_value, value, v2, ROWS)
        done_gate = _add_taps(ending_gate, gate, g2, ROWS)
        y = _gated(done_value, done_gate, ROWS, SIGMOID)
        _store_line(y_ptr, y, first, cross, cross_pixels * M, mask, ROWS)
        y_ptr += slide_pixels * M
        ending_value = _add_taps(started_value, value, v1, ROWS)
        ending_gate = _add_taps(started_gate, gate, g1, ROWS)
        started_value = _add_taps(biases_value, value, v0, ROWS)
        started_gate = _add_taps(biases_gate, gate, g0, ROWS)
    y = _gated(ending_value, ending_gate, ROWS, SIGMOID)
    _store_line(y_ptr, y, first, cross, cross_pixels * M, mask, ROWS)


@triton.jit
def _add_products(sums, gradient, line, ROWS: tl.constexpr):
    """sums[k] + Σ_r gradient[r]·line[r + k], the share of the three taps across the strip."""
    a, b, c = sums
    for r in tl.static_range(ROWS):
        a += gradient[r] * line[r]
        b += gradient[r] * line[r + 1]
        c += gradient[r] * line[r + 2]
    return (a, b, c)


@triton.jit
def _add_line(total, line, ROWS: tl.constexpr):
    for r in tl.static_range(ROWS):
        total += line[r]
    return total


@triton.jit
def _through_gate(value, gate, dy, ROWS: tl.constexpr, SIGMOID: tl.constexpr):
    """Gradients of value and gate from that of value · SiLU(gate)."""
    d_value, d_gate = (), ()
    for r in tl.static_range(ROWS):
        share = dy[r].to(tl.float32)
        open_ = _sigmoid(gate[r], SIGMOID)
        d_value = d_value + (share * gate[r] * open_,)
        d_gate = d_gate + (share * value[r] * open_ * (1.0 + gate[r] * (1.0 - open_)),)
    return d_value, d_gate


@triton.jit
def _store_taps(ptr, sums, j, mask, width, SLIDE_TAP: tl.constexpr, CROSS_TAP: tl.constexpr):
    ptr += j * SLIDE_TAP * width
    for k in tl.static_range(3):
        tl.store(ptr + k * CROSS_TAP * width, sums[k], mask=mask)


@triton.jit(do_not_specialize=["slide", "cross", "pixels"])
def _gradient_kernel(
    x_ptr,
    weight_ptr,
    bias_ptr,
    dy_ptr,
    dc_ptr,  # gradient of the convolution's output, like x
    partial_ptr,  # (programs, 10, 2M) float32: nine taps, then the bias
    slide,
    cross,
    pixels,
    slide_pixels,
    cross_pixels,
    M,
    CHANNELS: tl.constexpr,
    ROWS: tl.constexpr,
    SLIDE_TAP: tl.constexpr,
    CROSS_TAP: tl.constexpr,
    SIGMOID: tl.constexpr,
):
    ch = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    first = tl.program_id(1) * ROWS
    frame = tl.program_id(2).to(tl.int64)
    mask = ch < M
    value_ptr = x_ptr + frame * pixels * 2 * M + ch
    gate_ptr = value_ptr + M
    dc_ptr += frame * pixels * 2 * M + ch
    dy_ptr += frame * pixels * M + ch
    partial_ptr += (frame * tl.num_programs(1) + tl.program_id(1)) * 20 * M + ch

    bias_value = tl.load(bias_ptr + ch, mask=mask, other=0.0).to(tl.float32)
    bias_gate = tl.load(bias_ptr + M + ch, mask=mask, other=0.0).to(tl.float32)
    v0 = _load_taps(weight_ptr + ch, 0, mask, 2 * M, SLIDE_TAP, CROSS_TAP)
    v1 = _load_taps(weight_ptr + ch, 1, mask, 2 * M, SLIDE_TAP, CROSS_TAP)
    v2 = _load_taps(weight_ptr + ch, 2, mask, 2 * M, SLIDE_TAP, CROSS_TAP)
    g0 = _load_taps(weight_ptr + M + ch, 0, mask, 2 * M, SLIDE_TAP, CROSS_TAP)
    g1 = _load_taps(weight_ptr + M + ch, 1, mask, 2 * M, SLIDE_TAP, CROSS_TAP)
    g2 = _load_taps(weight_ptr + M + ch, 2, mask, 2 * M, SLIDE_TAP, CROSS_TAP)

    zero = tl.zeros([CHANNELS], tl.float32)
    dv0, dv1, dv2 = (zero, zero, zero), (zero, zero, zero), (zero, zero, zero)
    dg0, dg1, dg2 = (zero, zero, zero), (zero, zero, zero), (zero, zero, zero)
    d_bias_value, d_bias_gate = zero, zero

    before_value, before_gate = _filled(zero, ROWS + 2), _filled(zero, ROWS + 2)
    stride, step = cross_pixels * 2 * M, slide_pixels * 2 * M
    here_value = _silu_line(_load_line(value_ptr, first - 1, cross, stride, mask, ROWS + 2), ROWS + 2, SIGMOID)
    here_gate = _silu_line(_load_line(gate_ptr, first - 1, cross, stride, mask, ROWS + 2), ROWS + 2, SIGMOID)
    for p in range(slide):
        value_ptr += step
        gate_ptr += step
        inside = mask & (p + 1 < slide)
        raw_value = _load_line(value_ptr, first - 1, cross, stride, inside, ROWS + 2)
        raw_gate = _load_line(gate_ptr, first - 1, cross, stride, inside, ROWS + 2)
        dy = _load_line(dy_ptr + p * slide_pixels * M, first, cross, cross_pixels * M, mask, ROWS)
        conv_value = _add_taps(_filled(bias_value, ROWS), before_value, v0, ROWS)
        conv_gate = _add_taps(_filled(bias_gate, ROWS), before_gate, g0, ROWS)
        conv_value = _add_taps(conv_value, here_value, v1, ROWS)
        conv_gate = _add_taps(conv_gate, here_gate, g1, ROWS)
        after_value = _silu_line(raw_value, ROWS + 2, SIGMOID)
        after_gate = _silu_line(raw_gate, ROWS + 2, SIGMOID)
        conv_value = _add_taps(conv_value, after_value, v2, ROWS)
        conv_gate = _add_taps(conv_gate, after_gate, g2, ROWS)
        d_value, d_gate = _through_gate(conv_value, conv_gate, dy, ROWS, SIGMOID)
        _store_line(dc_ptr + p * step, d_value, first, cross, stride, mask, ROWS)
        _store_line(dc_ptr + p * step + M, d_gate, first, cross, stride, mask, ROWS)
        d_bias_value, d_bias_gate = _add_line(d_bias_value, d_value, ROWS), _add_line(d_bias_gate, d_gate, ROWS)
        dv0, dg0 = _add_products(dv0, d_value, before_value, ROWS), _add_products(dg0, d_gate, before_gate, ROWS)
        dv1, dg1 = _add_products(dv1, d_value, here_value, ROWS), _add_products(dg1, d_gate, here_gate, ROWS)
        dv2, dg2 = _add_products(dv2, d_value, after_value, ROWS), _add_products(dg2, d_gate, after_gate, ROWS)
        before_value, before_gate = here_value, here_gate
        here_value, here_gate = after_value, after_gate

    _store_taps(partial_ptr, dv0, 0, mask, 2 * M, SLIDE_TAP, CROSS_TAP)
    _store_taps(partial_ptr, dv1, 1, mask, 2 * M, SLIDE_TAP, CROSS_TAP)
    _store_taps(partial_ptr, dv2, 2, mask, 2 * M, SLIDE_TAP, CROSS_TAP)
    _store_taps(partial_ptr + M, dg0, 0, mask, 2 * M, SLIDE_TAP, CROSS_TAP)
    _store_taps(partial_ptr + M, dg1, 1, mask, 2 * M, SLIDE_TAP, CROSS_TAP)
    _store_taps(partial_ptr + M, dg2, 2, mask, 2 * M, SLIDE_TAP, CROSS_TAP)
    tl.store(partial_ptr + 18 * M, d_bias_value, mask=mask)
    tl.store(partial_ptr + 19 * M, d_bias_gate, mask=mask)


@triton.jit
def _through_silu(gradient, x, ROWS: tl.constexpr, SIGMOID: tl.constexpr):
    line = ()
    for r in tl.static_range(ROWS):
        wide = x[r].to(tl.float32)
        open_ = _sigmoid(wide, SIGMOID)
        line = line + (gradient[r] * open_ * (1.0 + wide * (1.0 - open_)),)
    return line


@triton.jit(do_not_specialize=["slide", "cross", "pixels"])
def _transposed_kernel(
    dc_ptr,
    weight_ptr,
    x_ptr,
    dx_ptr,
    slide,
    cross,
    pixels,
    slide_pixels,
    cross_pixels,
    channels,
    CHANNELS: tl.constexpr,
    ROWS: tl.constexpr,
    SLIDE_TAP: tl.constexpr,
    CROSS_TAP: tl.constexpr,
    SIGMOID: tl.constexpr,
):
    ch = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    first = tl.program_id(1) * ROWS
    frame = tl.program_id(2).to(tl.int64)
    mask = ch < channels
    dc_ptr += frame * pixels * channels + ch
    x_ptr += frame * pixels * channels + ch
    dx_ptr += frame * pixels * channels + ch
    # the taps run backwards: position p of the gradient reaches inputs p - 1, p, p + 1 with taps 0, 1, 2
    w0 = _load_taps(weight_ptr + 8 * channels + ch, 0, mask, channels, -SLIDE_TAP, -CROSS_TAP)
    w1 = _load_taps(weight_ptr + 8 * channels + ch, 1, mask, channels, -SLIDE_TAP, -CROSS_TAP)
    w2 = _load_taps(weight_ptr + 8 * channels + ch, 2, mask, channels, -SLIDE_TAP, -CROSS_TAP)

    zeros = _filled(tl.zeros([CHANNELS], tl.float32), ROWS)
    stride, step = cross_pixels * channels, slide_pixels * channels
    line = _wide_line(_load_line(dc_ptr, first - 1, cross, stride, mask, ROWS + 2), ROWS + 2)
    dc_ptr += tl.where(slide > 1, step, 0)
    next_line = _load_line(dc_ptr, first - 1, cross, stride, mask, ROWS + 2)
    ending, started = _add_taps(zeros, line, w1, ROWS), _add_taps(zeros, line, w0, ROWS)
    for p in range(1, slide):
        line = _wide_line(next_line, ROWS + 2)
        dc_ptr += tl.where(p + 1 < slide, step, 0)
        next_line = _load_line(dc_ptr, first - 1, cross, stride, mask, ROWS + 2)
        x = _load_line(x_ptr, first, cross, stride, mask, ROWS)
        done = _add_taps(ending, line, w2, ROWS)
        _store_line(dx_ptr, _through_silu(done, x, ROWS, SIGMOID), first, cross, stride, mask, ROWS)
        ending = _add_taps(started, line, w1, ROWS)
        started = _add_taps(zeros, line, w0, ROWS)
        x_ptr += step
        dx_ptr += step
    x = _load_line(x_ptr, first, cross, stride, mask, ROWS)
    _store_line(dx_ptr, _through_silu(ending, x, ROWS, SIGMOID), first, cross, stride, mask, ROWS)


def fits(x: Tensor) -> bool:
    """Whether the kernels take x: whole 16-byte rows of channels, and a frame below 2³¹ elements."""
    return x.shape[-1] % 32 == 0 and x[0].numel() < 2**31 and x.shape[0] <= 65535


def _cut(x: Tensor, channels: int, strip: Strip) -> tuple[tuple[int, int, int], dict[str, Any]]:
    """Grid and the arguments that the three kernels share."""
    frames, H, W, _ = x.shape
    along_w = strip.along == "w"
    slide, cross = (W, H) if along_w else (H, W)
    grid = (triton.cdiv(channels, strip.channels), triton.cdiv(cross, strip.rows), frames)
    return grid, {
        "slide": slide,
        "cross": cross,
        "pixels": H * W,
        "slide_pixels": 1 if along_w else W,
        "cross_pixels": W if along_w else 1,
        "CHANNELS": strip.channels,
        "ROWS": strip.rows,
        "SLIDE_TAP": 1 if along_w else 3,
        "CROSS_TAP": 3 if along_w else 1,
        "SIGMOID": strip.sigmoid if x.is_cuda else "plain",
        "num_warps": strip.warps,
        "maxnreg": strip.registers,
    }


def tap_major(weight: Tensor) -> Tensor:
    """(2M, 1, 3, 3) -> (9, 2M): a program reads its channels of a tap at once."""
    return weight.reshape(-1, 9).t().contiguous()


def forward(x: Tensor, weight: Tensor, bias: Tensor, strip: Strip = FORWARD) -> Tensor:
    """`naive.gated_depthwise`, cut as `strip` says."""
    M = x.shape[-1] // 2
    y = x.new_empty(*x.shape[:-1], M)
    grid, shared = _cut(x, M, strip)
    _forward_kernel[grid](x, tap_major(weight), bias, y, M=M, **shared)
    return y


def backward_gradient(
    dy: Tensor, x: Tensor, taps: Tensor, bias: Tensor, strip: Strip = GRADIENT
) -> tuple[Tensor, Tensor]:
    """Gradient of the convolution's output, like x, and of its taps and bias, (10, 2M) in float32."""
    wide = x.shape[-1]
    dc = torch.empty_like(x)
    grid, shared = _cut(x, wide // 2, strip)
    partial = x.new_empty(grid[1] * grid[2], 10, wide, dtype=torch.float32)
    _gradient_kernel[grid](x, taps, bias, dy, dc, partial, M=wide // 2, **shared)
    return dc, partial.sum(0)


def backward_transposed(dc: Tensor, x: Tensor, taps: Tensor, strip: Strip = TRANSPOSED) -> Tensor:
    """Gradient of x from that of the convolution's output."""
    dx = torch.empty_like(x)
    grid, shared = _cut(x, x.shape[-1], strip)
    _transposed_kernel[grid](dc, taps, x, dx, channels=x.shape[-1], **shared)
    return dx


def backward(dy: Tensor, x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, weight and bias."""
    taps = tap_major(weight)
    dc, sums = backward_gradient(dy, x, taps, bias)
    dx = backward_transposed(dc, x, taps)
    d_weight, d_bias = sums[:9].t().reshape(weight.shape), sums[9]
    return (
        dx,
        d_weight.to(weight.dtype, copy=True, memory_format=torch.contiguous_format),
        d_bias.to(bias.dtype, copy=True),
    )  # outputs may not share memory


@torch.library.custom_op("sana_video::gated_depthwise", mutates_args=())
def gated_depthwise(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """`naive.gated_depthwise` by kernels, for x that `fits`."""
    return forward(x.contiguous(), weight, bias)


@gated_depthwise.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return x.new_empty(*x.shape[:-1], x.shape[-1] // 2)


@torch.library.custom_op("sana_video::gated_depthwise_backward", mutates_args=())
def gated_depthwise_backward(dy: Tensor, x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, weight and bias."""
    return backward(dy.contiguous(), x.contiguous(), weight, bias)


@gated_depthwise_backward.register_fake
def _(dy: Tensor, x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return x.new_empty(x.shape), weight.new_empty(weight.shape), bias.new_empty(bias.shape)


def _keep(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _differentiate(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    gradients: tuple[Tensor, Tensor, Tensor] = gated_depthwise_backward(dy, *ctx.saved_tensors)
    return gradients


gated_depthwise.register_autograd(_differentiate, setup_context=_keep)
