"""All eight ways to lay a picture, read from the file and applied; angles between are refused."""

from __future__ import annotations

import itertools
import struct
from pathlib import Path

import av
import numpy as np
import pytest
from films import picture, write

from sana_video.video.io import iter_frames
from sana_video.video.orientation import Orientation, from_matrix
from sana_video.video.probe import describe

ONE, W = 1 << 16, 1 << 30
TURNS = {  # a, b, c, d of the display matrix -> (mirrored, degrees clockwise)
    (1, 0, 0, 1): (False, 0),
    (0, 1, -1, 0): (False, 90),
    (-1, 0, 0, -1): (False, 180),
    (0, -1, 1, 0): (False, 270),
    (-1, 0, 0, 1): (True, 0),
    (0, -1, -1, 0): (True, 90),
    (1, 0, 0, -1): (True, 180),
    (0, 1, 1, 0): (True, 270),
}


def matrix(a: float, b: float, c: float, d: float) -> tuple[int, ...]:
    return round(a * ONE), round(b * ONE), 0, round(c * ONE), round(d * ONE), 0, 0, 0, W


def with_matrix(path: Path, numbers: tuple[int, ...]) -> Path:
    """Overwrite the display matrix in the track header of an mp4."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 4 + 20 + 8 + 8  # version, times and id, reserved, layer to volume
    data[at : at + 36] = struct.pack(">9i", *numbers)
    path.write_bytes(bytes(data))
    return path


def corners(path: Path) -> Path:
    """Two frames of 96x64: white top left, black else, so that every turn and mirror shows."""
    luma = np.full((64, 96), 16, np.uint8)
    luma[:16, :32] = 235
    chroma = np.full((32, 48), 128, np.uint8)
    return write(path, [picture([luma, chroma, chroma], "yuv420p") for _ in range(2)])


@pytest.mark.parametrize(("linear", "expected"), TURNS.items())
def test_each_way_is_named_and_shown(tmp_path: Path, linear: tuple[int, ...], expected: tuple[bool, int]) -> None:
    path = with_matrix(corners(tmp_path / "a.mp4"), matrix(*linear))
    fields = describe(str(path), 1 << 20)
    assert (fields["mirrored"], fields["rotation"]) == expected
    shown = next(iter_frames(path)).rgb[..., 0] > 128
    rows, columns = np.mgrid[0:64, 0:96]
    across, down = linear[0] * columns + linear[2] * rows, linear[1] * columns + linear[3] * rows
    expected_picture = np.zeros(shown.shape, bool)  # where the white samples go by the standard's own formula
    white = (rows < 16) & (columns < 32)
    expected_picture[(down - down.min())[white], (across - across.min())[white]] = True
    np.testing.assert_array_equal(shown, expected_picture)


def test_mirror_then_turn_is_the_same_as_apply() -> None:
    asymmetric = np.arange(6).reshape(2, 3)
    for flags in itertools.product((False, True), repeat=3):
        way = Orientation(*flags)
        mirrored = np.fliplr(asymmetric) if way.mirrored else asymmetric
        np.testing.assert_array_equal(way.apply(asymmetric), np.rot90(mirrored, -way.clockwise // 90))


@pytest.mark.parametrize("linear", [(0.7071, 0.7071, -0.7071, 0.7071), (1, 0.3, 0, 1), (0, 0, 0, 0), (1, 0, 1, 0)])
def test_what_is_no_right_angle_is_refused(tmp_path: Path, linear: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match=r"^UNSUPPORTED: a display matrix"):
        from_matrix(matrix(*linear))


def test_forty_five_degrees_in_a_file(tmp_path: Path) -> None:
    path = with_matrix(corners(tmp_path / "a.mp4"), matrix(0.7071, 0.7071, -0.7071, 0.7071))
    with pytest.raises(ValueError, match=r"^UNSUPPORTED: a display matrix that turns by 45 degrees"):
        describe(str(path), 1 << 20)
    with av.open(str(path)) as container:
        assert next(container.decode(video=0)).rotation % 90  # FFmpeg reads that angle too
