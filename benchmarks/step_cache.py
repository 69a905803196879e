"""What skipping steps saves and costs: seconds, steps, and the difference of the latents to computing every step.

    python benchmarks/step_cache.py --out benchmarks/results/step-cache-h100.json [--model FOLDER] [--frames 81]
    python benchmarks/step_cache.py --preset tiny --device cpu --steps 10 --frames 9 --out step-cache.json

Without a --model the weights are random, and then only the time says something: whether steps may be skipped is a
property of what was learned.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from random_parts import SIZES, about, network, wanted_device

from sana_video import SanaVideo, SanaVideoConfig
from sana_video.generate import Request, clean_latents
from sana_video.streaming import Condition

THRESHOLDS = (0.0, 0.02, 0.05, 0.1, 0.2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--preset", choices=SIZES, default="2b-480p")
    parser.add_argument("--model", type=Path, help="folder of a trained network of the preset's size")
    parser.add_argument("--device", help="default: a GPU if there is one")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--frames", type=int, default=81)
    given = parser.parse_args()
    device, sizes = wanted_device(given.device), SIZES[given.preset]
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    if given.model is None:
        model = network(SanaVideo, SanaVideoConfig.preset(given.preset), device, dtype)
    else:
        model = SanaVideo.from_pretrained(given.model, device=device, dtype=dtype)
    shape = (1, model.config.in_channels, (given.frames - 1) // 4 + 1, sizes.height // 8, sizes.width // 8)
    rows, plain = [], None
    sample(model, shape, 2, 0.0)  # kernels are compiled outside the figures
    for threshold in THRESHOLDS:
        latents, row = sample(model, shape, given.steps, threshold)
        plain = latents if plain is None else plain
        row["relative_difference"] = float((latents - plain).norm() / plain.norm())
        rows.append(row)
        print(row, flush=True)
    figures = {"about": about(device), "preset": given.preset, "weights": str(given.model or "random"), "rows": rows}
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(figures, indent=2) + "\n")


def sample(
    model: SanaVideo, shape: tuple[int, int, int, int, int], steps: int, threshold: float
) -> tuple[torch.Tensor, dict[str, Any]]:
    """Guided latents from the same noise each time, and what they took."""
    skipped: list[int] = []
    device = model.patch_embed.weight.device
    prompt, null = (condition(model, seed).to(device) for seed in (0, 1))
    request = Request(
        shape=shape, prompt=prompt, null=null, image=None, steps=steps, guidance=6.0, guidance_rule="cfg",
        flow_shift=8.0, step_list=None, generators=[torch.Generator().manual_seed(0)],
        on_step=lambda done, total: None, step_cache=threshold, on_skip=skipped.append,
    )  # fmt: skip
    start = time.perf_counter()
    (latents,) = clean_latents(model, request)
    latents = latents.cpu()  # waits for the device
    took = time.perf_counter() - start
    return latents, {"threshold": threshold, "steps": steps, "skipped": len(skipped), "seconds": round(took, 3)}


def condition(model: SanaVideo, seed: int) -> Condition:
    config = model.config
    text = torch.randn(1, config.text_tokens, config.text_width, generator=torch.Generator().manual_seed(seed))
    return Condition(text, torch.ones(text.shape[:2], dtype=torch.bool))


if __name__ == "__main__":
    main()
