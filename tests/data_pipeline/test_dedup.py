from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from data_pipeline import tables
from data_pipeline.dedup import candidate_pairs, distance, near_hashes, near_pairs, representatives, run, sweep
from data_pipeline.params import DedupParams


def random_hashes(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2**64, count, np.uint64)


def flipped(hashes: np.ndarray, bits: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    masks = [sum(1 << int(b) for b in rng.choice(64, bits, replace=False)) for _ in hashes]
    return hashes ^ np.array(masks, np.uint64)


def table(name: str, rows: list[dict[str, object]]) -> pa.Table:
    blank = dict.fromkeys(tables.SCHEMAS[name].names)
    return pa.Table.from_pylist([{**blank, **row} for row in rows], schema=tables.SCHEMAS[name])


def clip(clip_id: str, source: str = "film", start: float = 0.0, **more: object) -> dict[str, object]:
    return {"clip_id": clip_id, "video_id": source, "source": source, "start": start, "frames": 33, **more}


def twins(clips: list[dict[str, object]], hashes: dict[str, np.ndarray], most: float = 6.0) -> list[dict[str, object]]:
    scores = [{"clip_id": key, "phash": value.tolist()} for key, value in hashes.items()]
    return run(table("clips", clips), table("scores", scores), DedupParams(max_distance=most))


@pytest.mark.parametrize("bits", [0, 3, 6, 9])
def test_lookup_finds_exactly_what_comparing_all_finds(bits: int) -> None:
    base = random_hashes(60, 1)
    hashes = np.unique(np.concatenate([base] + [flipped(base, k, k) for k in (1, 3, 5, 6, 7, 9, 10)]))
    expected = {
        (i, j)
        for i, j in itertools.combinations(range(len(hashes)), 2)
        if np.bitwise_count(hashes[i] ^ hashes[j]) <= bits
    }
    assert set(near_hashes(hashes, bits)) == expected


def test_distance_is_the_mean_over_the_best_alignment() -> None:
    a = random_hashes(6, 2)
    assert distance(a, a) == 0
    assert distance(a, flipped(a, 4, 3)) == 4
    assert distance(a[:5], a[1:]) == 0  # one sample later
    assert distance(a[:3], a[3:]) > 15  # nothing in common, and a corner of one frame is not enough


def test_near_pairs_agree_with_the_definition() -> None:
    base = [random_hashes(5, seed) for seed in range(8)]
    sequences = base + [flipped(s, k, k) for k, s in zip((2, 5, 6, 7, 12, 1, 6, 30), base, strict=True)]
    expected = [
        (i, j) for i, j in itertools.combinations(range(len(sequences)), 2) if distance(sequences[i], sequences[j]) <= 6
    ]
    assert near_pairs(sequences, 6.0) == expected
    assert len(expected) == 5


def test_one_black_frame_in_common_is_no_copy() -> None:
    black = np.zeros(1, np.uint64)
    a, b = (np.concatenate([black, random_hashes(4, seed)]) for seed in (1, 2))
    assert candidate_pairs([a, b], 6) == [(0, 1)]
    assert near_pairs([a, b], 6.0) == []


def test_copies_across_batches_form_one_group_with_the_first_kept() -> None:
    film = random_hashes(5, 1)
    rows = twins(
        [clip("z", "film", 3.0), clip("a", "trailer"), clip("b", "trailer", 9.0), clip("c", "city")],
        {"z": film, "a": flipped(film, 2, 1), "b": flipped(film, 3, 2), "c": random_hashes(5, 7)},
    )
    assert sorted((r["clip_id"], r["twin_of"]) for r in rows) == [("a", "z"), ("b", "z")]
    assert {r["clip_id"]: r["distance"] for r in rows} == {"a": 2.0, "b": 3.0}


def test_a_copy_that_starts_later_is_found() -> None:
    film = random_hashes(6, 3)
    rows = twins([clip("a"), clip("b", "trailer")], {"a": film[:5], "b": film[1:]})
    assert [(r["clip_id"], r["twin_of"], r["distance"]) for r in rows] == [("b", "a", 0.0)]


def test_rejected_and_unscored_clips_take_no_part() -> None:
    film = random_hashes(5, 3)
    rows = twins(
        [clip("a"), clip("b", reason="SHORT"), clip("c")], {"a": film, "b": film, "c": np.array([], np.uint64)}
    )
    assert rows == []
    assert twins([], {}) == []


def test_a_chain_of_likenesses_is_not_one_group() -> None:
    """0-1-2-3 each like the next: 1 is a twin of 0, and 2 stands for itself and for 3."""
    assert representatives([(0, 1), (1, 2), (2, 3)]) == {1: 0, 3: 2}
    assert representatives([(0, 2), (1, 2)]) == {2: 0}


def test_sweep_removes_only_tables_of_batches_that_are_not_named(tmp_path: Path) -> None:
    for name in ("videos", "captions"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for batch in ("film", "old"):
            (tmp_path / "data" / name / f"{batch}.parquet").write_bytes(b"x")
    (tmp_path / "data" / "videos" / ".gitignore").write_text("/film.parquet")
    gone = sweep(tmp_path, ["film"])
    assert sorted(p.relative_to(tmp_path).as_posix() for p in gone) == [
        "data/captions/old.parquet",
        "data/videos/old.parquet",
    ]
    assert (tmp_path / "data" / "videos" / "film.parquet").exists()
    assert (tmp_path / "data" / "videos" / ".gitignore").exists()
