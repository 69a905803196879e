"""Kept clips as files for other trainers: what goes along, and the folder that it goes to.

Two formats share this module: `sana`, what the loader of the official code reads, and `hf`, plain mp4 files and parquet
in the layout of Hugging Face `datasets`. A file's name is made of clip_ids and numbers alone: captions, sources and
attributions are data and stand in files. Licence and attribution go with every clip.

An export is named by the digest of all that its bytes depend on; the folder says which one it holds. A run that was
killed goes on in it, and a folder that holds anything else is refused. An export to an s3:// prefix is made whole under
runs/export/ and then sent, its manifest last: a prefix with a manifest is whole.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from data_pipeline.encode import Kept, kept_clips, size_of
from data_pipeline.params import Clips
from infra.storage import atomic_text, local_copy, send, sizes_at
from sana_video.data.buckets import Size

VERSION = 2  # of what an export holds
PLAN = ".export.json"  # in the folder from the first moment on
STATED = ("source", "origin", "licence", "attribution")  # of each clip, wherever it goes
MANIFEST = "manifest.json"  # the last to be written: sha256 of every file

Row = dict[str, Any]
Track = Callable[[Iterable[Any], int, str], Iterable[Any]]
Say = Callable[[str], None]
Counters = dict[str, int | float | str]


@dataclass(frozen=True)
class Item:
    """A clip to export: where it lies, the (height, width) it is cut to, and all that is known of it."""

    kept: Kept
    size: Size
    source: str
    origin: str
    licence: str
    attribution: str
    video_id: str
    scores: Row
    caption: Row

    @property
    def key(self) -> str:
        return self.kept.clip_id


@dataclass(frozen=True)
class Plan:
    """What is asked for. `ranges`: {source: {measure: (low, high)}} that the clips were kept by; `clips`: whether these
    are all that were kept or the SFT set among them."""

    items: list[Item]
    frames: int
    fps: int
    sizes: tuple[Size, ...]
    ranges: dict[str, dict[str, tuple[float, float]]]
    allow_stand_ins: bool
    root: Path
    clips: Clips = "selection"

    def digest(self, form: str) -> str:
        told = [VERSION, form, self.frames, self.fps, self.allow_stand_ins, self.ranges, self.clips]
        clips = [
            [item.key, item.kept.span, item.kept.subset, item.size, item.source, item.origin, item.licence,
             item.attribution, item.scores, item.caption]
            for item in self.items
        ]  # fmt: skip
        return hashlib.sha256(json.dumps([told, clips], sort_keys=True).encode()).hexdigest()


def items(
    videos: pa.Table, clips: pa.Table, scores: pa.Table, captions: pa.Table, selection: pa.Table,
    sizes: Sequence[Size], limit: int | None,
) -> list[Item]:  # fmt: skip
    """The kept clips, the first `limit` of them, in the order in which films are read. ValueError if there is none."""
    films = {row["video_id"]: row for row in videos.to_pylist() if row["reason"] is None}
    film_of = dict(zip(*(selection.column(name).to_pylist() for name in ("clip_id", "video_id")), strict=True))
    measured = {row["clip_id"]: row for row in scores.drop_columns(["phash", "embedding"]).to_pylist()}
    told = {row["clip_id"]: row for row in captions.to_pylist()}
    found = []
    for kept in kept_clips(videos, clips, scores, captions, selection)[:limit]:
        film = films[film_of[kept.clip_id]]
        stated = (film["source"], film["origin"], film["licence"] or "unstated", film["attribution"] or "")
        known = measured[kept.clip_id], told[kept.clip_id]
        found.append(Item(kept, size_of(kept, sizes), *stated, film["video_id"], *known))
    return found


def is_stand_in(label: str | None) -> bool:
    """Whether a column that names an estimator names a stand-in, or nothing."""
    return label is None or "stand-in" in label


def stand_ins(found: Iterable[Item]) -> list[str]:
    """The stand-ins that a number or a caption of these clips comes from."""
    labels = {item.scores[name] for item in found for name in ("flow_estimator", "aesthetic_scorer")}
    labels |= {item.caption["captioner"] for item in found}
    return sorted(label for label in labels if label is not None and is_stand_in(label))


def licences(found: Iterable[Item]) -> list[Row]:
    """Source, origin, licence, attribution and how many clips, as a card states them."""
    counts = Counter(tuple(getattr(item, name) for name in STATED) for item in found)
    return [dict(zip(STATED, stated, strict=True)) | {"clips": count} for stated, count in sorted(counts.items())]


def claim(out: Path, digest: str) -> None:
    """Take `out` for this export, or go on in it. ValueError if it holds anything else."""
    if ".zip" in str(out.absolute()):
        raise ValueError(f"--out {out}: the official loader finds side files by replacing `.zip` in the whole path")
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out {out} is no folder")
    path = out / PLAN
    if path.is_file():
        if (told := _told(path)) != digest:
            raise ValueError(f"--out {out} {_other(told)}: give an empty folder")
    elif out.is_dir() and any(out.iterdir()):
        raise ValueError(f"--out {out} is not empty: give an empty folder, or that of an export to go on with")
    else:
        atomic_text(path, json.dumps({"export": digest}))


def send_whole(uri: str, digest: str, root: Path, write: Callable[[Path], Counters]) -> Counters:
    """Make an export by `write` and send it to the s3:// prefix `uri`; returns the counters. What is there is kept.

    ValueError if the prefix holds anything else. ConnectionError and the like leave all that was made and sent; the
    next run goes on there.
    """
    there = sizes_at(uri)
    if PLAN in there:
        with local_copy(f"{uri.rstrip('/')}/{PLAN}") as path:
            if (told := _told(path)) != digest:
                raise ValueError(f"--out {uri} {_other(told)}: give an empty prefix")
        if MANIFEST in there:
            return {"sent": 0}
    elif there:
        raise ValueError(f"--out {uri} is not empty: give an empty prefix, or that of an export to go on with")
    folder = root / "runs" / "export" / digest[:32]
    claim(folder, digest)
    counters = write(folder)
    sent = send(folder, uri, last=MANIFEST)
    shutil.rmtree(folder)
    return {**counters, "sent": sent}


def _told(path: Path) -> str | None:
    """Which export a folder says it holds; None where the file that tells is not one of ours."""
    try:
        told = json.loads(path.read_bytes())
    except ValueError:  # cut short, or of somebody else
        return None
    return str(told["export"]) if isinstance(told, dict) and told.keys() == {"export"} else None


def _other(told: str | None) -> str:
    if told is None:
        return f"holds something else: its {PLAN} is none of ours"
    return "holds another export (other clips, sizes or settings)"


def written(path: Path, value: object) -> Path:
    """Write `value` as JSON, atomically; returns `path`."""
    atomic_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")
    return path
