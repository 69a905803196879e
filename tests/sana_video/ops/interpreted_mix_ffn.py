"""Kernels of the Mix-FFN under Triton's interpreter; `test_interpreted.py` runs this file."""

import pytest
import torch
from torch import Tensor

from sana_video.ops.mix_ffn import naive, temporal, triton
from sana_video.ops.mix_ffn.triton import Strip


def tensors(frames: int, H: int, W: int, M: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x, weight, bias and the gradient of the output, drawn anew on every run."""
    shapes = (frames, H, W, 2 * M), (2 * M, 1, 3, 3), (2 * M,), (frames, H, W, M)
    return tuple(torch.randn(shape).to(dtype) for shape in shapes)  # type: ignore[return-value]


def error(out: Tensor, reference: Tensor) -> float:
    return float((out.double() - reference).norm().detach() / reference.norm().detach())


@pytest.fixture(autouse=True)
def new_memory_is_nan():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


# float32 sums of nine products; the interpreter cuts bf16 off where the GPU rounds: twice the error, once per pass
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-6), (torch.bfloat16, 1e-2)], ids=["fp32", "bf16"])
@pytest.mark.parametrize(
    ("sizes", "along"),
    [
        ((1, 3, 4, 48), "h"),
        ((1, 1, 1, 16), "w"),
        pytest.param((2, 4, 3, 48), "w", marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_outputs_and_gradients(sizes: tuple[int, ...], along: str, dtype: torch.dtype, bound: float) -> None:
    x, weight, bias, dy = tensors(*sizes, dtype)
    wide = [t.double().requires_grad_() for t in (x, weight, bias)]
    reference = naive.gated_depthwise(*wide)
    gradients = torch.autograd.grad(reference, wide, dy.double())
    taps = triton.tap_major(weight)
    out = triton.forward(x, weight, bias, Strip(3, 64, along=along))
    dc, sums = triton.backward_gradient(dy, x, taps, bias, Strip(2, 64, along=along))
    dx = triton.backward_transposed(dc, x, taps, Strip(3, 64, along=along))
    assert error(out, reference) < bound
    assert error(dx, gradients[0]) < bound
    assert error(sums[:9].t().reshape(weight.shape), gradients[1]) < bound
    assert error(sums[9], gradients[2]) < bound


def test_what_fits() -> None:
    assert triton.fits(torch.empty(2, 3, 3, 32))
    assert not triton.fits(torch.empty(2, 3, 3, 24))


def test_registered_operations() -> None:
    x, weight, bias, _ = tensors(1, 2, 2, 16, torch.float32)
    torch.library.opcheck(triton.gated_depthwise, tuple(t.requires_grad_() for t in (x, weight, bias)))
    u, kernel, last_u = torch.randn(2, 3, 2, 8), torch.randn(8, 8, 3, 1), torch.randn(2, 1, 2, 8)
    for starts, last in (([0], None), ([0, 2], last_u)):
        leaves = [None if t is None else t.requires_grad_() for t in (u, kernel, last)]
        torch.library.opcheck(temporal.temporal_conv, (leaves[0], leaves[1], starts, leaves[2]))
