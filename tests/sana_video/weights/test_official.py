"""Published pickles are read as plain tensors; whatever else is in one is refused in a line."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sana_video.weights import official as reader


def one_line(path: Path, says: str, *, ema: bool = False) -> None:
    with pytest.raises(ValueError, match=says) as caught:
        reader.read(path, ema=ema)
    assert path.name in str(caught.value)
    assert "\n" not in str(caught.value)


class Malice:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch /tmp/sana-video-was-here",)


def test_the_tensors_come_back(pth: Path, official: dict[str, Tensor]) -> None:
    read = reader.read(pth)
    assert read.keys() == official.keys()
    assert all(torch.equal(read[name], official[name]) for name in official)


def test_a_bare_state_dict_is_read(tmp_path: Path, official: dict[str, Tensor]) -> None:
    torch.save(official, tmp_path / "bare.pth")
    assert reader.read(tmp_path / "bare.pth").keys() == official.keys()


def test_longsana_generators(tmp_path: Path, official: dict[str, Tensor]) -> None:
    path = tmp_path / "LongSANA.pt"
    plain = {f"model.{name}": tensor for name, tensor in official.items()}
    average = {name: tensor + 1 for name, tensor in plain.items()}
    torch.save({"generator": plain, "critic": plain, "generator_ema": average}, path)
    assert torch.equal(reader.read(path)["t_block.1.bias"], official["t_block.1.bias"])
    assert torch.equal(reader.read(path, ema=True)["t_block.1.bias"], official["t_block.1.bias"] + 1)


def test_averaged_weights_are_asked_for_where_they_are(tmp_path: Path, pth: Path, official: dict[str, Tensor]) -> None:
    one_line(pth, r"no averaged weights .*; it has epoch, state_dict", ema=True)
    torch.save({"generator_ema": official}, tmp_path / "only.pt")
    one_line(tmp_path / "only.pt", "averaged weights only: ask for them with --ema")


def test_a_pickle_that_wants_to_run_code_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "evil.pth"
    torch.save({"state_dict": Malice()}, path)
    one_line(path, r"evil\.pth wants to use posix\.system; only tensors are read")
    assert not Path("/tmp/sana-video-was-here").exists()


def test_damaged_and_foreign_files_are_refused(tmp_path: Path, pth: Path) -> None:
    data = pth.read_bytes()
    (tmp_path / "short.pth").write_bytes(data[: len(data) // 2])
    one_line(tmp_path / "short.pth", "damaged, truncated")
    (tmp_path / "empty.pth").write_bytes(b"")
    one_line(tmp_path / "empty.pth", "damaged|truncated")
    (tmp_path / "text.pth").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    one_line(tmp_path / "text.pth", "damaged|truncated|more than tensors")
    torch.save(torch.zeros(3), tmp_path / "tensor.pth")
    one_line(tmp_path / "tensor.pth", "holds a Tensor, not named tensors")
    torch.save({"epoch": 3}, tmp_path / "none.pth")
    one_line(tmp_path / "none.pth", "holds no network")
    torch.save({"a": torch.zeros(1)}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    one_line(tmp_path / "old.pth", "no checkpoint of today's torch")
    with pytest.raises(FileNotFoundError, match="no such file"):
        reader.read(tmp_path / "nosuch.pth")
