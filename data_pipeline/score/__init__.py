"""score: every measure of every clip, from one decode a clip.

The clips of a video are read forward in chunks, each chunk in a sandbox, so that a clip that breaks the decoder is one
row with its reason; what only a network can measure, the parent measures on small pictures that the sandbox leaves
(`clip`, `networks`). A measured value is kept under runs/measures/<measure>-v<version>-<settings>/<video_id>/, written
as each chunk ends: a killed stage goes on where it stood, a raised version or a changed setting measures that one
measure again, and new thresholds measure nothing. The decode is shared by whichever measures are missing.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from data_pipeline.params import LimitParams, ScoreParams, SplitParams
from data_pipeline.score.clip import measure_clips as measure_clips
from data_pipeline.score.networks import Networks
from data_pipeline.score.settings import COLUMNS, SIZE, Settings, settings_of
from data_pipeline.tables import SCORES, Row
from infra.storage import atomic_write, is_remote, local_copy
from sana_video.video.measures import MEASURE_VERSIONS as MEASURE_VERSIONS
from sana_video.video.sandbox import Sandbox, Sandboxes

CHUNK = 16  # clips read by one call; a remote video is one chunk, so that it is fetched once
CHUNK_WITH_PICTURES = 4  # where pictures are left for networks: up to 35 MB a clip
CLIP_SECONDS = 60.0  # wall time allowed per clip before its decoder counts as hung

T = TypeVar("T")
R = TypeVar("R")
Track = Callable[[Iterable[T], int, str], Iterable[T]]
Values = dict[str, Any]


@dataclass(frozen=True)
class Chunk:
    """Clips of one video, in order of time, that lack the same measures."""

    uri: str
    clips: tuple[Row, ...]
    measures: tuple[str, ...]


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

    Raises ValueError where a clip is too short to hold two samples of motion, no clip is there to score, or
    `versions` names other measures than there are.
    """
    good = [row for row in clips.to_pylist() if row["reason"] is None]
    if not good:
        raise ValueError(f"no clip to score: all {clips.num_rows} rows of the clips table have a reason")
    if (split.frames - 1) / split.fps < params.sample_seconds:
        raise ValueError(
            f"score.sample_seconds {params.sample_seconds:g} leaves no pair in {split.frames} frames at {split.fps} fps"
        )
    if versions.keys() != MEASURE_VERSIONS.keys():
        raise ValueError(
            f"versions.yaml names the measures {sorted(versions)}, the code has {sorted(MEASURE_VERSIONS)}"
        )
    settings = settings_of(limit, split, params, root)
    stores = {
        name: root / "runs" / "measures" / f"{name}-v{versions[name]}-{settings.digest(name)}"
        for name in settings.measures
    }
    known = _recall(stores, {row["video_id"] for row in good})
    uris = {row["video_id"]: row["uri"] for row in videos.to_pylist() if row["reason"] is None}
    chunks = plan(good, uris, known, CHUNK_WITH_PICTURES if settings.networks else CHUNK)
    networks = Networks(settings, params, root) if chunks else None
    reasons = _measure_missing(chunks, settings, networks, stores, known, params.workers, root, track)
    return [_row(row["clip_id"], known, reasons.get(row["clip_id"])) for row in good]


def plan(
    clips: Sequence[Row], uris: Mapping[str, str], known: Mapping[str, Mapping[str, Values]], size: int
) -> list[Chunk]:
    """The chunks to read: each video's clips in order of time, by the measures they lack. Nothing known is in it."""
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
    networks: Networks | None,
    stores: Mapping[str, Path],
    known: dict[str, dict[str, Values]],
    workers: int,
    root: Path,
    track: Track[Any],
) -> dict[str, str]:
    """Measure all chunks, adding to `known` and its stores; returns the reason of each clip that failed."""
    reasons: dict[str, str] = {}
    workers = max(1, min(workers, len(chunks)))
    with Sandboxes(workers) as sandboxes, ThreadPoolExecutor(workers) as pool, tempfile.TemporaryDirectory() as scratch:

        def decode(numbered: tuple[int, Chunk]) -> Decoded:
            folder = Path(scratch) / str(numbered[0])
            folder.mkdir()
            return Decoded(_measure_chunk(numbered[1], settings, root, sandboxes, folder), folder)

        results = _ahead(pool, decode, list(enumerate(chunks)), workers + 1)
        for chunk, decoded in zip(chunks, track(results, len(chunks), "score"), strict=True):
            result = _add_networks(decoded, chunk, networks) if networks and settings.networks else decoded.values
            done = {clip: values for clip, values in result.items() if "reason" not in values}
            reasons |= {clip: values["reason"] for clip, values in result.items() if "reason" in values}
            for name in chunk.measures if done else ():
                values = {clip: {key: found[key] for key in (*COLUMNS[name], *SIZE)} for clip, found in done.items()}
                known[name] |= values
                _keep(stores[name] / chunk.clips[0]["video_id"], values)
    return reasons


