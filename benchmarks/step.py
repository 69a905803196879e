"""The network's step against its peers: a guided denoising step, a training step, cost against length.

    python benchmarks/step.py [--only cfg,train,frames] [--batch 4] [--peers all] [--out FILE]
    python benchmarks/step.py --preset tiny --device cpu --peers none --rounds 1

Random weights and latents, the published sizes, batch 1 unless said. Correctness first: every call of every contender
against ours in fp32 without kernels; what exceeds its bound ends the run. Then contenders take turns. A guided step is
two forwards, one after the other: for two prompts as one batch the peers are slower. Ours is called as a sampler calls
it: the text read once, without its padding, the stream in float32, a short forward replayed from a recording. "ours
fp8" joins the guided step where the GPU has it; its error on trained weights is what `fp8_error.py` reports. The
training step is told in `training_step.py`.
"""

import argparse
import copy
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from step_parts import LATENTS, PEER_SETS, built, inputs, random_model, report, sampled, shipped
from timing import checked, default_out, exact_products, interleaved, relative_error, trace, write
from torch import Tensor
from training_step import training_step

from sana_video import SanaVideo, fp8
from sana_video.ops import select

BOUNDS = {"ours": 1e-2, "ours fp8": 2e-2}  # of the relative error to float32
PEER_BOUND = 5e-2  # they round the stream: 1.2e-2 as shipped; beyond this one is broken
CHECKED_CALLS = 3  # the third is a replay, where one is


@torch.no_grad()
def guided_step(preset: str, rounds: int, batch: int, chosen: str, device: torch.device) -> dict[str, Any]:
    """Error of one velocity and milliseconds of a guided step, per contender.

    Each peer is a network of its own that shares its weights with ours until one of them is changed in place.
    """
    given, null = inputs(preset, device, batch), inputs(preset, device, batch, seed=1)
    wide = random_model(preset, torch.bfloat16, device).float()  # the rounding of weights is not the kernels' doing
    reference = exact(wide, given)
    model = wide.bfloat16()
    runs = {name: (shipped(peer, given), shipped(peer, null)) for name, peer in built(model, chosen).items()}
    runs["ours"] = (sampled(model, given), sampled(model, null))
    if select.kernels_for(given[0]):
        narrow = fp8.quantize(copy.deepcopy(model))
        runs["ours fp8"] = (sampled(narrow, given), sampled(narrow, null))
    errors = {}
    for name, (run, _) in runs.items():
        began, bound = time.perf_counter(), BOUNDS.get(name, PEER_BOUND)
        errors[name] = max(checked(relative_error(run(), reference), bound, name) for _ in range(CHECKED_CALLS))
        print(
            f"  {name}: relative error {errors[name]:.2e}, at most {bound:.0e} "
            f"(first calls {time.perf_counter() - began:.1f} s)",
            flush=True,
        )

    def step(pair: tuple[Callable[[], Tensor], Callable[[], Tensor]]) -> Callable[[], object]:
        return lambda: (pair[0](), pair[1]())

    times = interleaved({name: step(pair) for name, pair in runs.items()}, rounds=rounds, calls=4 if batch == 1 else 2)
    report(f"guided step, {preset}, batch {batch}", times, errors)
    figures = {"preset": preset, "batch": batch, "ms": times, "relative_error": errors}
    return figures | ratios(times)


@torch.no_grad()
def traces(preset: str, device: torch.device) -> str:
    """What one forward of ours spends its time in, in bf16 and, where the GPU has it, in fp8."""
    given, model = inputs(preset, device), random_model(preset, torch.bfloat16, device)
    model.for_sampling()
    networks = {"bf16": model}
    if select.kernels_for(given[0]):
        networks["fp8"] = fp8.quantize(copy.deepcopy(model))
    return "\n".join(f"{name}\n{trace(lambda n=network: n(*given))}" for name, network in networks.items())


def ratios(times: dict[str, float]) -> dict[str, float]:
    """How often each form of ours fits into the best peer; none without peers."""
    others = [took for name, took in times.items() if not name.startswith("ours")]
    found = {}
    for name in times:
        if others and name.startswith("ours"):
            found[f"best_peer_over_{name.replace(' ', '_')}"] = ratio = min(others) / times[name]
            print(f"  best peer over {name}: {ratio:.3f}", flush=True)
    return found


def exact(wide: SanaVideo, given: tuple[Tensor, ...]) -> Tensor:
    """In fp32 without kernels, sample by sample: several at once do not fit beside the peers."""
    samples = [
        [x[i : i + 1].float() if x.is_floating_point() else x[i : i + 1] for x in given] for i in range(len(given[0]))
    ]
    with select.disabled(), exact_products():
        return torch.cat([wide(*sample) for sample in samples])


@torch.no_grad()
def against_length(preset: str, rounds: int, chosen: str, device: torch.device) -> dict[str, Any]:
    """Microseconds per token of one forward at 17 to 321 frames."""
    model = random_model(preset, torch.bfloat16, device)
    per_frame = LATENTS[preset][1] * LATENTS[preset][2] // (model.config.patch_size[1] * model.config.patch_size[2])
    networks = built(model, "none" if chosen == "none" else "eager")
    per_token: dict[str, dict[int, float]] = {name: {} for name in ("ours", *networks)}
    for frames in (17, 81, 161, 321):
        T = (frames - 1) // 4 + 1
        given = inputs(preset, device, frames=T)
        runs = {"ours": sampled(model, given)} | {name: shipped(peer, given) for name, peer in networks.items()}
        for name, took in interleaved(runs, rounds=rounds, calls=2).items():
            per_token[name][frames] = 1000 * took / (T * per_frame)
    for name, found in per_token.items():
        print(f"  {name}: " + ", ".join(f"{frames} frames {cost:.2f} us/token" for frames, cost in found.items()))
    return {"us_per_token": per_token}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=default_out("step"))
    parser.add_argument("--only", default="cfg,train,frames")
    parser.add_argument("--preset", default="2b-480p", choices=sorted(LATENTS))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--batch", type=int, default=1, help="of the guided step")
    parser.add_argument("--peers", choices=PEER_SETS, help="default: all at batch 1, the ends above")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--trace", type=Path, help="instead: write what one forward spends its time in")
    given = parser.parse_args()
    print(select.describe(), flush=True)
    chosen, device = given.peers or ("all" if given.batch == 1 else "ends"), torch.device(given.device)
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "cfg": lambda: guided_step(given.preset, given.rounds, given.batch, chosen, device),
        "train": lambda: training_step(given.preset, given.rounds, device, with_peers=chosen != "none"),
        "frames": lambda: against_length(given.preset, given.rounds, chosen, device),
    }
    if given.trace:
        given.trace.write_text(traces(given.preset, device))
        return
    figures: dict[str, Any] = {}
    for name in given.only.split(","):
        figures[name] = parts[name]()
        write(given.out, figures)
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
