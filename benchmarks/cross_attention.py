"""Norm of the queries and attention to a text on one GPU: ours against the library's two passes, eager and compiled.

    python benchmarks/cross_attention.py --out benchmarks/results/cross-attention-h100.json [--sweep]

32,760 tokens of 480p, 20 heads of 112, texts of 32, 160 and 300 tokens. Correctness first, against the definition in
float64 on a part of the tokens. The floor is reading and writing the queries once at the speed of a copy.
"""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import graphs
import torch
from timing import copy_bandwidth, relative_error, write
from torch import Tensor

from sana_video.ops.cross_attention import naive, triton
from sana_video.ops.cross_attention.triton import Cut

N, HEADS, E, EPS = 32_760, 20, 112, 1e-6
CUTS = tuple(
    Cut(*cut) for cut in ((64, 64, 8), (64, 32, 4), (32, 64, 4), (128, 64, 8), (64, 64, 8, 1), (64, 32, 8), (32, 32, 4))
)


def given(L: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator("cuda").manual_seed(L)
    queries = torch.randn(1, N, HEADS * E, device="cuda", generator=generator).bfloat16()
    weight = torch.rand(HEADS * E, device="cuda", generator=generator).bfloat16() + 0.5
    both = torch.randn(1, L, 2, HEADS, E, device="cuda", generator=generator).bfloat16()
    keys, values = both.permute(2, 0, 3, 1, 4)
    return queries, weight, keys, values


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sweep", action="store_true", help="all cuts of the kernel instead of the peers")
    asked = parser.parse_args()
    rate = copy_bandwidth()
    floor = 1000 * 2 * N * HEADS * E * 2 / rate
    figures: dict[str, Any] = {"floor_ms": floor, "copy_bytes_per_second": rate, "ms": {}, "error": {}}
    for L in (32, 160, 300):
        queries, weight, keys, values = given(L)

        def call(run: Callable[..., Tensor], q: Tensor, *rest: Tensor) -> Tensor:
            return run(q, rest[0], EPS, rest[1], rest[2], None)

        runs: dict[str, Callable[..., Tensor]] = {"ours": triton.normed_cross_attention}
        if asked.sweep:
            runs |= {str(cut): partial(triton.forward, cut=cut) for cut in CUTS}
        else:
            runs |= {"library": naive.normed_cross_attention, "compiled": torch.compile(naive.normed_cross_attention)}
        part = queries[:, :512], weight, keys, values
        exact = call(naive.normed_cross_attention, *(t.double() for t in part))
        errors = {name: relative_error(call(run, *part).double(), exact) for name, run in runs.items()}
        times = graphs.milliseconds(
            {name: partial(call, run, queries, weight, keys, values) for name, run in runs.items()}
        )
        graphs.table(f"text of {L}", times, floor, errors)
        figures["ms"][L], figures["error"][L] = times, errors
    write(asked.out, figures)


if __name__ == "__main__":
    main()
