"""Where kernels run, each operation hands them what they take and nothing else, and says once what they do not take.

Kernels are forced on the CPU and replaced by a mark: only the choice is at stake here, and it needs no GPU.
"""

import importlib
import logging
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
import torch

from sana_video.ops import decoder, fp8, linear_attention, mix_ffn, modulate, select
from sana_video.rope import rotary_tables

pytest.importorskip("triton")
BF16 = torch.bfloat16


class Case(NamedTuple):
    """An operation, where its kernel lies, how it is called about x, an x that fits and some that do not."""

    kernel: str
    call: Callable[[torch.Tensor], Any]
    fit: torch.Tensor
    unfit: dict[str, torch.Tensor]


def rows(width: int, dtype: torch.dtype = BF16, frames: int = 2) -> torch.Tensor:
    return torch.randn(1, frames, 3, width).to(dtype)


def attend(qkv: torch.Tensor, eps: float = 1e-8) -> Any:
    width = qkv.shape[2] // 3
    half = width // 2 // 2
    rotary = rotary_tables((2 * half, 0, 0), (1, 1, qkv.shape[1]), 0, qkv.device)
    ones = torch.ones(width)
    options: dict[str, Any] = {"heads": 2, "norm_eps": 1e-5, "eps": eps}
    return linear_attention.normed_linear_attention(qkv, ones, ones, rotary, **options)


STREAMS = {"odd width": rows(40), "narrow": rows(16), "wide": rows(4112), "float64": rows(48, torch.float64)}
OPS = "sana_video.ops"
CASES = {
    "modulate": Case(
        f"{OPS}.modulate.triton:modulate",
        lambda x: modulate.modulate(x, x[:, :, :1], x[:, :, :1], 1e-6), rows(48), STREAMS,
    ),
    "gated_add": Case(f"{OPS}.modulate.triton:gated_add", lambda x: modulate.gated_add(x, x), rows(48), STREAMS),
    "gated_add of another shape": Case(
        f"{OPS}.modulate.triton:gated_add", lambda x: modulate.gated_add(x, x[..., :1, :] if len(x[0]) == 2 else x),
        rows(48, frames=1), {"broadcast branch": rows(48)},
    ),
    "gated_add_both": Case(
        f"{OPS}.modulate.triton:gated_add_both", lambda x: modulate.gated_add_both(x, x.half(), None), rows(48), STREAMS
    ),
    "gated_add_modulate": Case(
        f"{OPS}.modulate.triton:gated_add_modulate",
        lambda x: modulate.gated_add_modulate(x, x, None, x[:, :, :1], x[:, :, :1], 1e-6), rows(48), STREAMS,
    ),
    "rms_norm": Case(
        f"{OPS}.modulate.rms:rms_norm", lambda x: modulate.rms_norm(x, torch.ones(x.shape[-1]), 1e-5), rows(48), STREAMS
    ),
    "gated_depthwise": Case(
        f"{OPS}.mix_ffn.triton:gated_depthwise",
        lambda x: mix_ffn.gated_depthwise(x, x.new_ones(x.shape[-1], 1, 3, 3), x.new_ones(x.shape[-1])),
        rows(32), {"odd channels": rows(24), "float64": rows(32, torch.float64)},
    ),
    "linear_attention": Case(
        f"{OPS}.linear_attention.triton:normed_linear_attention", attend, torch.randn(1, 4, 192).to(BF16),
        {"float32": torch.randn(1, 4, 192), "narrow heads": torch.randn(1, 4, 96).to(BF16)},
    ),
    "linear_attention with an epsilon that is felt": Case(
        f"{OPS}.linear_attention.triton:normed_linear_attention",
        lambda qkv: attend(qkv, eps=1e-8 if qkv.shape[1] == 4 else 1e-3), torch.randn(1, 4, 192).to(BF16),
        {"epsilon": torch.randn(1, 5, 192).to(BF16)},
    ),
    "fp8 quantize": Case(
        f"{OPS}.fp8.triton:fp8_rows", fp8.quantize, rows(48),
        {"odd width": rows(40), "float64": rows(48, torch.float64)},
    ),
    "fp8 modulate": Case(
        f"{OPS}.fp8.triton:fp8_rows", lambda x: fp8.modulate(x, x[:, :, :1], x[:, :, :1], 1e-6), rows(48), STREAMS
    ),
    "fp8 gated_add": Case(f"{OPS}.fp8.triton:fp8_rows", lambda x: fp8.gated_add(x, x, None), rows(48), STREAMS),
    "fp8 gated_add_modulate": Case(
        f"{OPS}.fp8.triton:fp8_rows",
        lambda x: fp8.gated_add_modulate(x, x, None, x[:, :, :1], x[:, :, :1], 1e-6), rows(48), STREAMS,
    ),
    "fp8 three_frames": Case(f"{OPS}.fp8.triton:fp8_three_frames", fp8.three_frames, rows(48), STREAMS),
    "norm_silu": Case(
        f"{OPS}.decoder.triton:norm_silu", lambda x: decoder.norm_silu(x, torch.ones(x.shape[-1])),
        torch.randn(1, 2, 2, 2, 16).to(BF16),
        {"float32": torch.randn(1, 2, 2, 2, 16), "transposed": torch.randn(1, 2, 2, 16, 2).to(BF16).transpose(3, 4)},
    ),
    "doubled": Case(
        f"{OPS}.decoder.triton:doubled", lambda x: decoder.doubled(x), torch.randn(1, 2, 2, 2, 16).to(BF16),
        {"float32": torch.randn(1, 2, 2, 2, 16), "transposed": torch.randn(1, 2, 2, 16, 2).to(BF16).transpose(3, 4)},
    ),
}  # fmt: skip


