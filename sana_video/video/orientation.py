"""How a decoded frame is turned, and mirrored, for display: its display matrix.

FFmpeg hands over a 3x3 matrix of int32 (ISO/IEC 14496-12, 8.5.2; the first two columns 16.16 fixed point): the sample
at column p and row q is shown at column a*p + c*q and row b*p + d*q, up to a shift. `frame.rotation` of PyAV reads one
angle out of it and loses mirrors, so the matrix is read here. A scaling in it has become a sample aspect by then.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import Any, TypeVar

import av
import numpy as np
from numpy.typing import NDArray

Pixel = TypeVar("Pixel", bound=np.generic)

TOLERANCE = 0.01  # of a unit vector: fixed point, and editors that round


@dataclass(frozen=True)
class Orientation:
    """One of the eight ways to lay a picture: rows and columns exchanged first, then the axes reversed."""

    transposed: bool = False
    reversed_columns: bool = False
    reversed_rows: bool = False

    @property
    def mirrored(self) -> bool:
        """Whether left and right are exchanged before the picture is turned."""
        return self.transposed ^ self.reversed_columns ^ self.reversed_rows

    @property
    def clockwise(self) -> int:
        """Degrees clockwise to turn after mirroring: 0, 90, 180, 270."""
        if not self.transposed:
            return 180 if self.reversed_rows else 0
        return 90 if self.reversed_rows == self.mirrored else 270

    def apply(self, picture: NDArray[Pixel]) -> NDArray[Pixel]:
        """A picture (H, W) or (H, W, 3) as it is shown; a view."""
        upright = picture.swapaxes(0, 1) if self.transposed else picture
        return upright[:: -1 if self.reversed_rows else 1, :: -1 if self.reversed_columns else 1]


def orientation(frame: av.VideoFrame) -> Orientation:
    """How to show a frame; as it is without a matrix. ValueError UNSUPPORTED for angles between, shear, nonsense."""
    side: Any = frame.side_data.get("DISPLAYMATRIX")  # a buffer: PyAV's stubs know motion vectors alone
    return Orientation() if side is None else from_matrix(struct.unpack_from("=9i", side))


def from_matrix(matrix: tuple[int, ...]) -> Orientation:
    """`orientation` of the nine numbers of a display matrix."""
    right, down = _unit(matrix[0], matrix[1]), _unit(matrix[3], matrix[4])  # where columns and rows grow to
    for ahead, reversed_ in (((1, 0), False), ((-1, 0), True)):
        for below, upside_down in (((0, 1), False), ((0, -1), True)):
            if _near(right, ahead) and _near(down, below):
                return Orientation(False, reversed_, upside_down)
            if _near(right, below) and _near(down, ahead):
                return Orientation(True, reversed_, upside_down)
    angle = math.degrees(math.atan2(right[1], right[0])) % 360
    raise ValueError(f"UNSUPPORTED: a display matrix that turns by {angle:.0f} degrees or shears")


def _unit(x: int, y: int) -> tuple[float, float]:
    length = math.hypot(x, y) or 1.0
    return x / length, y / length


def _near(vector: tuple[float, float], axis: tuple[int, int]) -> bool:
    return math.dist(vector, axis) <= TOLERANCE
