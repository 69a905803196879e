"""The SFT set: a few thousand of the kept clips, by strict motion and aesthetic rules, balanced over what they show.

Each criterion of the paper (appendix D) is a column: true or false where a measure answers it, null where only a
person can. A clip that meets every measured one is a candidate; within each of 4 motion categories x 3 styles the best
are chosen, those that a person accepted first, one of each film before a second of any. Clips whose captioner does not
tell category and style stand in a cell of their own, `unknown`, which gets what params give it by name and no share.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_pipeline.columns import Bools, Floats, Ints, at, codes, numbers, places, sorted_by
from data_pipeline.params import CATEGORIES, STYLES, UNKNOWN, SftParams
from data_pipeline.reasons import Reasons
from data_pipeline.sft.reviews import ACCEPT, Review
from data_pipeline.tables import SFT

SFT_VERSION = 1

CELLS = (*(f"{category}/{style}" for category in CATEGORIES for style in STYLES), UNKNOWN)
HUMAN_ONLY = "human_only"

MEASURES: Mapping[str, tuple[str, ...]] = {  # of each criterion; none: a person has to look
    "motion": ("flow_motion", "object_motion", "camera_motion"),
    "stable_camera": ("camera_jitter",),
    "focus": ("technical",),
    "no_occlusion": (),
    "brightness": ("brightness", "flicker"),
    "natural_colour": ("saturation",),
    "composition": (),
    "engaging_subject": (),
}
CAPTIONS = ("clip_id", "category", "style")
SELECTION = ("clip_id", "video_id", "source", "keep")


class Cell(NamedTuple):
    """One of `CELLS`: how many clips it is to give, how many could be chosen, how many are, and how many it lacks."""

    name: str
    quota: int
    kept: int
    candidates: int
    accepted: int
    chosen: int
    shortfall: int


def measures(params: SftParams) -> tuple[str, ...]:
    """The columns of the scores table that the set is chosen by."""
    of_criteria = [name for names in MEASURES.values() for name in names]
    return tuple(dict.fromkeys([*of_criteria, *params.ranges.stated(), "overall"]))


def run(
    selection: pa.Table, scores: pa.Table, captions: pa.Table, reviews: Mapping[str, Review], params: SftParams
) -> pa.Table:
    """One row for every kept clip, by id, in the schema SFT."""
    kept = sorted_by(selection.filter(pc.fill_null(selection.column("keep"), False)), "clip_id")
    ids = kept.column("clip_id")
    score_at = places(ids, scores.column("clip_id"))
    measured = {name: cast(Floats, at(numbers(scores.column(name)), score_at, np.nan)) for name in measures(params)}
    reasons = Reasons(len(ids))
    moving = _motion(measured, params, reasons)
    met = _criteria(measured, params, reasons, moving)
    human = _joined(reviews, ids)
    reasons.add("HUMAN_REJECTED", human.decision == 0)
    if params.accepted_only:
        reasons.add("NOT_REVIEWED", human.decision < 0)
    cell, category, style = _cells(captions, ids)
    candidate = reasons.count == 0
    quality = np.where(np.isfinite(measured["overall"]), measured["overall"], -np.inf)
    place = ranked(cell, candidate, human.decision == 1, codes(kept.column("video_id"))[0], quality, params.per_video)
    chosen = (place > 0) & (place <= np.array(quotas(params))[cell])
    columns = {
        **{name: kept.column(name) for name in ("clip_id", "video_id", "source")},
        "category": category,
        "style": style,
        "cell": pa.array(CELLS).take(pa.array(cell)),
        "moves": moving,
        **{name: _told(name, met, human) for name in MEASURES},
        "overall": pa.array(measured["overall"], from_pandas=True),
        "human": pa.array(["reject", ACCEPT]).take(pa.array(human.decision, mask=human.decision < 0)),
        "reviewer": human.reviewer,
        "marked": human.marked,
        "reasons": reasons.column(),
        "place": pa.array(place.astype(np.int32), mask=place == 0),
        "chosen": pa.array(chosen),
    }
    return pa.table(columns, schema=SFT)


def _motion(measured: Mapping[str, Floats], params: SftParams, reasons: Reasons) -> pa.Array:
    """object, camera or both: what moves by at least so much; null where nothing does."""
    for name in MEASURES["motion"]:
        reasons.add(f"MISSING_{name.upper()}", ~np.isfinite(measured[name]))
    objects, camera = (measured[name] >= getattr(params.moves, name) for name in ("object_motion", "camera_motion"))
    reasons.add("NO_MOTION", ~(objects | camera) & np.isfinite(measured["flow_motion"]))
    kind = objects + 2 * camera.astype(np.int64) - 1
    return pa.array(["object", "camera", "both"]).take(pa.array(kind, mask=kind < 0))


def _criteria(
    measured: Mapping[str, Floats], params: SftParams, reasons: Reasons, moving: pa.Array
) -> dict[str, Bools]:
    """Of each criterion that is measured: who meets it. A value that is missing meets nothing."""
    ranges, met = params.ranges.stated(), {}
    everyone = np.ones(len(moving), bool)
    for criterion, names in MEASURES.items():
        inside = [_inside(measured[name], ranges.get(name)) for name in names]
        if criterion == "motion":
            inside.append(moving.is_valid().to_numpy(zero_copy_only=False))
        if inside:
            met[criterion] = np.logical_and.reduce(inside)
    for name, bounds in ranges.items():
        if bounds is not None:
            low, high = (np.full(len(moving), end) for end in bounds)
            reasons.outside(name.upper(), measured[name], low, high, everyone)
    return met


def _inside(values: Floats, bounds: tuple[float, float] | None) -> Bools:
    low, high = bounds or (-math.inf, math.inf)
    return np.isfinite(values) & (values >= low) & (values <= high)


class _Human(NamedTuple):
    """What people said of each clip. `decision`: 1 accepted, 0 rejected, -1 not looked at; `row` of the reviews."""

    decision: Ints
    reviewer: pa.Array
    marked: pa.Array


def _joined(reviews: Mapping[str, Review], ids: pa.ChunkedArray) -> _Human:
    listed = [reviews[key] for key in sorted(reviews)]
    row = places(ids, pa.chunked_array([pa.array(sorted(reviews), pa.string())]))
    said = np.array([review.decision == ACCEPT for review in listed], np.int64)
    taken = pa.array(row, mask=row < 0)
    return _Human(
        cast(Ints, at(said, row, -1)),
        pa.array([review.reviewer for review in listed], pa.string()).take(taken),
        pa.array([list(review.failed) for review in listed], pa.list_(pa.string())).take(taken),
    )


def _told(criterion: str, met: Mapping[str, Bools], human: _Human) -> pa.Array:
    """The column of a criterion: by its measure, or by a person who marked it or accepted the clip without a mark."""
    if MEASURES[criterion]:
        return pa.array(met[criterion])
    marked = np.zeros(len(human.decision), bool)
    parents = pc.list_parent_indices(human.marked).to_numpy()
    marked[parents[pc.equal(pc.list_flatten(human.marked), criterion).to_numpy(zero_copy_only=False)]] = True
    accepted = human.decision == 1
    return pa.array(accepted & ~marked, mask=~(accepted | marked))


def _cells(captions: pa.Table, ids: pa.ChunkedArray) -> tuple[Ints, pa.ChunkedArray, pa.ChunkedArray]:
    """(index into CELLS, category, style) of each clip."""
    row = places(ids, captions.column("clip_id"))
    taken = pa.array(row, mask=row < 0)
    category, style = (captions.column(name).take(taken) for name in ("category", "style"))
    one = _index(category, CATEGORIES)
    other = _index(style, STYLES)
    return np.where((one < 0) | (other < 0), len(CELLS) - 1, one * len(STYLES) + other), category, style


def _index(column: pa.ChunkedArray, names: tuple[str, ...]) -> Ints:
    found = pc.index_in(column, value_set=pa.array(names), skip_nulls=True)
    return cast(Ints, pc.fill_null(found, -1).to_numpy().astype(np.int64))


def ranked(cell: Ints, candidate: Bools, accepted: Bools, video: Ints, quality: Floats, per_video: int | None) -> Ints:
    """The place of each candidate in its cell, from 1; 0 for who is none or comes after `per_video` of its film.

    Accepted clips come first; then the best of each film, the second best of each, and so on; equals by their order.
    """
    who = np.flatnonzero(candidate)
    key = np.lexsort((who, -quality[who], ~accepted[who], video[who], cell[who]))
    who = who[key]
    turn = _within(cell[who] * (int(video.max(initial=0)) + 1) + video[who])
    if per_video is not None:
        who, turn = who[turn < per_video], turn[turn < per_video]
    order = np.lexsort((who, -quality[who], turn, ~accepted[who], cell[who]))
    place = np.zeros(len(cell), np.int64)
    place[who[order]] = _within(cell[who[order]]) + 1
    return place


def _within(group: Ints) -> Ints:
    """How many of the same group stand before, of groups that lie together."""
    first = np.flatnonzero(np.append(True, np.diff(group) != 0)[: len(group)])
    return np.arange(len(group)) - np.repeat(first, np.diff(np.append(first, len(group))))


def quotas(params: SftParams) -> list[int]:
    """How many clips each of CELLS is to give: what params say by name; the rest of `target` in equal shares."""
    named = params.quotas
    open_ = [name for name in CELLS if name not in named and name != UNKNOWN]
    rest = max(0, params.target - sum(named.values()))
    share = {name: rest // len(open_) + (place < rest % len(open_)) for place, name in enumerate(open_)}
    return [named.get(name, share.get(name, 0)) for name in CELLS]


def cells(table: pa.Table, params: SftParams) -> list[Cell]:
    """What each cell has and lacks, of a table that `run` made."""
    cell = _index(table.column("cell"), CELLS)

    def count(mask: Any) -> list[int]:
        return cast("list[int]", np.bincount(cell[np.asarray(mask, bool)], minlength=len(CELLS)).tolist())

    accepted = pc.fill_null(pc.equal(table.column("human"), ACCEPT), False).to_numpy(zero_copy_only=False)
    candidates = table.column("place").is_valid().to_numpy(zero_copy_only=False)
    told = [quotas(params), count(np.ones(len(cell))), count(candidates), count(accepted)]
    chosen = count(table.column("chosen").to_numpy(zero_copy_only=False))
    return [
        Cell(name, quota, kept, candidates, human, taken, max(0, quota - taken))
        for name, quota, kept, candidates, human, taken in zip(CELLS, *told, chosen, strict=True)
    ]


def summary(table: pa.Table, params: SftParams, outside: int) -> str:
    """The numbers that `dvc metrics diff` compares, as JSON. `outside`: reviews of clips that are kept no more."""
    counted = cells(table, params)
    code = pc.value_counts(pc.list_flatten(table.column("reasons")))
    said = pc.value_counts(table.column("human").drop_null())
    document = {
        "target": params.target,
        "kept": table.num_rows,
        "candidates": sum(cell.candidates for cell in counted),
        "chosen": sum(cell.chosen for cell in counted),
        "shortfall": sum(cell.shortfall for cell in counted),
        "reviews": {**{row["values"]: row["counts"] for row in said.to_pylist()}, "of clips not kept": outside},
        "criteria": {name: list(of) or HUMAN_ONLY for name, of in MEASURES.items()},
        "cells": {cell.name: dict(zip(Cell._fields[1:], cell[1:], strict=True)) for cell in counted},
        "reasons": {row["values"]: row["counts"] for row in code.to_pylist()},
    }
    return json.dumps(document, indent=1, sort_keys=True) + "\n"


def only_chosen(selection: pa.Table, sft: pa.Table) -> pa.Table:
    """The rows of the selection that the SFT set holds. ValueError where it holds none."""
    chosen = sft.column("clip_id").filter(sft.column("chosen"))
    if not len(chosen):
        raise ValueError("the SFT set holds no clip: see reports/sft/summary.json, then `sana-video data sft review`")
    return selection.filter(pc.is_in(selection.column("clip_id"), value_set=chosen))
