"""split: videos -> shots -> clips, as spans of PTS. Pixels stay where they are.

Each video is read once, small, in a sandbox (`film`); cuts, black frames and transitions divide it into shots
(`shots`); a shot is trimmed at both ends (a cut is never quite sharp after coding) and filled with clips, each exactly
`frames` at `fps` on the clock of the stream (`spans`); what is left over at its end is dropped. A shot that holds no
clip is a row with its reason. How often a frame of the next shot gets through is measured by `benchmarks/leaks.py`.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pyarrow as pa

from data_pipeline.params import LimitParams, SplitParams
from data_pipeline.split.film import Reading
from data_pipeline.split.shots import mark_transitions, shots_of
from data_pipeline.split.spans import clip_id as clip_id
from data_pipeline.split.spans import clips_of as clips_of
from data_pipeline.split.spans import failed
from data_pipeline.split.spans import spans_in as spans_in
from data_pipeline.tables import Row
from infra.storage import is_remote, local_copy
from sana_video.video.sandbox import Sandboxes

if TYPE_CHECKING:
    from sana_video.video.transnet import TransNetV2

SPLIT_VERSION = 2

DETECTION_SIDE = 144  # PySceneDetect's own choice is 256 pixels of width: 144 lines of a 16:9 picture
SECONDS_PER_FRAME = 0.1  # wall time that a sandbox may take, per frame of the video, before it counts as hung
WINDOWS_AT_ONCE = {"cuda": 16, "cpu": 1}  # of 100 frames

T = TypeVar("T")
Track = Callable[[Iterable[T], int, str], Iterable[T]]


def run(videos: pa.Table, limit: LimitParams, params: SplitParams, root: Path, track: Track[Any]) -> list[Row]:
    """Rows of the clips table for the videos without a reason. ValueError if there is none.

    A video whose decoding fails gives one row with that reason and no clip; its neighbours are unharmed. MissingWeights
    where `transnetv2` is asked for and is not there.
    """
    good = [row for row in videos.to_pylist() if row["reason"] is None]
    if not good:
        raise ValueError(f"no video to split: all {videos.num_rows} were rejected, see the reasons in the videos table")
    cores = len(os.sched_getaffinity(0))
    workers = min(cores, len(good))
    network = _Network(root / params.weights) if params.detector == "transnetv2" else None
    with Sandboxes(workers) as sandboxes, ThreadPoolExecutor(workers) as pool:
        finder = _Finder(limit, params, root, sandboxes, max(1, cores // workers), network)
        return [row for rows in track(pool.map(finder.rows, good), len(good), "split") for row in rows]


class _Network:
    """TransNet V2, loaded once; one film at a time."""

    def __init__(self, weights: Path) -> None:
        from sana_video.device import best_device
        from sana_video.video import transnet

        device = best_device()
        self._network: TransNetV2 = transnet.load_transnet(weights, device)
        self._at_once, self._lock = WINDOWS_AT_ONCE["cuda" if device.type == "cuda" else "cpu"], Lock()
        self.size = transnet.HEIGHT, transnet.WIDTH

    def mark(self, reading: Reading, frames: Path, threshold: float) -> None:
        """Put the transitions into `reading` whose frames lie in a file. ValueError if they are not all there."""
        shape = (len(reading.pts), *self.size, 3)
        if frames.stat().st_size != np.prod(shape):
            raise ValueError(f"DECODER_CRASHED: {frames.stat().st_size} bytes are not {shape[0]} frames")
        with self._lock:
            verdicts = self._network.predict(np.memmap(frames, np.uint8, "r", shape=shape), self._at_once)
        mark_transitions(reading, verdicts, threshold)


class _Finder:
    """Splits videos one by one; safe to call from several threads."""

    def __init__(
        self,
        limit: LimitParams,
        params: SplitParams,
        root: Path,
        sandboxes: Sandboxes,
        threads: int,
        network: _Network | None,
    ) -> None:
        self._limit, self._params, self._root = limit, params, root
        self._sandboxes, self._threads, self._network = sandboxes, threads, network

    def rows(self, video: Row) -> list[Row]:
        place = video["uri"] if is_remote(video["uri"]) else str(self._root / video["uri"])
        with local_copy(place) as path:
            try:
                reading = self._read(video, path)
            except ValueError as error:
                return [failed(video, self._params, str(error))]
        shots = shots_of(reading, self._params.min_shot_seconds)
        rows = list(clips_of(video, shots, Fraction(reading.time_base), self._params))
        return rows or [failed(video, self._params, "SHOT_TOO_SHORT: black, fades and transitions are all there is")]

    def _read(self, video: Row, path: Path) -> Reading:
        if self._network is None:
            return self._in_sandbox(video, path, {})
        with tempfile.TemporaryDirectory(prefix="split-") as folder:
            frames = Path(folder, "frames")
            reading = self._in_sandbox(video, path, {"frames_at": str(frames), "frame_size": self._network.size})
            self._network.mark(reading, frames, self._params.threshold)
        return reading

    def _in_sandbox(self, video: Row, path: Path, more: dict[str, Any]) -> Reading:
        seconds, side = self._limit.seconds, self._limit.short_side or DETECTION_SIDE
        frames = min(video["duration"], seconds or video["duration"]) * video["fps"]
        found = self._sandboxes.call(
            "data_pipeline.split.film:read",
            within=120.0 + SECONDS_PER_FRAME * frames,
            path=str(path),
            detector=self._params.detector,
            threshold=self._params.threshold,
            black_level=self._params.black_level,
            seconds=seconds,
            short_side=min(side, DETECTION_SIDE),
            threads=self._threads,
            **more,
        )
        return Reading(**found)
