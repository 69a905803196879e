"""fp8 on one GPU: the kernels that quantise rows, and the products against bf16's.

    python benchmarks/fp8.py [--out FILE] [--only rows,products] [--sweep]

The shapes of 2b-480p at 21 frames of 1560 tokens, random inputs. Correctness first: the rows against the definition on
the same GPU, a product against float64 of the same e4m3 values, so that what is seen is its sums' rounding and not that
of e4m3. The floor of a kernel is the fewest bytes at the copy bandwidth of the same run. A product's line with its pass
counts the quantisation that no kernel before it does: what a block saves is the bf16 line less that one.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from graphs import milliseconds, table
from timing import copy_bandwidth, default_out, refuse_slower, relative_error, write
from torch import Tensor

from sana_video.ops import fp8
from sana_video.ops.fp8 import Quantized, naive, triton
from sana_video.ops.modulate.triton import Rows

T, S, D, M, EPS = 21, 1560, 2240, 6720, 1e-6
PRODUCTS = {"qkv": (3 * D, D, False), "out": (D, D, True), "expand": (2 * M, D, False), "project": (D, M, True)}
NARROW = [
    Rows(1, 256, 1),
    Rows(1, 256, 2),
    Rows(1, 512, 2),
    Rows(1, 512, 4),
    Rows(1, 1024, 4),
    Rows(2, 512, 4),
    Rows(4, 256, 4),
]
WIDE = [Rows(1, 1024, 4), Rows(1, 512, 4), Rows(1, 512, 2), Rows(1, 1024, 8), Rows(1, 2048, 8)]
SUMS_CLOSE = 1e-2  # of products: fp8 units keep fewer bits of a sum than float32; e4m3 itself is off by 3.7e-2
ROWS_CLOSE = 1e-3  # of rows: another order of sums moves a few values by a step


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, device="cuda", generator=torch.Generator("cuda").manual_seed(seed)).bfloat16()


def shown(rows: Quantized) -> Tensor:
    return rows.values.double() * rows.scale.double()


def checked(name: str, error: float, bound: float) -> float:
    if not error < bound:
        raise SystemExit(f"{name}: relative error {error:.2e} is not below {bound}")
    return error


def kernels() -> dict[str, tuple[Callable[..., Any], Callable[..., Any], tuple[Any, ...], float]]:
    """Name -> ours, the definition, arguments, and bytes for each number of the stream that must be moved."""
    x, branch = normal(1, T, S, D, seed=0), normal(1, T, S, D, seed=1)
    shift, scale, gate = (normal(1, 1, 1, D, seed=seed) for seed in range(2, 5))
    return {
        "rows of 2240": (fp8.quantize, naive.quantize, (x,), 3),
        "rows of 6720": (fp8.quantize, naive.quantize, (normal(1, T, S, M, seed=5),), 3 * M / D),
        "modulate": (fp8.modulate, naive.modulate, (x, shift, scale, EPS), 3),
        "gated_add": (fp8.gated_add, naive.gated_add, (x, branch, gate), 7),
        "gated_add_modulate": (
            fp8.gated_add_modulate,
            naive.gated_add_modulate,
            (x, branch, None, shift, scale, EPS),
            7,
        ),
        "three_frames": (fp8.three_frames, naive.three_frames, (x, (0,), None), 5),
    }


def rows_of(outputs: Any) -> Quantized:
    """The quantised part of what an operation gives back."""
    return outputs if isinstance(outputs, Quantized) else outputs[1]  # type: ignore[no-any-return]


@torch.no_grad()
def all_rows(bandwidth: float) -> dict[str, Any]:
    figures = {}
    for name, (ours, plain, arguments, size) in kernels().items():
        error = relative_error(shown(rows_of(ours(*arguments))), shown(rows_of(plain(*arguments))))
        checked(name, error, ROWS_CLOSE)
        compiled = torch.compile(plain, dynamic=False)
        took = milliseconds(
            {
                "compiled": lambda run=compiled, given=arguments: run(*given),
                "ours": lambda run=ours, given=arguments: run(*given),
            }
        )
        floor = 1000 * size * T * S * D / bandwidth
        table(name, took, floor, {"ours": error})
        figures[name] = {"ms": took, "floor_ms": floor, "relative_error": error}
    return figures


@torch.no_grad()
def all_products() -> dict[str, Any]:
    figures, one = {}, torch.ones((), device="cuda")
    for name, (outputs, inputs, bare) in PRODUCTS.items():
        x, weight, bias = normal(T * S, inputs, seed=6), normal(outputs, inputs, seed=7), normal(outputs, seed=8)
        rows, wide = fp8.quantize(x), fp8.quantize(weight)
        exact = shown(Quantized(rows.values[:512], rows.scale[:512])) @ shown(wide).t() + bias.double()
        some = Quantized(rows.values[:512].contiguous(), rows.scale[:512].contiguous())
        error = checked(name, relative_error(fp8.scaled_product(some, wide, bias), exact), SUMS_CLOSE)
        runs: dict[str, Callable[[], object]] = {
            "bf16": lambda x=x, w=weight, b=bias: F.linear(x, w, b),
            "fp8": lambda r=rows, w=wide, b=bias: fp8.scaled_product(r, w, b),
            "fp8, whole sums": lambda r=rows, w=wide, b=bias: scaled(r, w, b, r.scale, w.scale.t(), fast=False),
            "fp8, one scale a tensor": lambda r=rows, w=wide, b=bias: scaled(r, w, b, one, one, fast=True),
        }
        if bare:
            runs["fp8 with its pass"] = lambda x=x, w=wide, b=bias: fp8.scaled_product(fp8.quantize(x), w, b)
        figures[name] = timed(name, runs, error)
    figures["temporal"] = temporal_product()
    return figures


def scaled(x: Quantized, weight: Quantized, bias: Tensor, scale_a: Tensor, scale_b: Tensor, *, fast: bool) -> Tensor:
    """The library's product in its other forms."""
    return torch._scaled_mm(
        x.values,
        weight.values.t(),
        scale_a=scale_a,
        scale_b=scale_b,
        bias=bias,
        out_dtype=torch.bfloat16,
        use_fast_accum=fast,
    )


