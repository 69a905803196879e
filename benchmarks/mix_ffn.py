"""The Mix-FFN's convolutions on one GPU: SiLU + depthwise 3×3 + bias + GLU in one kernel, and the temporal products.

    python benchmarks/mix_ffn.py [--out FILE] [--sweep] [--only forward,backward,temporal]

One layer of 2b-480p at 21 frames of 30×52 tokens, bf16, random inputs. Correctness first, against float32. The floor of
a memory-bound pass is its fewest bytes at the copy bandwidth of the same run; of the temporal convolution, its
operations at the rate of a large matrix product of the same run.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from graphs import milliseconds, table
from timing import copy_bandwidth, default_out, exact_products, refuse_slower, relative_error, write
from torch import Tensor

from sana_video.ops.mix_ffn import naive, temporal, triton
from sana_video.ops.mix_ffn.triton import Strip
from sana_video.ops.modulate import triton as modulate

T, H, W, D, M = 21, 30, 52, 2240, 6720

FORWARD = [
    *(
        Strip(rows, 64, 1, along, sigmoid, registers)
        for along in ("w", "h")
        for sigmoid in ("exp", "tanh")
        for rows, registers in ((4, 128), (5, None), (6, None))
    ),
    Strip(4, 64, 1, "h", "tanh", 168),
    Strip(5, 64, 1, "w", "tanh", 144),
    Strip(4, 128, 1, "h", "tanh"),
    Strip(3, 128, 1, "w", "tanh"),
    Strip(4, 128, 2, "h", "tanh", 128),
    Strip(4, 256, 4, "h", "tanh", 128),
    Strip(10, 32, 1, "w", "tanh", 144),
    Strip(8, 64, 1, "h", "tanh"),
]
GRADIENT = [
    *(
        Strip(rows, 64, 1, "w", sigmoid, registers)
        for sigmoid in ("exp", "tanh")
        for rows, registers in ((2, 168), (3, None), (5, None))
    ),
    Strip(5, 32, 1, "w", "tanh"),
    Strip(4, 64, 1, "h", "tanh"),
]
TRANSPOSED = [
    *(Strip(rows, channels, 1, "w", "exp") for rows, channels in ((5, 64), (6, 64), (3, 128), (5, 128))),
    Strip(5, 128, 1, "w", "tanh"),
    Strip(10, 64, 1, "w", "tanh"),
    Strip(4, 128, 1, "h", "exp"),
    Strip(4, 128, 1, "h", "tanh"),
]


def normal(*shape: int, std: float = 1.0, seed: int = 0) -> Tensor:
    generator = torch.Generator("cuda").manual_seed(seed)
    return (torch.randn(*shape, device="cuda", generator=generator) * std).bfloat16()


def depthwise_inputs() -> tuple[Tensor, Tensor, Tensor]:
    return normal(T, H, W, 2 * M), normal(2 * M, 1, 3, 3, std=0.3, seed=1), normal(2 * M, std=0.1, seed=2)


def checked(run: Callable[[], Tensor], reference: Tensor, bound: float) -> float:
    """Relative error, memory filled with NaN before. Raises SystemExit above the bound: a wrong kernel is not timed."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    error = relative_error(run(), reference)
    torch.use_deterministic_algorithms(False)
    if not error < bound:
        raise SystemExit(f"relative error {error:.2e} is not below {bound:.0e}")
    return error


def forward(bandwidth: float, sweep: bool) -> dict[str, Any]:
    x, weight, bias = depthwise_inputs()
    with exact_products():
        reference = naive.gated_depthwise(x.float(), weight.float(), bias.float())
    shipped = x.permute(0, 3, 1, 2).contiguous()
    compiled = torch.compile(naive.gated_depthwise)

    def eager_nchw() -> Tensor:
        value, gate = F.conv2d(F.silu(shipped), weight, bias, padding=1, groups=2 * M).chunk(2, dim=1)
        return value * F.silu(gate)

    runs: dict[str, Callable[[], Tensor]] = {
        "eager, NCHW": eager_nchw,
        "eager, channels-last": lambda: naive.gated_depthwise(x, weight, bias),
        "compiled, channels-last": lambda: compiled(x, weight, bias),
        "ours": lambda: triton.forward(x, weight, bias),
        "ours, tanh": lambda: triton.forward(x, weight, bias, Strip(4, 64, sigmoid="tanh")),
    }
    errors = {name: checked(runs[name], reference, 1e-2) for name in list(runs)[1:]}
    if sweep:
        runs |= {str(cut): (lambda cut=cut: triton.forward(x, weight, bias, cut)) for cut in FORWARD}
    took = milliseconds(runs)
    floor = 1000 * 2 * x.numel() * 1.5 / bandwidth
    table("SiLU + depthwise + GLU, forward", took, floor, errors)
    return {"ms": took, "floor_ms": floor, "relative_error": errors}


