"""Tiles: exact where the network is local, close where it is not, and never larger than asked for."""

from collections.abc import Iterable, Iterator
from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sana_video.autoencoder.tiling import Run, tiled, tiled_stream

X = torch.rand(2, 3, 4, 40, 56, generator=torch.Generator().manual_seed(0))


def bigger(x: Tensor, _: int = 0) -> Tensor:
    return x.repeat_interleave(4, dim=-1).repeat_interleave(4, dim=-2).square()


def smaller(x: Tensor, _: int) -> Tensor:
    return F.avg_pool3d(x, (1, 4, 4))


@pytest.mark.parametrize(("run", "scale"), [(bigger, 4), (smaller, Fraction(1, 4)), (lambda x, _: x.sin(), 1)])
@pytest.mark.parametrize(("tile", "overlap"), [(16, 4), (16, 8), (16, 12), (24, 8), (40, 8)])
def test_what_is_local_comes_out_as_from_the_whole(run: Run, scale: int | Fraction, tile: int, overlap: int) -> None:
    torch.testing.assert_close(tiled(run, X, tile=tile, overlap=overlap, scale=scale), run(X, 0), atol=1e-6, rtol=1e-6)


def test_a_tile_that_covers_the_picture_is_the_plain_call() -> None:
    seen: list[Tensor] = []

    def run(x: Tensor, _: int) -> Tensor:
        seen.append(x)
        return x

    assert tiled(run, X, tile=56, overlap=8, scale=1).data_ptr() == X.data_ptr()
    assert len(seen) == 1 and seen[0].shape == X.shape


def test_no_tile_is_larger_than_asked_for() -> None:
    sizes: set[tuple[int, int]] = set()

    def run(x: Tensor, _: int) -> Tensor:
        sizes.add((x.shape[-2], x.shape[-1]))
        return x

    tiled(run, X, tile=16, overlap=4, scale=1)
    assert sizes == {(16, 16)}


def test_a_seam_fades_linearly() -> None:
    """Tiles that disagree by a constant: over the overlap the result goes from one to the other in equal steps."""
    row = tiled(lambda x, i: torch.full_like(x, i), torch.zeros(1, 12), tile=8, overlap=4, scale=1)[0]
    torch.testing.assert_close(row, torch.tensor([0.0] * 4 + [0.125, 0.375, 0.625, 0.875] + [1.0] * 4))


def test_a_network_that_sees_a_little_further_is_close_and_exact_off_the_seams() -> None:
    kernel = torch.ones(3, 1, 1, 5, 5) / 25

    def run(x: Tensor, _: int) -> Tensor:
        return F.conv3d(x, kernel, padding=(0, 2, 2), groups=3)

    whole, parts = run(X, 0), tiled(run, X, tile=24, overlap=8, scale=1)
    torch.testing.assert_close(parts[..., :16, :16], whole[..., :16, :16])
    assert (parts - whole).abs().max() < 0.1 * (whole.max() - whole.min())


def running_sum(pieces: Iterable[Tensor]) -> Iterator[Tensor]:
    """Something that remembers: each tile must have a memory of its own."""
    total: Tensor | float = 0.0
    for piece in pieces:
        for t in range(piece.shape[2]):
            total = total + bigger(piece[:, :, t : t + 1])
            yield total


def test_a_stream_has_one_memory_per_tile() -> None:
    pieces = [X[:, :, :1], X[:, :, 1:]]
    found = list(tiled_stream(running_sum, iter(pieces), tile=16, overlap=4, scale=4))
    torch.testing.assert_close(torch.cat(found, dim=2), torch.cat(list(running_sum(pieces)), dim=2))
    assert list(tiled_stream(running_sum, iter([]), tile=16, overlap=4, scale=4)) == []


@pytest.mark.parametrize("overlap", [0, 16])
def test_an_overlap_that_does_not_fit_is_refused(overlap: int) -> None:
    with pytest.raises(ValueError, match=f"an overlap of {overlap} does not fit tiles of 16"):
        tiled(bigger, X, tile=16, overlap=overlap, scale=4)
