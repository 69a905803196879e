"""Spatial tiles with blended overlap: a large frame through a network in the memory that one tile takes.

Tiles are all of one size (the last of a row moves back to end with the frame), lie `overlap` over each other at least,
and fade linearly into each other; the weights at a position sum to 1. So a network that reads less than `overlap`
around a position gives nearly what it gives for the whole frame, and a constant stays that constant.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from itertools import product

import torch
from torch import Tensor


def tiled(run: Callable[[Tensor, int], Tensor], x: Tensor, tile: int, overlap: int, scale: int | Fraction) -> Tensor:
    """`run` over tiles of `x` (..., H, W), blended: float32 (..., H·scale, W·scale).

    `run(piece, i)` gets tile number i, (..., tile, tile) or less where the frame is smaller, and gives it at `scale`
    positions per position of `x`; i lets it keep a state per tile. `tile` and `overlap` are in positions of `x`, and
    times `scale` whole numbers.
    """
    height, width = x.shape[-2:]
    rows, columns = starts(height, tile, overlap), starts(width, tile, overlap)
    down, across = (
        [fade.to(x.device) for fade in _fades(size, places, tile, overlap, scale)]
        for size, places in ((height, rows), (width, columns))
    )
    whole: Tensor | None = None
    for i, ((row, top), (column, left)) in enumerate(product(enumerate(rows), enumerate(columns))):
        part = run(x[..., top : top + tile, left : left + tile], i)
        if whole is None:
            whole = part.new_zeros((*part.shape[:-2], int(height * scale), int(width * scale)), dtype=torch.float32)
        y, z = int(top * scale), int(left * scale)
        weight = down[row][:, None] * across[column]
        whole[..., y : y + part.shape[-2], z : z + part.shape[-1]] += part * weight
    assert whole is not None  # a frame has at least one tile
    return whole


def starts(size: int, tile: int, overlap: int) -> list[int]:
    """Where the tiles of one axis begin."""
    if size <= tile:
        return [0]
    return [*range(0, size - tile, tile - overlap), size - tile]


def _fades(size: int, places: list[int], tile: int, overlap: int, scale: int | Fraction) -> list[Tensor]:
    """Per tile of one axis the weights (tile·scale,): rising and falling where another tile lies, summing to 1."""
    length, ramp = int(min(tile, size) * scale), int(overlap * scale)
    rise = ((torch.arange(length) + 1) / (ramp + 1)).clamp(max=1)
    total = torch.zeros(int(size * scale))
    fades = []
    for place in places:
        fade = torch.ones(length)
        if place > 0:
            fade = fade * rise
        if place + tile < size:
            fade = fade * rise.flip(0)
        fades.append(fade)
        total[int(place * scale) : int(place * scale) + length] += fade
    return [fade / total[int(at * scale) : int(at * scale) + length] for fade, at in zip(fades, places, strict=True)]
