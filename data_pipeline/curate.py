"""The choice: which clips are kept, with every rule that a dropped one failed, its bucket, and which side it trains.

One row for every clip that split wrote. A missing value is a failure of its own (`MISSING_…`), never a pass; of a
group of near copies one clip at most is kept, the best that passes every other rule. `failures` is the definition,
for one clip; `run` does the same with whole columns, since a selection of ten million clips is asked for anew with
every threshold that someone moves.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_pipeline import tables
from data_pipeline.columns import Bools, Floats, Ints, at, codes, filled, first_rows, firsts, numbers, places, sorted_by
from data_pipeline.params import ClassifierParams, CurateParams, Range, Ranges
from data_pipeline.reasons import Reasons
from data_pipeline.subsets import GUARD, VAL, sides
from sana_video.data.buckets import BUCKETS_480, nearest, shown

CURATE_VERSION = 2

NEEDED = {
    "videos": None,
    "clips": ("clip_id", "video_id", "source", "shot", "start", "end", "frames", "fps", "reason"),
    "scores": ("clip_id", *(name for name in Ranges.model_fields if name in tables.SCORES.names), "reason"),
    "captions": ("clip_id", "text", "reason"),
}

ALONE = ("twins", "quarantine", "classes")

Row = dict[str, Any]


@dataclass(frozen=True)
class Inputs:
    """What a selection is made of."""

    videos: pa.Table
    clips: pa.Table
    scores: pa.Table
    captions: pa.Table
    twins: pa.Table
    quarantine: pa.Table
    classes: pa.Table


def load(root: Path, batches: Sequence[str]) -> Inputs:
    """The tables of exactly the named batches, without the columns that no rule looks at."""
    alone = {name: tables.read(name, root / "data" / f"{name}.parquet") for name in ALONE}
    return Inputs(**{name: join(name, root, batches, columns) for name, columns in NEEDED.items()}, **alone)


def join(table: str, root: Path, batches: Sequence[str], columns: Sequence[str] | None = None) -> pa.Table:
    """The tables of exactly the named batches under `root`/data, in the order of their names.

    The same file may lie in two batches, and equal content gives equal ids: the first batch's rows count, and the
    other's video goes on in the joined table as a reject with `DUPLICATE_OF:` and the path of the first.
    """
    joined = tables.read_batches(table, root / "data" / table, sorted(batches), columns)
    return mark_repeated(joined) if table == "videos" else first_rows(joined, "clip_id")


def mark_repeated(joined: pa.Table) -> pa.Table:
    """Videos of all batches, a later one of equal content with `DUPLICATE_OF:` and the path of the first as reason."""
    good = np.flatnonzero(~filled(joined.column("reason")))
    ids, uris = (joined.column(name).take(pa.array(good)) for name in ("video_id", "uri"))
    first = uris.take(pa.array(firsts(ids)))
    reasons = joined.column("reason").to_pylist()
    for again in np.flatnonzero(pc.not_equal(uris, first).to_numpy(zero_copy_only=False)).tolist():
        reasons[good[again]] = f"DUPLICATE_OF:{first[again].as_py()}"
    return joined.set_column(joined.schema.get_field_index("reason"), "reason", pa.array(reasons, pa.string()))


def run(
    videos: pa.Table,
    clips: pa.Table,
    scores: pa.Table,
    captions: pa.Table,
    twins: pa.Table,
    params: CurateParams,
    quarantine: pa.Table | None = None,
    classes: pa.Table | None = None,
    classifiers: Mapping[str, ClassifierParams] | None = None,
) -> pa.Table:
    """One row for every clip, by id: `keep`, `reason` (the first) and `reasons` (all), bucket, subset if kept.

    Without a quarantine no clip is set aside, and without classifiers none is dropped for what one makes of it.
    """
    clips = sorted_by(clips, "clip_id")
    source, names = codes(clips.column("source"))
    good = videos.filter(pc.is_null(videos.column("reason")))
    video_at = places(clips.column("video_id"), good.column("video_id"))
    score_at = places(clips.column("clip_id"), scores.column("clip_id"))
    reasons = Reasons(len(clips))
    open_ = ~filled(clips.column("reason"))
    reasons.texts(clips.column("reason"), ~open_)
    if quarantine is not None:
        reasons.add("QUARANTINED", open_ & set_aside(quarantine, clips))
    reasons.add("MISSING_VIDEO", open_ & (video_at < 0))
    reasons.add("MISSING_SCORE", open_ & (score_at < 0))
    open_ &= score_at >= 0
    failed = cast(Bools, at(filled(scores.column("reason")), score_at, False)) & open_
    reasons.texts(_take(scores.column("reason"), score_at), failed)
    open_ &= ~failed
    percentile = percentiles(source, _measured(scores, "vmaf_motion", score_at), open_)
    for name, (low, high) in bounds_by_source([params.ranges_of(each) for each in names]).items():
        values = percentile if name == "vmaf_percentile" else _measured(scores, name, score_at)
        reasons.outside(name.upper(), values, low[source], high[source], open_)
    for name, asked in (classifiers or {}).items():
        low = np.array([asked.thresholds.get(each, np.nan) for each in names])
        _classified(reasons, name, classes, clips.column("clip_id"), low[source], open_)
    _untold(reasons, captions, clips.column("clip_id"), open_)
    reasons.add("TWIN", spare_twins(twins, clips.column("clip_id"), reasons.count == 0))
    side = _sides(clips, source, reasons.count == 0, params.validation)
    reasons.add("SPLIT_GUARD", side == GUARD)
    return _selection(clips, _buckets(good, video_at, clips.column("frames")), percentile, reasons, side)


def failures(
    clip: Row, video: Row | None, score: Row | None, caption: Row | None, ranges: Mapping[str, Range]
) -> list[str]:
    """Every rule that a clip fails, in the order of the pipeline. What an earlier step dropped is asked no more.

    `score` holds the row of the scores table and, where there is a range for it, `vmaf_percentile`.
    """
    if clip["reason"] is not None:
        return [clip["reason"]]
    found = [] if video is not None else ["MISSING_VIDEO"]
    if score is None:
        return [*found, "MISSING_SCORE"]
    if score["reason"] is not None:
        return [*found, score["reason"]]
    for name, bounds in ranges.items():
        found += _outside(name.upper(), score[name], bounds)
    if caption is not None and caption["reason"] is not None:
        return [*found, caption["reason"]]
    return found if caption is not None and caption["text"] else [*found, "MISSING_CAPTION"]


def set_aside(quarantine: pa.Table, clips: pa.Table) -> Bools:
    """Of each clip, whether it or its video breaks a rule of the gate and was not released.

    What a stage refused stands in the quarantine as well; those rows carry the reason themselves.
    """
    rule = pc.starts_with(quarantine.column("reason"), "RULE:")
    held = quarantine.filter(pc.and_(rule, pc.invert(quarantine.column("released"))))
    files = pc.equal(held.column("boundary"), "ingest")
    of_videos = pc.is_in(clips.column("video_id"), value_set=held.column("video_id").filter(files))
    alone = pc.is_in(clips.column("clip_id"), value_set=held.column("key").filter(pc.invert(files)))
    return cast(Bools, pc.or_(of_videos, alone).to_numpy(zero_copy_only=False))


def _outside(name: str, value: float | None, bounds: Range) -> list[str]:
    if value is None or not math.isfinite(value):
        return [f"MISSING_{name}"]
    low, high = bounds
    return [f"{name}_LOW"] if value < low else [f"{name}_HIGH"] if value > high else []


def percentiles(source: Ints, values: Floats, among: Bools) -> Floats:
    """Of each value within its source, 0-100: the share below it and half of its equals. NaN where there is none."""
    result = np.full(len(values), np.nan)
    who = np.flatnonzero(among & np.isfinite(values))
    who = who[np.lexsort((values[who], source[who]))]
    group, value = source[who], values[who]
    new = np.append(True, (np.diff(group) != 0) | (np.diff(value) != 0))[: len(who)]
    first = np.flatnonzero(new)
    last = np.append(first[1:], len(who))
    middle = np.repeat((first + last) / 2, last - first)
    begin, end = np.searchsorted(group, group, "left"), np.searchsorted(group, group, "right")
    result[who] = np.round(100.0 * (middle - begin) / (end - begin), 6)
    return result


def spare_twins(twins: pa.Table, clips: pa.ChunkedArray, passing: Bools) -> Bools:
    """All but one of each group of near copies: its best member that passes every other rule stays.

    One that fails another rule and for which the group stands is not called a twin as well.
    """
    groups, names = codes(twins.column("twin_of"))
    ranks = np.nan_to_num(numbers(twins.column("rank")), nan=np.inf)
    member = np.append(places(pa.chunked_array([names], pa.string()), clips), places(twins.column("clip_id"), clips))
    group, rank = np.append(np.arange(len(names)), groups), np.append(np.full(len(names), -1.0), ranks)
    order = np.lexsort((member, rank, group))
    order = order[member[order] >= 0]
    best = order[passing[member[order]]]
    best = best[np.unique(group[best], return_index=True)[1]]
    spare = np.zeros(len(passing), bool)
    spare[member[order[order >= len(names)]]] = True
    spare[member[best]] = False
    return spare


def _take(column: pa.ChunkedArray, where: Ints) -> pa.ChunkedArray:
    return column.take(pa.array(where, mask=where < 0))


def _measured(scores: pa.Table, name: str, score_at: Ints) -> Floats:
    return cast(Floats, at(numbers(scores.column(name)), score_at, np.nan))


def bounds_by_source(ranges: Sequence[Mapping[str, Range]]) -> dict[str, tuple[Floats, Floats]]:
    """{measure: (low, high) by source}, NaN for a source without bounds, in the order of the measures."""
    named = [name for name in Ranges.model_fields if any(name in each for each in ranges)]
    nothing = (math.nan, math.nan)
    ends = {name: np.array([each.get(name, nothing) for each in ranges], np.float64) for name in named}
    return {name: (both[:, 0], both[:, 1]) for name, both in ends.items()}


def _classified(
    reasons: Reasons, name: str, classes: pa.Table | None, clips: pa.ChunkedArray, threshold: Floats, asked: Bools
) -> None:
    """CLASSIFIED_… from the source's threshold on, MISSING_… where the classifier says nothing of a clip."""
    asked = asked & ~np.isnan(threshold)
    if classes is None:
        raise ValueError(f"classifier {name}: its table is missing: run `sana-video data classify`")
    own = classes.filter(pc.equal(classes.column("classifier"), name))
    place = places(clips, own.column("clip_id"))
    told = cast(Floats, at(numbers(own.column("probability")), place, np.nan))
    reasons.add(f"MISSING_{name.upper()}", asked & ~np.isfinite(told))
    reasons.add(f"CLASSIFIED_{name.upper()}", asked & np.isfinite(told) & (told >= threshold))


