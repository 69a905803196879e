"""Films and pictures on disk that say what they are: how one is written, and whether it is there already."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infra.storage import atomic_text, atomic_write

if TYPE_CHECKING:
    from torch import Tensor

    from sana_video.video.mp4 import Mp4Writer

INDEX = "index.json"
FOUND = {"skipped_steps"}  # what a file says that was not known before it was made


@dataclass(frozen=True)
class Job:
    """One video: where it goes, and everything it depends on."""

    out: Path
    prompt: str
    seed: int
    about: dict[str, Any]


def made(job: Job) -> bool:
    """Whether the video is there; ValueError if another one has its place."""
    if not job.out.is_file():
        return False
    there = read_about(job.out)
    differing = sorted(key for key in {*there, *job.about} - FOUND if there.get(key) != job.about.get(key))
    if differing:
        key = differing[0]
        raise ValueError(
            f"{job.out} was made with {key} {there.get(key)!r}, not {job.about.get(key)!r}; give another --out folder"
        )
    return True


def read_about(path: Path) -> dict[str, Any]:
    """What a finished file says of itself."""
    if path.suffix == ".png":
        from flows import picture

        return picture.read_about(path)
    from sana_video.video.mp4 import read_metadata

    try:
        told = json.loads(read_metadata(path)["comment"])
    except (KeyError, ValueError):  # a film of somebody else's
        return {}
    return told if isinstance(told, dict) else {}


def write(jobs: Sequence[Job], pieces: Iterator[Tensor], found: Callable[[], Mapping[str, Any]] = dict) -> None:
    """Write uint8 pieces (B, f, H, W, 3), a row for each of `jobs`, as they come: mp4s, or PNGs where there is one
    frame. `found()`: what the files say besides, asked once the first piece is there.

    Films are encoded on threads of their own, while the next pieces are made.
    """
    first = next(pieces)
    told = [replace(job, about={**job.about, **found()}) for job in jobs]
    if told[0].about["frames"] == 1:
        from flows.picture import png

        for job, frames in zip(told, first, strict=True):
            atomic_write(job.out, png(frames[0].numpy(), job.about))
        return
    from sana_video.video.behind import Behind

    with ExitStack() as open_films:
        writers = [open_films.enter_context(_film(job)) for job in told]
        behind = [open_films.enter_context(Behind(writer.add)) for writer in writers]
        for piece in chain([first], pieces):
            for film, frames in zip(behind, piece, strict=True):
                film.add(frames.numpy())


def _film(job: Job) -> Mp4Writer:
    from sana_video.video.mp4 import Mp4Writer

    about = job.about
    metadata = {
        "title": job.prompt,
        "comment": json.dumps(about, ensure_ascii=False, sort_keys=True),
        "copyright": "; ".join(about["attribution"]),
    }
    fps = Fraction(about["fps"]).limit_denominator(1001)
    told = {key: value for key, value in metadata.items() if value}
    return Mp4Writer(job.out, (about["height"], about["width"]), fps, told)


def write_index(folder: Path, jobs: Sequence[Job]) -> None:
    """index.json: what there is of the jobs, with the settings of each."""
    there = [{"file": job.out.name, **job.about} for job in jobs if job.out.is_file()]
    atomic_text(folder / INDEX, json.dumps(there, indent=1, ensure_ascii=False) + "\n")
