"""Tables of two small batches as the pipeline writes them, every rule of the gate `data` kept."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml

from data_pipeline import caption, curate, quarantine, tables
from data_pipeline.expectations.facts import Read, in_memory
from data_pipeline.params import DataParams

ROOT = Path(__file__).resolve().parents[2]
Rows = dict[str, list[dict[str, Any]]]
SECONDS = 33 / 16


def params(**gate: Any) -> DataParams:
    """The shipped recipe, with bars that the good tables meet; `gate` changes `data.gate`."""
    section = yaml.safe_load((ROOT / "params.yaml").read_text())["data"]
    section["batches"] = {"one": {"path": "raw/one"}, "two": {"path": "raw/two"}}
    section["classify"] = {"game": {"file": "classifiers/game.json", "thresholds": {"one": 0.5}}}
    section["gate"].update({"min_videos": 2, "min_clips": 10, "min_kept": 8, "kept_fraction": [0.5, 1.0], **gate})
    return DataParams.model_validate(section)


def table(name: str, rows: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=tables.SCHEMAS[name])


def row(name: str, **given: Any) -> dict[str, Any]:
    return {**dict.fromkeys(tables.SCHEMAS[name].names), **given}


def reader(rows: Mapping[str, list[dict[str, Any]]]) -> Read:
    return in_memory({name: table(name, entries) for name, entries in rows.items()})


def set_aside(rows: Rows, asked: DataParams) -> list[dict[str, Any]]:
    """The quarantine as its stage writes it from the other tables."""
    found: list[dict[str, Any]] = quarantine.run(reader(rows), asked).to_pylist()
    return found


def video(name: str, source: str) -> dict[str, Any]:
    return row(
        "videos", video_id=name, batch=source, uri=f"{name}.mp4", source=source, origin="real", licence="CC0", bytes=9,
        width=160, height=96, rotation=0, fps=24.0, duration=60.0,
    )  # fmt: skip


def clip(name: str, source: str, n: int) -> dict[str, Any]:
    start = n * 300
    return row(
        "clips", clip_id=f"{name}{n}", video_id=name, source=source, shot=n, start_pts=start, end_pts=start + 207,
        start=start / 100, end=(start + 207) / 100, frames=33, fps=16.0, detector="content", time_base="1/100",
        shot_start=start / 100, shot_end=start / 100 + 2.5, change_inside=1.0,
        reason="SHOT_TOO_SHORT" if n == 9 else None,
    )  # fmt: skip


def score(clip_id: str) -> dict[str, Any]:
    shares = dict.fromkeys(("aesthetic", "technical", "overall"), 0.5)
    faults = dict.fromkeys(("borders", "watermark", "stillness", "flicker", "duplicate_frames"), 0.0)
    motion = {"flow_motion": 3.0, "camera_motion": 2.0, "camera_jitter": 0.1, "object_motion": 1.0, "vmaf_motion": 2.0}
    return row(
        "scores", clip_id=clip_id, **motion, **shares, **faults, saturation=90.0, saturation_lit=91.0, brightness=100.0,
        cuts_inside=0, colour=[9.0, 99.0, 9.0], phash=[1, 2], flow_pairs=[3.0], height=96, width=160,
        flow_estimator="opencv-dis (stand-in for UniMatch)", aesthetic_scorer="classical (stand-in for DOVER)",
        embedder="classical (stand-in for a video embedding)",
    )  # fmt: skip


def told_of(clip_id: str) -> dict[str, Any]:
    return row(
        "classes",
        entry=f"game:{clip_id}",
        classifier="game",
        clip_id=clip_id,
        probability=0.1,
        version="0123456789abcdef",
    )


def good_rows(asked: DataParams) -> Rows:
    """Two films of nine clips and a shot that holds none; a file that is no film; one clip repeats another film's."""
    films = (("a", "one"), ("b", "two"))
    bad = row("videos", video_id="", batch="two", uri="bad.mp4", source="two", licence="CC0", reason="UNREADABLE: x")
    videos = [*(video(*film) for film in films), bad]
    clips = [clip(*film, n) for film in films for n in range(10)]
    scores = [score(each["clip_id"]) for each in clips if each["reason"] is None]
    twins = [row("twins", clip_id="b1", twin_of="a1", rank=1, kind="hash", distance=1.0)]
    named = {"videos": table("videos", videos), "clips": table("clips", clips), "scores": table("scores", scores)}
    here = Path(__file__).parent  # a folder without side files of a batch
    captions = caption.run(**named, params=asked.caption, batch=".", root=here, track=lambda rows, total, label: rows)
    rows: Rows = {"videos": videos, "clips": clips, "scores": scores, "captions": captions, "twins": twins}
    rows["quarantine"] = set_aside(rows, asked)
    rows["classes"] = [told_of(each["clip_id"]) for each in scores if each["clip_id"].startswith("a")]
    named = {name: table(name, found) for name, found in rows.items()}
    chosen = curate.run(**named, params=asked.curate, classifiers=asked.classify)
    return {**rows, "selection": chosen.to_pylist()}
