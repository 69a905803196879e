"""Views: clips of several aspects, each at its own size, and a writer that is really killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
import torch

from data_pipeline.encode import Encoders, Kept, Words, write_latents, write_pixels
from data_pipeline.params import PixelsParams, ViewParams
from sana_video.data.loader import Loader
from sana_video.data.shards import data_digest, read_index, verify

FRAMES = 5
WIDE, TALL = (48, 96), (96, 48)
VIEW = PixelsParams(height=48, width=80, frames=FRAMES)

KILLED = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import test_encode as t

def track(items, total, label):
    for number, item in enumerate(items):
        if number == 7:
            Path("stuck").touch()
            time.sleep(600)
        yield item

root = Path(sys.argv[1])
t.encode(root, t.kept(), track)
"""


def kept() -> list[Kept]:
    """Twelve clips of two films, one wide and one tall, a second and a half apart."""
    films = (("wide.mp4", WIDE), ("tall.mp4", TALL))
    return [
        Kept(f"{uri[:4]}{n}", uri, (n * 6144, n * 6144 + 5120), f"a film {n}", 3.0, "val" if n == 5 else "train", shown)
        for uri, shown in films
        for n in range(6)
    ]


def means(pieces: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
    """An encoder that depends on what stands in the same batch, as a GPU's arithmetic may in the last bit."""
    for piece in pieces:
        small = torch.nn.functional.avg_pool3d(piece, (1, 16, 16))
        yield small + small.mean() * 1e-3


def words(captions: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.ones(len(captions), 4, 3), torch.ones(len(captions), 4, dtype=torch.bool)


ENCODERS = Encoders(means, Words(words, (torch.zeros(4, 3), torch.ones(4, dtype=torch.bool))), 16, "means")


class Small(ViewParams):
    """The 11 aspects at a size that a test can afford."""

    def sizes(self, multiple: int) -> tuple[tuple[int, int], ...]:
        return (TALL, WIDE)


SEVERAL = Small(size="480p", frames=FRAMES, autoencoder="models/autoencoder", after="data")


def track(items: Iterable[object], total: int, label: str) -> Iterable[object]:
    return items


def encode(root: Path, clips: list[Kept], track: Callable[..., Iterable[object]] = track) -> Path:
    folder = root / "data" / "shards" / "low"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("data_pipeline.encode.CLIPS_AT_ONCE", 2)  # shards hold three: a batch may lie across two
        write_latents(folder, clips, SEVERAL, 16, 8192, root, ENCODERS, track)
    return folder


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory, make_video: Callable[..., Path]) -> Path:
    root = tmp_path_factory.mktemp("films")
    for name, size in (("wide.mp4", WIDE), ("tall.mp4", TALL)):
        make_video(root / name, seconds=4.0, fps=24, size=size)
    return root


def project(films: Path, root: Path) -> Path:
    root.mkdir()
    for path in films.iterdir():
        (root / path.name).symlink_to(path)
    return root


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_a_killed_run_loses_one_shard_and_the_next_gives_the_same_bytes(films: Path, tmp_path: Path) -> None:
    whole = contents(encode(project(films, tmp_path / "whole"), kept()))
    assert len(whole) > 4, "several shards, an index and the null embedding"
    root = project(films, tmp_path / "killed")
    child = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(root), str(Path(__file__).parent)], cwd=root,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    until = time.monotonic() + 120
    while not (root / "stuck").exists():
        assert child.poll() is None and time.monotonic() < until
        time.sleep(0.05)
    os.kill(child.pid, signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    (place,) = (root / "runs" / "encode" / "low").iterdir()
    finished = sorted(path.name for path in place.glob("*.tar"))
    assert finished and not (root / "data" / "shards" / "low").exists()
    decoded: list[int] = []

    def counted(items: Iterable[object], total: int, label: str) -> Iterable[object]:
        decoded.append(total)
        return items

    assert contents(encode(root, kept(), counted)) == whole
    assert 0 < decoded[0] < len(kept())
    assert not place.exists()


def test_a_kept_shard_that_was_damaged_is_written_again(films: Path, tmp_path: Path) -> None:
    whole = contents(encode(project(films, tmp_path / "whole"), kept()))
    root = project(films, tmp_path / "stopped")

    def fails(items: Iterable[object], total: int, label: str) -> Iterator[object]:
        for number, item in enumerate(items):
            if number == 11:
                raise OSError("No space left on device")
            yield item

    with pytest.raises(OSError, match="No space"):
        encode(root, kept(), fails)
    (place,) = (root / "runs" / "encode" / "low").iterdir()
    tar = sorted(place.glob("*.tar"))[1]
    tar.write_bytes(tar.read_bytes()[:-1] + b"x")
    assert contents(encode(root, kept())) == whole


def test_other_clips_take_nothing_from_an_unfinished_run(films: Path, tmp_path: Path) -> None:
    root = project(films, tmp_path / "root")

    def fails(items: Iterable[object], total: int, label: str) -> Iterator[object]:
        for number, item in enumerate(items):
            if number == 11:
                raise RuntimeError
            yield item

    with pytest.raises(RuntimeError):
        encode(root, kept(), fails)
    fewer = encode(root, kept()[:-1])
    assert contents(fewer) == contents(encode(project(films, tmp_path / "alone"), kept()[:-1]))


def test_every_clip_has_the_size_nearest_to_its_film_and_every_batch_one_shape(films: Path, tmp_path: Path) -> None:
    folder = encode(project(films, tmp_path / "root"), kept())
    verify(folder)
    index = read_index(folder).to_pylist()
    assert {(row["key"][:4], row["bucket"]) for row in index} == {("wide", "48x96x5"), ("tall", "96x48x5")}
    loader = Loader(folder, ["latents", "text"], batch=4, seed=1)
    shapes = {tuple(loader.batch(step).tensors["latents"].shape) for step in range(8)}
    assert shapes == {(4, 3, 5, 3, 6), (4, 3, 5, 6, 3)}


def test_plain_tar_gives_every_sample(films: Path, tmp_path: Path) -> None:
    folder = encode(project(films, tmp_path / "root"), kept())
    names = []
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            names += [member.name for member in tar]
    assert sorted(names) == sorted(f"{clip.clip_id}.safetensors" for clip in kept())


def test_a_pixel_view_has_one_size_and_resumes(films: Path, tmp_path: Path) -> None:
    root = project(films, tmp_path / "root")
    folder = root / "data" / "shards" / "pixels"
    write_pixels(folder, kept(), VIEW, 16, 1 << 16, root, track)
    first = data_digest(folder)
    assert set(read_index(folder).column("bucket").to_pylist()) == {"48x80x5"}
    write_pixels(folder, kept(), VIEW, 16, 1 << 16, root, track)
    assert data_digest(folder) == first


@pytest.mark.parametrize(
    ("form", "said"),
    [
        ({}, "this one has none of them"),
        ({"size": "480p", "height": 480, "width": 832}, "this one has size and height and width"),
        ({"height": 480}, "this one has height"),
        ({"size": "1080p"}, "480p"),
    ],
)
def test_a_view_has_one_form(form: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        ViewParams.model_validate({**form, "frames": 5, "autoencoder": "x", "after": "data"})


def test_named_sizes_follow_the_stride() -> None:
    view = ViewParams(size="480p", frames=5, autoencoder="x", after="data")
    assert len(view.sizes(16)) == 11 and (480, 832) in view.sizes(16)
    assert all(side % 32 == 0 for size in view.sizes(32) for side in size)
