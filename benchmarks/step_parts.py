"""What the benchmarks of a step are made of: random networks and inputs of published sizes, and ways to call them."""

from collections.abc import Callable
from functools import partial
from typing import Any

import peers
import torch
from torch import Tensor

from sana_video import SanaVideo, SanaVideoConfig
from sana_video.generate import network_velocity
from sana_video.streaming import Condition

LATENTS = {  # T, h, w of 81 frames
    "2b-480p": (21, 60, 104),
    "2b-720p": (11, 22, 40),
    "2b-720p-dcaev": (21, 22, 40),
    "tiny": (3, 4, 4),  # for tests on a CPU
}
REAL_TOKENS = 160  # of 300: the length of a common prompt

PEERS: dict[str, Callable[[SanaVideo], Any]] = {
    "diffusers eager": peers.diffusers_model,
    "diffusers compiled": lambda model: peers.compiled(peers.diffusers_model(model)),
    "diffusers merged, compiled": lambda model: peers.compiled(peers.merge_projections(peers.diffusers_model(model))),
    "diffusers merged+linear, compiled": lambda model: peers.compiled(
        peers.linear_ffn(peers.merge_projections(peers.diffusers_model(model)))
    ),
}
PEER_SETS = {
    "all": tuple(PEERS),
    "ends": ("diffusers eager", "diffusers merged+linear, compiled"),  # as shipped, and the fastest
    "eager": ("diffusers eager",),
    "none": (),
}


def random_model(preset: str, dtype: torch.dtype, device: torch.device) -> SanaVideo:
    """A network whose every weight is random, the temporal convolution too: nothing is left out by a zero."""
    with torch.device("meta"):
        model = SanaVideo(SanaVideoConfig.preset(preset))
    model = model.to_empty(device=device)
    model.init_weights(0)
    generator = torch.Generator(device).manual_seed(1)
    for block in model.blocks:
        torch.nn.init.normal_(block.ffn.temporal.weight, std=0.01, generator=generator)
    return model.to(dtype).eval()


def inputs(
    preset: str, device: torch.device, batch: int = 1, frames: int | None = None, seed: int = 0
) -> tuple[Tensor, ...]:
    """latents, timestep, text, mask; in bf16."""
    config = SanaVideoConfig.preset(preset)
    T, h, w = LATENTS[preset]
    generator = torch.Generator(device).manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, device=device, generator=generator).bfloat16()

    mask = torch.arange(config.text_tokens, device=device).expand(batch, -1) < REAL_TOKENS
    return (
        normal(batch, config.in_channels, frames or T, h, w),
        torch.full((batch,), 500.0, device=device),
        normal(batch, config.text_tokens, config.text_width),
        mask,
    )


def sampled(model: SanaVideo, given: tuple[Tensor, ...]) -> Callable[[], Tensor]:
    """One velocity after the other for `given`, as the sampler asks for them."""
    latents, timestep, text, mask = given
    velocity = network_velocity(model.for_sampling(), Condition(text, mask), steps=50)
    sigma = timestep.max() / 1000
    return lambda: velocity(latents, sigma)


def shipped(peer: Any, given: tuple[Tensor, ...]) -> Callable[[], Tensor]:
    """The same velocity by diffusers' network."""
    latents, timestep, text, mask = given
    return lambda: peer(latents, text, timestep, encoder_attention_mask=mask, return_dict=False)[0]


def built(model: SanaVideo, chosen: str) -> dict[str, Any]:
    """The peers of `PEER_SETS`, each a network of its own that shares its weights with `model`."""
    return {name: PEERS[name](model) for name in PEER_SETS[chosen]}


class Peer(torch.nn.Module):
    """diffusers' network called as ours is, which training does; blocks are recomputed, or it does not fit."""

    def __init__(self, peer: Any) -> None:
        super().__init__()
        self.peer = peer
        peer.enable_gradient_checkpointing()

    def forward(self, latents: Tensor, timestep: Tensor, text: Tensor, mask: Tensor | None) -> Tensor:
        dtype = next(self.peer.parameters()).dtype
        call = partial(self.peer, latents.to(dtype), text.to(dtype), timestep)
        out: Tensor = call(encoder_attention_mask=mask, return_dict=False)[0]
        return out


def report(title: str, times: dict[str, float], beside: dict[str, float], unit: str = "rel. error") -> None:
    """Sorted, each with what it takes over what ours takes: above 1, ours is faster."""
    print(title)
    base = times.get("ours") or min(times.values())
    for name, took in sorted(times.items(), key=lambda pair: pair[1]):
        print(f"  {name:62s} {took:9.1f} ms   {took / base:6.3f}   {beside[name]:.3g} {unit}", flush=True)
