"""Near copies over all batches, by the perceptual hashes and the embeddings that scoring left beside each clip.

Distance by hash: the mean Hamming distance of the 64-bit frame hashes at the best alignment in time, so that a copy
that starts a little later is still found. Distance by embedding: 1 - cosine, asked only between clips of different
videos, since two clips of one long take look alike and are no copies. Clips are taken best first; one near an earlier
representative is its twin, any other becomes a representative. (Connected groups would chain: along a slow pan each
clip resembles the next, and the ends have nothing in common.)

The best: of the highest resolution as coded, then of the highest overall quality, then the longest, then by id.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_pipeline import tables
from data_pipeline.columns import Ints, at, codes, filled, numbers, places, sorted_by
from data_pipeline.curate import join
from data_pipeline.near import Pairs, Sequences, Vectors, near_sequences, near_vectors
from data_pipeline.params import DedupParams

DEDUP_VERSION = 2

HASH, EMBEDDING = 0, 1
KINDS = ("hash", "embedding")


class Inputs(NamedTuple):
    videos: pa.Table
    clips: pa.Table
    scores: pa.Table


def load(root: Path, batches: Sequence[str]) -> Inputs:
    """The tables of exactly the named batches, without the columns that tell nothing of copies."""
    clips = ("clip_id", "video_id", "frames", "fps", "reason")
    scores = ("clip_id", "overall", "phash", "embedding", "embedder")
    videos = ("video_id", "uri", "width", "height", "reason")
    needed = {"videos": videos, "clips": clips, "scores": scores}
    return Inputs(*(join(name, root, batches, columns) for name, columns in needed.items()))


def run(videos: pa.Table, clips: pa.Table, scores: pa.Table, params: DedupParams) -> pa.Table:
    """The twins: every clip that is a near copy of another, with that one, the distance and what found it."""
    live, scored = best_first(videos, clips, scores)
    near = near_sequences(_sequences(scored.column("phash")), params.max_distance)
    pairs = [(HASH, near)]
    if params.max_embedding_distance is not None:
        pairs.append((EMBEDDING, _embedded(live, scored, params.max_embedding_distance)))
    return _twins(live.column("clip_id"), scored.column("embedder"), *_firsts(pairs))


def sweep(root: Path, batches: Sequence[str]) -> list[Path]:
    """Remove the tables under `root`/data of batches that params no longer name; returns what was removed.

    A stage that joins batches depends on whole folders, so a table left behind would still count as its input.
    DVC's cache holds the removed tables: naming the batch again brings them back without work.
    """
    keep = {f"{batch}.parquet" for batch in batches}
    folders = [root / "data" / name for name in ("videos", "clips", "scores", "captions")]
    gone = sorted(path for folder in folders for path in folder.glob("*.parquet") if path.name not in keep)
    for path in gone:
        path.unlink(missing_ok=True)  # `quarantine` may be at it, too
    return gone


def best_first(videos: pa.Table, clips: pa.Table, scores: pa.Table) -> tuple[pa.Table, pa.Table]:
    """The clips that go on and were scored, best first, and their scores beside them."""
    live = sorted_by(clips.filter(pc.is_null(clips.column("reason"))), "clip_id")
    where = places(live.column("clip_id"), scores.column("clip_id"))
    live, where = live.take(pa.array(np.flatnonzero(where >= 0))), where[where >= 0]
    good = videos.filter(pc.is_null(videos.column("reason")))
    size = numbers(good.column("width")) * numbers(good.column("height"))
    pixels = np.nan_to_num(at(size, places(live.column("video_id"), good.column("video_id")), -1.0), nan=-1.0)
    overall = np.nan_to_num(numbers(scores.column("overall"))[where], nan=-1.0)
    seconds = np.nan_to_num(numbers(live.column("frames")) / numbers(live.column("fps")), nan=-1.0)
    order = np.lexsort((-seconds, -overall, -pixels))
    return live.take(pa.array(order)), scores.take(pa.array(where[order]))


def representatives(later: Ints, earlier: Ints) -> dict[int, int]:
    """{twin: place of its pair}: the earliest clip near it that is none itself; pairs by (later, earlier)."""
    found: dict[int, int] = {}
    for place, (twin, first) in enumerate(zip(later.tolist(), earlier.tolist(), strict=True)):
        if twin not in found and first not in found:
            found[twin] = place
    return found


def _sequences(column: pa.ChunkedArray) -> Sequences:
    length = pc.fill_null(pc.list_value_length(column), 0).to_numpy().astype(np.int64)
    flat = pc.list_flatten(column).to_numpy().astype(np.uint64, copy=False)
    return Sequences(flat, np.cumsum(length) - length, length)


def _embedded(clips: pa.Table, scores: pa.Table, most: float) -> Pairs:
    """Pairs by embedding, of one embedder at a time: numbers of two say nothing of each other."""
    has = filled(scores.column("embedding")) & filled(scores.column("embedder"))
    names = codes(pc.fill_null(scores.column("embedder"), ""))[0]
    video = codes(clips.column("video_id"))[0]
    found = [Pairs(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))]
    for name in np.unique(names[has]):
        who = np.flatnonzero(has & (names == name))
        near = near_vectors(_vectors(scores.column("embedding").take(pa.array(who))), video[who], most)
        found.append(Pairs(who[near.i], who[near.j], near.distance))
    return Pairs(*(np.concatenate(parts) for parts in zip(*found, strict=True)))


def _vectors(column: pa.ChunkedArray) -> Vectors:
    """Rows of unit length. Raises ValueError where they are not all as long."""
    widths = pc.unique(pc.list_value_length(column)).to_pylist()
    if len(widths) != 1:
        raise ValueError(f"scores: embeddings of {widths} numbers by one embedder: score these batches again")
    flat = pc.list_flatten(column).to_numpy()
    return cast(Vectors, flat.reshape(len(column), widths[0]))


def _firsts(found: Sequence[tuple[int, Pairs]]) -> tuple[Pairs, Ints]:
    """The pair that makes each twin, in the order of the clips, and its kind."""
    kind = np.concatenate([np.full(len(pairs.i), code) for code, pairs in found])
    i, j, off = (np.concatenate(parts) for parts in zip(*(pairs for _, pairs in found), strict=True))
    order = np.lexsort((kind, i, j))
    chosen = order[list(representatives(j[order], i[order]).values())] if len(order) else order
    return Pairs(i[chosen], j[chosen], off[chosen]), kind[chosen]


def _twins(clips: pa.ChunkedArray, embedder: pa.ChunkedArray, pairs: Pairs, kind: Ints) -> pa.Table:
    order = np.lexsort((pairs.j, pairs.i))
    first = np.searchsorted(pairs.i[order], pairs.i[order])
    rank = np.empty(len(order), np.int32)
    rank[order] = np.arange(len(order)) - first + 1
    columns = {
        "clip_id": clips.take(pa.array(pairs.j)),
        "twin_of": clips.take(pa.array(pairs.i)),
        "rank": pa.array(rank, pa.int32()),
        "kind": pa.array(list(KINDS)).take(pa.array(kind)),
        "distance": pa.array(pairs.distance, pa.float64()),
        "embedder": embedder.take(pa.array(pairs.j, mask=kind != EMBEDDING)),
    }
    return sorted_by(pa.table(columns, schema=tables.TWINS), "clip_id")