def backward(bandwidth: float, sweep: bool) -> dict[str, Any]:
    x, weight, bias = depthwise_inputs()
    dy = normal(T, H, W, M, seed=3)
    wide = [t.float().requires_grad_() for t in (x, weight, bias)]
    with exact_products():
        reference = torch.autograd.grad(naive.gated_depthwise(*wide), wide, dy.float())
    del wide
    torch.use_deterministic_algorithms(True, warn_only=True)
    ours = triton.backward(dy, x, weight, bias)
    torch.use_deterministic_algorithms(False)
    errors = {name: relative_error(a, b) for name, a, b in zip(("dx", "dw", "db"), ours, reference, strict=True)}
    print("  errors of the backward:", {name: f"{error:.1e}" for name, error in errors.items()}, flush=True)
    if not all(error < 1e-2 for error in errors.values()):
        raise SystemExit("the backward is wrong")
    del reference, ours
    torch.cuda.empty_cache()
    leaves = [t.clone().requires_grad_() for t in (x, weight, bias)]
    compiled = torch.compile(naive.gated_depthwise)

    def both(function: Callable[..., Tensor]) -> Callable[[], object]:
        return lambda: torch.autograd.grad(function(*leaves), leaves, dy)

    runs: dict[str, Callable[[], object]] = {
        "eager, channels-last, forward+backward": both(naive.gated_depthwise),
        "compiled, channels-last, forward+backward": both(compiled),
        "ours, forward+backward": both(triton.gated_depthwise),
        "ours, backward": lambda: triton.backward(dy, x, weight, bias),
    }
    took = milliseconds(runs, calls=4)
    floor = 1000 * 2 * x.numel() * 2.5 / bandwidth
    table("SiLU + depthwise + GLU, backward", took, floor, {})
    found = {"ms": took, "floor_ms": floor, "relative_error": errors}
    if sweep:
        taps, dc = triton.tap_major(weight), torch.empty_like(x)
        first = {f"gradient {c}": (lambda c=c: triton.backward_gradient(dy, x, taps, bias, c)) for c in GRADIENT}
        second = {f"transposed {c}": (lambda c=c: triton.backward_transposed(dc, x, taps, c)) for c in TRANSPOSED}
        took = milliseconds(first | second, calls=4)
        table("its two passes (floors: 5M and 6M columns)", took, floor, {})
        found["passes_ms"] = took
    return found


def temporal_mix(bandwidth: float, sweep: bool) -> dict[str, Any]:
    """The convolution alone, and with what follows it: x + gate · (u + conv(u))."""
    u, x, gate = normal(1, T, H * W, D), normal(1, T, H * W, D, seed=1), normal(1, 1, 1, D, seed=2)
    weight = normal(D, D, 3, 1, std=0.01, seed=3)  # as a model has it: products lay it out anew in each call
    taps_last = weight.contiguous(memory_format=torch.channels_last)
    with exact_products():
        reference = naive.temporal_conv(u.float(), weight.float())

    def cudnn() -> Tensor:
        return F.conv2d(u.permute(0, 3, 1, 2), taps_last, padding=(1, 0)).permute(0, 2, 3, 1)

    def products() -> Tensor:
        return temporal.forward(u, weight, (0,), None)

    runs: dict[str, Callable[[], Tensor]] = {
        "cuDNN, channels-last": cudnn,
        "three products": products,
        "three products, weight laid out before": lambda: temporal.forward(u, taps_last, (0,), None),
        "three products, chunks 11 + 10": lambda: temporal.forward(u, weight, (0, 11), None),
    }
    errors = {name: checked(run, reference, 1e-2) for name, run in list(runs.items())[:2]}
    for name, run in list(runs.items())[:2]:
        runs[f"{name}, then gated add"] = lambda run=run: triton_add(x, run(), gate, u)
    if sweep:
        runs["gated add alone"] = lambda: triton_add(x, u, gate, u)
    took = milliseconds(runs, calls=6)
    square = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    rate = 2 * 8192**3 / milliseconds({"8192³": lambda: square @ square}, calls=20)["8192³"]
    floor = 2 * T * H * W * D * D * 3 / rate
    table(f"temporal convolution (8192³ at {rate / 1e9:.0f} TFLOP/s)", took, floor, errors)
    return {"ms": took, "floor_ms": floor, "relative_error": errors, "tflops": rate / 1e9}


def triton_add(x: Tensor, branch: Tensor, gate: Tensor, skip: Tensor) -> Tensor:
    return modulate.forward(x, branch, skip, gate, None, None, 0.0)[0]


@torch.no_grad()
def without_gradients(part: Callable[[float, bool], dict[str, Any]], bandwidth: float, sweep: bool) -> dict[str, Any]:
    return part(bandwidth, sweep)


def against_plain(figures: dict[str, Any]) -> dict[str, dict[str, float]]:
    """What ships beside the plain forms of the same work."""
    found = {}
    if "forward" in figures:
        found["forward"] = figures["forward"]["ms"]
    if "backward" in figures:
        ms = figures["backward"]["ms"]
        found["forward and backward"] = {name: took for name, took in ms.items() if name.endswith("forward+backward")}
    if "temporal" in figures:
        ms = figures["temporal"]["ms"]
        found["temporal"] = {"ours": ms["three products"], "cuDNN": ms["cuDNN, channels-last"]}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=default_out("mix-ffn"))
    parser.add_argument("--only", default="forward,backward,temporal")
    parser.add_argument("--sweep", action="store_true", help="also time the kernels cut in other ways")
    given = parser.parse_args()
    bandwidth = copy_bandwidth()
    print(f"copy {bandwidth / 1e12:.3f} TB/s", flush=True)
    figures: dict[str, Any] = {"copy_bytes_per_second": bandwidth}
    for name in given.only.split(","):
        if name == "backward":
            figures[name] = backward(bandwidth, given.sweep)
        else:
            part = {"forward": forward, "temporal": temporal_mix}[name]
            figures[name] = without_gradients(part, bandwidth, given.sweep)
        write(given.out, figures)
        torch.cuda.empty_cache()
    refuse_slower(against_plain(figures))


if __name__ == "__main__":
    main()
