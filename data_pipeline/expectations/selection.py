"""Boundary `selection`: copies, every choice against the rules it was made by, and how much each source keeps."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
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
        one_of("kind", ["hash", "embedding", "no copy"], "a copy says what found it"),
        within("hash_distance", 0.0, dedup.max_distance, "bits of 64", "data.dedup.max_distance"),
        within("embedding_distance", 0.0, dedup.max_embedding_distance or 0.0, "1 - cosine",
               "data.dedup.max_embedding_distance"),
        within("copies_kept", 0, 1, "of a group of copies one is kept at most"),
    ]  # fmt: skip


def twins(read: Read, params: DataParams) -> Section:
    """Every live clip and every twin, with the clip that stands for its group (itself where it has no copies)."""
    clips, listed = read("clips", ["clip_id", "reason"]), read("twins", ["clip_id", "twin_of", "kind", "distance"])
    live = clips.column("clip_id").filter(pc.is_null(clips.column("reason")))
    clip_at, stands_at = (places(listed.column(name), live) for name in ("clip_id", "twin_of"))
    strange, copies = np.flatnonzero(clip_at < 0), np.flatnonzero(clip_at >= 0)
    row = np.append(np.full(len(live), -1), strange)  # of the twins table, -1 for a clip that is no copy
    row[clip_at[copies]] = copies
    group = np.append(np.arange(len(live)), np.full(len(strange), -1))  # place of the clip that stands for it
    group[row >= 0] = stands_at[row[row >= 0]]
    is_twin = np.append(row[: len(live)] >= 0, False)
    chosen = read("selection", ["clip_id", "keep"])
    kept_at = places(chosen.column("clip_id").filter(pc.fill_null(chosen.column("keep"), False)), live)
    counted = group[kept_at[kept_at >= 0]]
    keeps = np.append(np.bincount(counted[counted >= 0], minlength=len(live)), 0)
    kind, names = codes(pc.fill_null(listed.column("kind"), "none"))
    distance = np.nan_to_num(at(numbers(listed.column("distance")), row, 0.0), nan=np.inf)
    found = pd.Categorical.from_codes(np.append(kind, len(names))[row], categories=pd.Index([*names, "no copy"]))
    unknown = listed.column("clip_id").take(pa.array(strange))
    ids = pa.chunked_array([*live.chunks, *unknown.chunks], pa.string())
    frame = pd.DataFrame(
        {
            "clip_id": ids.to_pandas(),
            "clip_known": np.arange(len(row)) < len(live),
            "first_known": group >= 0,
            "first_is_twin": is_twin[group],
            "kind": found,
            "hash_distance": np.where(found == "embedding", 0.0, distance),
            "embedding_distance": np.where(found == "embedding", distance, 0.0),
            "copies_kept": keeps[group],
        }
    )
    return Section(frame, rules_of_twins(params), "clip_id")


def rules_of_choices(params: DataParams) -> list[Rule]:
    frames = params.split.frames
    return [
        one_of("explained", [True], "kept without a reason, or dropped with one"),
        one_of("rules_broken", ["none"],
               "kept is only what passes every range and classifier and has video, score and caption",
               "data.curate.ranges, data.classify"),
        one_of("side", ["train", "val", "dropped"], "kept on one side, dropped on none"),
        matches("bucket", rf"^\d+x\d+x{frames}$", "a size and the frames of its clip", "data.split.frames"),
    ]  # fmt: skip


def choices(read: Read, params: DataParams) -> Section:
    """One row a clip of the selection."""
    chosen = read("selection", ["clip_id", "source", "keep", "vmaf_percentile"])
    keep = filled_true(chosen.column("keep"))
    broken = first_broken(_failing(read, chosen, params), keep)
    chosen = read("selection", ["clip_id", "reason", "bucket", "subset"])
    reasons = pc.fill_null(pc.list_value_length(read("selection", ["reasons"]).column("reasons")), 0).to_numpy()
    subset = pc.fill_null(chosen.column("subset"), "")
    frame = pd.DataFrame(
        {
            "clip_id": chosen.column("clip_id").to_pandas(),
            "explained": keep == (~filled(chosen.column("reason")) & (reasons == 0)),
            "rules_broken": broken,
            "side": _where(keep, subset, pc.binary_join_element_wise("dropped", subset, "")),
            "bucket": _where(keep, chosen.column("bucket"), f"0x0x{params.split.frames}"),
        }
    )
    return Section(frame, rules_of_choices(params), "clip_id")


def _where(keep: Bools, kept: pa.ChunkedArray, dropped: pa.ChunkedArray | str) -> pd.Series:
    return cast(pd.Series, pc.dictionary_encode(pc.if_else(pa.array(keep), kept, dropped)).to_pandas())


def first_broken(failing: Iterable[tuple[str, Bools]], asked: Bools) -> pd.Categorical[str]:
    """The first rule that each of the clips `asked` about breaks; "none" for the others. `failing`: (rule, who)."""
    names, first = ["none"], np.zeros(len(asked), np.int16)
    for name, who in failing:
        first[who & asked & (first == 0)] = len(names)
        names.append(name)
    return pd.Categorical.from_codes(first, categories=pd.Index(names))


def _failing(read: Read, chosen: pa.Table, params: DataParams) -> Iterator[tuple[str, Bools]]:
    """(rule, which clips of the selection break it), each rule as `curate` names it."""
    ids = chosen.column("clip_id")
    clips = read("clips", ["clip_id", "video_id", "reason"])
    clip_at = places(ids, clips.column("clip_id"))
    video_at = places(clips.column("video_id"), good_videos(read).column("video_id"))
    yield "UNKNOWN_CLIP", clip_at < 0
    yield "REFUSED_CLIP", np.asarray(at(filled(clips.column("reason")), clip_at, False), bool)
    yield "MISSING_VIDEO", np.asarray(at(video_at, clip_at, -1)) < 0
    del clips
    source, names = codes(pc.fill_null(chosen.column("source"), ""))
    bounds = bounds_by_source([params.curate.ranges_of(name) for name in names])
    scores = read("scores", ["clip_id", "reason"])
    score_at = places(ids, scores.column("clip_id"))
    yield "MISSING_SCORE", (score_at < 0) | np.asarray(at(filled(scores.column("reason")), score_at, False), bool)
    for name, (low, high) in bounds.items():
        percentile = name == "vmaf_percentile"
        column = (chosen if percentile else read("scores", [name])).column(name)
        values = np.asarray(at(numbers(column), np.arange(len(ids)) if percentile else score_at, np.nan), np.float64)
        asked = ~np.isnan(low[source])
        yield f"MISSING_{name.upper()}", asked & ~np.isfinite(values)
        yield f"{name.upper()}_LOW", asked & (values < low[source])
        yield f"{name.upper()}_HIGH", asked & (values > high[source])
    for name, classifier in params.classify.items():
        threshold = np.array([classifier.thresholds.get(each, np.nan) for each in names])[source]
        told = read("classes", ["classifier", "clip_id", "probability"])
        told = told.filter(pc.equal(told.column("classifier"), name))
        values = np.asarray(at(numbers(told.column("probability")), places(ids, told.column("clip_id")), np.nan))
        yield f"MISSING_{name.upper()}", ~np.isnan(threshold) & ~np.isfinite(values)
        yield f"CLASSIFIED_{name.upper()}", values >= threshold
    captions = read("captions", ["clip_id", "characters", "reason"])
    told = filled_true(pc.greater(captions.column("characters"), 0)) & ~filled(captions.column("reason"))
    yield "MISSING_CAPTION", ~np.asarray(at(told, places(ids, captions.column("clip_id")), False), bool)


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
    return Section(frame, rules_of_sources(params), "source", shown=True)
