"""Kernels of norms and gated sums under Triton's interpreter; `test_interpreted.py` runs this file."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from sana_video.ops.modulate import naive, rms, triton

EPS = 1e-6
BOUNDS = {torch.float32: 1e-6, torch.bfloat16: 1e-2}  # the interpreter cuts bf16 off where the GPU rounds


def error(out: Tensor, reference: Tensor) -> float:
    reference = reference.detach().double()
    return float((out.detach().double() - reference).norm() / reference.norm())


@pytest.fixture(autouse=True)
def new_memory_is_nan():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def with_gradients(function: Callable[..., Any], arguments: tuple[Any, ...], d_outputs: list[Tensor]) -> list[Tensor]:
    leaves = [a.detach().clone().requires_grad_() if isinstance(a, Tensor) else a for a in arguments]
    outputs = function(*leaves)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    d_outputs = [d.to(out.dtype) for d, out in zip(d_outputs, outputs, strict=False)]
    gradients = torch.autograd.grad(outputs, [a for a in leaves if isinstance(a, Tensor)], d_outputs)
    return [*outputs, *gradients]


def agree(kernels: Callable[..., Any], plain: Callable[..., Any], arguments: tuple[Any, ...], bound: float) -> None:
    d_outputs = [torch.randn_like(arguments[0]) for _ in range(2)]
    wide = tuple(a.double() if isinstance(a, Tensor) else a for a in arguments)
    got, expected = with_gradients(kernels, arguments, d_outputs), with_gradients(plain, wide, d_outputs)
    for out, reference in zip(got, expected, strict=True):
        assert error(out, reference) < bound


@pytest.mark.parametrize(
    ("D", "frames", "dtype"),
    [
        pytest.param(272, 1, torch.bfloat16, id="D272-sample-bf16"),
        pytest.param(48, 3, torch.float32, id="D48-frame-fp32"),
        pytest.param(272, 1, torch.float32, id="D272-sample-fp32", marks=pytest.mark.slow),
        pytest.param(48, 3, torch.bfloat16, id="D48-frame-bf16", marks=pytest.mark.slow),
    ],
)
def test_outputs_and_gradients(D: int, frames: int, dtype: torch.dtype) -> None:
    x, branch, skip = (torch.randn(2, 3, 2, D).to(dtype) for _ in range(3))
    six = torch.randn(2, frames, 6, D).to(dtype)  # modulations are strided views of one tensor
    shift, scale, gate = (six[:, :, i : i + 1] for i in range(3))
    bound = BOUNDS[dtype]
    agree(triton.modulate, naive.modulate, (x, shift, scale, EPS), bound)
    agree(triton.gated_add, naive.gated_add, (x, branch, gate, skip), bound)
    agree(triton.gated_add, naive.gated_add, (x, branch, None, None), bound)
    agree(triton.gated_add_modulate, naive.gated_add_modulate, (x, branch, gate, shift, scale, EPS, skip), bound)
    agree(triton.gated_add_modulate, naive.gated_add_modulate, (x, branch, None, shift, scale, EPS, None), bound)
    agree(triton.gated_add_both, naive.gated_add_both, (x, branch, gate), bound)
    agree(triton.gated_add_both, naive.gated_add_both, (x, branch, None), bound)
    agree(rms.rms_norm, naive.rms_norm, (x, shift[0, 0, 0], EPS), bound)


def test_a_float32_stream_through_a_bf16_network() -> None:
    x, branch = torch.randn(2, 3, 2, 48), torch.randn(2, 3, 2, 48).bfloat16()
    shift, scale, gate = torch.randn(3, 2, 1, 1, 48).bfloat16()
    agree(triton.modulate, naive.modulate, (x, shift, scale, EPS), 1e-2)
    agree(triton.gated_add_both, naive.gated_add_both, (x, branch, gate), 1e-2)
    agree(triton.gated_add_modulate, naive.gated_add_modulate, (x, branch, gate, shift, scale, EPS, None), 1e-2)
    stream, rows = triton.gated_add_modulate(x, branch, gate, shift, scale, EPS, None)
    copied, rounded = triton.gated_add_both(x, branch, gate)
    assert (stream.dtype, rows.dtype, rounded.dtype) == (torch.float32, torch.bfloat16, torch.bfloat16)
    assert error(stream, naive.gated_add(x.double(), branch.double(), gate.double())) < 1e-6
    assert torch.equal(stream, copied)


def test_a_mean_far_from_zero_costs_no_digits() -> None:
    x, zero = torch.randn(1, 1, 4, 64) + 1000, torch.zeros(1, 1, 1, 64)
    assert error(triton.modulate(x, zero, zero, EPS), naive.modulate(x.double(), zero, zero, EPS)) < 1e-4


def test_a_transposed_stream_leaves_in_order() -> None:
    x, branch = torch.randn(1, 3, 64, 2).transpose(2, 3), torch.randn(1, 3, 2, 64)
    shift, scale, gate = (torch.randn(1, 1, 1, 64) for _ in range(3))
    agree(triton.gated_add_modulate, naive.gated_add_modulate, (x, branch, gate, shift, scale, EPS, None), 1e-6)
    assert triton.gated_add(x, branch, gate, None).is_contiguous()


def test_what_fits() -> None:
    x = torch.empty(1, 2, 3, 64)
    assert triton.fits(x, None, x)
    assert not triton.fits(x, x[:, :1])
    assert not triton.fits(torch.empty(1, 2, 3, 40))


def test_registered_operations() -> None:
    x, branch, shift, scale, gate = (torch.randn(1, 2, 1, 32).requires_grad_() for _ in range(5))
    torch.library.opcheck(triton.modulate, (x, shift, scale, EPS))
    torch.library.opcheck(triton.gated_add, (x, branch, gate, None))
    torch.library.opcheck(triton.gated_add_both, (x, branch.bfloat16().detach().requires_grad_(), gate))
    torch.library.opcheck(triton.gated_add_modulate, (x, branch, gate, shift, scale, EPS, None))
    torch.library.opcheck(rms.rms_norm, (x, shift[0, 0, 0], EPS))
