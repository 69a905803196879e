"""Products in fp8: the definition's rounding and errors, the library's product against it, the kernels against it.

Triton decides at its first import whether it interprets, so each way runs in a process of its own.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sana_video.ops import fp8, mix_ffn
from sana_video.ops import modulate as stream

HERE = Path(__file__).parent


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def shown(rows: fp8.Quantized) -> torch.Tensor:
    return rows.values.float() * rows.scale


def error(out: torch.Tensor, reference: torch.Tensor) -> float:
    return float((out.double() - reference.double()).norm() / reference.double().norm())


def test_a_value_is_off_by_a_sixteenth_of_itself_at_most() -> None:
    x = normal(64, 512)
    off = (shown(fp8.quantize(x)) - x).abs()
    step = x.abs().amax(-1, keepdim=True) / 448 * 2**-10  # half the step of the least numbers
    assert bool((off <= torch.maximum(x.abs() / 16, step) * 1.0001).all())
    assert 0.02 < error(shown(fp8.quantize(x)), x) < 0.03  # 2.6 % where values fall evenly between steps


def test_the_largest_of_a_row_is_kept_and_rows_do_not_see_each_other() -> None:
    x = normal(4, 32)
    x[1] *= 1e6
    rows = fp8.quantize(x)
    torch.testing.assert_close(shown(rows).abs().amax(-1), x.abs().amax(-1))
    assert torch.equal(rows.values[0].float(), fp8.quantize(x[:1]).values[0].float())


def test_zeros_are_zero_and_what_is_not_finite_stays_so() -> None:
    x = torch.cat([torch.zeros(1, 32), normal(3, 32)])
    x[1, 3], x[2, 5] = torch.inf, torch.nan
    weight = fp8.quantize(normal(16, 32, seed=1))
    out = fp8.linear(fp8.quantize(x), weight, None, torch.float32)
    assert torch.equal(out[0], torch.zeros(16)) and bool(torch.isfinite(out[3]).all())
    assert not torch.isfinite(out[1:3]).any()


def test_rows_of_tiny_numbers_do_not_overflow() -> None:
    rows = fp8.quantize(torch.full((1, 32), 1e-38))
    assert bool(torch.isfinite(shown(rows)).all()) and bool((shown(rows) <= 1e-12).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_product_is_off_by_the_rounding_of_its_factors(dtype: torch.dtype) -> None:
    x, weight, bias = normal(2, 3, 256).to(dtype), normal(48, 256, seed=1).to(dtype), normal(48, seed=2).to(dtype)
    out = fp8.linear(fp8.quantize(x), fp8.quantize(weight), bias, dtype)
    assert out.dtype == dtype and out.shape == (2, 3, 48)
    # two factors, each off by 2.6 % independently of the sum's other terms
    assert 0.02 < error(out, torch.nn.functional.linear(x.double(), weight.double(), bias.double())) < 0.05


def test_the_librarys_product_is_the_definition() -> None:
    """On a CPU torch computes it by the letter, so this holds scales, layouts and bias to the definition."""
    x, weight = fp8.quantize(normal(2, 3, 64) * 5), fp8.quantize(normal(48, 64, seed=1))
    for bias in (None, normal(48, seed=2).bfloat16()):
        expected = fp8.linear(x, weight, bias, torch.bfloat16)
        torch.testing.assert_close(fp8.scaled_product(x, weight, bias), expected, rtol=2**-7, atol=1e-6)


def test_sums_and_modulations_are_those_of_the_stream() -> None:
    x, branch = normal(1, 2, 3, 32).bfloat16(), normal(1, 2, 3, 32, seed=1).bfloat16()
    gate, shift, scale = (normal(1, 2, 1, 32, seed=seed) for seed in (2, 3, 4))
    summed, rows = fp8.gated_add_modulate(x, branch, gate, shift, scale, 1e-6)
    assert torch.equal(summed, stream.gated_add(x, branch, gate))
    exact = stream.modulate(summed.float(), shift, scale, 1e-6)
    assert torch.equal(rows.values.float(), fp8.quantize(exact).values.float())
    assert torch.equal(rows.scale, fp8.modulate(summed, shift, scale, 1e-6).scale)
    summed, rows = fp8.gated_add(x, branch, gate)
    assert torch.equal(rows.values.float(), fp8.quantize(summed).values.float())


@pytest.mark.parametrize(("starts", "continued"), [((0,), False), ((0, 2, 3), True)])
def test_three_frames_make_the_temporal_convolution_one_product(starts: tuple[int, ...], continued: bool) -> None:
    u, weight, last = normal(2, 5, 6, 16), normal(16, 16, 3, 1, seed=1), normal(2, 1, 6, 16, seed=2)
    last_u = last if continued else None
    rows = shown(fp8.three_frames(u, starts, last_u))
    taps = weight.squeeze(-1).permute(0, 2, 1).flatten(1)
    expected = mix_ffn.temporal_conv(u, weight, starts, last_u)
    assert error(rows @ taps.t(), expected) < 0.04
    assert torch.equal(rows[:, 4, :, 32:], torch.zeros(2, 6, 16))  # nothing after the end


def test_what_fits() -> None:
    assert fp8.fits(6720, 2240)
    assert not fp8.fits(6720, 2248) and not fp8.fits(24, 2240)


def test_kernels_assemble_for_hopper_without_spilling() -> None:
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    support = str(HERE.parents[1] / "support")
    run = subprocess.run(
        [sys.executable, HERE / "hopper_fp8.py"],
        env={**environment, "PYTHONPATH": os.pathsep.join([support, str(HERE.parents[2])])},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-4000:]
