"""mp4 files: what is kept, whole or in pieces, and that nothing half-made is ever seen."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from sana_video.video.io import iter_frames
from sana_video.video.mp4 import Mp4Writer, encode_mp4, read_metadata


def moving(frames: int) -> NDArray[np.uint8]:
    y, x = np.mgrid[0:64, 0:96]
    return np.stack([np.stack([x * 2, y * 3, np.full_like(x, 8 * k)], axis=-1) for k in range(9)]).astype(np.uint8)[
        :frames
    ]


def test_encoding_keeps_pictures_metadata_and_bytes(tmp_path: Path) -> None:
    y, x = np.mgrid[0:64, 0:96]
    frames = np.stack([np.stack([x * 2, y * 3, np.full_like(x, 8 * k)], axis=-1) for k in range(9)]).astype(np.uint8)
    said = {
        "title": "a clip",
        "comment": "prompt: “ünïcode; = \\ ”",
        "copyright": "(c) 2008 Blender Foundation, www.bigbuckbunny.org",
        "description": "CC BY 3.0",
    }
    encode_mp4(tmp_path / "a.mp4", frames, 16, said)
    encode_mp4(tmp_path / "b.mp4", frames, 16, said)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()
    assert read_metadata(tmp_path / "a.mp4") == said
    back = np.stack([picture.rgb for picture in iter_frames(tmp_path / "a.mp4")])
    assert np.abs(back.astype(int) - frames).mean() < 3
    data = (tmp_path / "a.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")
    assert {path.name for path in tmp_path.iterdir()} == {"a.mp4", "b.mp4"}


def test_encoding_refuses_what_it_cannot_keep(tmp_path: Path) -> None:
    good = np.zeros((2, 64, 64, 3), np.uint8)
    for frames, metadata in ((good[:0], {}), (good[:, :63], {}), (good.astype(np.float32), {}), (good, {"mood": "x"})):
        with pytest.raises(ValueError):
            encode_mp4(tmp_path / "a.mp4", frames, 16, metadata)
    assert not list(tmp_path.iterdir())


def test_frames_in_pieces_are_the_same_bytes(tmp_path: Path) -> None:
    frames = moving(9)
    encode_mp4(tmp_path / "whole.mp4", frames, 16, {"title": "x"})
    with Mp4Writer(tmp_path / "pieces.mp4", (64, 96), 16, {"title": "x"}) as file:
        for low, high in ((0, 1), (1, 5), (5, 5), (5, 9)):
            file.add(frames[low:high])
            assert not (tmp_path / "pieces.mp4").exists()
    assert file.frames == 9
    assert (tmp_path / "pieces.mp4").read_bytes() == (tmp_path / "whole.mp4").read_bytes()


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("made", [0, 3])
def test_an_interrupted_run_leaves_what_was_there_before(tmp_path: Path, error: type[BaseException], made: int) -> None:
    encode_mp4(tmp_path / "a.mp4", moving(2), 16, {})
    before = (tmp_path / "a.mp4").read_bytes()
    for name in ("a.mp4", "b.mp4"):
        with pytest.raises(error), Mp4Writer(tmp_path / name, (64, 96), 16, {}) as file:
            file.add(moving(made))
            raise error
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]
    assert (tmp_path / "a.mp4").read_bytes() == before


def test_a_killed_process_leaves_nothing_under_the_name(tmp_path: Path) -> None:
    code = (
        "import os, pathlib, sys, numpy as np\n"
        "from sana_video.video.mp4 import Mp4Writer\n"
        "with Mp4Writer(pathlib.Path(sys.argv[1]), (64, 96), 16, {}) as file:\n"
        "    file.add(np.zeros((40, 64, 96, 3), np.uint8))\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.mp4")]).returncode == -9
    assert not (tmp_path / "a.mp4").exists()


def test_a_writer_refuses_other_frames_and_none(tmp_path: Path) -> None:
    for wrong in (moving(1)[:, :32], moving(1).astype(np.float32), moving(1)[0]):
        with (
            pytest.raises(ValueError, match=r"frames must be uint8 \(F, 64, 96, 3\)"),
            Mp4Writer(tmp_path / "a.mp4", (64, 96), 16, {}) as file,
        ):
            file.add(wrong)
    with pytest.raises(ValueError, match="at least one frame"), Mp4Writer(tmp_path / "a.mp4", (64, 96), 16, {}):
        pass
    assert not list(tmp_path.iterdir())
