"""The network under torch.compile on one GPU: is it the same network, and does the compiler add to the kernels?

    python benchmarks/compiled.py [--out FILE]
    python benchmarks/compiled.py --preset tiny --device cpu --rounds 1

Blocks are compiled one by one. A velocity in bf16, and in fp8 where the GPU has it, is held to the one of blocks that
are not compiled, and so are the loss and all gradients of a training step as the loop runs it, elementwise work
recomputed; what differs by more than its bound ends the run. Then both take turns.
"""

import argparse
import copy
from pathlib import Path
from typing import Any

import torch
from step_parts import LATENTS, inputs, random_model, report, sampled
from timing import checked, default_out, interleaved, relative_error, write
from torch import Tensor
from training_step import GRADIENT_BOUND, LOSS_BOUND, Step, recomputing

from sana_video import fp8
from sana_video.ops import select

VELOCITY_BOUND = 1e-2  # what bf16 may lose against float32: the compiler may sum in another order, not in less


def compiled(model: Any) -> Any:
    """Itself, each block compiled."""
    for block in model.blocks:
        block.compile()
    return model


@torch.no_grad()
def sampling(preset: str, rounds: int, device: torch.device) -> dict[str, Any]:
    """Milliseconds of one forward of each form, and how far the compiled ones are from the others."""
    given, model = inputs(preset, device), random_model(preset, torch.bfloat16, device)
    networks = {"ours": model}
    if select.kernels_for(given[0]):
        networks["ours fp8"] = fp8.quantize(copy.deepcopy(model))
    runs, differences = {}, {}
    for name, network in networks.items():
        runs[name] = sampled(network, given)
        runs[f"{name}, compiled"] = sampled(compiled(copy.deepcopy(network)), given)
        difference = relative_error(runs[f"{name}, compiled"](), runs[name]())
        differences[name] = 0.0
        differences[f"{name}, compiled"] = checked(difference, VELOCITY_BOUND, f"{name}, compiled")
    ms = interleaved(runs, rounds=rounds, calls=4)
    report(f"one forward, {preset}", ms, differences, unit="from not compiled")
    return {"ms": ms, "relative_difference": differences}


def training(preset: str, rounds: int, device: torch.device) -> dict[str, Any]:
    """The same of forward and backward with float32 weights under autocast; of gradients the farthest."""
    step = Step(preset, device)

    def built() -> torch.nn.Module:
        return recomputing("elementwise")(random_model(preset, torch.float32, device)).train()

    def taken(network: torch.nn.Module) -> dict[str, Tensor]:
        loss = step(network)
        named = network.named_parameters()
        return {"loss": loss} | {name: x.grad.clone() for name, x in named if x.grad is not None}

    plain, other = built(), compiled(built())
    expected, found = taken(plain), taken(other)
    if expected.keys() != found.keys():
        raise SystemExit(f"compiled, these have no gradient: {', '.join(sorted(expected.keys() - found.keys()))}")
    loss = checked(relative_error(found.pop("loss"), expected.pop("loss")), LOSS_BOUND, "loss, compiled")
    each = {name: relative_error(found[name], gradient) for name, gradient in expected.items()}
    worst = checked(max(each.values()), GRADIENT_BOUND, "gradients, compiled")
    del expected, found
    ms = interleaved({"ours": lambda: step(plain), "ours, compiled": lambda: step(other)}, rounds=rounds, calls=3)
    report(f"forward and backward, {preset}", ms, {"ours": 0.0, "ours, compiled": worst}, unit="from not compiled")
    return {"ms": ms, "relative_difference": {"loss": loss, "gradients, at most": worst}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=default_out("compiled"))
    parser.add_argument("--preset", default="2b-480p", choices=sorted(LATENTS))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    print(select.describe(), flush=True)
    device = torch.device(given.device)
    figures = {"preset": given.preset, "forward": sampling(given.preset, given.rounds, device)}
    if device.type == "cuda":
        torch.cuda.empty_cache()
    figures["training"] = training(given.preset, given.rounds, device)
    write(given.out, figures)


if __name__ == "__main__":
    main()
