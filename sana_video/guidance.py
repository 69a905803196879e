"""Guidance: how a velocity told a prompt and one told nothing (or a negative prompt) become the one that is followed.

`cfg` moves along their difference; `apg` first takes from that difference what saturates a picture. Both are pure
functions; what APG remembers from step to step is handed in and given back.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from sana_video.flow import per_element
from sana_video.sampling import Velocity

GuidanceRule = Literal["cfg", "apg"]

FRAME = (1, 3, 4)  # all of one latent frame of (B, C, T, H, W)


class Apg(NamedTuple):
    """Settings of adaptive projected guidance; the defaults are those of the official script.

    `momentum`: weight of earlier differences, negative to push away from them; `threshold`: longest difference allowed,
    as the norm of a latent frame; `eta`: how much is kept of the part parallel to the prediction (1: all).
    """

    momentum: float = -0.5
    threshold: float = 27.0
    eta: float = 1.0


OFFICIAL = Apg()


def guided(conditional: Velocity, unconditional: Velocity, scale: float, rule: GuidanceRule = "cfg") -> Velocity:
    """The velocity that follows `conditional`, away from `unconditional`; at scale 1 simply `conditional`.

    With "apg" the velocity returned remembers its earlier calls, so make a new one for each video or chunk.
    """
    check_rule(rule)
    if scale == 1:
        return conditional
    if rule == "apg":
        return _Projected(conditional, unconditional, scale, OFFICIAL)

    def velocity(x: Tensor, sigma: Tensor) -> Tensor:
        return cfg(conditional(x, sigma), unconditional(x, sigma), scale)

    return velocity


def check_rule(rule: str) -> None:
    """ValueError for the name of no rule."""
    if rule not in get_args(GuidanceRule):
        raise ValueError(f"guidance rule {rule!r}; choose one of {', '.join(get_args(GuidanceRule))}")


def cfg(conditional: Tensor, unconditional: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance (Ho & Salimans 2022): v_u + g (v_c - v_u)."""
    return unconditional + scale * (conditional - unconditional)


def apg(
    conditional: Tensor, unconditional: Tensor, scale: float, running: Tensor | None = None, settings: Apg = OFFICIAL
) -> tuple[Tensor, Tensor]:
    """Adaptive projected guidance (Sadat et al. 2024, arXiv 2410.02416) of two predictions of x₀, (B, C, T, H, W).

    Δ ← (c - u) + m Δ; per frame shortened to the threshold, then split against c: c + (g - 1) (Δ⊥ + η Δ∥). Returns the
    guided prediction and Δ before it was shortened: the `running` of the next step; None at the first. With η = 1, no
    momentum and no threshold this is CFG.
    """
    difference = conditional - unconditional
    if running is not None:
        difference = difference + settings.momentum * running
    length = torch.linalg.vector_norm(difference, dim=FRAME, keepdim=True)
    bounded = difference * (settings.threshold / length).clamp(max=1)
    direction = conditional / torch.linalg.vector_norm(conditional, dim=FRAME, keepdim=True).clamp(min=1e-12)
    parallel = (bounded * direction).sum(dim=FRAME, keepdim=True) * direction
    update = bounded - (1 - settings.eta) * parallel
    return conditional + (scale - 1) * update, difference


@dataclass
class _Projected:
    """`apg` as a velocity: predictions of x₀ are x - σv. Frames shown clean (σ = 0) have no difference to follow."""

    conditional: Velocity
    unconditional: Velocity
    scale: float
    settings: Apg
    running: Tensor | None = None

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        level = per_element(sigma, x)
        told, untold = (x - level * velocity(x, sigma) for velocity in (self.conditional, self.unconditional))
        clean, self.running = apg(told, untold, self.scale, self.running, self.settings)
        return (x - clean) / level.clamp(min=1e-6)
