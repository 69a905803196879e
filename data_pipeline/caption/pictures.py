"""Pictures of a clip for a captioner: at equal distances of time, by PTS, as JPEG.

A file is opened in the sandbox of a worker, as everywhere; what comes out is JPEG that we wrote ourselves, the same
bytes whichever captioner sees them. A clip that cannot be decoded costs its own caption.
"""

from __future__ import annotations

import base64
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from data_pipeline.films import at_hand, sandbox
from data_pipeline.tables import Row
from infra import engine
from infra.storage import is_remote

JPEG_QUALITY = 90
CHUNK = 8  # clips read by one call
REEL = 64  # clips of a remote film that are read at a time: it is fetched for each
CLIP_SECONDS = 60.0

WORK = f"{__name__}:read"  # what the engine calls in its workers

Pictures = tuple[bytes, ...]


@dataclass(frozen=True)
class Reel:
    """Clips of one film, in order of time."""

    uri: str
    clips: tuple[Row, ...]


def pictures_of(
    clips: Sequence[Row], uris: Mapping[str, str], count: int, short_side: int, root: Path, readers: int
) -> Iterator[tuple[Row, Pictures | str]]:
    """Each clip with its pictures, or with the reason why there are none.

    They come in the order of films and time from one reader, as they are done from several. Each film is read forward.
    """
    ordered = sorted(clips, key=lambda row: (row["video_id"], row["start_pts"]))
    reels = []
    for video_id, group in itertools.groupby(ordered, key=lambda row: str(row["video_id"])):
        members, uri = list(group), uris[video_id]
        many = REEL if is_remote(uri) else CHUNK
        reels += [Reel(uri, tuple(members[at : at + many])) for at in range(0, len(members), many)]
    if not reels:
        return
    with engine.opened(min(readers, len(reels))) as here:
        sizes = [len(reel.clips) for reel in reels]
        shards = engine.shards_of(reels, sizes, here.slots) if readers > 1 else [reels]
        common = {"count": count, "short_side": short_side, "root": root}
        for reel, found in engine.results(here, WORK, shards, common):
            if isinstance(found, engine.Lost):
                yield from ((clip, found.reason) for clip in reel.clips)
            else:
                yield from zip(reel.clips, found, strict=True)


def read(reels: Sequence[Reel], count: int, short_side: int, root: Path) -> Iterator[list[Pictures | str]]:
    """In a worker: for each reel, the pictures of its clips, or the reason why there are none."""
    for uri, group in itertools.groupby(reels, key=lambda reel: reel.uri):
        with at_hand(uri, root) as path:
            for reel in group:
                chunks = (reel.clips[at : at + CHUNK] for at in range(0, len(reel.clips), CHUNK))
                yield [found for chunk in chunks for found in _read(path, chunk, count, short_side)]


def gap(clip: Row, count: int) -> float:
    """Seconds from one picture of a clip to the next."""
    return float((clip["end_pts"] - clip["start_pts"]) * Fraction(clip["time_base"]) / count)


def jpegs(path: str, spans: Sequence[Sequence[int]], count: int, short_side: int) -> list[list[str] | str]:
    """In the sandbox: for each span [start_pts, end_pts) `count` pictures as base64 JPEG, or a reason."""
    from sana_video.video.io import Film

    found: list[list[str] | str] = []
    with Film(Path(path), short_side=short_side) as film:
        for start_pts, end_pts in spans:
            try:
                found.append([_jpeg(film, time, end_pts) for time in _times(film.time_base, start_pts, end_pts, count)])
            except ValueError as error:
                found.append(str(error))
    return found


def _read(path: Path, clips: Sequence[Row], count: int, short_side: int) -> Iterator[Pictures | str]:
    """A chunk in one call; if that call dies, each of its clips alone, to find the one that kills it."""
    try:
        found: list[list[str] | str] = sandbox().call(
            f"{__name__}:jpegs",
            within=CLIP_SECONDS * len(clips),
            path=str(path),
            spans=[[clip["start_pts"], clip["end_pts"]] for clip in clips],
            count=count,
            short_side=short_side,
        )
    except ValueError as error:
        if len(clips) == 1:
            yield str(error)
            return
        for clip in clips:
            yield from _read(path, [clip], count, short_side)
        return
    for told in found:
        yield told if isinstance(told, str) else tuple(base64.b64decode(text) for text in told)


def _times(time_base: Fraction, start_pts: int, end_pts: int, count: int) -> list[Fraction]:
    """The middle of each of `count` equal parts of the span, in seconds."""
    start, length = start_pts * time_base, (end_pts - start_pts) * time_base
    return [start + length * Fraction(2 * k + 1, 2 * count) for k in range(count)]


def _jpeg(film: Any, time: Fraction, end_pts: int) -> str:
    import cv2

    picture = film.at(time, before=end_pts * film.time_base).rgb
    done, data = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    if not done:
        raise ValueError("ENCODE_FAILED: OpenCV could not write a JPEG")
    return base64.b64encode(data.tobytes()).decode()
