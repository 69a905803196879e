"""Spatial tiles with a linear cross-fade over their overlap: memory that the tile bounds, not the picture.

A network that sees further than its tile gives slightly other values near a tile's edge; the fade hides the seam. What
is purely local comes out exactly as from the whole. The last tile of a row is moved back to end at the border, so that
all tiles have one shape and full context.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from itertools import chain

import torch
from torch import Tensor

Run = Callable[[Tensor, int], Tensor]
RunStream = Callable[[Iterable[Tensor]], Iterator[Tensor]]
Window = tuple[slice, slice]


def tiled(run: Run, x: Tensor, tile: int, overlap: int, scale: int | Fraction) -> Tensor:
    """`run(x, 0)` for x (..., H, W), tile by tile: `run(part, i)` gets tile number i, to keep a memory per tile.

    tile, overlap: in positions of `x`; scale: positions out per position in (8 decodes, Fraction(1, 8) encodes), by
    which H, W, tile and overlap must go into whole numbers. Where `tile` covers `x`, this is `run(x, 0)` itself.
    Raises ValueError unless 0 < overlap < tile.
    """
    grid = _Grid(x.shape[-2], x.shape[-1], tile, overlap, Fraction(scale))
    return grid.blend(run(x[..., rows, columns], i) for i, (rows, columns) in enumerate(grid.windows))


def tiled_stream(
    run: RunStream, pieces: Iterable[Tensor], tile: int, overlap: int, scale: int | Fraction
) -> Iterator[Tensor]:
    """`run(pieces)`, which takes and gives pieces along time, tile by tile: one stream per tile, drawn in step.

    Arguments as of `tiled`. What `run` computes at once is bounded by the tile; what it remembers between pieces is
    held for all tiles. `run` must cut time alike for every tile.
    """
    source = iter(pieces)
    first = next(source, None)
    if first is None:
        return
    grid = _Grid(first.shape[-2], first.shape[-1], tile, overlap, Fraction(scale))
    queues: list[deque[Tensor]] = [deque() for _ in grid.windows]
    source = chain([first], source)
    del first  # whoever holds a piece longer than needed makes the stream's memory grow
    streams = [run(_of_tile(window, queue, queues, source)) for window, queue in zip(grid.windows, queues, strict=True)]
    yield from map(grid.blend, zip(*streams, strict=True))


def _of_tile(
    window: Window, own: deque[Tensor], queues: list[deque[Tensor]], source: Iterator[Tensor]
) -> Iterator[Tensor]:
    """One tile's part of each piece; who comes first to a new piece puts it into everybody's queue.

    `itertools.tee` does the same but lets go of pieces 57 at a time only.
    """
    rows, columns = window
    while True:
        if not own:
            piece = next(source, None)
            if piece is None:
                return
            for queue in queues:
                queue.append(piece)
            del piece
        yield own.popleft()[..., rows, columns]


class _Grid:
    """Where the tiles of an H x W picture lie, and how much each counts where they overlap."""

    def __init__(self, height: int, width: int, tile: int, overlap: int, scale: Fraction) -> None:
        if not 0 < overlap < tile:
            raise ValueError(f"an overlap of {overlap} does not fit tiles of {tile}: it must be above 0 and below")
        sides = [(_starts(side, tile, tile - overlap), min(side, tile)) for side in (height, width)]
        rows, columns = ([slice(start, start + size) for start in starts] for starts, size in sides)
        self.windows: list[Window] = [(row, column) for row in rows for column in columns]
        self._out = [int(side * scale) for side in (height, width)]
        self._places = [(_scaled(row, scale), _scaled(column, scale)) for row, column in self.windows]
        fade = int(overlap * scale)
        self._shares = [_shares([place[axis] for place in self._places], fade, self._out[axis]) for axis in (0, 1)]

    def blend(self, parts: Iterable[Tensor]) -> Tensor:
        """The picture, float32, from its tiles, drawn one at a time; an only tile is given through as it is."""
        out: Tensor | None = None
        for index, part in enumerate(parts):
            if len(self.windows) == 1:
                return part
            if out is None:
                out = part.new_zeros(*part.shape[:-2], *self._out, dtype=torch.float32)
            rows, columns = (shares[index].to(part.device) for shares in self._shares)
            out[..., self._places[index][0], self._places[index][1]] += part * rows[:, None] * columns
        assert out is not None  # a picture has at least one tile
        return out


def _starts(side: int, tile: int, step: int) -> list[int]:
    return [*range(0, max(0, side - tile), step), max(0, side - tile)]


def _scaled(window: slice, scale: Fraction) -> slice:
    return slice(int(window.start * scale), int(window.stop * scale))


def _shares(places: list[slice], fade: int, side: int) -> list[Tensor]:
    """Of one axis, each tile's weight at its positions: rising over `fade`, falling over `fade`, together 1."""
    ramps = [_ramp(place, fade, side) for place in places]
    total = torch.zeros(side)
    for start, ramp in {place.start: ramp for place, ramp in zip(places, ramps, strict=True)}.items():
        total[start : start + len(ramp)] += ramp
    return [ramp / total[place] for place, ramp in zip(places, ramps, strict=True)]


def _ramp(place: slice, fade: int, side: int) -> Tensor:
    size = place.stop - place.start
    rising = ((torch.arange(size) + 0.5) / fade).clamp(max=1.0)
    ones = torch.ones(size)
    left = ones if place.start == 0 else rising
    right = ones if place.stop == side else rising.flip(0)
    return torch.minimum(left, right)
