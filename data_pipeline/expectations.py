"""The rules of the data gates, as code: one section for each table boundary, and one set for a view's shards.

A rule looks at plain columns. What is a relation (a clip's video exists, one clip of a group of copies is kept, rows
in = rows out + rows with a reason) is first made a column, or a count in a table of one row, so that every rule is
put to the test on rows that exist and the page shows what was counted.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from data_pipeline import tables
from data_pipeline.caption import CAPTIONERS
from data_pipeline.curate import failures
from data_pipeline.params import DataParams, GateParams, PixelsParams, ScoreParams
from infra.gates import Rule, Section, expect

Row = dict[str, Any]

STAND_IN = r"stand-in for \S+"
_LABEL = {"dis": STAND_IN, "unimatch": r"^unimatch \S", "classical": STAND_IN, "dover": r"^dover \([0-9a-f]{12}\)$"}
_TEXT = r"^[^\x00-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069]{10,2000}$"


@dataclass(frozen=True)
class Joined:
    """The tables of all batches that params name, joined."""

    videos: pa.Table
    clips: pa.Table
    scores: pa.Table
    captions: pa.Table
    twins: pa.Table
    selection: pa.Table

    def rows(self, table: str) -> list[Row]:
        found: list[Row] = getattr(self, table).to_pylist()
        return found


def data_sections(joined: Joined, params: DataParams) -> dict[str, Section]:
    """The boundary `data`: every table from ingest to selection, and how they hang together."""
    rows = {field.name: joined.rows(field.name) for field in fields(joined)}
    return {
        "tables": Section(_columns(joined), _equal("columns", "schema"), "table"),
        "videos": _videos(rows, params),
        "clips": _clips(rows, params),
        "scores": _scores(rows, params.score),
        "captions": _captions(rows, params),
        "twins": _twins(rows, params),
        "selection": _selection(rows, params),
        "sources": _sources(rows, params.gate),
        "balance": _balance(rows, params.gate),
    }


def within(column: str, low: float | None, high: float | None, severity: str = "critical") -> Rule:
    limits = {"min_value": low, "max_value": high}
    return expect(
        "ExpectColumnValuesToBeBetween", severity, column=column, **{k: v for k, v in limits.items() if v is not None}
    )


def one_of(column: str, values: Sequence[Any]) -> Rule:
    return expect("ExpectColumnValuesToBeInSet", column=column, value_set=list(values))


def unique(column: str) -> Rule:
    return expect("ExpectColumnValuesToBeUnique", column=column)


def filled(column: str) -> Rule:
    return expect("ExpectColumnValuesToNotBeNull", column=column)


def matches(column: str, pattern: str) -> Rule:
    return expect("ExpectColumnValuesToMatchRegex", column=column, regex=pattern)


def _equal(a: str, b: str) -> list[Rule]:
    return [expect("ExpectColumnPairValuesToBeEqual", column_A=a, column_B=b)]


def _above(a: str, b: str) -> Rule:
    return expect("ExpectColumnPairValuesAToBeGreaterThanB", column_A=a, column_B=b)


def _columns(joined: Joined) -> pd.DataFrame:
    """One row a table: its columns and types beside those of the schema."""
    told = {field.name: getattr(joined, field.name).schema for field in fields(joined)}
    return pd.DataFrame(
        {
            "table": list(told),
            "columns": [_names(schema) for schema in told.values()],
            "schema": [_names(tables.SCHEMAS[name]) for name in told],
        }
    )


def _names(schema: pa.Schema) -> str:
    """Columns with types; a list by its values alone, since parquet renames the field inside it."""
    kinds = [f"list of {f.type.value_type}" if pa.types.is_list(f.type) else str(f.type) for f in schema]
    return ", ".join(f"{name} {kind}" for name, kind in zip(schema.names, kinds, strict=True))


def _videos(rows: Mapping[str, list[Row]], params: DataParams) -> Section:
    """The videos that went on; the rejected ones are counted in `balance`."""
    names = ("video_id", "uri", "source", "licence", "bytes", "width", "height", "rotation", "fps", "duration")
    frame = _frame([row for row in rows["videos"] if row["reason"] is None], names)
    rules = [
        unique("video_id"),
        unique("uri"),
        matches("source", r"\S"),
        matches("licence", r"\S"),
        within("bytes", 1, None),
        within("width", 16, None),
        within("height", 16, None),
        one_of("rotation", [0, 90, 180, 270]),
        within("fps", 0.5, 1000.0),
        within("duration", params.ingest.min_seconds, params.ingest.max_seconds),
    ]
    return Section(frame, rules, "video_id")


def _clips(rows: Mapping[str, list[Row]], params: DataParams) -> Section:
    known = {row["video_id"] for row in rows["videos"] if row["reason"] is None}
    names = ("clip_id", "start", "end", "start_pts", "end_pts", "frames", "fps", "detector")
    live = _live(rows)
    frame = _frame(live, names, video_known=[row["video_id"] in known for row in live])
    rules = [
        unique("clip_id"),
        one_of("video_known", [True]),
        one_of("frames", [params.split.frames]),
        one_of("fps", [float(params.split.fps)]),
        _above("end", "start"),
        _above("end_pts", "start_pts"),
        matches("detector", params.split.detector),
    ]
    return Section(frame, rules, "clip_id")


def _scores(rows: Mapping[str, list[Row]], params: ScoreParams) -> Section:
    """The scores of clips that could be measured: units and ranges as docs/data.md states them."""
    live = {row["clip_id"] for row in _live(rows)}
    scored = [row for row in rows["scores"] if row["reason"] is None]
    names = ("clip_id", "flow_motion", "vmaf_motion", "saturation", "brightness", "aesthetic", "technical", "overall",
             "cuts_inside", "flow_estimator", "aesthetic_scorer", "height", "width")  # fmt: skip
    frame = _frame(
        scored,
        names,
        clip_known=[row["clip_id"] in live for row in scored],
        hashes=[len(row.get("phash") or []) for row in scored],
    )
    rules = [
        unique("clip_id"),
        one_of("clip_known", [True]),
        within("flow_motion", 0.0, 700.0),
        *(within(name, 0.0, 255.0) for name in ("vmaf_motion", "saturation", "brightness")),
        *(within(name, 0.0, 1.0) for name in ("aesthetic", "technical", "overall")),
        within("cuts_inside", 0, None),
        within("hashes", 1, None),
        *(within(name, 16, None) for name in ("height", "width")),
        matches("flow_estimator", _LABEL[params.flow]),
        matches("aesthetic_scorer", _LABEL[params.aesthetic]),
    ]
    return Section(frame, rules, "clip_id")


def _captions(rows: Mapping[str, list[Row]], params: DataParams) -> Section:
    live = {row["clip_id"] for row in _live(rows)}
    told = [row for row in rows["captions"] if row["reason"] is None]
    names = ("clip_id", "text", "captioner", "prompt_version")
    frame = _frame(told, names, clip_known=[row["clip_id"] in live for row in told])
    rules = [
        unique("clip_id"),
        one_of("clip_known", [True]),
        matches("text", _TEXT),
        expect("ExpectColumnValuesToNotMatchRegex", column="text", regex="(?i)motion score"),
        one_of("captioner", [CAPTIONERS[params.caption.captioner]]),
        one_of("prompt_version", [params.caption.prompt_version]),
    ]
    return Section(frame, rules, "clip_id")


def _twins(rows: Mapping[str, list[Row]], params: DataParams) -> Section:
    """Every live clip and every twin, with the clip that stands for its group (itself where it has no copies)."""
    live = {row["clip_id"] for row in _live(rows)}
    twins = {row["clip_id"]: row for row in rows["twins"]}
    ids = sorted(live | set(twins))
    first = [twins[clip]["twin_of"] if clip in twins else clip for clip in ids]
    kept = {row["clip_id"] for row in rows["selection"] if row["keep"]}
    keeps = Counter(stands for clip, stands in zip(ids, first, strict=True) if clip in kept)
    frame = pd.DataFrame(
        {
            "clip_id": ids,
            "twin_of": first,
            "clip_known": [clip in live for clip in ids],
            "first_known": [clip in live for clip in first],
            "first_is_twin": [clip in twins for clip in first],
            "kind": [twins[clip]["kind"] if clip in twins else "hash" for clip in ids],
            "hash_distance": [_distance(twins.get(clip), "hash") for clip in ids],
            "embedding_distance": [_distance(twins.get(clip), "embedding") for clip in ids],
            "copies_kept": [keeps[clip] for clip in first],
        }
    )
    rules = [
        one_of("clip_known", [True]),
        one_of("first_known", [True]),
        one_of("first_is_twin", [False]),
        one_of("kind", ["hash", "embedding"]),
        within("hash_distance", 0.0, params.dedup.max_distance),
        within("embedding_distance", 0.0, params.dedup.max_embedding_distance or 0.0),
        within("copies_kept", 0, 1),
    ]
    return Section(frame, rules, "clip_id")


def _distance(twin: Row | None, kind: str) -> float:
    """Of a twin that was found by `kind`; 0 for every other clip."""
    return float(twin["distance"]) if twin is not None and twin["kind"] == kind else 0.0


def _selection(rows: Mapping[str, list[Row]], params: DataParams) -> Section:
    clips = {row["clip_id"]: row for row in rows["clips"]}
    scores = {row["clip_id"]: row for row in rows["scores"]}
    captions = {row["clip_id"]: row for row in rows["captions"]}
    videos = {row["video_id"]: row for row in rows["videos"] if row["reason"] is None}
    chosen = rows["selection"]

    def broken(row: Row) -> str:
        if not row["keep"] or row["clip_id"] not in clips:
            return "none"
        clip, ranges = clips[row["clip_id"]], params.curate.ranges_of(row["source"])
        score = scores.get(clip["clip_id"])
        told = score and {**score, "vmaf_percentile": row["vmaf_percentile"]}
        found = failures(clip, videos.get(clip["video_id"]), told, captions.get(clip["clip_id"]), ranges)
        return ", ".join(found) or "none"

    frame = pd.DataFrame(
        {
            "clip_id": [row["clip_id"] for row in chosen],
            "clip_known": [row["clip_id"] in clips for row in chosen],
            "explained": [row["keep"] == (row["reason"] is None and not row["reasons"]) for row in chosen],
            "rules_broken": [broken(row) for row in chosen],
            "side": [row["subset"] if row["keep"] else f"dropped{row['subset'] or ''}" for row in chosen],
            "bucket": [row["bucket"] if row["keep"] else f"0x0x{params.split.frames}" for row in chosen],
        }
    )
    rules = [
        unique("clip_id"),
        one_of("clip_known", [True]),
        one_of("explained", [True]),
        one_of("rules_broken", ["none"]),
        one_of("side", ["train", "val", "dropped"]),
        matches("bucket", rf"^\d+x\d+x{params.split.frames}$"),
    ]
    return Section(frame, rules, "clip_id")


def _sources(rows: Mapping[str, list[Row]], gate: GateParams) -> Section:
    """One row a source: a fraction kept outside the expected band means that a filter, or a measure, broke.

    Of the clips that are no copies: a trailer whose every shot is in the film is no fault of a filter.
    """
    clips = Counter(row["source"] for row in rows["selection"] if row["reasons"] != ["TWIN"])
    kept = Counter(row["source"] for row in rows["selection"] if row["keep"])
    names = sorted({row["source"] for row in rows["videos"] if row["reason"] is None} | set(clips))
    fraction = [kept[name] / clips[name] if clips[name] else 0.0 for name in names]
    frame = pd.DataFrame({"source": names, "clips": [clips[n] for n in names], "kept_fraction": fraction})
    return Section(frame, [unique("source"), within("kept_fraction", *gate.kept_fraction)], "source")


def _balance(rows: Mapping[str, list[Row]], gate: GateParams) -> Section:
    """One row of counts: enough of everything, and nothing lost on the way."""
    good = {row["video_id"] for row in rows["videos"] if row["reason"] is None}
    every, live = {row["clip_id"] for row in rows["clips"]}, {row["clip_id"] for row in _live(rows)}
    chosen = rows["selection"]
    shots = {row["clip_id"]: (row["video_id"], row["shot"]) for row in rows["clips"]}
    train, val = (
        {row["clip_id"] for row in chosen if row["keep"] and row["subset"] == side} for side in ("train", "val")
    )
    counts = {
        "videos": len(good),
        "rejected_videos": 1.0 - len(good) / len(rows["videos"]) if rows["videos"] else 1.0,
        "clips": len(live),
        "kept": sum(row["keep"] for row in chosen),
        "train": len(train),
        "val": len(val),
        "shots_on_both_sides": len({shots.get(clip) for clip in train} & {shots.get(clip) for clip in val}),
        "videos_without_clips": len(good - {row["video_id"] for row in rows["clips"]}),
        "clips_without_score": len(live - {row["clip_id"] for row in rows["scores"]}),
        "clips_without_caption": len(live - {row["clip_id"] for row in rows["captions"]}),
        "clips_without_choice": len(every - {row["clip_id"] for row in chosen}),
    }
    least = {"videos": gate.min_videos, "clips": gate.min_clips, "kept": gate.min_kept, "train": 1, "val": 1}
    most = {"rejected_videos": gate.max_rejected_videos}
    lost = ("shots_on_both_sides", "clips_without_score", "clips_without_caption", "clips_without_choice")
    rules = [
        *(within(name, low, None) for name, low in least.items()),
        *(within(name, None, high) for name, high in most.items()),
        *(within(name, 0, 0) for name in lost),
        within("videos_without_clips", 0, 0, "warning"),
    ]
    return Section(pd.DataFrame([{"data": "all", **counts}]), rules, "data")


def shard_sections(
    folder: Path, selection: pa.Table, view: PixelsParams, text_tokens: int | None, measured: Mapping[str, float] | None
) -> dict[str, Section]:
    """The boundary `shards`: every file undamaged, exactly the kept clips, on their side, in shape and finite.

    `text_tokens` is None for the pixel view; `measured` is the motion of each clip that a latent view must repeat.
    """
    from sana_video.data.shards import read_index, verify

    try:
        verify(folder)
        if text_tokens is not None:
            _check_null(folder, text_tokens)
    except (ValueError, FileNotFoundError) as error:
        frame = pd.DataFrame([{"view": folder.name, "damage": str(error)}])
        return {"files": Section(frame, [one_of("damage", ["none"])], "damage")}
    index = read_index(folder).to_pylist()
    kept = {row["clip_id"]: row["subset"] for row in selection.to_pylist() if row["keep"]}
    samples = _samples(folder, index, view, text_tokens is None)
    return {
        "files": Section(
            pd.DataFrame([{"view": folder.name, "damage": "none"}]), [one_of("damage", ["none"])], "damage"
        ),
        "samples": _sample_section(index, kept, samples, view, text_tokens, measured),
        "balance": _shard_balance(index, kept),
    }


def _check_null(folder: Path, tokens: int) -> None:
    """ValueError or FileNotFoundError unless the embedding of no caption is there, of the view's length and finite."""
    from sana_video.data.shards import read_null

    text, mask = read_null(folder)
    if text.shape[0] != tokens or mask.shape != (tokens,) or not bool(text.isfinite().all()):
        raise ValueError(f"the null embedding of {folder} is {list(text.shape)}, or not finite; {tokens} tokens belong")