class Taken(Exception):
    """The kernel was called."""


@pytest.fixture(autouse=True)
def forced(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(select, "kernels_for", lambda x: True)
    monkeypatch.setattr(select, "_told", set())
    with torch.no_grad():
        yield


def replace(kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def taken(*_: Any, **__: Any) -> Any:
        raise Taken

    module, name = kernel.split(":")
    monkeypatch.setattr(importlib.import_module(module), name, taken)


@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
def test_kernels_are_handed_what_they_take_and_nothing_else(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    replace(case.kernel, monkeypatch)
    with pytest.raises(Taken):
        case.call(case.fit)
    for x in case.unfit.values():
        case.call(x)


def test_the_temporal_convolution_is_products_wherever_kernels_run(monkeypatch: pytest.MonkeyPatch) -> None:
    replace(f"{OPS}.mix_ffn.temporal:temporal_conv", monkeypatch)
    with pytest.raises(Taken):
        mix_ffn.temporal_conv(rows(8), torch.randn(8, 8, 3, 1).to(BF16))


def test_the_fp8_product_gives_bf16_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    replace(f"{OPS}.fp8:scaled_product", monkeypatch)
    x, weight = fp8.naive.quantize(rows(48)), fp8.naive.quantize(torch.randn(32, 48))
    with pytest.raises(Taken):
        fp8.linear(x, weight, None, BF16)
    assert fp8.linear(x, weight, None, torch.float32).dtype == torch.float32


def test_a_decoder_with_gradients_takes_the_definition(monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES["doubled"]
    replace(case.kernel, monkeypatch)
    with torch.enable_grad():
        case.call(case.fit)


def test_what_falls_back_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(2):
        modulate.rms_norm(rows(40), torch.ones(40), 1e-5)
        attend(torch.randn(1, 4, 192))
    first, second = caplog.records
    assert (first.levelno, second.levelno) == (logging.WARNING, logging.WARNING)  # shown where no logging is set up
    assert "rms_norm of bfloat16 [1, 2, 3, 40] runs as plain torch: its kernels take" in first.getMessage()
    assert "linear_attention of float32 [1, 4, 192]" in second.getMessage() and "take bf16" in second.getMessage()


def test_what_fits_says_nothing(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    for case in CASES.values():
        replace(case.kernel, monkeypatch)
        with pytest.raises(Taken):
            case.call(case.fit)
    assert not caplog.records
