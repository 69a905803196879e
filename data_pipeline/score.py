"""score: every measure of every clip, from one decode a clip.

The clips of a video are read forward in chunks, each chunk in a sandbox, so that a clip that breaks the decoder is one
row with its reason. A measured value is kept under runs/measures/<measure>-v<version>-<settings>/<video_id>/, written
as each chunk ends: a killed stage goes on where it stood, a raised version measures that one measure again, and new
thresholds measure nothing. The decode is shared by whichever measures are missing.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from data_pipeline.params import LimitParams, ScoreParams, SplitParams
from data_pipeline.tables import SCORES, Row
from infra.storage import atomic_write, is_remote, local_copy
from sana_video.video.measures import MEASURE_VERSIONS as MEASURE_VERSIONS
from sana_video.video.sandbox import Sandboxes

CHUNK = 16  # clips read by one call; a remote video is one chunk, so that it is fetched once
CLIP_SECONDS = 60.0  # wall time allowed per clip before its decoder counts as hung
CONTENT_CUT = 27.0  # PySceneDetect's content threshold, for clips that another detector cut

COLUMNS = {
    "flow_motion": ("flow_motion", "flow_pairs", "flow_estimator"),
    "vmaf_motion": ("vmaf_motion",),
    "saturation": ("saturation", "brightness", "colour"),
    "aesthetic": ("aesthetic", "technical", "overall", "aesthetic_scorer"),
    "cuts_inside": ("cuts_inside",),
    "phash": ("phash",),
}
SIZE = ("height", "width")

T = TypeVar("T")
Track = Callable[[Iterable[T], int, str], Iterable[T]]
Values = dict[str, Any]


@dataclass(frozen=True)
class Settings:
    """What the numbers depend on besides the clip's own pixels."""

    fps: int
    frames: int
    short_side: int
    sample_seconds: float
    cut_threshold: float
    flow: str
    aesthetic: str

    def digest(self) -> str:
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:12]


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
    settings, stores = settings_of(limit, split, params), {}
    for name in COLUMNS:
        stores[name] = root / "runs" / "measures" / f"{name}-v{versions[name]}-{settings.digest()}"
    known = _recall(stores, {row["video_id"] for row in good})
    uris = {row["video_id"]: row["uri"] for row in videos.to_pylist() if row["reason"] is None}
    reasons = _measure_missing(plan(good, uris, known), settings, stores, known, params.workers, root, track)
    return [_row(row["clip_id"], known, reasons.get(row["clip_id"])) for row in good]


def settings_of(limit: LimitParams, split: SplitParams, params: ScoreParams) -> Settings:
    side = min(params.short_side, limit.short_side or params.short_side)
    threshold = split.threshold if split.detector == "content" else CONTENT_CUT
    return Settings(split.fps, split.frames, side, params.sample_seconds, threshold, params.flow, params.aesthetic)


def plan(clips: Sequence[Row], uris: Mapping[str, str], known: Mapping[str, Mapping[str, Values]]) -> list[Chunk]:
    """The chunks to read: each video's clips in order of time, by the measures they lack. Nothing known is in it."""
    ordered = sorted(clips, key=lambda row: (row["video_id"], row["start_pts"]))
    wanted = [(row, lacking) for row in ordered if (lacking := _lacking(row["clip_id"], known))]
    chunks = []
    for (video_id, lacking), group in itertools.groupby(wanted, key=lambda pair: (pair[0]["video_id"], pair[1])):
        members, uri = [row for row, _ in group], uris[video_id]
        size = len(members) if is_remote(uri) else CHUNK
        chunks += [Chunk(uri, tuple(members[at : at + size]), lacking) for at in range(0, len(members), size)]
    return chunks


def _lacking(clip: str, known: Mapping[str, Mapping[str, Values]]) -> tuple[str, ...]:
    return tuple(name for name in COLUMNS if clip not in known[name])


