from __future__ import annotations

import itertools
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pytest
import yaml

from data_pipeline import near, tables
from data_pipeline.dedup import DEDUP_VERSION, representatives, run, sweep
from data_pipeline.near import Sequences, candidates, distance, near_hashes, near_sequences, near_vectors
from data_pipeline.params import DataParams, DedupParams
from data_pipeline.score.clip import measure_clips
from data_pipeline.score.settings import settings_of
from infra.settings import load_section

ROOT = Path(__file__).parents[2]

Rows = list[dict[str, Any]]


def random_hashes(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2**64, count, np.uint64)


def flipped(hashes: np.ndarray, bits: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    masks = [sum(1 << int(b) for b in rng.choice(64, bits, replace=False)) for _ in hashes]
    return hashes ^ np.array(masks, np.uint64)


def sequences(given: list[np.ndarray]) -> Sequences:
    length = np.array([len(one) for one in given], np.int64)
    return Sequences(np.concatenate([np.empty(0, np.uint64), *given]), np.cumsum(length) - length, length)


def unit(count: int, width: int, seed: int) -> np.ndarray:
    values = np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def jittered(vectors: np.ndarray, much: float, seed: int) -> np.ndarray:
    moved = vectors + much * unit(*vectors.shape, seed)
    return moved / np.linalg.norm(moved, axis=1, keepdims=True)


def table(name: str, rows: Rows) -> pa.Table:
    blank = dict.fromkeys(tables.SCHEMAS[name].names)
    return pa.Table.from_pylist([{**blank, **row} for row in rows], schema=tables.SCHEMAS[name])


def clip(clip_id: str, video: str = "film", **more: Any) -> dict[str, Any]:
    return {"clip_id": clip_id, "video_id": video, "source": video, "frames": 33, "fps": 16.0, **more}


def twins(clips: Rows, scores: Rows, videos: Rows = [], most: float = 6.0, apart: float | None = 0.02) -> Rows:  # noqa: B006
    params = DedupParams(max_distance=most, max_embedding_distance=apart)
    found = run(table("videos", videos), table("clips", clips), table("scores", scores), params)
    assert found.schema.equals(tables.TWINS)
    rows: Rows = found.to_pylist()
    return rows


def hashed(**hashes: np.ndarray) -> Rows:
    return [{"clip_id": key, "phash": value.tolist()} for key, value in hashes.items()]


@pytest.mark.parametrize("bits", [0, 3, 6, 9])
def test_lookup_finds_exactly_what_comparing_all_finds(bits: int) -> None:
    base = random_hashes(60, 1)
    hashes = np.unique(np.concatenate([base] + [flipped(base, k, k) for k in (1, 3, 5, 6, 7, 9, 10)]))
    every = itertools.combinations(range(len(hashes)), 2)
    expected = {(i, j) for i, j in every if np.bitwise_count(hashes[i] ^ hashes[j]) <= bits}
    blocks = [np.sort(np.stack(pair), axis=0).T for pair in near_hashes(hashes, bits)]
    assert {(int(i), int(j)) for i, j in np.concatenate(blocks)} == expected


def test_distance_is_the_mean_over_the_best_alignment() -> None:
    a = random_hashes(6, 2)
    assert distance(a, a) == 0
    assert distance(a, flipped(a, 4, 3)) == 4
    assert distance(a[:5], a[1:]) == 0  # one sample later
    assert distance(a[:3], a[3:]) > 15  # nothing in common, and a corner of one frame is not enough


def test_near_sequences_agree_with_the_definition() -> None:
    base = [random_hashes(4 + seed % 3, seed) for seed in range(8)]
    given = base + [flipped(s, k, k) for k, s in zip((2, 5, 6, 7, 12, 1, 6, 30), base, strict=True)]
    given += [s[1:] for s in base] + [np.array([], np.uint64)]
    pairs = itertools.combinations(range(len(given)), 2)
    expected = {(i, j): d for i, j in pairs if (d := distance(given[i], given[j])) <= 6}
    found = near_sequences(sequences(given), 6.0)
    assert dict(zip(zip(found.i.tolist(), found.j.tolist(), strict=True), found.distance, strict=True)) == expected
    assert len(expected) > 12


def test_one_black_frame_in_common_is_no_copy() -> None:
    black = np.zeros(1, np.uint64)
    given = sequences([np.concatenate([black, random_hashes(4, seed)]) for seed in (1, 2)])
    assert [found.tolist() for found in candidates(given, 6)] == [[0], [1]]
    assert len(near_sequences(given, 6.0).i) == 0


def test_a_frame_that_all_share_costs_no_square(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near, "SHARED", 3)
    black = np.zeros(1, np.uint64)
    given = sequences([np.concatenate([black, random_hashes(4, seed)]) for seed in range(200)])
    i, _ = candidates(given, 6)
    assert len(i) <= 3 * 200 and set(i.tolist()) == {0, 1, 2}


def test_vectors_are_found_alike_with_cells_and_without(monkeypatch: pytest.MonkeyPatch) -> None:
    base = unit(1500, 48, 1)
    vectors = np.concatenate([base, jittered(base, 0.15, 2)])
    group = np.arange(len(vectors))
    alone = near_vectors(vectors[:0], group[:0], 0.02)
    assert len(alone.i) == 0
    monkeypatch.setattr(near, "BRUTE", 10_000)
    exact = near_vectors(vectors, group, 0.02)
    assert len(exact.i) == 1500 and np.allclose(exact.distance, 0.011, atol=0.004)
    monkeypatch.undo()
    quick = near_vectors(vectors, group, 0.02)
    found = set(zip(quick.i.tolist(), quick.j.tolist(), strict=True))
    every = set(zip(exact.i.tolist(), exact.j.tolist(), strict=True))
    assert found <= every and len(found) >= 0.99 * len(every)
    assert len(near_vectors(vectors, group % 1500, 0.02).i) == 0, "two clips of one video are no copies"


def test_copies_across_batches_form_one_group_ranked_best_first() -> None:
    film = random_hashes(5, 1)
    rows = twins(
        [clip("z"), clip("a", "trailer"), clip("b", "trailer"), clip("c", "city")],
        [
            {"clip_id": "z", "phash": film.tolist(), "overall": 0.9},
            {"clip_id": "a", "phash": flipped(film, 2, 1).tolist(), "overall": 0.2},
            {"clip_id": "b", "phash": flipped(film, 3, 2).tolist(), "overall": 0.4},
            {"clip_id": "c", "phash": random_hashes(5, 7).tolist(), "overall": 0.99},
        ],
    )
    assert [(r["clip_id"], r["twin_of"], r["rank"], r["kind"], r["distance"], r["embedder"]) for r in rows] == [
        ("a", "z", 2, "hash", 2.0, None),
        ("b", "z", 1, "hash", 3.0, None),
    ]


def test_the_best_is_the_larger_then_the_better_then_the_longer_then_the_first() -> None:
    film, names = random_hashes(5, 1), "abcde"
    videos = [
        {"video_id": v, "uri": v, "width": 1920 if v == "c" else 640, "height": 1080 if v == "c" else 360}
        for v in names
    ]
    clips = [clip(v, v, frames=81 if v == "d" else 33) for v in names]
    scores = [{"clip_id": v, "phash": film.tolist(), "overall": 0.9 if v == "e" else 0.5} for v in names]
    ranks = {r["clip_id"]: r["rank"] for r in twins(clips, scores, videos)}
    assert ranks == {"e": 1, "d": 2, "a": 3, "b": 4}  # of c


def test_a_copy_that_starts_later_is_found() -> None:
    film = random_hashes(6, 3)
    rows = twins([clip("a"), clip("b", "trailer")], hashed(a=film[:5], b=film[1:]))
    assert [(r["clip_id"], r["twin_of"], r["distance"]) for r in rows] == [("b", "a", 0.0)]


def test_an_embedding_finds_what_hashes_do_not_and_names_what_made_it() -> None:
    both = unit(1, 8, 1)
    near_one = np.concatenate([both, jittered(both, 0.1, 2)]).tolist()
    scores = [
        {"clip_id": k, "phash": random_hashes(4, n).tolist(), "embedding": near_one[n % 2], "embedder": "e (stand-in)"}
        for n, k in enumerate("ab")
    ]
    clips = [clip("a"), clip("b", "other")]
    [row] = twins(clips, scores)
    assert (row["kind"], row["embedder"]) == ("embedding", "e (stand-in)") and 0 < row["distance"] < 0.02
    assert twins(clips, scores, apart=None) == []
    assert twins([clip("a"), clip("b")], scores) == [], "one take, no copy"
    assert twins(clips, [scores[0], {**scores[1], "embedder": "another"}]) == []
    with pytest.raises(ValueError, match=r"embeddings of \[8, 3\] numbers"):
        twins(clips, [scores[0], {**scores[1], "embedding": [1.0, 0.0, 0.0]}])


def test_rejected_and_unscored_clips_take_no_part() -> None:
    film = random_hashes(5, 3)
    clips = [clip("a"), clip("b", reason="SHORT"), clip("c"), clip("d")]
    assert twins(clips, hashed(a=film, b=film, c=np.array([], np.uint64))) == []
    assert twins([], []) == []


def test_a_chain_of_likenesses_is_not_one_group() -> None:
    """0-1-2-3 each like the next: 1 is a twin of 0, and 2 stands for itself and for 3."""
    assert list(representatives(np.array([1, 2, 3]), np.array([0, 1, 2]))) == [1, 3]
    assert list(representatives(np.array([2, 2]), np.array([0, 1]))) == [2]


def recoded(source: Path, path: Path, size: tuple[int, int], crf: int, skip: int) -> Path:
    """The film again: another size, another rate of bits, without its first `skip` frames."""
    with av.open(str(source)) as film, av.open(str(path), "w") as copy:
        stream = copy.add_stream("libx264", rate=Fraction(24))
        stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
        stream.options = {"crf": str(crf), "preset": "veryfast"}
        for number, frame in enumerate(film.decode(video=0)):
            if number >= skip:
                picture = frame.reformat(size[1], size[0], format="yuv420p")
                picture.pts, picture.time_base = number - skip, Fraction(1, 24)
                copy.mux(stream.encode(picture))
        copy.mux(stream.encode(None))
    return path


def test_reencodes_rescales_and_recuts_are_found_and_nothing_else(
    tmp_path: Path, make_video: Callable[..., Path]
) -> None:
    """Eight films; of each a re-encoding, a smaller copy, and two that start 0.25 and 0.5 s later."""
    clips, scores = [], []
    params = load_section(ROOT / "params.yaml", "data", DataParams, [])
    settings = settings_of(params.limit, params.split, params.score, ROOT).as_json()
    for seed in range(8):
        film = make_video(tmp_path / f"{seed}.mp4", seconds=4.0, size=(144, 256), speed=1.0, seed=100 + seed)
        changes = {"recoded": ((144, 256), 34, 0), "small": ((96, 160), 23, 0), "cut": ((144, 256), 23, 6),
                   "later": ((144, 256), 23, 12)}  # fmt: skip
        remade = {name: recoded(film, tmp_path / f"{seed}-{name}.mp4", *how) for name, how in changes.items()}
        for name, path in {"film": film, **remade}.items():
            with av.open(str(path)) as opened:
                base = opened.streams.video[0].time_base
            key = f"{seed}-{name}"
            span = (key, 0, round(49 / 16 / base), 49)
            measured = measure_clips(str(path), [span], ("phash", "embedding"), settings, None)[key]
            clips.append(clip(key, key))
            scores.append({**measured, "clip_id": key, "overall": 1.0 if name == "film" else 0.5})
    found = {row["clip_id"]: row["twin_of"] for row in twins(clips, scores)}
    copies = (row["clip_id"] for row in clips if not row["clip_id"].endswith("film"))
    assert found == {key: f"{key[0]}-film" for key in copies}


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


def test_the_version_is_stated() -> None:
    stated = yaml.safe_load((ROOT / "versions.yaml").read_text())
    assert stated["dedup"] == DEDUP_VERSION
