"""split: videos -> shots -> clips, as spans of PTS. Pixels stay where they are.

Each video is read once, small, in a sandbox (`film`); cuts, black frames and transitions divide it into shots
(`shots`); a shot is trimmed at both ends (a cut is never quite sharp after coding) and filled with clips, each exactly
`frames` at `fps` on the clock of the stream (`spans`); what is left over at its end is dropped. A shot that holds no
clip is a row with its reason. How often a frame of the next shot gets through is measured by `benchmarks/leaks.py`.

Videos go to the workers of the engine (`data_pipeline/splitting.py`), the longest first. The rows of a video are kept
under runs/splits/v<version>-<settings>/, written as they come: a killed stage goes on where it stood, a film that is
added to a batch is split alone, and a changed setting splits all again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from data_pipeline.params import LimitParams, SplitParams
from data_pipeline.split.spans import clip_id as clip_id
from data_pipeline.split.spans import clips_of as clips_of
from data_pipeline.split.spans import failed
from data_pipeline.split.spans import spans_in as spans_in
from infra import engine
from infra.storage import atomic_text, digest

if TYPE_CHECKING:
    import pyarrow as pa

    from data_pipeline.tables import Row

SPLIT_VERSION = 2

WORK = "data_pipeline.splitting:find_clips"  # what the engine calls in its workers

log = logging.getLogger(__name__)

T = TypeVar("T")
Track = Callable[[Iterable[T], int, str], Iterable[T]]


def run(videos: pa.Table, limit: LimitParams, params: SplitParams, root: Path, track: Track[Any]) -> list[Row]:
    """Rows of the clips table for the videos without a reason. ValueError if there is none.

    A video whose decoding fails gives one row with that reason and no clip; its neighbours are unharmed. ValueError
    where `transnetv2` is asked for and its weights are not there.
    """
    good = [row for row in videos.to_pylist() if row["reason"] is None]
    if not good:
        raise ValueError(f"no video to split: all {videos.num_rows} were rejected, see the reasons in the videos table")
    place = root / "runs" / "splits" / f"v{SPLIT_VERSION}-{_settings(limit, params, root)}"
    found = {video["video_id"]: rows for video in good if (rows := _recall(place, video)) is not None}
    wanted = [video for video in good if video["video_id"] not in found]
    if wanted:
        found |= _split(wanted, limit, params, root, place, track)
    return [row for video in good for row in found[video["video_id"]]]


def _split(
    videos: list[Row], limit: LimitParams, params: SplitParams, root: Path, place: Path, track: Track[Any]
) -> dict[str, list[Row]]:
    cores = len(os.sched_getaffinity(0))
    videos.sort(key=lambda video: (-video["duration"], video["uri"]))
    sizes = [max(1, round(_seconds(video, limit) * params.fps / params.frames)) for video in videos]
    found: dict[str, list[Row]] = {}
    with engine.opened(min(cores, len(videos)), networks=params.detector == "transnetv2") as here:
        common = {"limit": limit, "params": params, "root": root, "threads": max(1, cores // here.slots)}
        shards = engine.shards_of(videos, sizes, here.slots)
        results = engine.results(here, WORK, shards, common)
        for video, result in track(results, len(videos), "split"):
            reason = result.reason if isinstance(result, engine.Lost) else result if isinstance(result, str) else None
            found[video["video_id"]] = result if reason is None else [failed(video, params, reason)]
            if reason is None:  # what could not be read is tried again the next time
                atomic_text(place / f"{video['video_id']}.json", json.dumps(result))
    return found


def _seconds(video: Row, limit: LimitParams) -> float:
    return float(min(video["duration"], limit.seconds or video["duration"]))


def _settings(limit: LimitParams, params: SplitParams, root: Path) -> str:
    """Names all that the rows of a video depend on besides its bytes; weights count by their content."""
    weights = root / params.weights
    network = digest(weights) if params.detector == "transnetv2" and weights.exists() else None
    told = [limit.model_dump(mode="json"), params.model_dump(mode="json", exclude={"weights"}), network]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:12]


def _recall(place: Path, video: Row) -> list[Row] | None:
    """The rows of a video that was split before under these settings; its source may be called otherwise by now."""
    path = place / f"{video['video_id']}.json"
    if not path.is_file():
        return None
    try:
        rows: list[Row] = json.loads(path.read_bytes())
    except ValueError:  # nothing is lost by it but the time
        log.warning("%s is damaged: its film is split again", path)
        return None
    return [{**row, "source": video["source"]} for row in rows]