def _measure_missing(
    chunks: list[Chunk],
    settings: Settings,
    stores: Mapping[str, Path],
    known: dict[str, dict[str, Values]],
    workers: int,
    root: Path,
    track: Track[Any],
) -> dict[str, str]:
    """Measure all chunks, adding to `known` and its stores; returns the reason of each clip that failed."""
    reasons: dict[str, str] = {}
    workers = max(1, min(workers, len(chunks)))
    with Sandboxes(workers) as sandboxes, ThreadPoolExecutor(workers) as pool:
        results = pool.map(lambda chunk: _measure_chunk(chunk, settings, root, sandboxes), chunks)
        for chunk, result in zip(chunks, track(results, len(chunks), "score"), strict=True):
            done = {clip: values for clip, values in result.items() if "reason" not in values}
            reasons |= {clip: values["reason"] for clip, values in result.items() if "reason" in values}
            for name in chunk.measures if done else ():
                values = {clip: {key: found[key] for key in (*COLUMNS[name], *SIZE)} for clip, found in done.items()}
                known[name] |= values
                _keep(stores[name] / chunk.clips[0]["video_id"], values)
    return reasons


def _measure_chunk(chunk: Chunk, settings: Settings, root: Path, sandboxes: Sandboxes) -> dict[str, Values]:
    """Measure a chunk in one read; if that read dies, each of its clips alone, to find the one that kills it."""
    place = chunk.uri if is_remote(chunk.uri) else str(root / chunk.uri)
    with local_copy(place) as path:
        try:
            return _ask(sandboxes, path, chunk.clips, chunk.measures, settings)
        except ValueError:
            return {row["clip_id"]: _ask_alone(sandboxes, path, row, chunk.measures, settings) for row in chunk.clips}


def _ask_alone(sandboxes: Sandboxes, path: Path, row: Row, measures: Sequence[str], settings: Settings) -> Values:
    try:
        return _ask(sandboxes, path, [row], measures, settings)[row["clip_id"]]
    except ValueError as error:
        return {"reason": str(error)}


def _ask(
    sandboxes: Sandboxes, path: Path, clips: Sequence[Row], measures: Sequence[str], settings: Settings
) -> dict[str, Values]:
    result: dict[str, Values] = sandboxes.call(
        "data_pipeline.score:measure_clips",
        within=CLIP_SECONDS * len(clips),
        path=str(path),
        spans=[[row["clip_id"], row["start_pts"], row["end_pts"]] for row in clips],
        measures=list(measures),
        settings=asdict(settings),
    )
    return result


def measure_clips(
    path: str, spans: Sequence[tuple[str, int, int]], measures: Sequence[str], settings: Mapping[str, Any]
) -> dict[str, Values]:
    """{clip_id: columns of the asked measures, or {"reason": …}}, one decode a clip. Runs in the sandbox.

    `spans` are (clip_id, start_pts, end_pts) in rising order. ValueError if the file itself cannot be opened.
    """
    import cv2

    from sana_video.video.io import Film, decode_clip

    cv2.setNumThreads(1)  # the workers share the cores
    chosen, result = Settings(**settings), {}
    with Film(Path(path), short_side=chosen.short_side) as film:
        for clip_id, start, end in spans:
            try:
                clip = decode_clip(film, start, end, chosen.fps, chosen.frames)
            except ValueError as error:
                result[clip_id] = {"reason": str(error)}
            else:
                result[clip_id] = measure(clip, measures, chosen)
    return result


def measure(clip: Any, measures: Sequence[str], settings: Settings) -> Values:
    """The columns of the named measures for a `sana_video.video.io.Clip`, and its height and width."""
    from sana_video.video import measures as m

    samples = clip.rgb[m.sample_indices(settings.frames, settings.fps, settings.sample_seconds)]
    values: Values = dict(zip(SIZE, clip.rgb.shape[1:3], strict=True))
    for name in measures:
        if name == "flow_motion":
            pairs = m.flow_motion(clip.rgb, settings.fps, settings.sample_seconds)
            values |= {"flow_motion": sum(pairs) / len(pairs), "flow_pairs": pairs, "flow_estimator": m.FLOW_ESTIMATOR}
        elif name == "vmaf_motion":
            values["vmaf_motion"] = m.vmaf_motion(clip.luma)
        elif name == "saturation":
            values |= {"saturation": m.saturation(samples), "brightness": m.brightness(samples)}
            values["colour"] = m.mean_colour(samples)
        elif name == "aesthetic":
            art, craft = m.aesthetic(samples), m.technical(samples)
            values |= {"aesthetic": art, "technical": craft, "overall": m.overall(art, craft)}
            values["aesthetic_scorer"] = m.AESTHETIC_SCORER
        elif name == "cuts_inside":
            values["cuts_inside"] = m.cuts_inside(clip.rgb, settings.cut_threshold)
        elif name == "phash":
            values["phash"] = [m.phash(picture) for picture in samples]
        else:
            raise KeyError(name)
    return values


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
