"""Shards: the bytes, the index, random access, damage, and a writer that dies."""

from pathlib import Path

import pytest
import torch

from sana_video.data.shards import ShardReader, ShardWriter, data_digest, read_index, read_null, verify


def sample(i: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(i)
    return {"latents": torch.randn(4, 2, 3, 5, generator=generator), "mask": torch.tensor([True, i % 2 == 0])}


def write(folder: Path, n: int = 7) -> Path:
    with ShardWriter(folder, max_bytes=4096) as shards:
        for i in reversed(range(n)):
            shards.add(f"clip{i}", sample(i), bucket="24x40x5", subset="val" if i == 3 else "train")
    return folder


def test_every_sample_comes_back_by_row(tmp_path: Path) -> None:
    folder = write(tmp_path / "view")
    index = read_index(folder)
    assert index.column("key").to_pylist() == [f"clip{i}" for i in range(7)]
    assert len(set(index.column("shard").to_pylist())) > 1
    assert index.column("subset").to_pylist().count("val") == 1
    with ShardReader(folder) as reader:
        for i in range(7):
            for name, tensor in sample(i).items():
                assert torch.equal(reader.sample(i)[name], tensor)


def test_equal_samples_are_equal_bytes(tmp_path: Path) -> None:
    first, second = write(tmp_path / "a"), write(tmp_path / "b")
    assert {p.name: p.read_bytes() for p in first.iterdir()} == {p.name: p.read_bytes() for p in second.iterdir()}
    assert data_digest(first) == data_digest(second)
    assert data_digest(write(tmp_path / "c", n=6)) != data_digest(first)


def test_the_null_embedding_is_part_of_the_digest_and_is_verified(tmp_path: Path) -> None:
    def view(name: str, value: float) -> Path:
        null = (torch.full((3, 2), value), torch.tensor([True, True, False]))
        with ShardWriter(tmp_path / name, max_bytes=4096, null=null) as shards:
            shards.add("clip0", sample(0), bucket="24x40x5", subset="train")
        return tmp_path / name

    folder = view("a", 1.0)
    text, mask = read_null(folder)
    assert torch.equal(text, torch.ones(3, 2)) and mask.tolist() == [True, True, False]
    verify(folder)
    assert data_digest(folder) == data_digest(view("b", 1.0)) != data_digest(view("c", 2.0))
    path = folder / "null_embedding.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="damaged"):
        read_null(folder)
    with pytest.raises(ValueError, match=r"null_embedding\.safetensors is missing or damaged"):
        verify(folder)
    with pytest.raises(FileNotFoundError, match="run `sana-video data encode --view old` again"):
        read_null(write(tmp_path / "old"))


def test_webdataset_reads_the_tars(tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    from safetensors.torch import load

    folder = write(tmp_path / "view")
    seen = {}
    for path in sorted(folder.glob("*.tar")):
        for item in webdataset.WebDataset(str(path), shardshuffle=False):
            seen[item["__key__"]] = load(item["safetensors"])
    assert sorted(seen) == [f"clip{i}" for i in range(7)]
    assert torch.equal(seen["clip5"]["latents"], sample(5)["latents"])


def test_a_writer_that_dies_leaves_the_old_view(tmp_path: Path) -> None:
    folder = write(tmp_path / "view")
    before = data_digest(folder)
    with pytest.raises(RuntimeError), ShardWriter(folder, max_bytes=4096) as shards:
        shards.add("other", sample(0), bucket="24x40x5", subset="train")
        raise RuntimeError("power cut")
    assert data_digest(folder) == before
    assert [path.name for path in tmp_path.iterdir()] == ["view"]


def test_a_second_write_replaces_the_folder_as_a_whole(tmp_path: Path) -> None:
    folder = write(write(tmp_path / "view"), n=2)
    verify(folder)
    assert len(read_index(folder)) == 2


def test_verify_names_the_damaged_shard(tmp_path: Path) -> None:
    folder = write(tmp_path / "view")
    verify(folder)
    path = sorted(folder.glob("*.tar"))[1]
    damaged = bytearray(path.read_bytes())
    damaged[700] ^= 1
    path.write_bytes(bytes(damaged))
    with pytest.raises(ValueError, match=path.name):
        verify(folder)
    path.unlink()
    with pytest.raises(ValueError, match=f"{path.name} is missing"):
        verify(folder)


def test_a_stranger_and_a_short_shard_are_named(tmp_path: Path) -> None:
    folder = write(tmp_path / "view")
    (folder / "00099.tar").write_bytes(b"")
    with pytest.raises(ValueError, match=r"00099\.tar"):
        verify(folder)
    for path in folder.glob("*.tar"):
        path.write_bytes(path.read_bytes()[:600])
    with ShardReader(folder) as reader, pytest.raises(ValueError, match="damaged"):
        reader.sample(0)


@pytest.mark.parametrize(("key", "subset"), [("a.b", "train"), ("", "train"), ("ok", "test"), ("x" * 81, "val")])
def test_unfit_samples_are_refused(tmp_path: Path, key: str, subset: str) -> None:
    with pytest.raises(ValueError), ShardWriter(tmp_path / "view", max_bytes=4096) as shards:
        shards.add(key, sample(0), bucket="b", subset=subset)
    assert not (tmp_path / "view").exists()


def test_a_missing_or_foreign_index_is_said(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"index\.parquet"):
        read_index(tmp_path)
    (tmp_path / "index.parquet").write_bytes(b"no parquet")
    with pytest.raises(ValueError, match="damaged"):
        read_index(tmp_path)
