"""What fp8 costs a trained network in error: of the velocity, by kind of layer, and of the videos that it samples.

    python benchmarks/fp8_error.py --pipeline release --out benchmarks/results/fp8-error.json

The pipeline's own videos of two prompts are encoded and noised again at three times; each form of the network is held
to the float32 one there. Then films of the same prompts and seeds are compared by PSNR: bf16 against float32 is the
yardstick, fp8 against bf16 what fp8 adds. On a machine without fp8 the same rounding is computed in float32, slowly.
"""

import argparse
import copy
import dataclasses
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from random_parts import about, wanted_device
from timing import relative_error
from torch import Tensor

from sana_video import SanaVideo, fp8
from sana_video.flow import add_noise
from sana_video.pipeline import SanaVideoPipeline

PROMPTS = ("A river between green hills under a bright sky.", "A rabbit in a meadow turns its head towards the camera.")
SIGMAS = (0.95, 0.6, 0.2)


class Place(NamedTuple):
    """Where velocities are compared: inputs of the network but for the time, and the noise's share."""

    latents: Tensor
    text: Tensor
    mask: Tensor
    sigma: float


def forms(model: SanaVideo) -> dict[str, tuple[str, ...]]:
    """What each form keeps out of fp8: all in fp8, one kind of product alone, and all but one."""
    last = len(model.blocks) - 1
    kinds = {kind: f"*.{kind}" for kind in fp8.PRODUCTS}
    return {
        "all": (),
        **{f"only {kind}": tuple(p for other, p in kinds.items() if other != kind) for kind in kinds},
        **{f"all but {kind}": (pattern,) for kind, pattern in kinds.items()},
        "all but the first and last block": ("blocks.0.*", f"blocks.{last}.*"),
    }


def in_fp8(model: SanaVideo, keep: tuple[str, ...]) -> SanaVideo:
    """A copy of a bf16 network, its products in fp8 or in the same rounding computed in float32."""
    return fp8.quantize(copy.deepcopy(model), keep=keep, emulate=not model.patch_embed.weight.is_cuda)


@torch.no_grad()
def places(pipeline: SanaVideoPipeline, videos: Tensor, device: torch.device) -> Iterator[Place]:
    pixels = videos.permute(0, 4, 1, 2, 3).to(device).float() / 127.5 - 1
    latents = torch.cat([pipeline.autoencoder.encode(one) for one in pixels.split(1)]).float()
    text, mask = pipeline.text_encoder.encode(list(PROMPTS))
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0)).to(device)
    for sigma in SIGMAS:
        noised = add_noise(latents, noise, torch.full((len(latents),), sigma, device=device))
        yield Place(noised, text.to(device), mask.to(device), sigma)


@torch.no_grad()
def velocity(model: SanaVideo, place: Place) -> Tensor:
    timestep = torch.full((len(place.latents),), 1000 * place.sigma, device=place.latents.device)
    return model(place.latents, timestep, place.text, place.mask).float()


def psnr(videos: Tensor, reference: Tensor) -> float:
    error = float((videos.double() - reference.double()).square().mean())
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pipeline", type=Path, required=True, help="a pipeline's folder, such as the demo's release/")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", help="default: a GPU if there is one")
    parser.add_argument("--steps", type=int, help="of the sampled films, where not the pipeline's own")
    parser.add_argument("--frames", type=int, help="of the sampled films, where not the pipeline's own")
    given = parser.parse_args()
    device = wanted_device(given.device)
    wide = SanaVideoPipeline.from_pretrained(given.pipeline, device=device, dtype=torch.float32)
    narrow = dataclasses.replace(wide, model=copy.deepcopy(wide.model).bfloat16())

    def film(pipeline: SanaVideoPipeline) -> Tensor:
        return pipeline(PROMPTS, frames=given.frames, steps=given.steps, seed=0)

    exact = film(wide)
    where = list(places(wide, exact, device))
    expected = [velocity(wide.model, place) for place in where]

    def errors(model: SanaVideo) -> dict[str, float]:
        found = [relative_error(velocity(model, place), v) for place, v in zip(where, expected, strict=True)]
        return {f"{sigma}": error for sigma, error in zip(SIGMAS, found, strict=True)}

    figures: dict[str, Any] = {"about": {**about(device), "pipeline": given.pipeline.name}}
    velocities = {"bf16": errors(narrow.model)}
    for name, keep in forms(wide.model).items():
        velocities[name] = errors(in_fp8(narrow.model, keep))
    rounded = film(narrow)
    films = {"bf16 against float32": psnr(rounded, exact)}
    for name in ("all", "all but ffn.temporal", "all but the first and last block"):
        made = film(dataclasses.replace(narrow, model=in_fp8(narrow.model, forms(wide.model)[name])))
        films[f"fp8 ({name}) against bf16"] = psnr(made, rounded)
    figures |= {"velocity_relative_error": velocities, "film_psnr_db": films}
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(figures, indent=2) + "\n")
    show(velocities, films)


def show(velocities: dict[str, dict[str, float]], films: dict[str, float]) -> None:
    print(f"{'relative error of the velocity at sigma':48s}" + "".join(f"{sigma:>10}" for sigma in SIGMAS))
    for name, found in velocities.items():
        print(f"  {name:46s}" + "".join(f"{error:10.2e}" for error in found.values()))
    for name, ratio in films.items():
        print(f"  {name:46s}{ratio:10.1f} dB")


if __name__ == "__main__":
    main()
