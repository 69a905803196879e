"""What a worker does with videos: reads each once, small, in its sandbox, and lays clips into the shots it finds.

Nothing heavy is imported before it is used: a worker starts at once, and its sandbox with what reads films beside it.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_pipeline.films import at_hand, sandbox
from data_pipeline.split.reading import Reading
from data_pipeline.split.shots import mark_transitions, shots_of
from data_pipeline.split.spans import clips_of, failed

if TYPE_CHECKING:
    from data_pipeline.params import LimitParams, SplitParams
    from data_pipeline.tables import Row
    from sana_video.video.transnet import TransNetV2

DETECTION_SIDE = 144  # PySceneDetect's own choice is 256 pixels of width: 144 lines of a 16:9 picture
SECONDS_PER_FRAME = 0.1  # wall time that a sandbox may take, per frame of the video, before it counts as hung
WINDOWS_AT_ONCE = {"cuda": 16, "cpu": 1}  # of 100 frames


def find_clips(
    videos: Sequence[Row], limit: LimitParams, params: SplitParams, root: Path, threads: int
) -> Iterator[list[Row] | str]:
    """For each video its rows of the clips table, or the reason why it cannot be read. `threads`: of its decoder."""
    for video in videos:
        with at_hand(video["uri"], root) as path:
            try:
                reading = _read(video, path, limit, params, root, threads)
            except ValueError as error:
                yield str(error)
                continue
        shots = shots_of(reading, params.min_shot_seconds)
        rows = list(clips_of(video, shots, Fraction(reading.time_base), params))
        yield rows or [failed(video, params, "SHOT_TOO_SHORT: black, fades and transitions are all there is")]


def _read(video: Row, path: Path, limit: LimitParams, params: SplitParams, root: Path, threads: int) -> Reading:
    if params.detector != "transnetv2":
        return _in_sandbox(video, path, limit, params, threads)
    network = _network(root / params.weights)
    with tempfile.TemporaryDirectory(prefix="split-") as folder:
        frames = Path(folder, "frames")
        more = {"frames_at": str(frames), "frame_size": network.size}
        reading = _in_sandbox(video, path, limit, params, threads, **more)
        network.mark(reading, frames, params.threshold)
    return reading


def _in_sandbox(video: Row, path: Path, limit: LimitParams, params: SplitParams, threads: int, **more: Any) -> Reading:
    seconds, side = limit.seconds, limit.short_side or DETECTION_SIDE
    frames = min(video["duration"], seconds or video["duration"]) * video["fps"]
    found = sandbox().call(
        "data_pipeline.split.film:read",
        within=120.0 + SECONDS_PER_FRAME * frames,
        path=str(path),
        detector=params.detector,
        threshold=params.threshold,
        black_level=params.black_level,
        seconds=seconds,
        short_side=min(side, DETECTION_SIDE),
        threads=threads,
        **more,
    )
    return Reading(**found)


class _Network:
    """TransNet V2, on the frames that the sandbox leaves in a file: they stay on the machine that read the film."""

    def __init__(self, weights: Path) -> None:
        from sana_video.device import best_device
        from sana_video.video import transnet

        device = best_device()
        self._network: TransNetV2 = transnet.load_transnet(weights, device)
        self._at_once = WINDOWS_AT_ONCE["cuda" if device.type == "cuda" else "cpu"]
        self.size = transnet.HEIGHT, transnet.WIDTH

    def mark(self, reading: Reading, frames: Path, threshold: float) -> None:
        """Put the transitions into `reading` whose frames lie in a file. ValueError if they are not all there."""
        import numpy as np

        shape = (len(reading.pts), *self.size, 3)
        if frames.stat().st_size != np.prod(shape):
            raise ValueError(f"DECODER_CRASHED: {frames.stat().st_size} bytes are not {shape[0]} frames")
        verdicts = self._network.predict(np.memmap(frames, np.uint8, "r", shape=shape), self._at_once)
        mark_transitions(reading, verdicts, threshold)


@functools.lru_cache(maxsize=1)
def _network(weights: Path) -> _Network:
    """Loaded once a worker. MissingWeights where they are not there."""
    return _Network(weights)
