"""The Mix-FFN's convolutions: the definition against the written-out sum, products and kernels against the definition.

Triton decides at its first import whether it interprets, so each way runs in a process of its own.
"""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch

from sana_video.ops import select
from sana_video.ops.mix_ffn import gated_depthwise, naive, temporal, temporal_conv

HERE = Path(__file__).parent
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_gated_depthwise_written_out() -> None:
    x, weight, bias = normal(1, 3, 4, 4), normal(4, 1, 3, 3, seed=1), normal(4, seed=2)
    silu = torch.nn.functional.silu
    out = gated_depthwise(x, weight, bias)
    padded = torch.zeros(5, 6, 4, dtype=torch.float64)
    padded[1:-1, 1:-1] = silu(x[0])
    for h in range(3):
        for w in range(4):
            conv = (padded[h : h + 3, w : w + 3] * weight[:, 0].permute(1, 2, 0)).sum((0, 1)) + bias
            torch.testing.assert_close(out[0, h, w], conv[:2] * silu(conv[2:]))


@pytest.mark.parametrize(("starts", "continued"), [((0,), False), ((0, 2, 3), False), ((0, 2), True), ((0,), True)])
def test_products_equal_the_convolution(starts: tuple[int, ...], continued: bool) -> None:
    u, weight, last_u = normal(2, 5, 6, 16), normal(16, 16, 3, 1, seed=1), normal(2, 1, 6, 16, seed=2)
    leaves = [t.requires_grad_() for t in ((u, weight, last_u) if continued else (u, weight))]
    last = last_u if continued else None
    expected = naive.temporal_conv(u, weight, starts, last)
    out = temporal.temporal_conv(u, weight, list(starts), last)
    torch.testing.assert_close(out, expected)
    dy = normal(*out.shape, seed=3)
    torch.testing.assert_close(torch.autograd.grad(out, leaves, dy), torch.autograd.grad(expected, leaves, dy))


def test_the_weights_gradient_in_bf16_is_rounded_once_however_many_samples_and_chunks() -> None:
    """bf16 keeps eight bits: one rounding is 2e-3 of a value, and sums kept in bf16 over 8 samples lose 6e-3."""
    B, T, S, D = 8, 6, 64, 32
    u, dy = normal(B, T, S, D).bfloat16(), normal(B, T, S, D, seed=1).bfloat16()
    weight = normal(D, D, 3, 1, seed=2).float()  # as training keeps it
    starts = (0, 2, 4)
    wide = weight.double().requires_grad_()
    naive.temporal_conv(u.double(), wide, starts).backward(dy.double())
    _, found, _ = temporal.backward(dy, u, weight, starts, None)
    assert found.dtype == torch.float32 and wide.grad is not None
    for tap in range(3):
        expected = wide.grad[:, :, tap, 0]
        assert float((found[:, :, tap, 0].double() - expected).norm() / expected.norm()) < 3e-3


def test_temporal_conv_on_the_cpu_is_the_definition() -> None:
    u, weight = normal(1, 3, 2, 4), normal(4, 4, 3, 1, seed=1)
    assert torch.equal(temporal_conv(u, weight), naive.temporal_conv(u, weight))


@pytest.mark.skipif(not select.kernels_for(torch.empty(0, device=DEVICE)), reason="needs a Hopper GPU")
@pytest.mark.parametrize(("sigmoid", "bound"), [("exp", 3e-6), ("tanh", 1e-3)])
def test_the_sigmoids_that_only_a_gpu_has(sigmoid: Literal["exp", "tanh"], bound: float) -> None:
    """The interpreter takes a plain one; a GPU `ex2` and a reciprocal, or `tanh.approx`, which errs by 2.5e-4."""
    from sana_video.ops.mix_ffn import triton

    x, weight, bias, dy = (
        t.float().to(DEVICE)
        for t in (normal(2, 5, 7, 64), normal(64, 1, 3, 3, seed=1), normal(64, seed=2), normal(2, 5, 7, 32, seed=3))
    )
    wide = [t.double().requires_grad_() for t in (x, weight, bias)]
    expected = naive.gated_depthwise(*wide)
    gradients = torch.autograd.grad(expected, wide, dy.double())

    def off(found: torch.Tensor, reference: torch.Tensor) -> float:
        return float((found.double() - reference).norm() / reference.norm())

    cut = {
        name: replace(strip, sigmoid=sigmoid) for name, strip in vars(triton).items() if isinstance(strip, triton.Strip)
    }
    assert off(triton.forward(x, weight, bias, cut["FORWARD"]), expected.detach()) < bound
    taps = triton.tap_major(weight)
    dc, sums = triton.backward_gradient(dy, x, taps, bias, cut["GRADIENT"])
    assert off(sums[:9].t().reshape(weight.shape), gradients[1]) < bound
    assert off(triton.backward_transposed(dc, x, taps, cut["TRANSPOSED"]), gradients[0]) < bound
    if sigmoid == triton.FORWARD.sigmoid:  # what ships
        assert off(gated_depthwise(x, weight, bias), expected.detach()) < bound


def test_kernels_assemble_for_hopper_without_spilling() -> None:
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    support = str(HERE.parents[1] / "support")
    run = subprocess.run(
        [sys.executable, HERE / "hopper_mix_ffn.py"],
        env={**environment, "PYTHONPATH": os.pathsep.join([support, str(HERE.parents[2])])},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-4000:]
