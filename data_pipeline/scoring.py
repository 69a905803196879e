"""What a worker does with clips: one decode each in its sandbox, and the networks on the pictures that it leaves there.

Pictures never leave the machine that decoded them: only the columns of the table go back. Nothing heavy is imported
before it is used: a worker starts at once, and its sandbox with what measures beside it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_pipeline.films import at_hand, sandbox

if TYPE_CHECKING:
    from data_pipeline.params import ScoreParams
    from data_pipeline.score.networks import Networks
    from data_pipeline.tables import Row
    from sana_video.video.sandbox import Sandbox

CHUNK = 16  # clips read by one call
CHUNK_WITH_PICTURES = 4  # where pictures are left for networks: up to 35 MB a clip
CLIP_SECONDS = 60.0  # wall time allowed per clip before its decoder counts as hung

Values = dict[str, Any]
Span = tuple[str, int, int, int]


@dataclass(frozen=True)
class Chunk:
    """Clips of one video, in order of time, that lack the same measures."""

    uri: str
    clips: tuple[Row, ...]
    measures: tuple[str, ...]

    def halves(self) -> list[Chunk]:
        """Its two halves; itself where it is a single clip."""
        middle = len(self.clips) // 2
        parts = (self.clips[:middle], self.clips[middle:])
        return [Chunk(self.uri, part, self.measures) for part in parts if part]


def measure_chunks(
    chunks: Sequence[Chunk], settings: Values, root: Path, networks: ScoreParams | None, threads: int
) -> Iterator[dict[str, Values]]:
    """For each chunk {clip_id: the columns of its measures, or {"reason": …}}. `settings`: `Settings.as_json`.

    `networks`: what params say of them, where any is asked for; one that runs on the CPU has so many `threads`.
    """
    running = _networks(settings, networks, root, threads) if networks else None
    at_once = CHUNK_WITH_PICTURES if running else CHUNK
    for chunk in chunks:
        found: dict[str, Values] = {}
        with at_hand(chunk.uri, root) as path:
            for at in range(0, len(chunk.clips), at_once):
                found |= _measure(path, chunk.clips[at : at + at_once], chunk.measures, settings, running)
        yield found


def _networks(settings: Values, params: ScoreParams, root: Path, threads: int) -> Networks:
    from data_pipeline.score.networks import loaded
    from data_pipeline.score.settings import Settings

    return loaded(Settings(**settings), params, root, threads)


def _measure(
    path: Path, clips: Sequence[Row], measures: Sequence[str], settings: Values, networks: Networks | None
) -> dict[str, Values]:
    with tempfile.TemporaryDirectory(prefix="score-") as folder:
        values = _decode(path, clips, measures, settings, Path(folder))
        return _add_networks(values, Path(folder), clips, measures, networks) if networks else values


def _decode(
    path: Path, clips: Sequence[Row], measures: Sequence[str], settings: Values, folder: Path
) -> dict[str, Values]:
    """Measure clips in one read; if that read dies, each of them alone, to find the one that kills it."""
    spans = [(row["clip_id"], row["start_pts"], row["end_pts"], row["frames"]) for row in clips]
    try:
        return ask(sandbox(), path, spans, measures, settings, folder)
    except ValueError:
        return {span[0]: _decode_alone(path, span, measures, settings, folder) for span in spans}


def _decode_alone(path: Path, span: Span, measures: Sequence[str], settings: Values, folder: Path) -> Values:
    try:
        return ask(sandbox(), path, [span], measures, settings, folder)[span[0]]
    except ValueError as error:
        return {"reason": str(error)}


def ask(
    sandbox: Sandbox, path: Path, spans: Sequence[Span], measures: Sequence[str], settings: Values, folder: Path
) -> dict[str, Values]:
    """`measure_clips` in a sandbox. ValueError where the file cannot be opened or the child did not survive it."""
    result: dict[str, Values] = sandbox.call(
        "data_pipeline.score.clip:measure_clips",
        within=CLIP_SECONDS * len(spans),
        path=str(path),
        spans=[list(span) for span in spans],
        measures=list(measures),
        settings=settings,
        folder=str(folder),
    )
    return result


def _add_networks(
    values: dict[str, Values], folder: Path, clips: Sequence[Row], measures: Sequence[str], networks: Networks
) -> dict[str, Values]:
    """The child's values and the networks' together. A clip that left other pictures than asked for has a reason."""
    result, pictures = dict(values), {}
    for clip, found in values.items():
        try:
            if "reason" not in found:
                pictures[clip] = networks.load(folder, clip, measures)
        except ValueError as error:
            result[clip] = {"reason": str(error)}
    frames = {row["clip_id"]: row["frames"] for row in clips}
    for clip, found in networks.measure(pictures, frames, measures).items():
        result[clip] = result[clip] | found
    return result
