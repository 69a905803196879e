"""Forward and backward as `sana-video train` runs them, against its peers; `step.py --only train` runs this.

Every contender goes through the loop's own function: float32 weights under its autocast, the loss of its objective,
gradients in float32, noise drawn and text trimmed inside. Forms with weights in bf16 stand beside them, since FSDP2 may
gather so. Correctness first: loss and gradients against float32 without kernels. Contenders then take turns on the
GPU; who waits lies in the memory of the host, so that each has the card for itself, and of a larger card as much as an
H100 has.
"""

import statistics
from collections.abc import Callable
from typing import Any

import peers
import torch
from step_parts import Peer, inputs, random_model, report
from timing import checked, exact_products, relative_error, timed
from torch import Tensor, nn

from sana_video import SanaVideo, SanaVideoConfig
from sana_video.data.loader import Batch
from sana_video.ops import select
from sana_video.train.config import Precision, StageParams
from sana_video.train.loop import forward_backward
from sana_video.train.objectives import Draw, FlowMatching
from sana_video.train.parallelize import recompute_blocks

STAGE = StageParams(
    objective="bidirectional", init="scratch", autoencoder="-", view="-", after="-", steps=1, batch=1, lr=1e-4, warmup=0
)
MOST_GIB = 79.1  # of an H100 80GB, as torch finds it: who needs more has failed
CALLS = 3  # of each contender in a round, after one that is not timed
LOSS_BOUND = 1e-2
GRADIENT_BOUND = 5e-2  # in bf16, twenty blocks deep; or what plain torch loses under the same autocast, and half again
WATCHED = (
    "patch_embed.weight",
    "attn.qkv.weight",
    "cross.kv.weight",
    "ffn.depth.weight",
    "ffn.temporal.weight",
    "table",
)


class Step:
    """One batch of random latents and text, and what the loop does with it."""

    def __init__(self, preset: str, device: torch.device) -> None:
        latents, _, text, mask = inputs(preset, device)
        self.batch = Batch({"latents": latents.float(), "text": text.float(), "mask": mask}, (0,))
        empty = torch.zeros_like(text[0], dtype=torch.float32), mask[0]
        self.objective = FlowMatching(STAGE, SanaVideoConfig.preset(preset), empty)

    def __call__(self, network: nn.Module, precision: Precision = "bf16") -> Tensor:
        for parameter in network.parameters():
            parameter.grad = None
        return forward_backward(network, self.objective, self.batch, Draw(0, 1, self.batch.positions), 1, precision)


def recomputing(recompute: Any) -> Callable[[SanaVideo], nn.Module]:
    def build(model: SanaVideo) -> nn.Module:
        recompute_blocks(model, recompute)
        return model

    return build


def linear_peer(model: SanaVideo) -> nn.Module:
    return Peer(peers.compiled(peers.linear_ffn(peers.merge_projections(peers.diffusers_model(model)))))


CONTENDERS: dict[str, tuple[torch.dtype, Callable[[SanaVideo], nn.Module]]] = {
    "ours, nothing recomputed": (torch.float32, recomputing("nothing")),
    "ours, elementwise recomputed": (torch.float32, recomputing("elementwise")),
    "ours, nothing recomputed, weights in bf16": (torch.bfloat16, recomputing("nothing")),
    "ours, elementwise recomputed, weights in bf16": (torch.bfloat16, recomputing("elementwise")),
    "diffusers compiled, recomputed": (torch.float32, lambda m: Peer(peers.compiled(peers.diffusers_model(m)))),
    "diffusers merged+linear, compiled, recomputed": (torch.float32, linear_peer),
    "diffusers merged+linear, compiled, recomputed, weights in bf16": (torch.bfloat16, linear_peer),
}


def errors(preset: str, step: Step, device: torch.device) -> dict[str, dict[str, float]]:
    """Relative errors to float32 of the loss and of some gradients, ours and plain torch's; SystemExit if wrong."""
    model = random_model(preset, torch.float32, device).train()
    recompute_blocks(model, "block")  # float32 at full size does not fit otherwise

    def taken(precision: Precision) -> dict[str, Tensor]:
        loss = step(model, precision)
        named = model.named_parameters()
        return {"loss": loss.float()} | {
            name.replace("_checkpoint_wrapped_module.", ""): parameter.grad.clone()
            for name, parameter in named
            if parameter.grad is not None and name.endswith(WATCHED)
        }

    with select.disabled():
        with exact_products():
            exact = taken("fp32")
        plain = taken("bf16")
    ours = taken("bf16")
    found: dict[str, dict[str, float]] = {"ours": {}, "plain torch": {}}
    for name, reference in exact.items():
        lost = relative_error(plain[name], reference)
        bound = LOSS_BOUND if name == "loss" else max(GRADIENT_BOUND, 1.5 * lost)
        own = ours.get(name, torch.full_like(reference, torch.nan))  # a gradient that is lost is wrong
        found["ours"][name] = checked(relative_error(own, reference), bound, f"training, {name}")
        found["plain torch"][name] = lost
    for form, each in found.items():
        gradients = [error for name, error in each.items() if name != "loss"]
        print(f"  {form}: error of the loss {each['loss']:.1e}, of gradients at most {max(gradients):.1e}", flush=True)
    return found


def training_step(preset: str, rounds: int, device: torch.device, with_peers: bool) -> dict[str, Any]:
    """Milliseconds and peak memory of forward and backward, and the errors of ours."""
    step = Step(preset, device)
    found = errors(preset, step, device)
    networks, failed = {}, {}
    for name, (dtype, build) in CONTENDERS.items():
        if with_peers or name.startswith("ours"):
            networks[name] = build(random_model(preset, dtype, device)).train().to("cpu")
    times: dict[str, list[float]] = {name: [] for name in networks}
    peak: dict[str, float] = {}
    if device.type == "cuda":
        whole = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, MOST_GIB * 2**30 / whole))
    for _ in range(rounds):
        for name, network in networks.items():
            if name in failed:
                continue
            try:
                took, peak[name] = turn(step, network.to(device))
                times[name] += took
            except Exception as error:  # out of memory, or a peer that torch.compile breaks: the others go on
                failed[name] = f"{type(error).__name__}: {' '.join(str(error).split())[:2000]}"
                print(f"  {name}: {failed[name]}", flush=True)
            for parameter in network.parameters():
                parameter.grad = None
            network.to("cpu")
    ms = {name: statistics.median(took) for name, took in times.items() if name not in failed}
    report(f"forward and backward, {preset}", ms, peak, unit="GiB")
    return {"preset": preset, "ms": ms, "peak_gib": peak, "failed": failed, "relative_error": found}


def turn(step: Step, network: nn.Module) -> tuple[list[float], float]:
    """Milliseconds of each call, and GiB at the peak."""
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    step(network)
    took = [timed(lambda: step(network)) for _ in range(CALLS)]
    return took, torch.cuda.max_memory_allocated() / 2**30 if cuda else 0.0
