"""One video made twice from the same noise, with the kernels and with the definitions: how far apart they end.

`sample.py --compare` runs this. Every step adds its rounding to the next one's input, so the bound on latents is wider
than that of one velocity; on a machine without kernels both runs are the definitions, and equal.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Unpack

import torch
from random_parts import PROMPT
from timing import relative_error
from torch import Tensor

from sana_video.ops import select
from sana_video.pipeline import Options, SanaVideoPipeline

LATENTS_BOUND = 5e-2  # relative difference after all steps in bf16; each step is held to 1e-2 of float32
PSNR_BOUND = 30.0  # dB between the frames, of 8 bits


class Made(NamedTuple):
    latents: Tensor
    frames: Tensor  # uint8


def compare(pipeline: SanaVideoPipeline, frames: int, steps: int, out: Path, about: dict[str, Any]) -> dict[str, Any]:
    """Write and return the differences; SystemExit where one exceeds its bound, or is no number."""
    ours = make(pipeline, PROMPT, frames=frames, steps=steps, seed=0)
    with select.disabled():
        plain = make(pipeline, PROMPT, frames=frames, steps=steps, seed=0)
    figures = {
        "about": about,
        "frames": frames,
        "steps": steps,
        "latents_relative_difference": relative_error(ours.latents, plain.latents),
        "psnr_db": psnr(ours.frames, plain.frames),
        "bounds": {"latents_relative_difference": LATENTS_BOUND, "psnr_db": PSNR_BOUND},
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(figures, indent=2) + "\n")
    difference, ratio = figures["latents_relative_difference"], figures["psnr_db"]
    print(f"kernels against definitions: latents differ by {difference:.2e}, frames by {ratio:.1f} dB", flush=True)
    if not (difference <= LATENTS_BOUND and ratio >= PSNR_BOUND):
        raise SystemExit(f"a sample differs by more than {LATENTS_BOUND:.0e} or less than {PSNR_BOUND:.0f} dB")
    return figures


def make(pipeline: SanaVideoPipeline, prompts: str | Sequence[str], **options: Unpack[Options]) -> Made:
    """Latents as the decoder was handed them, and the frames."""
    seen: list[Tensor] = []
    decode = pipeline.autoencoder.decode_stream

    def watched(pieces: Any) -> Any:
        def each() -> Any:
            for piece in pieces:
                seen.append(piece.float().cpu())
                yield piece

        return decode(each())

    pipeline.autoencoder.decode_stream = watched
    try:
        shown = torch.cat(list(pipeline.stream(prompts, **options)), dim=1).cpu()
    finally:
        del pipeline.autoencoder.decode_stream
    return Made(torch.cat(seen, dim=2), shown)


def psnr(frames: Tensor, reference: Tensor) -> float:
    """dB between frames of 8 bits; 100 where they are equal."""
    error = float((frames.double() - reference.double()).square().mean())
    return 100.0 if error == 0 else 10 * math.log10(255**2 / error)
