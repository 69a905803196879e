"""How a clip is put before DOVER: against slow definitions, with a random export in its place."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sana_video.video.measures import dover


class Branches(nn.Module):
    """Two scores of the right shapes, each of its own view alone: weights drawn at random."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.aesthetic, self.technical = nn.Conv3d(3, 1, (4, 16, 16), 8), nn.Conv3d(3, 1, (4, 16, 16), 8)

    def forward(self, aesthetic: Tensor, technical: Tensor) -> tuple[Tensor, Tensor]:
        return torch.tanh(self.aesthetic(aesthetic)) * 0.1, torch.tanh(self.technical(technical)) * 0.1


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("dover") / "random.pt"
    torch.jit.script(Branches()).save(str(path))
    return path


def clip(frames: int = 81, size: tuple[int, int] = (240, 320), seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.stack([rng.integers(0, 255, (*size, 3)).astype(np.uint8) for _ in range(frames)])


def views_of(pictures: np.ndarray, seed: int = 0) -> dover.Views:
    views = dover.Views(len(pictures), seed)
    for index, picture in enumerate(pictures):
        if views.wants(index):
            views.add(index, picture)
    return views


@pytest.mark.parametrize("frames", [2, 17, 32, 63, 81, 400])
def test_frames_stay_in_the_clip_in_order_and_two_apart_where_there_is_room(frames: int) -> None:
    rng = np.random.default_rng(3)
    technical, aesthetic = dover.technical_frames(frames, rng), dover.aesthetic_frames(frames, rng)
    assert technical.shape == (3, 32) and aesthetic.shape == (32,)
    for row in (*technical, aesthetic):
        assert row[0] >= 0 and row[-1] <= frames - 1 and (np.diff(row) >= 0).all()
    if frames >= 63:
        assert (np.diff(technical, axis=1) == 2).all()
    if frames >= 32:
        assert len(set(aesthetic.tolist())) == 32
    if frames == 400:
        assert technical[0, 0] < technical[1, 0] - 20 < technical[2, 0] - 40


@pytest.mark.parametrize("size", [(240, 320), (480, 270), (1080, 1920), (225, 224)])
def test_each_patch_lies_in_its_cell_pixel_for_pixel(size: tuple[int, int]) -> None:
    height, width = size
    y, x = np.mgrid[0:height, 0:width]
    picture = np.stack([y % 256, x % 256, (y // 256) * 16 + x // 256], -1).astype(np.uint8)  # a pixel tells its place
    joined = dover.fragments(picture, np.random.default_rng(0).random((2, 7, 7))).astype(int)
    rows, columns = joined[..., 0] + joined[..., 2] // 16 * 256, joined[..., 1] + joined[..., 2] % 16 * 256
    for r in range(7):
        for c in range(7):
            top, left = rows[r * 32, c * 32], columns[r * 32, c * 32]
            assert r * height // 7 <= top and top + 32 <= (r + 1) * height // 7
            assert c * width // 7 <= left and left + 32 <= (c + 1) * width // 7
            patch = picture[top : top + 32, left : left + 32]
            assert (joined[r * 32 : r * 32 + 32, c * 32 : c * 32 + 32] == patch).all()


def test_a_small_picture_is_enlarged_first() -> None:
    small = np.full((90, 160, 3), 77, np.uint8)
    assert (dover.fragments(small, np.zeros((2, 7, 7))) == 77).all()


def test_patches_stay_at_their_place_through_a_clip_and_move_between_clips() -> None:
    still = np.repeat(clip(1), 81, axis=0)
    views = views_of(still)
    assert (views.technical == views.technical[:, :1]).all()
    assert (views.technical[0] != views.technical[1]).any()
    assert not (views.technical == 0).all((-1, -2, -3)).any(), "a frame was left out"


def test_twice_the_same_is_the_same_and_another_seed_is_not() -> None:
    pictures = clip()
    first, again, other = views_of(pictures), views_of(pictures), views_of(pictures, seed=1)
    assert (first.technical == again.technical).all() and (first.aesthetic == again.aesthetic).all()
    assert (first.technical != other.technical).any()


def test_normalised_is_imagenets_on_the_0_255_scale() -> None:
    view = np.random.default_rng(0).integers(0, 256, (2, 4, 6, 6, 3)).astype(np.uint8)
    found = dover.normalised(view)
    assert found.shape == (2, 3, 4, 6, 6)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    assert found[1, :, 2, 3, 4] == pytest.approx((view[1, 2, 3, 4] / 255 - mean) / std, abs=1e-5)


def test_scores_are_fused_as_published() -> None:
    at_mean = dover.fused(0.1107, -0.08285)
    assert at_mean == pytest.approx({"technical": 0.5, "aesthetic": 0.5, "overall": 0.5})
    found = dover.fused(0.1107 + 0.07355, -0.08285)  # one deviation up in the technical branch alone
    assert found["technical"] == pytest.approx(1 / (1 + np.exp(-1)))
    assert found["overall"] == pytest.approx(1 / (1 + np.exp(-0.6104)))
    assert dover.fused(-80.0, -80.0)["overall"] < 1e-6


def test_a_torchscript_file_runs_on_many_clips_as_on_each(export: Path) -> None:
    runner = dover.DoverRunner(export, ("aesthetic", "technical"), ("aesthetic", "technical"))
    views = [views_of(clip(40, seed=seed)) for seed in (0, 1)]
    alone = [runner(v.technical[None], v.aesthetic[None])[0] for v in views]
    both = runner(np.stack([v.technical for v in views]), np.stack([v.aesthetic for v in views]))
    for one, other in zip(alone, both, strict=True):
        assert one == pytest.approx(other, abs=1e-5)
    assert alone[0] != alone[1]
    with torch.no_grad():
        raw = Branches()(
            *(torch.from_numpy(dover.normalised(view)) for view in (views[0].aesthetic[None], views[0].technical))
        )
    assert alone[0] == pytest.approx(dover.fused(float(raw[1].mean()), float(raw[0].mean())), abs=1e-5)


def test_which_output_is_which_is_as_told(export: Path) -> None:
    views = views_of(clip(40))
    right = dover.DoverRunner(export, ("aesthetic", "technical"), ("aesthetic", "technical"))
    swapped = dover.DoverRunner(export, ("aesthetic", "technical"), ("technical", "aesthetic"))
    a, b = (runner(views.technical[None], views.aesthetic[None])[0] for runner in (right, swapped))
    assert abs(a["technical"] - b["technical"]) > 0.01


def test_a_file_that_is_none_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "dover.pt"
    path.write_bytes(b"not a zip")
    with pytest.raises(ValueError, match=r"dover\.pt is not a TorchScript file") as error:
        dover.DoverRunner(path, ("aesthetic", "technical"), ("aesthetic", "technical"))
    assert "\n" not in str(error.value)


def field(number: int, value: bytes | int | str) -> bytes:
    """One field of a protocol buffer."""

    def varint(n: int) -> bytes:
        return bytes([n]) if n < 128 else bytes([n & 127 | 128]) + varint(n >> 7)

    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def onnx_of_means() -> bytes:
    """An ONNX file of two inputs (b, 3, 32, 224, 224), each given back as its mean over all but b."""

    def value(name: str, dims: list[str | int]) -> bytes:
        shape = b"".join(field(1, field(1, d) if isinstance(d, int) else field(2, d)) for d in dims)
        return field(1, name) + field(2, field(1, field(1, 1) + field(2, shape)))

    axes = field(1, "axes") + field(20, 7) + b"".join(field(8, k) for k in (1, 2, 3, 4))
    nodes = [
        field(1, source) + field(2, target) + field(4, "ReduceMean") + field(5, axes)
        for source, target in (("aes", "a"), ("tech", "t"))
    ]
    inputs = [value(name, [batch, 3, 32, 224, 224]) for name, batch in (("aes", "b"), ("tech", "c"))]
    outputs = [value(name, [batch, 1, 1, 1, 1]) for name, batch in (("a", "b"), ("t", "c"))]
    graph = b"".join(field(1, node) for node in nodes) + field(2, "means")
    graph += b"".join(field(11, each) for each in inputs) + b"".join(field(12, each) for each in outputs)
    return field(1, 8) + field(7, graph) + field(8, field(1, "") + field(2, 13))


def test_an_onnx_file_runs(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    path = tmp_path / "means.onnx"
    path.write_bytes(onnx_of_means())
    views = views_of(clip(40))
    runner = dover.DoverRunner(path, ("aesthetic", "technical"), ("aesthetic", "technical"))
    raw_a, raw_t = (float(dover.normalised(view).mean()) for view in (views.aesthetic, views.technical))
    found = runner(views.technical[None], views.aesthetic[None])[0]
    assert found == pytest.approx(dover.fused(raw_t, raw_a), abs=1e-3)
    path.write_bytes(b"junk")
    with pytest.raises(ValueError, match="is not an ONNX file that can be run"):
        dover.DoverRunner(path, ("aesthetic", "technical"), ("aesthetic", "technical"))
