"""Weights survive the disk whole, and whatever is not these weights is refused by name."""

import resource
from pathlib import Path

import pytest
import torch

from sana_video import weights
from sana_video.config import SanaVideoConfig
from sana_video.model import SanaVideo

CONFIG = SanaVideoConfig(in_channels=2, width=12, heads=2, depth=1, text_width=4, text_tokens=3)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    SanaVideo(CONFIG, seed=1).save_pretrained(tmp_path)
    return tmp_path


def spoil(folder: Path, **changes: torch.Tensor | None) -> None:
    tensors = weights.load(folder / weights.FILE_NAME)
    for name, tensor in changes.items():
        key = name.replace("__", ".")
        if tensor is None:
            del tensors[key]
        else:
            tensors[key] = tensor
    weights.save(folder / weights.FILE_NAME, tensors)


def test_a_model_comes_back_bit_for_bit(folder: Path) -> None:
    saved, loaded = SanaVideo(CONFIG, seed=1), SanaVideo.from_pretrained(folder)
    assert loaded.config == CONFIG
    assert not loaded.training
    assert saved.state_dict().keys() == loaded.state_dict().keys()
    assert all(torch.equal(tensor, loaded.state_dict()[name]) for name, tensor in saved.state_dict().items())
    assert all(parameter.requires_grad for parameter in loaded.parameters())


def test_a_type_can_be_asked_for(folder: Path) -> None:
    loaded = SanaVideo.from_pretrained(folder, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.bfloat16}


def test_the_same_weights_give_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    first = (folder / weights.FILE_NAME).read_bytes()
    SanaVideo(CONFIG, seed=1).save_pretrained(tmp_path / "again")
    assert (tmp_path / "again" / weights.FILE_NAME).read_bytes() == first


def test_all_faults_are_named_in_one_error(folder: Path) -> None:
    spoil(
        folder,
        patch_embed__bias=None,
        head__weight=torch.zeros(1),
        time_modulation__bias=torch.zeros(3),
        final__linear__bias=torch.tensor([0.0, float("nan")]),
    )
    with pytest.raises(ValueError, match="of this SanaVideo") as caught:
        SanaVideo.from_pretrained(folder)
    message = str(caught.value)
    assert "missing: patch_embed.bias;" in message
    assert "unexpected: head.weight;" in message
    assert "wrong shape: time_modulation.bias [3] instead of [72];" in message
    assert "not finite: final.linear.bias" in message
    assert "\n" not in message


def test_many_faults_are_counted(folder: Path) -> None:
    weights.save(folder / weights.FILE_NAME, {"x": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"missing: .* and \d+ more; unexpected: x"):
        SanaVideo.from_pretrained(folder)


def test_a_truncated_file_is_refused(folder: Path) -> None:
    path = folder / weights.FILE_NAME
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ValueError, match="damaged, truncated"):
        SanaVideo.from_pretrained(folder)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="damaged, truncated"):
        SanaVideo.from_pretrained(folder)


def test_pickles_are_never_read_or_written(folder: Path) -> None:
    pickle = folder / "model.pth"
    torch.save({"a": torch.zeros(1)}, pickle)
    with pytest.raises(ValueError, match=r"model\.pth is a pickle"):
        weights.load(pickle)
    with pytest.raises(ValueError, match="is a pickle"):
        weights.save(folder / "out.bin", {})
    (folder / weights.FILE_NAME).unlink()
    with pytest.raises(FileNotFoundError, match=r"is missing \(model\.pth beside it is a pickle"):
        SanaVideo.from_pretrained(folder)
    pickle.rename(folder / weights.FILE_NAME)
    with pytest.raises(ValueError, match="no safetensors file"):
        SanaVideo.from_pretrained(folder)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(folder: Path) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, unlimited[1]))  # no file may grow past 1000 bytes
    try:
        with pytest.raises(OSError, match=r"cannot write .*model\.safetensors"):
            SanaVideo(CONFIG, seed=2).save_pretrained(folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
