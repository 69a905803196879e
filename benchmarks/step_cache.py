"""What skipping steps saves and costs: seconds and steps, and how far latents and frames are from computing every step.

    python benchmarks/step_cache.py --pipeline FOLDER [--model FOLDER] [--out FILE]
    python benchmarks/step_cache.py [--frames 81] [--out FILE]
    python benchmarks/step_cache.py --preset tiny --device cpu --steps 10 --frames 9

With a pipeline (the demo's release/, say) real prompts are read by its text encoder, and films of the same seeds are
held to those of every step: PSNR of the latents, whose peak is the range they take, and of the frames. `--model` is a
network of the pipeline's shape to sample by instead. Without a pipeline weights and text are random, and then only the
time says something: whether steps may be skipped is a property of what was learned.
"""

import argparse
import dataclasses
import json
import math
import time
from pathlib import Path
from typing import Any

import torch
from comparison import make, psnr
from random_parts import SIZES, about, network, wanted_device
from timing import default_out, relative_error

from sana_video import SanaVideo, SanaVideoConfig
from sana_video.generate import Request, clean_latents
from sana_video.pipeline import SanaVideoPipeline
from sana_video.streaming import Condition

PROMPTS = ("A river between green hills under a bright sky.", "A rabbit in a meadow turns its head towards the camera.")
THRESHOLDS = (0.0, 0.02, 0.05, 0.1, 0.2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=default_out("step-cache"))
    parser.add_argument("--pipeline", type=Path, help="folder of a trained pipeline, such as the demo's release/")
    parser.add_argument("--model", type=Path, help="with --pipeline: folder of a network to take in place of its own")
    parser.add_argument("--preset", choices=SIZES, default="2b-480p", help="of random weights")
    parser.add_argument("--device", help="default: a GPU if there is one")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--frames", type=int, help="default: the pipeline's own, or 81")
    given = parser.parse_args()
    if given.model and not given.pipeline:
        parser.error("--model needs a --pipeline, whose text encoder and autoencoder go with it")
    device = wanted_device(given.device)
    if given.pipeline:
        rows, told = of_pipeline(given, device), {"pipeline": given.pipeline.name, "prompts": PROMPTS}
    else:
        rows, told = of_random_weights(given, device), {"preset": given.preset, "weights": "random"}
    figures = {"about": about(device), **told, "steps": given.steps, "rows": rows}
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(figures, indent=2) + "\n")


def of_pipeline(given: argparse.Namespace, device: torch.device) -> list[dict[str, Any]]:
    """A row for each threshold, from films of `PROMPTS`."""
    pipeline = both_ways(SanaVideoPipeline.from_pretrained(given.pipeline, device=device), given.model, device)
    rows: list[dict[str, Any]] = []
    plain = make(pipeline, PROMPTS, frames=given.frames, steps=given.steps, seed=0)  # and kernels are compiled
    low, high = float(plain.latents.min()), float(plain.latents.max())
    for threshold in THRESHOLDS:
        skipped: list[int] = []
        start = time.perf_counter()
        made = make(
            pipeline, PROMPTS, frames=given.frames, steps=given.steps, seed=0,
            step_cache=threshold or None, on_skip=skipped.append,
        )  # fmt: skip
        took = time.perf_counter() - start
        error = float((made.latents.double() - plain.latents.double()).square().mean())
        rows.append(
            {
                "threshold": threshold,
                "skipped": len(skipped),
                "seconds": round(took, 3),
                "latents_relative_difference": relative_error(made.latents, plain.latents),
                "latents_psnr_db": 100.0 if error == 0 else 10 * math.log10((high - low) ** 2 / error),
                "frames_psnr_db": psnr(made.frames, plain.frames),
            }
        )
        print(rows[-1], flush=True)
    return rows


def both_ways(pipeline: SanaVideoPipeline, folder: Path | None, device: torch.device) -> SanaVideoPipeline:
    """The pipeline with the network of `folder`; one that works chunk by chunk as a network in both directions."""
    model = pipeline.model
    if folder is not None:
        model = SanaVideo.from_pretrained(folder, device=device, dtype=model.patch_embed.weight.dtype)
    if model.config.chunk_frames is not None:
        with torch.device("meta"):
            whole = SanaVideo(model.config.with_(chunk_frames=None))
        whole.load_state_dict(model.state_dict(), assign=True)
        model = whole.eval()
    defaults = pipeline.defaults.model_copy(update={"step_list": None})  # of distilled steps none can be spared
    return dataclasses.replace(pipeline, model=model, defaults=defaults)


def of_random_weights(given: argparse.Namespace, device: torch.device) -> list[dict[str, Any]]:
    """A row for each threshold: time, steps, and the difference of the latents."""
    sizes, frames = SIZES[given.preset], given.frames or 81
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    model = network(SanaVideo, SanaVideoConfig.preset(given.preset), device, dtype)
    shape = (1, model.config.in_channels, (frames - 1) // 4 + 1, sizes.height // 8, sizes.width // 8)
    rows, plain = [], None
    sample(model, shape, 2, 0.0)  # kernels are compiled outside the figures
    for threshold in THRESHOLDS:
        latents, row = sample(model, shape, given.steps, threshold)
        plain = latents if plain is None else plain
        rows.append(row | {"latents_relative_difference": relative_error(latents, plain)})
        print(rows[-1], flush=True)
    return rows


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
