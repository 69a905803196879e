"""score: every measure of every clip, from one decode a clip.

The clips of a video go in chunks to the workers of the engine (`data_pipeline/scoring.py`), each of which reads them
forward in its sandbox, so that a clip that breaks the decoder is one row with its reason, and runs the networks, where
params ask for any, on small pictures that the sandbox leaves (`clip`, `networks`). A measured value is kept under
runs/measures/<measure>-v<version>-<settings>/<video_id>/, written as each chunk ends: a killed stage goes on where it
stood, a raised version or a changed setting measures that one measure again, and new thresholds measure nothing. The
decode is shared by whichever measures are missing.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from data_pipeline.params import LimitParams, ScoreParams, SplitParams
from data_pipeline.score.networks import licence
from data_pipeline.score.settings import COLUMNS, SIZE, Settings, settings_of
from data_pipeline.scoring import CHUNK, CHUNK_WITH_PICTURES, Chunk, Values
from data_pipeline.tables import SCORES, Row
from infra import engine, parquet
from infra.storage import atomic_write, is_remote
from sana_video.video.measures import MEASURE_VERSIONS as MEASURE_VERSIONS

T = TypeVar("T")
Track = Callable[[Iterable[T], int, str], Iterable[T]]

WORK = "data_pipeline.scoring:measure_chunks"  # what the engine calls in its workers

log = logging.getLogger(__name__)


def run(
    videos: pa.Table,
    clips: pa.Table,
    limit: LimitParams,
    split: SplitParams,
    params: ScoreParams,
    versions: Mapping[str, int],
    root: Path,
    track: Track[Any],
) -> list[Row]:
    """Rows of the scores table, one for each clip without a reason. `versions`: of the measures, by name.

    Raises ValueError where a clip is too short to hold two samples of motion, or no clip is there to score.
    """
    good = [row for row in clips.to_pylist() if row["reason"] is None]
    if not good:
        raise ValueError(f"no clip to score: all {clips.num_rows} rows of the clips table have a reason")
    if (split.frames - 1) / split.fps < params.sample_seconds:
        raise ValueError(
            f"score.sample_seconds {params.sample_seconds:g} leaves no pair in {split.frames} frames at {split.fps} fps"
        )
    settings = settings_of(limit, split, params, root)
    stores = {
        name: root / "runs" / "measures" / f"{name}-v{versions[name]}-{settings.digest(name)}"
        for name in settings.measures
    }
    known = _recall(stores, {row["video_id"] for row in good})
    uris = {row["video_id"]: row["uri"] for row in videos.to_pylist() if row["reason"] is None}
    chunks = plan(good, uris, known, CHUNK_WITH_PICTURES if settings.networks else CHUNK)
    reasons = _measure_missing(chunks, settings, params, stores, known, root, track) if chunks else {}
    return [_row(row["clip_id"], known, reasons.get(row["clip_id"])) for row in good]


def plan(
    clips: Sequence[Row], uris: Mapping[str, str], known: Mapping[str, Mapping[str, Values]], size: int
) -> list[Chunk]:
    """The chunks to read: each video's clips in order of time, by the measures they lack. Nothing known is in it.

    A remote video is one chunk, so that it is fetched once.
    """
    ordered = sorted(clips, key=lambda row: (row["video_id"], row["start_pts"]))
    wanted = [(row, lacking) for row in ordered if (lacking := _lacking(row["clip_id"], known))]
    chunks = []
    for (video_id, lacking), group in itertools.groupby(wanted, key=lambda pair: (pair[0]["video_id"], pair[1])):
        members, uri = [row for row, _ in group], uris[video_id]
        many = len(members) if is_remote(uri) else size
        chunks += [Chunk(uri, tuple(members[at : at + many]), lacking) for at in range(0, len(members), many)]
    return chunks


def _lacking(clip: str, known: Mapping[str, Mapping[str, Values]]) -> tuple[str, ...]:
    return tuple(name for name in known if clip not in known[name])


def _measure_missing(
    chunks: list[Chunk],
    settings: Settings,
    params: ScoreParams,
    stores: Mapping[str, Path],
    known: dict[str, dict[str, Values]],
    root: Path,
    track: Track[Any],
) -> dict[str, str]:
    """Measure all chunks, adding to `known` and its stores; returns the reason of each clip that failed."""
    if settings.dover is not None and any("aesthetic" in chunk.measures for chunk in chunks):
        log.warning(licence(params))
    sizes = [len(chunk.clips) for chunk in chunks]
    reasons: dict[str, str] = {}
    with engine.opened(min(params.workers, len(chunks)), networks=bool(settings.networks)) as here:
        threads = max(1, len(os.sched_getaffinity(0)) // here.slots)
        networks = params if settings.networks else None
        common = {"settings": settings.as_json(), "root": root, "networks": networks, "threads": threads}
        shards = engine.shards_of(chunks, sizes, here.slots)
        results = engine.results(here, WORK, shards, common, divide=Chunk.halves)
        for chunk, result in track(results, len(chunks), "score"):
            if isinstance(result, engine.Lost):
                reasons |= {row["clip_id"]: result.reason for row in chunk.clips}
                continue
            done = {clip: values for clip, values in result.items() if "reason" not in values}
            reasons |= {clip: values["reason"] for clip, values in result.items() if "reason" in values}
            for name in chunk.measures if done else ():
                values = {clip: {key: found[key] for key in (*COLUMNS[name], *SIZE)} for clip, found in done.items()}
                known[name] |= values
                _keep(stores[name] / chunk.clips[0]["video_id"], values)
    return reasons


def _recall(stores: Mapping[str, Path], video_ids: set[str]) -> dict[str, dict[str, Values]]:
    """{measure: {clip_id: its columns}} of what was measured before under these versions and settings."""
    return {
        name: {clip: values for video_id in sorted(video_ids) for clip, values in _kept(store / video_id)}
        for name, store in stores.items()
    }


def _kept(folder: Path) -> Iterator[tuple[str, Values]]:
    for file in sorted(folder.glob("*.parquet")):
        try:
            rows = parquet.table(file).to_pylist()
        except ValueError:  # nothing is lost by it but the time
            log.warning("%s is damaged: its clips are measured again", file)
            continue
        for row in rows:
            yield row.pop("clip_id"), row


def _keep(folder: Path, values: Mapping[str, Values]) -> None:
    """One small file a chunk, named by its clips: several stages may write at once without losing a row."""
    rows = [{"clip_id": clip, **found} for clip, found in sorted(values.items())]
    schema = pa.schema([SCORES.field(name) for name in rows[0]])
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), buffer)
    name = hashlib.sha256("".join(sorted(values)).encode()).hexdigest()[:16]
    atomic_write(folder / f"{name}.parquet", buffer.getvalue())


def _row(clip: str, known: Mapping[str, Mapping[str, Values]], reason: str | None) -> Row:
    row: Values = dict.fromkeys(SCORES.names)
    for found in known.values() if reason is None else ():
        row |= found[clip]
    return {**row, "clip_id": clip, "reason": reason}
