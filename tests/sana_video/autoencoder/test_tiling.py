"""Tiles: they cover the frame, blend to what a local network gives for the whole, and number themselves in order."""

import itertools
from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sana_video.autoencoder.tiling import starts, tiled


@pytest.mark.parametrize(("size", "tile", "overlap"), [(5, 8, 2), (8, 8, 2), (9, 8, 2), (40, 8, 3), (41, 8, 4)])
def test_tiles_cover_an_axis_and_overlap(size: int, tile: int, overlap: int) -> None:
    places = starts(size, tile, overlap)
    assert places[0] == 0 and places[-1] + tile >= size and (len(places) == 1 or places[-1] + tile == size)
    assert all(0 < b - a <= tile - overlap for a, b in itertools.pairwise(places))


@pytest.mark.parametrize("scale", [1, 2, Fraction(1, 4)])
def test_a_network_that_reads_one_position_does_not_see_the_tiles(scale: int | Fraction) -> None:
    def run(piece: Tensor, _: int) -> Tensor:
        if scale == 2:
            return piece.repeat_interleave(2, -1).repeat_interleave(2, -2)
        return piece if scale == 1 else F.avg_pool3d(piece, (1, 4, 4))

    x = torch.rand(1, 2, 3, 40, 28, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(tiled(run, x, 16, 8, scale), run(x, 0), atol=1e-6, rtol=0)


def test_tiles_are_numbered_and_none_is_larger_than_asked() -> None:
    seen: list[tuple[int, tuple[int, ...]]] = []

    def run(piece: Tensor, number: int) -> Tensor:
        seen.append((number, tuple(piece.shape[-2:])))
        return piece

    tiled(run, torch.zeros(1, 20, 6), 8, 2, 1)
    assert seen == [(0, (8, 6)), (1, (8, 6)), (2, (8, 6))]


def test_between_two_tiles_one_fades_into_the_other() -> None:
    blended = tiled(lambda piece, number: torch.full_like(piece, float(number)), torch.zeros(1, 1, 12), 8, 4, 1)
    assert blended[0, 0].tolist() == pytest.approx([0, 0, 0, 0, 0.2, 0.4, 0.6, 0.8, 1, 1, 1, 1])
