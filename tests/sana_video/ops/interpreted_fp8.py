"""Kernels of fp8 rows under Triton's interpreter; `test_interpreted.py` runs this file.

They give the definition's values exactly, but that a negative number rounded to zero loses its sign here.
"""

import pytest
import torch
from torch import Tensor

from sana_video.ops.fp8 import Quantized, naive, triton
from sana_video.ops.modulate.triton import Rows

EPS = 1e-6


@pytest.fixture(autouse=True)
def new_memory_is_nan():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def rank(values: Tensor) -> Tensor:
    """Place of an e4m3 number among all, counted from zero."""
    bits = values.view(torch.uint8).int()
    return torch.where(bits > 127, -1, 1) * (bits & 127)


def same(got: tuple[Tensor, Tensor], expected: Quantized) -> None:
    assert torch.equal(rank(got[0]), rank(expected.values))
    assert torch.equal(got[1], expected.scale)


def near(got: tuple[Tensor, Tensor], expected: Quantized) -> None:
    """Norms sum in another order: a value may fall on the other side of a tie, but one step away at most."""
    torch.testing.assert_close(got[1], expected.scale, rtol=1e-5, atol=0)
    steps = (rank(got[0]) - rank(expected.values)).abs()
    assert int(steps.max()) <= 1 and float(steps.float().mean()) < 1e-3


def spread(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Rows of very different size, with values far below their largest: subnormal e4m3 and zeros are among them."""
    sizes = torch.logspace(-6, 6, shape[-2]).unsqueeze(-1)
    return (torch.randn(shape) * torch.logspace(0, -7, shape[-1]) * sizes).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("cut", [triton.FORWARD, Rows(2, 32, 1), triton.WIDE], ids=str)
def test_rows(cut: Rows, dtype: torch.dtype) -> None:
    x = spread(1, 1, 5, 272, dtype=dtype)
    _, *got = triton.forward(x, None, None, None, None, 0.0, cut)
    same(tuple(got), naive.quantize(x))


def test_zeros_are_zero_and_what_is_not_finite_stays_so() -> None:
    x = torch.randn(1, 1, 4, 64)
    x[..., 0, :] = 0
    x[..., 1, 3], x[..., 2, 7] = torch.inf, torch.nan
    _, values, scale = triton.forward(x, None, None, None, None, 0.0)
    assert torch.equal(values[..., 0, :].float(), torch.zeros(1, 1, 64))
    assert torch.isfinite(scale).flatten().tolist() == [True, False, False, True]
    assert torch.isfinite(values[..., 3, :].float()).all()


@pytest.mark.parametrize("frames", [pytest.param(1, id="sample", marks=pytest.mark.slow), pytest.param(3, id="frame")])
def test_sums_and_modulation(frames: int) -> None:
    x, branch = spread(2, 3, 3, 272), torch.randn(2, 3, 3, 272)
    six = torch.randn(2, frames, 6, 272)  # modulations are strided views of one tensor
    shift, scale, gate = (six[:, :, i : i + 1] for i in range(3))
    near(triton.forward(x, None, None, shift, scale, EPS)[1:], naive.modulate(x, shift, scale, EPS))
    for opened in (gate, None):
        stream, *rows = triton.forward(x, branch, opened, None, None, 0.0)
        expected, quantized = naive.gated_add(x, branch, opened)
        torch.testing.assert_close(stream, expected)
        near(tuple(rows), quantized)
        stream, *rows = triton.forward(x, branch, opened, shift, scale, EPS)
        expected, quantized = naive.gated_add_modulate(x, branch, opened, shift, scale, EPS)
        torch.testing.assert_close(stream, expected)
        near(tuple(rows), quantized)


def test_modulated_rows_are_not_rounded_to_bf16_on_the_way() -> None:
    x, shift, scale = torch.randn(1, 1, 7, 48).bfloat16(), torch.randn(1, 1, 1, 48), torch.randn(1, 1, 1, 48)
    near(triton.forward(x, None, None, shift, scale, EPS)[1:], naive.modulate(x, shift, scale, EPS))


@pytest.mark.parametrize(("starts", "continued"), [((0,), False), ((0, 1, 3), True), ((0, 2), False)], ids=str)
def test_three_frames(starts: tuple[int, ...], continued: bool) -> None:
    u = spread(2, 4, 5, 48, dtype=torch.bfloat16)
    last = spread(2, 1, 5, 48, dtype=torch.bfloat16) if continued else None
    same(triton.frames_forward(u, starts, last, Rows(2, 32, 1)), naive.three_frames(u, starts, last))


def test_what_fits() -> None:
    assert triton.fits(torch.empty(1, 6720)) and triton.fits(torch.empty(1, 32))
    assert not triton.fits(torch.empty(1, 40)) and not triton.fits(torch.empty(1, 8208))


def test_registered_operations() -> None:
    torch.use_deterministic_algorithms(False)
    x, branch, shift, scale, gate = (torch.randn(1, 2, 1, 32) for _ in range(5))
    checks = ("test_schema", "test_faketensor")
    for arguments in ((x, None, None, None, None), (x, branch, gate, shift, scale), (x, branch, None, None, None)):
        torch.library.opcheck(triton.fp8_rows, (*arguments, EPS), test_utils=checks)
    torch.library.opcheck(triton.fp8_three_frames, (x, [0, 1], branch[:, :1]), test_utils=checks)