def _shard_balance(index: list[Row], kept: Mapping[str, str]) -> Section:
    sides = Counter(row["subset"] for row in index)
    missing = len(set(kept) - {row["key"] for row in index})
    frame = pd.DataFrame([{"data": "all", "missing": missing, "train": sides["train"], "val": sides["val"]}])
    return Section(frame, [within("missing", 0, 0), within("train", 1, None), within("val", 1, None)], "data")


def _sample_section(
    index: list[Row],
    kept: Mapping[str, str],
    samples: list[Row],
    view: PixelsParams,
    text_tokens: int | None,
    measured: Mapping[str, float] | None,
) -> Section:
    frame = pd.DataFrame(samples)
    frame["key"] = [row["key"] for row in index]
    frame["bucket"] = [row["bucket"] for row in index]
    frame["side"] = [row["subset"] for row in index]
    frame["chosen_side"] = [kept.get(row["key"], "not kept") for row in index]
    rules = [
        unique("key"),
        *_equal("side", "chosen_side"),
        one_of("bucket", [f"{view.height}x{view.width}x{view.frames}"]),
        one_of("finite", [True]),
        within("spread", 1e-3, None),
    ]
    if text_tokens is None:
        rules.append(one_of("shape", [f"{view.frames}x{view.height}x{view.width}x3"]))
        return Section(frame, rules, "key")
    told = measured or {}
    frame["motion_off"] = [
        abs(sample["motion"] - told.get(row["key"], -1.0)) for row, sample in zip(index, samples, strict=True)
    ]
    rules += [
        expect("ExpectColumnUniqueValueCountToBeBetween", column="shape", min_value=1, max_value=1),
        expect("ExpectColumnMeanToBeBetween", column="mean", min_value=-1.0, max_value=1.0),
        within("spread", 0.05, 10.0),
        one_of("tokens", [text_tokens]),
        within("words", 1, text_tokens),
        within("caption_bytes", 10, None),
        within("motion_off", 0.0, 1e-3),
    ]
    return Section(frame, rules, "key")


