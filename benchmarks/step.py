"""The network's step on one GPU against its peers: a guided denoising step, a training step, cost against length.

    python benchmarks/step.py --out benchmarks/results/step-h100.json [--only cfg,train,frames] [--batch 4]

Random weights and latents, the published sizes, batch 1 unless said. Correctness first: every contender's velocity
against ours in fp32 without kernels. Then contenders take turns. A guided step is two forwards, one after the other:
for two prompts as one batch the peers are slower. Ours is called as a sampler calls it: the text read once, without its
padding, the stream in float32, a short forward replayed from a recording. "ours fp8" joins the guided step where the
GPU has it; its error on trained weights is what `fp8_error.py` reports.
"""

import argparse
import copy
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import peers
import torch
from timing import interleaved, relative_error, write
from torch import Tensor

from sana_video import SanaVideo, SanaVideoConfig, fp8
from sana_video.generate import network_velocity
from sana_video.ops import select
from sana_video.streaming import Condition
from sana_video.train.parallelize import recompute_blocks

LATENTS = {"2b-480p": (21, 60, 104), "2b-720p": (11, 22, 40), "2b-720p-dcaev": (21, 22, 40)}  # T, h, w of 81 frames
REAL_TOKENS = 160  # of 300: the length of a common prompt


def random_model(preset: str, dtype: torch.dtype) -> SanaVideo:
    """A network whose every weight is random, the temporal convolution too: nothing is left out by a zero."""
    with torch.device("meta"):
        model = SanaVideo(SanaVideoConfig.preset(preset))
    model = model.to_empty(device="cuda")
    model.init_weights(0)
    generator = torch.Generator("cuda").manual_seed(1)
    for block in model.blocks:
        torch.nn.init.normal_(block.ffn.temporal.weight, std=0.01, generator=generator)
    return model.to(dtype).eval()


def inputs(preset: str, batch: int = 1, frames: int | None = None, seed: int = 0) -> tuple[Tensor, ...]:
    """latents, timestep, text, mask in bf16 on the GPU."""
    config = SanaVideoConfig.preset(preset)
    T, h, w = LATENTS[preset]
    generator = torch.Generator("cuda").manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, device="cuda", generator=generator).bfloat16()

    mask = torch.arange(config.text_tokens, device="cuda").expand(batch, -1) < REAL_TOKENS
    return (
        normal(batch, config.in_channels, frames or T, h, w),
        torch.full((batch,), 500.0, device="cuda"),
        normal(batch, config.text_tokens, config.text_width),
        mask,
    )


def ours(model: SanaVideo) -> Callable[..., Tensor]:
    return lambda latents, timestep, text, mask: model(latents, timestep, text, mask)


def sampled(model: SanaVideo, given: tuple[Tensor, ...]) -> Callable[[], Tensor]:
    """One velocity after the other for `given`, as the sampler asks for them."""
    latents, timestep, text, mask = given
    model.stream_dtype = torch.float32
    velocity = network_velocity(model, Condition(text, mask), steps=50)
    sigma = timestep.max() / 1000
    return lambda: velocity(latents, sigma)


def theirs(peer: Any) -> Callable[..., Tensor]:
    def velocity(latents: Tensor, timestep: Tensor, text: Tensor, mask: Tensor) -> Tensor:
        out: Tensor = peer(latents, text, timestep, encoder_attention_mask=mask, return_dict=False)[0]
        return out

    return velocity


PEERS: dict[str, Callable[[SanaVideo], Any]] = {
    "diffusers eager": peers.diffusers_model,
    "diffusers compiled": lambda model: peers.compiled(peers.diffusers_model(model)),
    "diffusers merged, compiled": lambda model: peers.compiled(peers.merge_projections(peers.diffusers_model(model))),
    "diffusers merged+linear, compiled": lambda model: peers.compiled(
        peers.linear_ffn(peers.merge_projections(peers.diffusers_model(model)))
    ),
}
ENDS = ("diffusers eager", "diffusers merged+linear, compiled")  # as shipped, and the fastest


@torch.no_grad()
def guided_step(preset: str, rounds: int, batch: int) -> dict[str, Any]:
    """Error of one velocity and milliseconds of a guided step, per contender; above batch 1 of the `ENDS` alone.

    Each peer is a network of its own that shares its weights with ours until one of them is changed in place.
    """
    given, null = inputs(preset, batch), inputs(preset, batch, seed=1)
    wide = random_model(preset, torch.bfloat16).float()  # the rounding of weights is not the kernels' doing
    reference = exact(wide, given)
    model = wide.bfloat16()
    built = {name: build(model) for name, build in PEERS.items() if batch == 1 or name in ENDS}
    runs = {name: (partial(theirs(peer), *given), partial(theirs(peer), *null)) for name, peer in built.items()}
    runs["ours"] = (sampled(model, given), sampled(model, null))
    if select.kernels_for(given[0]):
        narrow = fp8.quantize(copy.deepcopy(model))
        runs["ours fp8"] = (sampled(narrow, given), sampled(narrow, null))
    errors = {}
    for name, (run, _) in runs.items():
        began = time.perf_counter()
        errors[name] = max(relative_error(run(), reference) for _ in range(3))  # the third is a replay, where one is
        print(
            f"  {name}: relative error {errors[name]:.2e} (first call {time.perf_counter() - began:.1f} s)", flush=True
        )

    def step(pair: tuple[Callable[[], Tensor], Callable[[], Tensor]]) -> Callable[[], object]:
        return lambda: (pair[0](), pair[1]())

    times = interleaved({name: step(pair) for name, pair in runs.items()}, rounds=rounds, calls=4 if batch == 1 else 2)
    best = min(took for name, took in times.items() if not name.startswith("ours"))
    report(f"guided step, {preset}, batch {batch}", times, errors)
    ratios = {
        f"best_peer_over_{name.replace(' ', '_')}": best / times[name] for name in runs if name.startswith("ours")
    }
    return {"preset": preset, "batch": batch, "ms": times, "relative_error": errors, **ratios}