def temporal_product() -> dict[str, Any]:
    from sana_video.ops.mix_ffn import temporal

    u, weight = normal(1, T, S, D, seed=9), normal(D, D, 3, 1, seed=10)
    taps = fp8.quantize(weight.squeeze(-1).permute(0, 2, 1).flatten(1))
    expected = temporal.forward(u, weight, [0], None)
    error = checked("temporal", relative_error(fp8.linear(fp8.three_frames(u), taps, None, u.dtype), expected), 6e-2)
    rows = fp8.three_frames(u)
    return timed(
        "temporal",
        {
            "bf16, three products": lambda: temporal.forward(u, weight, [0], None),
            "fp8": lambda: fp8.scaled_product(rows, taps, None),
            "fp8 with its pass": lambda: fp8.scaled_product(fp8.three_frames(u), taps, None),
        },
        error,
    )


def timed(name: str, runs: dict[str, Callable[[], object]], error: float) -> dict[str, Any]:
    took = milliseconds(runs)
    first = next(iter(took))
    print(f"product {name}; error {error:.1e}")
    for run, ms in sorted(took.items(), key=lambda pair: pair[1]):
        print(f"  {run:58s} {ms:7.3f} ms   {took[first] / ms:5.2f}", flush=True)
    return {"ms": took, "relative_error": error}


@torch.no_grad()
def sweep(bandwidth: float) -> dict[str, Any]:
    x, branch, wide = normal(1, T, S, D, seed=0), normal(1, T, S, D, seed=1), normal(1, 1, T * S, M, seed=2)
    shift, scale, gate = (normal(1, 1, 1, D, seed=seed) for seed in range(3, 6))
    unit = 1000 * T * S * D / bandwidth
    kinds: dict[str, tuple[float, list[Rows], Callable[[Rows], object]]] = {
        "rows of 2240": (3, NARROW, lambda cut: triton.forward(x, None, None, None, None, 0.0, cut)),
        "rows of 6720": (9, WIDE, lambda cut: triton.forward(wide, None, None, None, None, 0.0, cut)),
        "modulate": (3, NARROW, lambda cut: triton.forward(x, None, None, shift, scale, EPS, cut)),
        "gated_add": (7, NARROW, lambda cut: triton.forward(x, branch, gate, None, None, 0.0, cut)),
        "gated_add_modulate": (7, NARROW, lambda cut: triton.forward(x, branch, None, shift, scale, EPS, cut)),
        "three_frames": (5, NARROW, lambda cut: triton.frames_forward(x, (0,), None, cut)),
    }
    found = {}
    for name, (size, cuts, run) in kinds.items():
        found[name] = milliseconds({str(cut): (lambda cut=cut, run=run: run(cut)) for cut in cuts}, rounds=3)
        table(f"sweep of {name}", found[name], size * unit, {})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=default_out("fp8"))
    parser.add_argument("--only", default="rows,products")
    parser.add_argument("--sweep", action="store_true", help="time the kernels cut in other ways instead")
    given = parser.parse_args()
    bandwidth = copy_bandwidth()
    print(f"copy {bandwidth / 1e12:.3f} TB/s", flush=True)
    figures: dict[str, Any] = {"copy_bytes_per_second": bandwidth}
    if given.sweep:
        figures["sweep"] = sweep(bandwidth)
    else:
        parts: dict[str, Callable[[], dict[str, Any]]] = {"rows": lambda: all_rows(bandwidth), "products": all_products}
        for name in given.only.split(","):
            figures[name] = parts[name]()
    write(given.out, figures)
    refuse_slower({name: found["ms"] for name, found in figures.get("rows", {}).items()})


if __name__ == "__main__":
    main()
