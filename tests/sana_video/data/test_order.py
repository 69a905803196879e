"""Order: a permutation each epoch, disjoint ranks, the same global batch for every number of processes."""

import numpy as np
import pytest

from sana_video.data.order import Rows, global_batch, local_slice, permutation


@pytest.mark.parametrize("n", [1, 2, 7, 100, 1000])
def test_permutation_is_one(n: int) -> None:
    for epoch in range(3):
        assert sorted(permutation(n, 1, epoch)) == list(range(n))


def test_permutation_depends_on_seed_and_epoch_only() -> None:
    first = permutation(50, 1, 0)
    assert (first == permutation(50, 1, 0)).all()
    assert (first != permutation(50, 1, 1)).any()
    assert (first != permutation(50, 2, 0)).any()
    assert permutation(8, 1, 0).tolist() == [1, 4, 0, 3, 5, 2, 7, 6]  # pinned: resumed runs rely on it


def test_permutation_is_not_biased() -> None:
    places = np.array([np.argsort(permutation(10, 3, epoch)) for epoch in range(4000)])
    assert np.abs(places.mean(0) - 4.5).max() < 0.2  # standard error of a mean of uniform 0..9 is 0.045


def buckets() -> list[Rows]:
    return [np.arange(0, 12), np.arange(100, 105), np.arange(200, 201)]


def test_batches_hold_one_bucket_and_show_every_row_evenly() -> None:
    seen = np.zeros(300, int)
    for step in range(5 * 60):  # a round is 3 + 2 + 1 batches
        rows = global_batch(buckets(), 4, 1, step)
        assert len(rows) == 4
        assert len(set(rows // 100)) == 1
        np.add.at(seen, rows, 1)
    assert set(seen[:12]) == {50}
    assert set(seen[100:105]) == {80}  # 2 batches of 4 for 5 rows: rounded up
    assert seen[200] == 200


def test_one_bucket_epochs_drop_nothing() -> None:
    rows = np.concatenate([global_batch([np.arange(10)], 4, 7, step) for step in range(5)])
    assert sorted(rows[:10]) == list(range(10))
    assert sorted(rows[10:]) == list(range(10))


@pytest.mark.parametrize("world", [1, 2, 4])
def test_ranks_are_disjoint_and_join_to_the_global_batch(world: int) -> None:
    for step in range(10):
        rows = global_batch(buckets(), 8, 1, step)
        parts = [rows[list(local_slice(8, rank, world))] for rank in range(world)]
        assert np.concatenate(parts).tolist() == rows.tolist()
        assert sorted(i for rank in range(world) for i in local_slice(8, rank, world)) == list(range(8))


def test_a_batch_that_does_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match="batch 6 is not a multiple of 4"):
        local_slice(6, 0, 4)
