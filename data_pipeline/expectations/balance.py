"""Rows in = rows out + rows with a reason, at every boundary; and enough of everything at the end."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from data_pipeline.columns import Bools, codes, filled, places
from data_pipeline.expectations.facts import Read
from data_pipeline.expectations.rows import BOUNDARIES, CODE, entry_keys
from data_pipeline.expectations.rules import within
from data_pipeline.params import DataParams
from infra.gates import Rule, Section


def rules_of_rows(params: DataParams) -> list[Rule]:
    return [
        within("lost", 0, 0, "every row that came in goes on, or has a reason"),
        within("foreign", 0, 0, "no row that nothing came in for"),
    ]


def rows_in_and_out(read: Read, params: DataParams) -> Section:
    """One row a boundary. What comes in: files, their videos, the videos' clips, and what any of them refused."""
    rows = [
        _ingest(read),
        _split(read),
        _by_clip(read, "scores"),
        _by_clip(read, "captions"),
        _chosen(read),
        _set_aside(read),
    ]
    return Section(pd.DataFrame(rows), rules_of_rows(params), "rows", shown=True)


def _row(boundary: str, on: Bools, refused: Bools, foreign: int) -> dict[str, object]:
    """`on` and `refused` of each row that came in."""
    came, went, stayed = len(on), int(on.sum()), int((refused & ~on).sum())
    rows = f"{boundary}: {came:,} in, {went:,} on, {stayed:,} with a reason"
    return {"rows": rows, "lost": came - went - stayed, "foreign": foreign}


def _ingest(read: Read) -> dict[str, object]:
    videos = read("videos", ["video_id", "reason"])
    return _row(
        "ingest", ~filled(videos.column("reason")) & _told(videos.column("video_id")), _told(videos.column("reason")), 0
    )


def _split(read: Read) -> dict[str, object]:
    ids, clips = good_videos(read).column("video_id"), read("clips", ["video_id", "reason"])
    at = places(clips.column("video_id"), ids)
    live, told = ~filled(clips.column("reason")), _told(clips.column("reason"))
    return _row("split", _marked(at[live], len(ids)), _marked(at[told], len(ids)), int((at < 0).sum()))


def _by_clip(read: Read, table: str) -> dict[str, object]:
    clips, rows = read("clips", ["clip_id", "reason"]), read(table, ["clip_id", "reason"])
    ids = clips.column("clip_id").filter(pc.is_null(clips.column("reason")))
    at = places(rows.column("clip_id"), ids)
    live, told = ~filled(rows.column("reason")), _told(rows.column("reason"))
    return _row(table, _marked(at[live], len(ids)), _marked(at[told], len(ids)), int((at < 0).sum()))


def _chosen(read: Read) -> dict[str, object]:
    ids, chosen = read("clips", ["clip_id"]).column("clip_id"), read("selection", ["clip_id", "keep", "reason"])
    at, keep = places(chosen.column("clip_id"), ids), filled_true(chosen.column("keep"))
    told = _told(chosen.column("reason"))
    return _row("selection", _marked(at[keep], len(ids)), _marked(at[told], len(ids)), int((at < 0).sum()))


def _set_aside(read: Read) -> dict[str, object]:
    """Whatever a boundary refused is listed in the quarantine; what is listed stands at its boundary."""
    entries, refused, every = read("quarantine", ["entry"]).column("entry"), [], []
    for name, of in BOUNDARIES.items():
        rows = read(of.table, [of.key, "reason"])
        keys = entry_keys(name, rows.column(of.key))
        every.append(_within(entries, keys))
        refused.append(_within(keys.filter(pc.is_valid(rows.column("reason"))), entries))
    listed = np.concatenate(refused)
    foreign = int((~np.logical_or.reduce(every)).sum()) if len(entries) else 0
    return _row("quarantine", np.zeros(len(listed), bool), listed, foreign)


def _within(keys: pa.ChunkedArray, among: pa.ChunkedArray) -> Bools:
    return np.asarray(pc.is_in(keys, value_set=among).to_numpy(zero_copy_only=False), bool)


def good_videos(read: Read) -> pa.Table:
    videos = read("videos", ["video_id", "source", "batch", "duration", "reason"])
    return videos.filter(pc.is_null(videos.column("reason")))


def filled_true(column: pa.ChunkedArray) -> Bools:
    return cast(Bools, pc.fill_null(column, False).to_numpy(zero_copy_only=False).astype(bool))


def _told(column: pa.ChunkedArray) -> Bools:
    return filled_true(pc.not_equal(column, ""))


def _marked(at: Iterable[int], size: int) -> Bools:
    marked = np.zeros(size, bool)
    where = np.asarray(at)
    marked[where[where >= 0]] = True
    return marked


def rules_of_amounts(params: DataParams) -> list[Rule]:
    gate = params.gate
    return [
        within("videos", gate.min_videos, None, "enough videos", "data.gate.min_videos"),
        within("clips", gate.min_clips, None, "enough clips", "data.gate.min_clips"),
        within("kept", gate.min_kept, None, "enough of them kept", "data.gate.min_kept"),
        within("train", 1, None, "something to train on"),
        within("val", 1, None, "something held out", "data.curate.validation"),
        within("shots_on_both_sides", 0, 0, "no shot is trained on and held out"),
        within("set_aside_and_kept", 0, 0, "no clip that is set aside is kept"),
    ]


def amounts(read: Read, params: DataParams) -> Section:
    """One row of counts."""
    clips = read("clips", ["clip_id", "video_id", "shot", "reason"])
    chosen = read("selection", ["clip_id", "keep", "subset"])
    keep, subset = filled_true(chosen.column("keep")), chosen.column("subset")
    sides = {side: keep & filled_true(pc.equal(subset, side)) for side in ("train", "val")}
    at = places(chosen.column("clip_id"), clips.column("clip_id"))
    video = codes(pc.fill_null(clips.column("video_id"), ""))[0]
    shot = np.append((video << 32) + pc.fill_null(clips.column("shot"), -1).to_numpy().astype(np.int64), -1)
    both = np.intersect1d(shot[at[sides["train"] & (at >= 0)]], shot[at[sides["val"] & (at >= 0)]])
    counts = {
        "videos": len(good_videos(read)),
        "clips": int((~filled(clips.column("reason"))).sum()),
        "kept": int(keep.sum()),
        **{side: int(chosen_there.sum()) for side, chosen_there in sides.items()},
        "shots_on_both_sides": len(both),
        "set_aside_and_kept": _kept_in_spite(read, chosen.column("clip_id").filter(pa.array(keep))),
    }
    return Section(pd.DataFrame([{"data": "all", **counts}]), rules_of_amounts(params), "data")


def _kept_in_spite(read: Read, kept: pa.ChunkedArray) -> int:
    """Kept clips that are listed, or whose video is listed for a rule (one of a repeated file may be kept)."""
    listed = read("quarantine", ["boundary", "key", "video_id", "reason", "released"])
    listed = listed.filter(pc.invert(listed.column("released")))
    files = pc.equal(listed.column("boundary"), "ingest")
    banned = pc.and_(files, pc.starts_with(listed.column("reason"), f"{CODE}:"))
    clips = read("clips", ["clip_id", "video_id"])
    owners = clips.column("video_id").take(pc.index_in(kept, value_set=clips.column("clip_id")))
    keys, videos = listed.column("key").filter(pc.invert(files)), listed.column("video_id").filter(banned)
    return int((_within(kept, keys) | _within(owners, videos)).sum())
