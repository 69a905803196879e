"""A whole pipeline from words to files, all four uses, with random weights: where time and memory go.

    python benchmarks/sample.py [--out FOLDER] [--peer | --fp8] [--only t2v,long]
    python benchmarks/sample.py --compare [--out FOLDER]
    python benchmarks/sample.py --preset tiny --device cpu --steps 2 --frames 9

Text encoder, network and autoencoder have the published sizes (Gemma-2-2b, 2b-480p, Wan 2.1) and random weights, so the
videos show nothing. Made are a video from text, one from an image, an image, and, if asked for, a long video chunk by
chunk with the step list of the distilled model. The parts take turns on one clock, which waits for the device at each
turn. `--compare` times nothing: it makes a video from text, at once and chunk by chunk, with the kernels and with the
definitions, from the same noise, and ends with exit code 1 where latents or frames differ by more than `comparison.py`
allows.
"""

import argparse
import dataclasses
import json
import statistics
import tempfile
import time
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import peers
import torch
from clock import Clock
from comparison import compare
from random_parts import PROMPT, SIZES, Sizes, about, network, wan, wanted_device, write_gemma
from torch import Tensor

from flows.picture import png
from sana_video import SanaVideo, SanaVideoConfig, fp8
from sana_video.config import SamplingDefaults
from sana_video.pipeline import Options, SanaVideoPipeline
from sana_video.text import TextParams, load_text_encoder
from sana_video.video.behind import Behind
from sana_video.video.mp4 import Mp4Writer, encode_mp4

STEP_LIST = (1000, 960, 889, 727)
FEW = 4  # steps of what is made only to show that it is made


