"""Boundary `selection`: copies, every choice against the rules it was made by, and how much each source keeps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from data_pipeline.columns import Bools, at, codes, filled, numbers, places
from data_pipeline.curate import bounds_by_source
from data_pipeline.expectations.balance import filled_true, good_videos
from data_pipeline.expectations.facts import Read
from data_pipeline.expectations.rules import matches, one_of, within
from data_pipeline.params import DataParams
from infra.gates import Rule, Section


def rules_of_twins(params: DataParams) -> list[Rule]:
    dedup = params.dedup
    return [
        one_of("clip_known", [True], "a copy is a clip that goes on"),
        one_of("first_known", [True], "what stands for a group is a clip that goes on"),
        one_of("first_is_twin", [False], "what stands for a group is no copy itself"),
        one_of("kind", ["hash", "embedding"], "says what found it"),
        within("hash_distance", 0.0, dedup.max_distance, "bits of 64", "data.dedup.max_distance"),
        within("embedding_distance", 0.0, dedup.max_embedding_distance or 0.0, "1 - cosine",
               "data.dedup.max_embedding_distance"),
        within("copies_kept", 0, 1, "of a group of copies one is kept at most"),
    ]  # fmt: skip


def twins(read: Read, params: DataParams) -> Section:
    """Every live clip and every twin, with the clip that stands for its group (itself where it has no copies)."""
    clips, listed = read("clips", ["clip_id", "reason"]), read("twins", ["clip_id", "twin_of", "kind", "distance"])
    live = clips.column("clip_id").filter(pc.is_null(clips.column("reason")))
    chosen = read("selection", ["clip_id", "keep"])
    kept = chosen.column("clip_id").filter(pc.fill_null(chosen.column("keep"), False))
    copy_at = places(live, listed.column("clip_id"))
    strange = places(listed.column("clip_id"), live) < 0
    row = np.append(copy_at, np.flatnonzero(strange))  # of the twins table, -1 for a clip that is no copy
    ids = pa.chunked_array([*live.chunks, *listed.column("clip_id").filter(pa.array(strange)).chunks], pa.string())
    first = pc.if_else(
        pa.array(row >= 0), listed.column("twin_of").take(pa.array(np.maximum(row, 0), mask=row < 0)), ids
    )
    kind = pc.fill_null(listed.column("kind").take(pa.array(np.maximum(row, 0), mask=row < 0)), "none")
    distance = np.nan_to_num(at(numbers(listed.column("distance")), row, 0.0), nan=np.inf)
    group = codes(pc.fill_null(first, ""))[0]
    keeps = np.bincount(group, weights=_in(ids, kept), minlength=1)[group] if len(group) else group
    frame = pd.DataFrame(
        {
            "clip_id": ids.to_pandas(),
            "clip_known": np.append(np.ones(len(live), bool), np.zeros(int(strange.sum()), bool)),
            "first_known": _in(first, live),
            "first_is_twin": _in(first, listed.column("clip_id")),
            "kind": np.where(row < 0, "hash", kind.to_numpy(zero_copy_only=False).astype(str)),
            "hash_distance": np.where(filled_true(pc.not_equal(kind, "embedding")), distance, 0.0),
            "embedding_distance": np.where(filled_true(pc.equal(kind, "embedding")), distance, 0.0),
            "copies_kept": keeps,
        }
    )
    return Section(frame, rules_of_twins(params), "clip_id")


def _in(keys: pa.ChunkedArray, among: pa.ChunkedArray) -> Bools:
    return np.asarray(pc.is_in(keys, value_set=among).to_numpy(zero_copy_only=False), bool)


def rules_of_choices(params: DataParams) -> list[Rule]:
    frames = params.split.frames
    return [
        one_of("explained", [True], "kept without a reason, or dropped with one"),
        one_of("rules_broken", ["none"], "kept is only what passes every range and has video, score and caption",
               "data.curate.ranges"),
        one_of("side", ["train", "val", "dropped"], "kept on one side, dropped on none"),
        matches("bucket", rf"^\d+x\d+x{frames}$", "a size and the frames of its clip", "data.split.frames"),
    ]  # fmt: skip


def choices(read: Read, params: DataParams) -> Section:
    chosen = read(
        "selection", ["clip_id", "source", "keep", "reason", "reasons", "vmaf_percentile", "bucket", "subset"]
    )
    keep = filled_true(chosen.column("keep"))
    without = ~filled(chosen.column("reason")) & (
        pc.fill_null(pc.list_value_length(chosen.column("reasons")), 0).to_numpy() == 0
    )
    broken = np.full(len(chosen), "none", object)
    broken[keep] = _broken(read, chosen.filter(pa.array(keep)), params)
    subset = pc.fill_null(chosen.column("subset"), "")
    frame = pd.DataFrame(
        {
            "clip_id": chosen.column("clip_id").to_pandas(),
            "explained": keep == without,
            "rules_broken": pd.Categorical(broken),
            "side": pd.Categorical(_where(keep, subset, pc.binary_join_element_wise("dropped", subset, ""))),
            "bucket": pd.Categorical(_where(keep, chosen.column("bucket"), f"0x0x{params.split.frames}")),
        }
    )
    return Section(frame, rules_of_choices(params), "clip_id")


def _where(keep: Bools, kept: pa.ChunkedArray, dropped: pa.ChunkedArray | str) -> pd.Series:
    return cast(pd.Series, pc.dictionary_encode(pc.if_else(pa.array(keep), kept, dropped)).to_pandas())


def _broken(read: Read, kept: pa.Table, params: DataParams) -> np.ndarray:
    """The first rule that each kept clip breaks, as `curate.failures` names it, or "none"."""
    result = np.full(len(kept), "none", object)
    for name, failing in _failing(read, kept, params):
        result[failing & (result == "none")] = name
    return result


def _failing(read: Read, kept: pa.Table, params: DataParams) -> Iterator[tuple[str, Bools]]:
    clips = read("clips", ["clip_id", "video_id", "reason"])
    clip_at = places(kept.column("clip_id"), clips.column("clip_id"))
    video_at = places(clips.column("video_id"), good_videos(read).column("video_id"))
    yield "UNKNOWN_CLIP", clip_at < 0
    yield "REFUSED_CLIP", np.asarray(at(filled(clips.column("reason")), clip_at, False), bool)
    yield "MISSING_VIDEO", np.asarray(at(video_at, clip_at, -1)) < 0
    source, names = codes(pc.fill_null(kept.column("source"), ""))
    bounds = bounds_by_source([params.curate.ranges_of(name) for name in names])
    measures = [name for name in bounds if name != "vmaf_percentile"]
    scores = read("scores", ["clip_id", "reason", *measures])
    score_at = places(kept.column("clip_id"), scores.column("clip_id"))
    yield "MISSING_SCORE", (score_at < 0) | np.asarray(at(filled(scores.column("reason")), score_at, False), bool)
    for name, (low, high) in bounds.items():
        table, row = (kept, np.arange(len(kept))) if name == "vmaf_percentile" else (scores, score_at)
        values = np.asarray(at(numbers(table.column(name)), row, np.nan), np.float64)
        asked = ~np.isnan(low[source])
        yield f"MISSING_{name.upper()}", asked & ~np.isfinite(values)
        yield f"{name.upper()}_LOW", asked & (values < low[source])
        yield f"{name.upper()}_HIGH", asked & (values > high[source])
    captions = read("captions", ["clip_id", "characters", "reason"])
    told = filled_true(pc.greater(captions.column("characters"), 0)) & ~filled(captions.column("reason"))
    told_at = places(kept.column("clip_id"), captions.column("clip_id"))
    yield "MISSING_CAPTION", ~np.asarray(at(told, told_at, False), bool)


def rules_of_sources(params: DataParams) -> list[Rule]:
    low, high = params.gate.kept_fraction
    about = "of the clips of a source that are no copies, the share kept: outside, a filter or a measure broke"
    return [within("kept_fraction", low, high, about, "data.gate.kept_fraction")]


def sources(read: Read, params: DataParams) -> Section:
    """One row a source of the videos that go on; a trailer whose every shot is in the film is no fault of a filter."""
    chosen = read("selection", ["source", "keep", "reasons"])
    code, names = codes(pc.fill_null(chosen.column("source"), ""))
    keep, reasons = filled_true(chosen.column("keep")), chosen.column("reasons")
    alone = pc.fill_null(pc.equal(pc.list_value_length(reasons), 1), False).to_numpy(zero_copy_only=False)
    twin = np.zeros(len(chosen), bool)
    twin[alone] = pc.equal(pc.list_flatten(reasons.filter(pa.array(alone))), "TWIN").to_numpy(zero_copy_only=False)
    clips, kept = (np.bincount(code[mask], minlength=len(names)) for mask in (~twin, keep))
    share = {name: kept[at_] / clips[at_] if clips[at_] else 0.0 for at_, name in enumerate(names)}
    every = sorted({*share, *good_videos(read).column("source").to_pylist()} - {None})
    frame = pd.DataFrame({"source": every, "kept_fraction": [float(share.get(name, 0.0)) for name in every]})
    return Section(frame, rules_of_sources(params), "source")