def _untold(reasons: Reasons, captions: pa.Table, clips: pa.ChunkedArray, asked: Bools) -> None:
    """The caption's own reason, or MISSING_CAPTION where there is no text."""
    place = places(clips, captions.column("clip_id"))
    refused = cast(Bools, at(filled(captions.column("reason")), place, False)) & asked
    reasons.texts(_take(captions.column("reason"), place), refused)
    has = pc.fill_null(pc.not_equal(captions.column("text"), ""), False).to_numpy(zero_copy_only=False)
    reasons.add("MISSING_CAPTION", asked & ~refused & ~cast(Bools, at(has, place, False)))


def _sides(clips: pa.Table, source: Ints, kept: Bools, validation: float) -> Ints:
    """TRAIN, VAL or GUARD of each kept clip, -1 for the others."""
    who = np.flatnonzero(kept)
    chosen = clips.select(["video_id", "shot", "start", "end"]).filter(pa.array(kept))
    result = np.full(len(clips), -1)
    shot = chosen.column("shot").to_numpy().astype(np.int64) if len(who) else who
    start, end = (numbers(chosen.column(name)) for name in ("start", "end"))
    result[who] = sides(source[who], codes(chosen.column("video_id"))[0], shot, start, end, validation)
    return result


def _selection(clips: pa.Table, bucket: pa.Array, percentile: Floats, reasons: Reasons, side: Ints) -> pa.Table:
    keep, told = reasons.count == 0, reasons.column()
    nothing = pa.nulls(len(clips), pa.string())
    starts = np.minimum(told.offsets.to_numpy()[:-1], max(0, len(told.values) - 1))
    names = pa.array(np.where(side == VAL, 1, 0), mask=~keep)
    columns = {
        **{name: clips.column(name) for name in ("clip_id", "video_id", "source")},
        "keep": pa.array(keep),
        "reason": told.values.take(pa.array(starts, mask=keep)) if len(told.values) else nothing,
        "reasons": told,
        "vmaf_percentile": pa.array(percentile, from_pandas=True),
        "bucket": bucket,
        "subset": pa.array(["train", "val"]).take(names),
    }
    return pa.table(columns, schema=tables.SELECTION)


