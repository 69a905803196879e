"""Videos made twice from the same noise, with the kernels and with the definitions: how far apart they end.

`sample.py --compare` runs this. Every step adds its rounding to the next one's input, so the bound on latents is wider
than that of one velocity; on a machine without kernels both runs are the definitions, and equal.
"""

import json
import math
from collections.abc import Mapping, Sequence
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


def compare(jobs: Mapping[str, tuple[SanaVideoPipeline, Options]], out: Path, about: dict[str, Any]) -> None:
    """Write the differences of each job's video; SystemExit where one exceeds its bound, or is no number."""
    found = {name: {**asked, **differences(pipeline, asked)} for name, (pipeline, asked) in jobs.items()}
    bounds = {"latents_relative_difference": LATENTS_BOUND, "psnr_db": PSNR_BOUND}
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({"about": about, "bounds": bounds, "made": found}, indent=2) + "\n")
    for name, each in found.items():
        difference, ratio = each["latents_relative_difference"], each["psnr_db"]
        print(f"{name}: kernels against definitions: latents {difference:.2e}, frames {ratio:.1f} dB", flush=True)
        if not (difference <= LATENTS_BOUND and ratio >= PSNR_BOUND):
            raise SystemExit(f"{name} differs by more than {LATENTS_BOUND:.0e} or less than {PSNR_BOUND:.0f} dB")


def differences(pipeline: SanaVideoPipeline, asked: Options) -> dict[str, Any]:
    """Between the video made with the kernels and the one made without."""
    ours = make(pipeline, PROMPT, **asked, seed=0)
    with select.disabled():
        plain = make(pipeline, PROMPT, **asked, seed=0)
    return {
        "latents_relative_difference": relative_error(ours.latents, plain.latents),
        "psnr_db": psnr(ours.frames, plain.frames),
    }


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