def exact(wide: SanaVideo, given: tuple[Tensor, ...]) -> Tensor:
    """In fp32 without kernels, sample by sample: several at once do not fit beside the peers."""
    samples = [
        [x[i : i + 1].float() if x.is_floating_point() else x[i : i + 1] for x in given] for i in range(len(given[0]))
    ]
    with select.disabled():
        return torch.cat([wide(*sample) for sample in samples])


def training_step(preset: str, rounds: int) -> dict[str, Any]:
    """Milliseconds and peak memory of forward and backward; the peers recompute each block, or they do not fit."""
    latents, timestep, text, mask = inputs(preset)
    target = inputs(preset, seed=2)[0]

    def trained(run: Callable[..., Tensor], network: torch.nn.Module) -> Callable[[], object]:
        def step() -> None:
            for parameter in network.parameters():
                parameter.grad = None
            torch.nn.functional.mse_loss(run(latents, timestep, text, mask).float(), target.float()).backward()

        return step

    times, memory, failed = {}, {}, {}
    contenders: dict[str, Callable[[SanaVideo], tuple[Callable[..., Tensor], torch.nn.Module]]] = {
        "ours, nothing recomputed": lambda model: (ours(model), model),
        "ours, elementwise recomputed": lambda model: (recompute_blocks(model, "elementwise"), (ours(model), model))[1],
        "diffusers compiled, recomputed": lambda model: _recomputing(peers.compiled(peers.diffusers_model(model))),
        "diffusers merged+linear, compiled, recomputed": lambda model: _recomputing(
            peers.compiled(peers.linear_ffn(peers.merge_projections(peers.diffusers_model(model))))
        ),
    }
    for name, build in contenders.items():
        run, network = build(random_model(preset, torch.bfloat16))
        step = trained(run, network.train())
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        try:
            step()
            times[name] = interleaved({name: step}, rounds=rounds, calls=3)[name]
            memory[name] = torch.cuda.max_memory_allocated() / 2**30
            print(f"  {name}: {times[name]:.1f} ms, {memory[name]:.1f} GiB", flush=True)
        except Exception as error:  # out of memory, or a peer that torch.compile breaks: the others keep their figures
            failed[name] = f"{type(error).__name__}: {' '.join(str(error).split())[:2000]}"
            print(f"  {name}: {failed[name]}", flush=True)
        del run, network, step
        torch._dynamo.reset()  # what was compiled for one network holds it
    report(f"forward and backward, {preset}", times, memory, unit="GiB")
    return {"preset": preset, "ms": times, "peak_gib": memory, "failed": failed}


def _recomputing(peer: Any) -> tuple[Callable[..., Tensor], torch.nn.Module]:
    peer.enable_gradient_checkpointing()
    return theirs(peer), peer


@torch.no_grad()
def against_length(rounds: int) -> dict[str, Any]:
    """Microseconds per token of one forward at 17 to 321 frames of 480p."""
    model = random_model("2b-480p", torch.bfloat16)
    peer = theirs(peers.diffusers_model(model))
    per_token: dict[str, dict[int, float]] = {"ours": {}, "diffusers eager": {}}
    for frames in (17, 81, 161, 321):
        T = (frames - 1) // 4 + 1
        given = inputs("2b-480p", frames=T)
        runs = {"ours": sampled(model, given), "diffusers eager": partial(peer, *given)}
        times = interleaved(runs, rounds=rounds, calls=2)
        for name, took in times.items():
            per_token[name][frames] = 1000 * took / (T * 30 * 52)
    for name, found in per_token.items():
        print(f"  {name}: " + ", ".join(f"{frames} frames {cost:.2f} us/token" for frames, cost in found.items()))
    return {"us_per_token": per_token}


def report(title: str, times: dict[str, float], beside: dict[str, float], unit: str = "rel. error") -> None:
    print(title)
    for name, took in sorted(times.items(), key=lambda pair: pair[1]):
        print(
            f"  {name:48s} {took:9.1f} ms   {times['ours' if 'ours' in times else name] / took:5.2f}   "
            f"{beside[name]:.3g} {unit}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", default="cfg,train,frames")
    parser.add_argument("--preset", default="2b-480p", choices=sorted(LATENTS))
    parser.add_argument("--batch", type=int, default=1, help="of the guided step")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    print(select.describe(), flush=True)
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "cfg": lambda: guided_step(given.preset, given.rounds, given.batch),
        "train": lambda: training_step(given.preset, given.rounds),
        "frames": lambda: against_length(given.rounds),
    }
    figures: dict[str, Any] = {}
    for name in given.only.split(","):
        figures[name] = parts[name]()
        write(given.out, figures)
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
