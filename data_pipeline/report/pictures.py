"""Three frames of a clip as one small picture inside the page, decoded in the sandbox: nobody vouches for the films.

A clip that cannot be shown, since its film is gone or does not decode, gets a line that says so: the report is read
most when something is wrong. All pictures together stay within `BUDGET`, however many thresholds and reasons there are.
"""

from __future__ import annotations

import base64
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from data_pipeline.films import at_hand
from sana_video.video.sandbox import Sandbox

FRAMES, HEIGHT, WIDTHS = 3, 84, (0.5, 2.4)  # width over height at the least and the most
QUALITY = 58
CLIP_SECONDS = 20.0
CHUNK = 8
BUDGET = 6_500_000  # characters of all data: addresses

Row = Mapping[str, Any]
Track = Callable[[Iterable[Any], int, str], Iterable[Any]]


@dataclass(frozen=True)
class Picture:
    """A `data:` address, or why there is none."""

    address: str = ""
    note: str = ""


def decode(
    ids: Sequence[str], clips: Mapping[str, Row], videos: Mapping[str, Row], root: Path, track: Track
) -> dict[str, Picture]:
    """Of each clip, in order of importance: those that do not fit into the budget get a note."""
    found: dict[str, Picture] = {}
    wanted = [clips[name] for name in dict.fromkeys(ids) if name in clips and clips[name]["end_pts"] is not None]
    ordered = sorted(wanted, key=lambda row: (row["video_id"], row["start_pts"], row["clip_id"]))
    groups = [(video, list(rows)) for video, rows in itertools.groupby(ordered, key=lambda row: str(row["video_id"]))]
    with Sandbox() as sandbox:
        for video, rows in track(groups, len(groups), "pictures"):
            found |= _of_film(sandbox, videos.get(video), rows, root)
    return _within_budget(ids, found)


def _of_film(sandbox: Sandbox, video: Row | None, rows: Sequence[Row], root: Path) -> dict[str, Picture]:
    if video is None:
        return {row["clip_id"]: Picture(note="its film is not among the videos") for row in rows}
    uri = video["uri"]
    found: dict[str, Picture] = {}
    try:
        with at_hand(uri, root) as path:
            for at in range(0, len(rows), CHUNK):
                found |= _read(sandbox, path, rows[at : at + CHUNK])
    except (ValueError, FileNotFoundError, PermissionError):
        found |= {row["clip_id"]: Picture(note="its film is gone") for row in rows if row["clip_id"] not in found}
    return found


def _read(sandbox: Sandbox, path: Path, rows: Sequence[Row]) -> dict[str, Picture]:
    """A chunk in one call; if that call dies, each of its clips alone, to find the one that kills it."""
    try:
        told = sandbox.call(
            f"{__name__}:strips",
            within=CLIP_SECONDS * len(rows),
            path=str(path),
            spans=[[row["start_pts"], row["end_pts"]] for row in rows],
        )
    except ValueError as error:
        if len(rows) == 1:
            return {rows[0]["clip_id"]: Picture(note=str(error))}
        return {name: each for row in rows for name, each in _read(sandbox, path, [row]).items()}
    return {row["clip_id"]: Picture(*each) for row, each in zip(rows, told, strict=True)}


def _within_budget(ids: Sequence[str], found: Mapping[str, Picture]) -> dict[str, Picture]:
    """`ids` holds a clip as often as the page shows it, and so often its picture counts."""
    kept: dict[str, Picture] = {}
    room = BUDGET
    for name, times in Counter(ids).items():
        kept[name] = found.get(name, Picture(note="no span of a film"))
        if len(kept[name].address) * times > room:
            kept[name] = Picture(note="left out to keep this page small")
        room -= len(kept[name].address) * times
    return kept


def strips(path: str, spans: Sequence[Sequence[int]]) -> list[tuple[str, str]]:
    """In the sandbox: (address, note) for each span [start_pts, end_pts), one of the two empty."""
    from sana_video.video.io import Film

    found = []
    with Film(Path(path), short_side=HEIGHT * 2) as film:
        for start, end in spans:
            try:
                found.append((_strip(film, start, end), ""))
            except ValueError as error:
                found.append(("", str(error)))
    return found


def _strip(film: Any, start: int, end: int) -> str:
    """Pictures from the middle of each third, side by side, as WebP."""
    import cv2
    import numpy as np

    base = film.time_base
    times = [(start + (end - start) * Fraction(2 * k + 1, 2 * FRAMES)) * base for k in range(FRAMES)]
    small = [_fit(film.at(time, before=end * base).rgb) for time in times]
    done, data = cv2.imencode(".webp", np.concatenate(small, axis=1)[..., ::-1], [cv2.IMWRITE_WEBP_QUALITY, QUALITY])
    if not done:
        raise ValueError("ENCODE_FAILED: OpenCV could not write a WebP")
    return "data:image/webp;base64," + base64.b64encode(data.tobytes()).decode()


def _fit(picture: Any) -> Any:
    import cv2

    height, width = picture.shape[:2]
    least, most = WIDTHS
    return cv2.resize(
        picture, (round(HEIGHT * min(most, max(least, width / height))), HEIGHT), interpolation=cv2.INTER_AREA
    )
