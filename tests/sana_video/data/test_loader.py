"""Loader: batches are a function of the step, whoever asks and whenever; prefetching changes nothing."""

from pathlib import Path

import pytest
import torch

from sana_video.data.loader import Loader, prefetch
from sana_video.data.shards import ShardWriter


@pytest.fixture
def view(tmp_path: Path) -> Path:
    with ShardWriter(tmp_path / "view", max_bytes=1 << 20) as shards:
        for i in range(14):
            tall = i % 3 == 0
            latents = torch.full((2, 3, 4 if tall else 2, 2 if tall else 4), float(i))
            subset = "val" if i in (3, 4, 5) else "train"
            shards.add(f"c{i:02d}", {"latents": latents}, bucket="tall" if tall else "wide", subset=subset)
    return tmp_path / "view"


def loader(view: Path, rank: int = 0, world: int = 1) -> Loader:
    return Loader(view, ["latents"], batch=4, seed=1, rank=rank, world=world)


def test_a_batch_is_a_function_of_the_step(view: Path) -> None:
    first, second = loader(view), loader(view)
    ahead = [second.batch(step).tensors["latents"] for step in range(9)]
    for step in reversed(range(9)):
        assert torch.equal(first.batch(step).tensors["latents"], ahead[step])


def test_ranks_share_the_global_batch(view: Path) -> None:
    for step in range(6):
        whole = loader(view).batch(step)
        parts = [loader(view, rank, 2).batch(step) for rank in range(2)]
        assert torch.equal(torch.cat([part.tensors["latents"] for part in parts]), whole.tensors["latents"])
        assert parts[0].positions + parts[1].positions == whole.positions == (0, 1, 2, 3)


def test_held_out_samples_never_train(view: Path) -> None:
    trained = {float(x) for step in range(20) for x in loader(view).batch(step).tensors["latents"][:, 0, 0, 0, 0]}
    assert trained == set(map(float, range(14))) - {3.0, 4.0, 5.0}


def test_held_out_is_cycled_to_the_count_in_batches_of_one_shape(view: Path) -> None:
    batches = loader(view).held_out(count=7, size=2)
    values = [float(x) for batch in batches for x in batch.tensors["latents"][:, 0, 0, 0, 0]]
    positions = [p for batch in batches for p in batch.positions]
    assert sorted(positions) == list(range(7))
    assert max(len(batch) for batch in batches) == 2
    assert [value for _, value in sorted(zip(positions, values, strict=True))] == [3, 4, 5, 3, 4, 5, 3]


def test_train_samples_come_once_each(view: Path) -> None:
    assert len({float(b.tensors["latents"].mean()) for b in loader(view).train_samples(100)}) == 11
    assert len(list(loader(view).train_samples(5))) == 5


def test_what_is_missing_is_named(view: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no 'pixels'"):
        Loader(view, ["pixels"], batch=4, seed=1).batch(0)
    with ShardWriter(tmp_path / "empty", max_bytes=100):
        pass
    with pytest.raises(ValueError, match="no train samples"):
        Loader(tmp_path / "empty", ["latents"], batch=4, seed=1)


def test_prefetch_is_in_order_and_stops_early() -> None:
    assert list(prefetch(lambda step: step * step, range(3, 9))) == [(s, s * s) for s in range(3, 9)]
    made: list[int] = []
    for step, _ in prefetch(lambda step: made.append(step), range(1000), depth=2):
        if step == 5:
            break
    assert len(made) < 12


def test_prefetch_carries_errors() -> None:
    def make(step: int) -> int:
        if step == 2:
            raise ValueError("shard 00002.tar is damaged")
        return step

    seen = []
    with pytest.raises(ValueError, match="damaged"):
        for step, _ in prefetch(make, range(5)):
            seen.append(step)
    assert seen == [0, 1]
