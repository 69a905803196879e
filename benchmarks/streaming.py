"""Is the memory of a long video constant? Videos of 5, 30 and 120 s, chunk by chunk to the last decoded frame.

    python benchmarks/streaming.py [--out FILE]
    python benchmarks/streaming.py --preset tiny --device cpu --out streaming.json

Random weights, the step list of the distilled model, no guidance, frames to nowhere. All three lengths are 10k + 1
latents, so each video begins with a chunk of 11 and goes on in chunks of 10. One of 5 s ends before a state is made out
of another state; `flat within` therefore speaks of all lengths together, the largest peak over the smallest, and the
growth from the second length to the last is given in bytes beside it.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from random_parts import SIZES, about, network, wan, wanted_device
from timing import default_out
from torch import Tensor

from sana_video import SanaVideo, SanaVideoConfig
from sana_video.autoencoder.wan import Wan
from sana_video.generate import Request, clean_latents
from sana_video.model import Reading, StreamState
from sana_video.sampling import silent
from sana_video.streaming import Condition
from sana_video.video.pixels import to_uint8

STEPS = (1000, 960, 889, 727)
MIB = 2**20


class Watched(SanaVideo):
    """The network, which notes how large each state is that it hands out."""

    state_bytes: list[int]

    def stream(
        self,
        latents: Tensor,
        timestep: Tensor,
        text: Tensor | Reading,
        text_mask: Tensor | None,
        state: StreamState | None,
    ) -> tuple[Tensor, StreamState]:
        velocity, after = super().stream(latents, timestep, text, text_mask, state)
        self.state_bytes.append(after.bytes)
        return velocity, after


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=default_out("streaming"), help="JSON file for the figures")
    parser.add_argument("--preset", choices=SIZES, default="2b-480p")
    parser.add_argument("--device", help="default: a GPU if there is one")
    parser.add_argument("--seconds", default="5,30,120", help="lengths, rising")
    parser.add_argument("--autoencoder-dtype", choices=["bf16", "fp32"], default="bf16")
    parser.add_argument("--latents-at-once", type=int, default=5, help="latents decoded together")
    parser.add_argument("--decoder", choices=["ours", "diffusers"], default="ours", help="whose forward decodes")
    given = parser.parse_args()
    device, sizes = wanted_device(given.device), SIZES[given.preset]
    config = SanaVideoConfig.preset(given.preset).with_(chunk_frames=sizes.chunk)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    model = network(Watched, config, device, dtype)
    autoencoder = wan(sizes, device, torch.bfloat16 if given.autoencoder_dtype == "bf16" else torch.float32)
    autoencoder.arrange(latents_at_once=given.latents_at_once, fused=given.decoder == "ours")

    lengths = [round(float(length) * sizes.fps) + 1 for length in given.seconds.split(",")]
    if device.type == "cuda":
        make(model, autoencoder, given.preset, lengths[0])  # kernels are compiled and chosen outside the figures
    rows = [make(model, autoencoder, given.preset, frames) for frames in lengths]
    figures = {"about": about(device), "preset": given.preset, "autoencoder_dtype": given.autoencoder_dtype}
    figures |= {"decoder": given.decoder, "latents_at_once": given.latents_at_once}
    figures |= {"videos": rows, "memory": flatness(rows)}
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(figures, indent=2) + "\n")
    show(figures)


@torch.no_grad()
def make(model: Watched, autoencoder: Wan, preset: str, frames: int) -> dict[str, Any]:
    """One video of `frames` frames, and what it took."""
    sizes, device = SIZES[preset], model.patch_embed.weight.device
    shape = (1, 16, autoencoder.latent_frames(frames), sizes.height // 8, sizes.width // 8)
    model.state_bytes = []
    cuda = device.type == "cuda"
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    start, shown = time.perf_counter(), 0
    for piece in autoencoder.decode_stream(clean_latents(model, request(model, shape))):
        shown += to_uint8(piece).shape[1]
    took = time.perf_counter() - start
    assert shown == frames
    return {
        "seconds_of_video": (frames - 1) / sizes.fps,
        "frames": frames,
        "latent_frames": shape[2],
        "chunks": len(model.config.chunk_index(shape[2])),
        "state_bytes": sorted(set(model.state_bytes)),
        "peak_bytes": torch.cuda.max_memory_allocated() if cuda else None,
        "took_seconds": round(took, 2),
        "frames_per_second": round(frames / took, 2),
    }


def request(model: SanaVideo, shape: tuple[int, int, int, int, int]) -> Request:
    """Four steps a chunk and no guidance, as the distilled checkpoint is sampled; the prompt is noise."""
    config, device = model.config, model.patch_embed.weight.device
    text = torch.randn(1, config.text_tokens, config.text_width, generator=torch.Generator().manual_seed(0))
    return Request(
        shape=shape,
        prompt=Condition(text, torch.ones(text.shape[:2], dtype=torch.bool)).to(device),
        null=None,
        image=None,
        steps=len(STEPS),
        guidance=1.0,
        guidance_rule="cfg",
        flow_shift=8.0,
        step_list=STEPS,
        generators=[torch.Generator().manual_seed(0)],
        on_step=silent,
    )


def flatness(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """How far peaks and states differ over the lengths; peaks are None on a CPU."""
    states = {size for row in rows for size in row["state_bytes"]}
    peaks = [row["peak_bytes"] for row in rows]
    measured = None not in peaks
    return {
        "state_is_constant": len(states) <= 1,
        "flat_within_percent": round(100 * (max(peaks) / min(peaks) - 1), 3) if measured else None,
        "growth_bytes_second_to_last": peaks[-1] - peaks[min(1, len(peaks) - 1)] if measured else None,
    }


def show(figures: dict[str, Any]) -> None:
    for name, value in figures["about"].items():
        print(f"{name:12}{value}")
    print(f"\n{'video':>8}{'latents':>9}{'chunks':>8}{'state MiB':>11}{'peak MiB':>11}{'took':>9}{'frames/s':>10}")
    for row in figures["videos"]:
        state = "/".join(f"{size / MIB:.1f}" for size in row["state_bytes"])
        peak = "-" if row["peak_bytes"] is None else f"{row['peak_bytes'] / MIB:.1f}"
        print(
            f"{row['seconds_of_video']:7.0f}s{row['latent_frames']:9}{row['chunks']:8}{state:>11}{peak:>11}"
            f"{row['took_seconds']:8.1f}s{row['frames_per_second']:10.2f}"
        )
    memory = figures["memory"]
    print(f"\nstate constant: {memory['state_is_constant']}")
    if memory["flat_within_percent"] is None:
        print("peak memory: not measured without a GPU")
    else:
        print(
            f"peak memory flat within {memory['flat_within_percent']} % over all lengths; from the second to the last "
            f"it grew by {memory['growth_bytes_second_to_last']} bytes"
        )


if __name__ == "__main__":
    main()
