"""Wan's decoder on one GPU: diffusers' forward against ours in few passes over memory.

    python benchmarks/decoder.py [--out FILE] [--trace trace.txt]
    python benchmarks/decoder.py --preset tiny --device cpu --frames 9 --rounds 1 --out decoder.json

Random weights of Wan 2.1's sizes. Correctness first: each way in bf16 against diffusers' forward in fp32 over the first
frames. Then the ways take turns over a whole video. The floor is that of the convolutions alone: their operations at
the rate that a large product reaches in the same run.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from random_parts import SIZES, about, wan, wanted_device
from timing import checked, default_out, exact_products, interleaved, relative_error, trace
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from sana_video.autoencoder.wan import Wan

WAYS: dict[str, dict[str, Any]] = {
    "diffusers": {},
    "diffusers, 5 latents at once": {"latents_at_once": 5},
    "ours": {"fused": True},
    "ours, 5 latents at once": {"fused": True, "latents_at_once": 5},
}
CHECKED = 6  # latents
BOUND = 4e-2  # of the relative error to float32: in bf16 diffusers' forward loses 2.7e-2, ours 2.2e-2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=default_out("decoder"), help="JSON file for the figures")
    parser.add_argument("--preset", choices=SIZES, default="2b-480p")
    parser.add_argument("--device", help="default: a GPU if there is one")
    parser.add_argument("--frames", type=int, default=81)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--trace", type=Path, help="write which kernels the fastest way spends its time in")
    given = parser.parse_args()
    device, sizes = wanted_device(given.device), SIZES[given.preset]
    torch.manual_seed(0)
    exact = wan(sizes, device, torch.float32)
    generator = torch.Generator().manual_seed(0)
    shape = (1, 16, exact.latent_frames(given.frames), sizes.height // 8, sizes.width // 8)
    latents = torch.randn(shape, generator=generator).to(device)

    with exact_products():
        expected = exact.decode(latents[:, :, :CHECKED])
    model = exact.to(torch.bfloat16)
    errors = {
        name: checked(relative_error(model.arrange(**way).decode(latents[:, :, :CHECKED]), expected), BOUND, name)
        for name, way in WAYS.items()
    }
    del expected
    figures: dict[str, Any] = {"about": about(device), "frames": given.frames, "relative_error": errors}
    if device.type == "cuda":
        figures |= timed(model, latents, given.rounds)
        if given.trace:
            given.trace.write_text(trace(decoding(model, WAYS["ours, 5 latents at once"], latents)))
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(figures, indent=2) + "\n")
    show(figures)


def timed(model: Wan, latents: Tensor, rounds: int) -> dict[str, Any]:
    """Milliseconds of a video and GiB at its peak, by way; and the floor of the convolutions."""
    runs = {name: decoding(model, way, latents) for name, way in WAYS.items()}
    peaks = {}
    for name, run in runs.items():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        run()
        peaks[name] = torch.cuda.max_memory_allocated() / 2**30
    times = interleaved(runs, rounds=rounds, calls=1)
    with FlopCounterMode(display=False) as counted:
        model.arrange(**WAYS["ours"]).decode(latents[:, :, :3])
    # the first latent is one frame, and its cost is left out: each of the others has the same
    with FlopCounterMode(display=False) as first:
        model.decode(latents[:, :, :2])
    operations = (counted.get_total_flops() - first.get_total_flops()) * (latents.shape[2] - 1)
    rate = product_rate()
    floor = {"tflop": operations / 1e12, "tflop_per_second": rate / 1e12, "ms": 1000 * operations / rate}
    return {"ms": times, "peak_gib": peaks, "floor": floor}


def decoding(model: Wan, way: dict[str, Any], latents: Tensor) -> Callable[[], object]:
    def run() -> None:
        for piece in model.arrange(**way).decode_stream([latents]):
            del piece

    return run


def product_rate() -> float:
    """Operations per second of a product of 8192 x 8192 in bf16."""
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    took = interleaved({"product": lambda: a @ b}, rounds=3, calls=20, warm=5)["product"]
    return 2 * 8192**3 / (took / 1000)


def show(figures: dict[str, Any]) -> None:
    for name, value in figures["about"].items():
        print(f"{name:12}{value}")
    for name, error in figures["relative_error"].items():
        if "ms" in figures:
            print(f"{name:32}{figures['ms'][name]:9.1f} ms{figures['peak_gib'][name]:8.2f} GiB   error {error:.2e}")
        else:
            print(f"{name:32}error {error:.2e}")
    if "floor" in figures:
        floor = figures["floor"]
        print(f"{'convolutions at best':32}{floor['ms']:9.1f} ms: {floor['tflop']:.0f} TFLOP at "
              f"{floor['tflop_per_second']:.0f} TFLOP/s")  # fmt: skip


if __name__ == "__main__":
    main()