class Timed:
    """A part of the pipeline whose calls count for `name`; streams count only for what happens inside them."""

    def __init__(self, part: Any, clock: Clock, name: str, source: str) -> None:
        self._part, self._clock, self._name, self._source = part, clock, name, source

    def __getattr__(self, attribute: str) -> Any:
        return getattr(self._part, attribute)

    def encode(self, *given: Any, **options: Any) -> Any:
        with self._clock.part(self._name):
            return self._part.encode(*given, **options)

    def decode_stream(self, pieces: Iterable[Tensor]) -> Iterator[Tensor]:
        return self._clock.each(self._name, self._part.decode_stream(self._clock.each(self._source, pieces)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--out", type=Path, default=Path("runs/benchmarks/sample"), help="folder of videos and figures.json"
    )
    parser.add_argument("--preset", choices=SIZES, default="2b-480p")
    parser.add_argument("--device", help="default: a GPU if there is one")
    parser.add_argument("--steps", type=int, default=50, help="of the video from text")
    parser.add_argument("--frames", type=int, default=81, help="of the videos from text and from an image")
    parser.add_argument("--long", type=int, default=60, help="seconds of the long video; 0 for none")
    parser.add_argument("--only", default="t2v,i2v,t2i", help="which are made, `long` too; t2v always is")
    parser.add_argument("--compare", action="store_true", help="hold videos to those made without kernels, and stop")
    parser.add_argument("--decoder", choices=["fast", "exact"], default="fast", help="as `sana-video sample` has it")
    parser.add_argument("--fp8", action="store_true", help="the network's large products in fp8")
    parser.add_argument("--peer", action="store_true", help="also diffusers' pipeline for the video from text, in bf16")
    given = parser.parse_args()
    if given.peer and given.fp8:
        parser.error("--peer has its weights from our network, which --fp8 rounds: ask for one at a time")
    device, sizes = wanted_device(given.device), SIZES[given.preset]
    start = time.perf_counter()
    pipeline = random_pipeline(given.preset, device, fast=given.decoder == "fast")
    if given.compare:
        at_once: Options = {"frames": given.frames, "steps": given.steps}
        in_chunks: Options = {"frames": 2 * given.frames - 1}  # in the steps of its list
        forms = {"t2v": (pipeline, at_once), "long": (chunked(pipeline, sizes.chunk), in_chunks)}
        compare(forms, given.out / "comparison.json", about(device))
        return
    figures: dict[str, Any] = {
        "about": about(device),
        "preset": given.preset,
        "decoder": given.decoder,
        "fp8": given.fp8,
        "weights": "random",
        "build_seconds": round(time.perf_counter() - start, 1),
        "parameters": {
            "network": parameters(pipeline.model),
            "autoencoder": parameters(pipeline.autoencoder),
            "text encoder": parameters(pipeline.text_encoder.model),  # type: ignore[attr-defined]
        },
    }
    ramp = np.linspace(0, 255, sizes.height * sizes.width * 3).reshape(sizes.height, sizes.width, 3).astype(np.uint8)
    jobs = {
        "t2v": (pipeline, {"frames": given.frames, "steps": given.steps}),
        "i2v": (pipeline, {"frames": given.frames, "steps": min(FEW, given.steps), "image": ramp}),
        "t2i": (pipeline, {"frames": 1, "steps": min(FEW, given.steps)}),
    }
    jobs = {name: job for name, job in jobs.items() if name in ("t2v", *given.only.split(","))}
    if given.long and "long" in given.only:
        jobs["long"] = (chunked(pipeline, sizes.chunk), {"frames": given.long * sizes.fps + 1})
    if given.fp8:
        for model in {id(used.model): used.model for used, _ in jobs.values()}.values():
            fp8.quantize(model)
    if device.type == "cuda":
        list(pipeline.stream(PROMPT, frames=5, steps=1))  # kernels are compiled and chosen outside the figures
    figures["made"] = [make(name, *job, given.out, device) for name, job in jobs.items()]
    if given.peer:
        figures["peer"] = make_by_peer(pipeline, given.steps, given.frames, given.out)
        figures["peer_over_ours"] = figures["peer"]["took_seconds"] / figures["made"][0]["took_seconds"]
    (given.out / "figures.json").write_text(json.dumps(figures, indent=2) + "\n")
    show(figures)


def random_pipeline(preset: str, device: torch.device, *, fast: bool) -> SanaVideoPipeline:
    """The network in bf16 on a GPU. Gemma is read from a folder by the code that reads the published one."""
    sizes, config = SIZES[preset], SanaVideoConfig.preset(preset)
    with tempfile.TemporaryDirectory() as folder:
        write_gemma(sizes, Path(folder), device)
        text = TextParams(encoder="gemma-2-2b-it", tokens=config.text_tokens, folder=folder)
        encoder = load_text_encoder(text, Path(folder), device=device)
    autoencoder = wan(sizes, device, torch.bfloat16 if fast else torch.float32)
    return SanaVideoPipeline(
        model=network(SanaVideo, config, device, torch.bfloat16 if device.type == "cuda" else torch.float32),
        autoencoder=autoencoder.for_speed() if fast else autoencoder,
        text_encoder=encoder,
        defaults=defaults(sizes),
    )


def defaults(sizes: Sizes) -> SamplingDefaults:
    return SamplingDefaults(fps=sizes.fps, height=sizes.height, width=sizes.width, motion_score=30)


def chunked(pipeline: SanaVideoPipeline, chunk: int) -> SanaVideoPipeline:
    """The same weights, chunk-causal and in four steps a chunk."""
    with torch.device("meta"):
        model = SanaVideo(pipeline.model.config.with_(chunk_frames=chunk))
    model.load_state_dict(pipeline.model.state_dict(), assign=True)
    few = pipeline.defaults.model_copy(update={"step_list": STEP_LIST})
    return dataclasses.replace(pipeline, model=model.eval(), defaults=few)


def make(
    name: str, pipeline: SanaVideoPipeline, options: dict[str, Any], out: Path, device: torch.device
) -> dict[str, Any]:
    """One file, and what it took by part; the clock's `other` is the pipeline's own work between them."""
    clock = Clock(device)
    timed = dataclasses.replace(
        pipeline,
        text_encoder=Timed(pipeline.text_encoder, clock, "text", ""),
        autoencoder=Timed(pipeline.autoencoder, clock, "autoencoder", "sampling"),
    )
    stamps: list[float] = []

    def on_step(done: int, total: int) -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()
        stamps.append(time.perf_counter())

    size = pipeline.defaults.height, pipeline.defaults.width
    start = time.perf_counter()
    pieces = timed.stream(PROMPT, **options, seed=0, on_step=on_step)
    path = write(out / f"{name}.mp4", pieces, pipeline.defaults, options["frames"], clock)
    took = time.perf_counter() - start
    steps = [late - early for early, late in pairwise(stamps)]
    return {
        "name": name,
        "file": path.name,
        "frames": options["frames"],
        "bits_per_pixel": round(8 * path.stat().st_size / options["frames"] / size[0] / size[1], 3),
        "steps": len(stamps),
        "median_step_seconds": round(statistics.median(steps), 4) if steps else None,
        "took_seconds": round(took, 2),
        "frames_per_second": round(options["frames"] / took, 2),
        "parts": clock.report(),
    }


def make_by_peer(pipeline: SanaVideoPipeline, steps: int, frames: int, out: Path) -> dict[str, Any]:
    """The video from text by diffusers' pipeline with the same weights: all frames, then the file."""
    peer, size = peers.diffusers_pipeline(pipeline), (pipeline.defaults.height, pipeline.defaults.width)

    def call(steps: int, frames: int) -> Any:
        return peer(
            prompt=PROMPT, num_inference_steps=steps, frames=frames, height=size[0], width=size[1],
            guidance_scale=pipeline.defaults.guidance, output_type="np", use_resolution_binning=False,
            complex_human_instruction=None,
        ).frames[0]  # fmt: skip

    call(1, 5)
    start = time.perf_counter()
    made = call(steps, frames)
    encode_mp4(out / "peer.mp4", (255 * made).round().astype(np.uint8), round(pipeline.defaults.fps), {"title": PROMPT})
    return {"name": "diffusers pipeline", "frames": len(made), "took_seconds": round(time.perf_counter() - start, 2)}


def write(path: Path, pieces: Iterator[Tensor], defaults: SamplingDefaults, frames: int, clock: Clock) -> Path:
    """An mp4 as the frames come, or a PNG of the only one."""
    told = {"title": PROMPT, "comment": "random weights"}
    if frames == 1:
        path = path.with_suffix(".png")
        path.write_bytes(png(next(pieces)[0, 0].numpy(), told))
        return path
    size = defaults.height, defaults.width
    with Mp4Writer(path, size, round(defaults.fps), told) as film, Behind(film.add) as behind:
        for piece in pieces:
            with clock.part("file"):  # what the GPU waits for: room in the queue
                behind.add(piece[0].numpy())
    return path


def parameters(part: Any) -> int:
    return sum(parameter.numel() for parameter in part.parameters())


def show(figures: dict[str, Any]) -> None:
    for name, value in {**figures["about"], **figures["parameters"]}.items():
        print(f"{name:14}{value:,}" if isinstance(value, int) else f"{name:14}{value}")
    print(f"{'weights':14}random; built in {figures['build_seconds']} s; decoder {figures['decoder']}")
    for row in figures["made"]:
        step = "-" if row["median_step_seconds"] is None else f"{row['median_step_seconds']:.3f} s"
        print(
            f"\n{row['file']}: {row['frames']} frames in {row['took_seconds']:.1f} s "
            f"({row['frames_per_second']:.2f} a second, {row['bits_per_pixel']} bits a pixel), "
            f"{row['steps']} steps, median {step}"
        )
        for part, used in row["parts"].items():
            peak = "" if used["peak_gib"] is None else f"{used['peak_gib']:10.2f} GiB at most"
            print(f"  {part:14}{used['seconds']:10.2f} s{peak}")
    if peer := figures.get("peer"):
        ratio = figures["peer_over_ours"]
        print(f"\n{peer['name']}: {peer['frames']} frames in {peer['took_seconds']:.1f} s, {ratio:.2f} times ours")


if __name__ == "__main__":
    main()