def _samples(folder: Path, index: list[Row], view: PixelsParams, pixels: bool) -> list[Row]:
    """What each sample holds, in the order of the index: shape, mean, spread, and the state of its text."""
    import torch

    from sana_video.data.shards import ShardReader

    found = []
    with ShardReader(folder) as reader:
        for at in range(len(index)):
            sample = reader.sample(at)
            values = (sample["pixels"] if pixels else sample["latents"]).float()
            row: Row = {
                "shape": "x".join(map(str, values.shape)),
                "finite": bool(torch.isfinite(values).all()),
                "mean": round(_number(values.mean()), 4),
                "spread": round(_number(values.std()), 4),
            }
            if not pixels:
                row |= {
                    "finite": row["finite"] and bool(torch.isfinite(sample["text"]).all()),
                    "tokens": len(sample["mask"]),
                    "words": int(sample["mask"].sum()),
                    "caption_bytes": len(sample["caption"]),
                    "motion": float(sample["motion"]),
                }
            found.append(row)
    return found


def _number(value: Any) -> float:
    number = float(value)
    return number if math.isfinite(number) else 0.0  # `finite` tells of it


def _live(rows: Mapping[str, list[Row]]) -> list[Row]:
    return [row for row in rows["clips"] if row["reason"] is None]


def _frame(rows: list[Row], names: Sequence[str], **more: list[Any]) -> pd.DataFrame:
    """The named columns of `rows`; a column that no row has stays away, and its rule then finds the gate broken."""
    present = [name for name in names if all(name in row for row in rows)] if rows else list(names)
    return pd.DataFrame({name: [row[name] for row in rows] for name in present} | more)
