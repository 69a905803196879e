"""The choice: which clips are kept, with every rule that a dropped one failed, its bucket, and which side it trains.

One row for every clip that split wrote. A missing value is a failure of its own (`MISSING_…`), never a pass. Held-out
clips are whole videos where a source has several, else the end of the one film from a cut on, with a gap before it,
so that nothing of a shot stands on both sides; of a group of near copies one clip at most is kept.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from data_pipeline import tables
from data_pipeline.params import CurateParams, Ranges
from sana_video.data.buckets import BUCKETS_480, nearest

CURATE_VERSION = 1

GUARD_SECONDS = 2.0  # clips that end closer than this before the held-out part of the same film are dropped

Row = dict[str, Any]


def join(table: str, root: Path, batches: Sequence[str]) -> pa.Table:
    """The tables of exactly the named batches under `root`/data, in the order of their names.

    The same file may lie in two batches, and equal content gives equal ids: the first batch's rows count, and the
    other's video goes on in the joined table as a reject with `DUPLICATE_OF:` and the path of the first.
    """
    joined = tables.read_batches(table, root / "data" / table, sorted(batches))
    rows = joined.to_pylist()
    if table != "videos":
        first = {row["clip_id"]: row for row in reversed(rows)}
        return joined if len(first) == len(rows) else pa.Table.from_pylist(list(first.values())[::-1], joined.schema)
    uris: dict[str, str] = {}
    for row in rows:
        if row["reason"] is None and (uri := uris.setdefault(row["video_id"], row["uri"])) != row["uri"]:
            row["reason"] = f"DUPLICATE_OF:{uri}"
    return pa.Table.from_pylist(rows, joined.schema)


def run(
    videos: pa.Table, clips: pa.Table, scores: pa.Table, captions: pa.Table, twins: pa.Table, params: CurateParams
) -> list[Row]:
    """One selection row for every clip: `keep`, `reason` (the first) and `reasons` (all), bucket, subset if kept."""
    all_videos = {row["video_id"]: row for row in videos.to_pylist() if row["reason"] is None}
    measured = {row["clip_id"]: row for row in scores.to_pylist()}
    told = {row["clip_id"]: row for row in captions.to_pylist()}
    every = clips.to_pylist()
    reasons = {
        clip["clip_id"]: failures(
            clip,
            all_videos.get(clip["video_id"]),
            measured.get(clip["clip_id"]),
            told.get(clip["clip_id"]),
            params.ranges_of(clip["source"]),
        )
        for clip in every
    }
    for twin in spare_twins(twins.to_pylist(), reasons):
        reasons[twin].append("TWIN")
    sides = subsets([clip for clip in every if not reasons[clip["clip_id"]]], params.validation)
    return [_row(clip, all_videos.get(clip["video_id"]), reasons[clip["clip_id"]], sides) for clip in every]


def failures(clip: Row, video: Row | None, score: Row | None, caption: Row | None, ranges: Ranges) -> list[str]:
    """Every rule that a clip fails, in the order of the pipeline. What an earlier step dropped is asked no more."""
    if clip["reason"] is not None:
        return [clip["reason"]]
    found = [] if video is not None else ["MISSING_VIDEO"]
    if score is None:
        return [*found, "MISSING_SCORE"]
    if score["reason"] is not None:
        return [*found, score["reason"]]
    for name in Ranges.model_fields:
        found += _outside(name.upper(), score[name], getattr(ranges, name))
    if caption is None or not caption["text"]:
        found.append("MISSING_CAPTION")
    return found


def _outside(name: str, value: float | None, bounds: tuple[float, float]) -> list[str]:
    if value is None or not math.isfinite(value):
        return [f"MISSING_{name}"]
    low, high = bounds
    return [f"{name}_LOW"] if value < low else [f"{name}_HIGH"] if value > high else []


def spare_twins(twins: list[Row], reasons: dict[str, list[str]]) -> list[str]:
    """All but one of each group of near copies: its first member that passes every other rule stays."""
    groups: dict[str, list[str]] = {}
    for row in sorted(twins, key=lambda row: str(row["clip_id"])):
        groups.setdefault(row["twin_of"], [row["twin_of"]]).append(row["clip_id"])
    spare = []
    for members in groups.values():
        known = [clip for clip in members if clip in reasons]
        passing = next((clip for clip in known if not reasons[clip]), None)
        spare += [clip for clip in known if clip not in (passing or members[0], members[0])]
    return spare


def subsets(kept: list[Row], validation: float) -> dict[str, str]:
    """train, val or guard (too near to the held-out part of the same film) for each kept clip, by clip id."""
    sources: dict[str, list[Row]] = {}
    for clip in sorted(kept, key=lambda clip: (clip["source"], clip["video_id"], clip["start"], clip["clip_id"])):
        sources.setdefault(clip["source"], []).append(clip)
    units = {source: _units(clips) for source, clips in sources.items()}
    held = {source: _held_out([len(unit) for unit in parts], validation) for source, parts in units.items()}
    if not any(held.values()):  # too little in every source for a fair share: the one with most left gives its last
        giver = max(
            (s for s in units if len(units[s]) > 1), key=lambda s: len(sources[s]) - len(units[s][-1]), default=None
        )
        held.update({giver: 1} if giver else {})
    return {clip_id: side for source, parts in units.items() for clip_id, side in _sides(parts, held[source]).items()}


def _units(clips: list[Row]) -> list[list[Row]]:
    """What may not be parted: the videos of a source with several (ordered by hash), else the shots of the one."""
    by = "video_id" if len({clip["video_id"] for clip in clips}) > 1 else "shot"
    units: dict[Any, list[Row]] = {}
    for clip in clips:
        units.setdefault(clip[by], []).append(clip)
    return list(units.values())


def _held_out(sizes: list[int], validation: float) -> int:
    """How many units, counted from the end, come nearest to the wanted share of clips; never all of them."""
    wanted = validation * sum(sizes)
    best, total = 0, 0
    for count in range(1, len(sizes)):
        before, total = total, total + sizes[-count]
        if abs(total - wanted) >= abs(before - wanted):
            break
        best = count
    return best


def _sides(units: list[list[Row]], held: int) -> dict[str, str]:
    train, val = units[: len(units) - held], units[len(units) - held :]
    sides = {clip["clip_id"]: "val" for unit in val for clip in unit}
    first = val[0][0] if val else None
    for clip in (clip for unit in train for clip in unit):
        near = (
            first is not None and clip["video_id"] == first["video_id"] and first["start"] - clip["end"] < GUARD_SECONDS
        )
        sides[clip["clip_id"]] = "guard" if near else "train"
    return sides


def _row(clip: Row, video: Row | None, reasons: list[str], sides: dict[str, str]) -> Row:
    side = sides.get(clip["clip_id"])
    reasons = reasons + (["SPLIT_GUARD"] if side == "guard" else [])
    return {
        "clip_id": clip["clip_id"],
        "video_id": clip["video_id"],
        "source": clip["source"],
        "keep": not reasons,
        "reason": reasons[0] if reasons else None,
        "reasons": reasons,
        "bucket": bucket(video, clip["frames"]) if video is not None else None,
        "subset": side if not reasons else None,
        "sft_category": None,
        "sft_style": None,
    }


def bucket(video: Row, frames: int) -> str | None:
    """ "HxWxF": the published 480p size with the nearest aspect to the picture as shown; null for an unknown size."""
    height, width = video["height"], video["width"]
    if not height or not width:
        return None
    if (video["rotation"] or 0) % 180:
        height, width = width, height
    tall, wide = nearest(height, width, BUCKETS_480)
    return f"{tall}x{wide}x{frames}"
