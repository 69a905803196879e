"""Norm, modulation and gated sums on one GPU: each one pass over the stream, forward and backward.

    python benchmarks/modulate.py [--out FILE] [--frames 21] [--sweep]

The stream of 2b-480p at 21 frames of 1560 tokens, bf16, random inputs. Correctness first, against float64. The floor is
the fewest bytes at the copy bandwidth of the same run.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from graphs import milliseconds, table
from timing import checked, copy_bandwidth, default_out, refuse_slower, relative_error, write
from torch import Tensor

from sana_video.ops.modulate import naive, rms, triton
from sana_video.ops.modulate.triton import Rows

T, S, D, EPS = 21, 1560, 2240, 1e-6
FORWARD = [
    Rows(1, 256, 1),
    Rows(4, 256, 4),
    Rows(1, 256, 1, registers=168),
    Rows(1, 512, 2),
    Rows(2, 512, 4),
    Rows(1, 512, 4),
    Rows(2, 512, 8),
    Rows(1, 1024, 4),
    Rows(2, 1024, 8),
]
BACKWARD = [
    Rows(rows, chunk, warps, tiles, registers)
    for rows, chunk, warps, registers in ((1, 512, 4, None), (1, 512, 4, 128), (1, 1024, 8, None), (1, 512, 8, None))
    for tiles in (32, 64)
]


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, device="cuda", generator=torch.Generator("cuda").manual_seed(seed)).bfloat16()


def stream(seed: int) -> Tensor:
    return normal(1, T, S, D, seed=seed)


def worst(outputs: tuple[Tensor, ...], reference: tuple[Tensor, ...], name: str) -> float:
    return max(checked(relative_error(a, b), 5e-3, name) for a, b in zip(outputs, reference, strict=True))


def forms(frames: int) -> dict[str, tuple[Callable[..., Any], Callable[..., Any], tuple[Any, ...], int, int]]:
    """Name -> ours, the definition, arguments, and columns of the stream that forward and backward must move."""
    x, branch, skip = (stream(seed) for seed in range(3))
    shift, scale, gate = (normal(1, frames, 1, D, seed=seed) for seed in range(3, 6))
    weight = normal(D, seed=6)
    return {
        "modulate": (triton.modulate, naive.modulate, (x, shift, scale, EPS), 2, 3),
        "gated_add": (triton.gated_add, naive.gated_add, (x, branch, gate, None), 3, 3),
        "gated_add_modulate": (
            triton.gated_add_modulate,
            naive.gated_add_modulate,
            (x, branch, gate, shift, scale, EPS, None),
            4,
            6,
        ),
        "gated_add_modulate with skip": (
            triton.gated_add_modulate,
            naive.gated_add_modulate,
            (x, branch, gate, shift, scale, EPS, skip),
            5,
            7,
        ),
        "rms_norm": (rms.rms_norm, naive.rms_norm, (x, weight, EPS), 2, 3),
    }


def tensors(arguments: tuple[Any, ...]) -> list[Tensor]:
    return [a for a in arguments if isinstance(a, Tensor)]


def as_tuple(outputs: Any) -> tuple[Tensor, ...]:
    return outputs if isinstance(outputs, tuple) else (outputs,)


def with_gradients(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Callable[[], tuple[Tensor, ...]]:
    """Outputs and gradients of all tensors among the arguments."""
    leaves = [a.detach().clone().requires_grad_() if isinstance(a, Tensor) else a for a in arguments]
    cotangents: list[Tensor] = []

    def run() -> tuple[Tensor, ...]:
        outputs = as_tuple(function(*leaves))
        if not cotangents:
            cotangents.extend(stream(10 + i) for i in range(len(outputs)))
        like = [c.to(o.dtype) for c, o in zip(cotangents, outputs, strict=True)]
        return outputs + torch.autograd.grad(outputs, tensors(tuple(leaves)), like)

    return run


def correctness(name: str, ours: Callable[..., Any], plain: Callable[..., Any], arguments: tuple[Any, ...]) -> float:
    wide = tuple(a.double() if isinstance(a, Tensor) else a for a in arguments)
    torch.use_deterministic_algorithms(True, warn_only=True)  # fills new memory with NaN
    got = with_gradients(ours, arguments)()
    torch.use_deterministic_algorithms(False)
    return worst(got, with_gradients(plain, wide)(), name)


def one(name: str, form: tuple[Any, ...], bandwidth: float) -> dict[str, Any]:
    ours, plain, arguments, columns, columns_back = form
    error = correctness(name, ours, plain, arguments)
    torch.cuda.empty_cache()
    compiled = torch.compile(plain, dynamic=False)
    unit = 1000 * 2 * T * S * D / bandwidth
    with torch.no_grad():
        forward = milliseconds(
            {
                "eager": lambda: plain(*arguments),
                "compiled": lambda: compiled(*arguments),
                "ours": lambda: ours(*arguments),
            }
        )
    table(f"{name}, forward", forward, columns * unit, {"ours": error})
    both = milliseconds(
        {
            "eager": with_gradients(plain, arguments),
            "compiled": with_gradients(compiled, arguments),
            "ours": with_gradients(ours, arguments),
        },
        calls=4,
    )
    table(f"{name}, forward+backward", both, (columns + columns_back) * unit, {})
    return {
        "forward_ms": forward,
        "forward_floor_ms": columns * unit,
        "forward_backward_ms": both,
        "forward_backward_floor_ms": (columns + columns_back) * unit,
        "relative_error": error,
    }


@torch.no_grad()
def sweep(bandwidth: float) -> dict[str, Any]:
    x, branch, dy, dx = (stream(seed) for seed in range(4))
    shift, scale, gate = (normal(1, 1, 1, D, seed=seed) for seed in range(4, 7))
    weight = normal(D, seed=7)
    unit = 1000 * 2 * T * S * D / bandwidth
    kinds: dict[str, tuple[int, list[Rows], Callable[[Rows], object]]] = {
        "modulate": (2, FORWARD, lambda cut: triton.forward(x, None, None, None, shift, scale, EPS, cut)),
        "gated_add_modulate": (4, FORWARD, lambda cut: triton.forward(x, branch, None, gate, shift, scale, EPS, cut)),
        "rms_norm": (2, FORWARD[:5], lambda cut: rms.forward(x, weight, EPS, cut)),
        "modulate backward": (
            3,
            BACKWARD,
            lambda cut: triton.backward(x, dy, None, None, None, None, scale, EPS, cut),
        ),
        "gated_add_modulate backward": (
            6,
            BACKWARD,
            lambda cut: triton.backward(x, dy, dx, branch, None, gate, scale, EPS, cut),
        ),
    }
    found = {}
    for name, (columns, cuts, run) in kinds.items():
        found[name] = milliseconds({str(cut): (lambda cut=cut, run=run: run(cut)) for cut in cuts}, rounds=3)
        table(f"sweep of {name}", found[name], columns * unit, {})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=default_out("modulate"))
    parser.add_argument("--frames", type=int, default=1, choices=(1, T), help="modulations: one, or one per frame")
    parser.add_argument("--only", default="", help="names of operations; all without it")
    parser.add_argument("--sweep", action="store_true", help="time the kernels cut in other ways instead")
    given = parser.parse_args()
    bandwidth = copy_bandwidth()
    print(f"copy {bandwidth / 1e12:.3f} TB/s", flush=True)
    figures: dict[str, Any] = {"copy_bytes_per_second": bandwidth, "modulations": given.frames}
    if given.sweep:
        figures["sweep"] = sweep(bandwidth)
    else:
        for name, form in forms(given.frames).items():
            if not given.only or name in given.only.split(","):
                figures[name] = one(name, form, bandwidth)
    write(given.out, figures)
    if not given.sweep:
        timed = {name: found for name, found in figures.items() if isinstance(found, dict)}
        ways = {"forward": "forward_ms", "with backward": "forward_backward_ms"}
        refuse_slower({f"{name}, {way}": found[key] for name, found in timed.items() for way, key in ways.items()})


if __name__ == "__main__":
    main()