def _buckets(videos: pa.Table, video_at: Ints, frames: pa.ChunkedArray) -> pa.Array:
    """ "HxWxF" of each clip; its first part once for each video, its last once for each length."""
    wanted = ("height", "width", "rotation", "sample_aspect")
    shown = videos.select([name for name in wanted if name in videos.schema.names]).to_pylist()
    spatial = [*_each(shown, size), None]
    lengths, index = np.unique(pc.fill_null(frames, 0).to_numpy(), return_inverse=True)
    names = [f"{one}x{length}" if one and length else None for one in spatial for length in lengths.tolist()]
    row = np.where(video_at < 0, len(spatial) - 1, video_at)
    return pa.array(names, pa.string()).take(pa.array(row * len(lengths) + index))


def _each(rows: Sequence[Row], work: Callable[[Row], str | None]) -> list[str | None]:
    """`work` of each row, done once for equal ones."""
    done: dict[tuple[Any, ...], str | None] = {}
    for row in rows:
        if (key := tuple(row.values())) not in done:
            done[key] = work(row)
    return [done[tuple(row.values())] for row in rows]


def size(video: Row) -> str | None:
    """ "HxW": the published 480p size with the nearest aspect to the picture as shown; null for an unknown size."""
    if not video["height"] or not video["width"]:
        return None
    height, width = shown(video["height"], video["width"], video.get("sample_aspect") or 1.0, video["rotation"] or 0)
    return "x".join(map(str, nearest(height, width, BUCKETS_480)))