@dataclass(frozen=True)
class Decoded:
    """What the child measured of a chunk, and where it left pictures for the networks."""

    values: dict[str, Values]
    folder: Path


def _ahead(pool: ThreadPoolExecutor, work: Callable[[T], R], items: Sequence[T], most: int) -> Iterator[R]:
    """Results in order, with at most `most` begun and not yet taken: pictures must not pile up before a network."""
    begun: deque[Future[R]] = deque()
    for item in items:
        begun.append(pool.submit(work, item))
        if len(begun) >= most:
            yield begun.popleft().result()
    while begun:
        yield begun.popleft().result()


def _add_networks(decoded: Decoded, chunk: Chunk, networks: Networks) -> dict[str, Values]:
    """The child's values and the networks' together; the pictures are removed. A clip that left others than it was
    asked for has a reason."""
    result, pictures = dict(decoded.values), {}
    for clip, values in decoded.values.items():
        try:
            if "reason" not in values:
                pictures[clip] = networks.load(decoded.folder, clip, chunk.measures)
        except ValueError as error:
            result[clip] = {"reason": str(error)}
    frames = {row["clip_id"]: row["frames"] for row in chunk.clips}
    for clip, values in networks.measure(pictures, frames, chunk.measures).items():
        result[clip] = result[clip] | values
    for file in decoded.folder.iterdir():
        file.unlink()
    return result


def _measure_chunk(
    chunk: Chunk, settings: Settings, root: Path, sandboxes: Sandboxes, folder: Path
) -> dict[str, Values]:
    """Measure a chunk in one read; if that read dies, each of its clips alone, to find the one that kills it."""
    place = chunk.uri if is_remote(chunk.uri) else str(root / chunk.uri)
    with local_copy(place) as path:
        try:
            return ask(sandboxes, path, [_span(row) for row in chunk.clips], chunk.measures, settings, folder)
        except ValueError:
            return {
                row["clip_id"]: _ask_alone(sandboxes, path, row, chunk.measures, settings, folder)
                for row in chunk.clips
            }


def _span(row: Row) -> tuple[str, int, int, int]:
    return row["clip_id"], row["start_pts"], row["end_pts"], row["frames"]


def _ask_alone(
    sandboxes: Sandboxes, path: Path, row: Row, measures: Sequence[str], settings: Settings, folder: Path
) -> Values:
    try:
        return ask(sandboxes, path, [_span(row)], measures, settings, folder)[row["clip_id"]]
    except ValueError as error:
        return {"reason": str(error)}


def ask(
    sandboxes: Sandboxes | Sandbox,
    path: Path,
    spans: Sequence[tuple[str, int, int, int]],
    measures: Sequence[str],
    settings: Settings,
    folder: Path,
) -> dict[str, Values]:
    """`measure_clips` in a sandbox. ValueError where the file cannot be opened or the child did not survive it."""
    result: dict[str, Values] = sandboxes.call(
        "data_pipeline.score.clip:measure_clips",
        within=CLIP_SECONDS * len(spans),
        path=str(path),
        spans=[list(span) for span in spans],
        measures=list(measures),
        settings=settings.as_json(),
        folder=str(folder),
    )
    return result


def _recall(stores: Mapping[str, Path], video_ids: set[str]) -> dict[str, dict[str, Values]]:
    """{measure: {clip_id: its columns}} of what was measured before under these versions and settings."""
    return {
        name: {clip: values for video_id in sorted(video_ids) for clip, values in _kept(store / video_id)}
        for name, store in stores.items()
    }


def _kept(folder: Path) -> Iterator[tuple[str, Values]]:
    for file in sorted(folder.glob("*.parquet")):
        for row in pq.read_table(file).to_pylist():
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
