"""Are copies of a real film found? Re-encoded, rescaled and recut by us, and its own trailer: recall of `dedup`.

    python -m data_pipeline.material --raw data/raw
    python benchmarks/copies.py --out benchmarks/results/copies.json

Each copy is split and hashed as the pipeline does, beside the film, with the thresholds of params.yaml. `recut` takes
every shot of the film without its first 7 frames, so that no clip of it begins where one of the film does. A clip of
a copy is planted if at least 0.6 of it lies in one clip of the film, as much as `dedup` asks of two clips, and found
if not both of them go on. `wrong` tells of each twin of a clip of another shot of the film what found it, how far apart
both are, and where they begin.
Where the clips of the trailer come from nobody has written down: each of its compared pictures is looked for among all
pictures of the film, and a clip counts if all are there, half a second apart. Titles that the trailer lays over its
pictures are part of what is compared.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
import cv2
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from data_pipeline import dedup, ingest, split, tables
from data_pipeline.near import MIN_OVERLAP
from data_pipeline.params import DataParams
from data_pipeline.score.clip import measure_clips
from data_pipeline.score.settings import settings_of
from infra.settings import find_root, load_section

RATE = 24  # of the film
LEFT_OUT = 7  # frames at the beginning of each shot of the recut: 0.29 s
SIZE = (32, 18)  # pictures that the trailer's are looked for among
SAME, APART = 14.0, 0.11  # mean difference of two such pictures, 0-255; seconds that a place may be off

Pixels = NDArray[np.uint8]
Row = dict[str, Any]
Figures = dict[str, Any]


class Span(NamedTuple):
    start: float  # seconds
    end: float

    def share_of(self, other: Span) -> float:
        """Of `other`, the share that lies within."""
        return max(0.0, min(self.end, other.end) - max(self.start, other.start)) / (other.end - other.start)


@dataclass(frozen=True)
class Film:
    """A film's clips, with the hashes and the embedding of each."""

    video: Row
    clips: list[Row]
    scores: list[Row]

    def until(self, seconds: float) -> Film:
        """Its clips of the first so many seconds."""
        inside = [place for place, row in enumerate(self.clips) if row["end"] <= seconds]
        return Film(self.video, [self.clips[place] for place in inside], [self.scores[place] for place in inside])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--film", type=Path, default=Path("data/raw/film/big_buck_bunny.mp4"))
    parser.add_argument("--trailer", type=Path, default=Path("data/raw/more/big_buck_bunny_trailer.mp4"))
    parser.add_argument("--seconds", type=int, default=240, help="of the film are copied; the trailer's is all of it")
    parser.add_argument(
        "--set", dest="overrides", action="append", default=[], help="other params, as sana-video has it"
    )
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    params = load_section(find_root(Path.cwd()) / "params.yaml", "data", DataParams, given.overrides)
    with tempfile.TemporaryDirectory() as folder:
        figures = dict(measure(Path(folder), given.film.resolve(), given.trailer.resolve(), given.seconds, params))
    if given.out:
        asked = {**params.dedup.model_dump(), "sample_seconds": params.score.sample_seconds}
        given.out.write_text(json.dumps({"seconds": given.seconds, "dedup": asked, "copies": figures}, indent=1) + "\n")


def measure(root: Path, film: Path, trailer: Path, seconds: int, params: DataParams) -> Iterator[tuple[str, Figures]]:
    whole = read(root, film, params)
    original = whole.until(seconds)
    shots = sorted({Fraction(row["shot_start"]).limit_denominator(24) for row in original.clips})
    begins = np.array([round(float(start) * RATE) for start in shots])
    kept = [n for n in range(seconds * RATE) if not ((n >= begins) & (n < begins + LEFT_OUT)).any()]
    copies = {
        "re-encoded": recoded(film, root / "coarse.mp4", seconds, lambda frame: frame, crf=34),
        "rescaled": recoded(film, root / "small.mp4", seconds, lambda frame: frame.reformat(512, 288), crf=23),
        "recut": recoded(film, root / "recut.mp4", seconds, lambda frame: frame, crf=23, frames=set(kept)),
    }
    for name, path in copies.items():
        times = np.array(kept if name == "recut" else range(seconds * RATE)) / RATE
        yield name, shown(name, judged(original, read(root, path, params), lambda span, t=times: at(t, span), params))
    yield "trailer", shown("trailer", judged(whole, read(root, trailer, params), Place(film, trailer), params))


def at(times: NDArray[np.float64], span: Span) -> Span | None:
    """Where in the film a span of a copy comes from, whose frames were the film's at `times`; None across a cut."""
    first, last = (min(len(times) - 1, round(end * RATE)) for end in span)
    unbroken = abs(times[last] - times[first] - (last - first) / RATE) < 1e-6
    return Span(times[first], times[first] + span.end - span.start) if unbroken else None


class Place:
    """Where in the film a span of the trailer comes from: its pictures among all of the film's."""

    def __init__(self, film: Path, trailer: Path) -> None:
        self.times, self.film = icons(film)
        self.trailer = trailer
        self.own_times, self.own = icons(trailer)

    def __call__(self, span: Span) -> Span | None:
        asked = np.arange(span.start, span.end, 0.5)
        found = []
        for moment in asked:
            picture = self.own[int(np.argmin(np.abs(self.own_times - moment)))]
            off = np.abs(self.film - picture).mean(axis=(1, 2))
            if off.min() > SAME:
                return None
            found.append(self.times[int(np.argmin(off))])
        steady = np.abs(np.array(found) - asked - (found[0] - asked[0])).max() <= APART
        return Span(found[0], found[0] + span.end - span.start) if steady else None


def icons(path: Path) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """(times in seconds, grey pictures of SIZE less their mean) of every frame."""
    times, pictures = [], []
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            grey = cv2.resize(frame.to_ndarray(format="gray8"), SIZE, interpolation=cv2.INTER_AREA).astype(np.float32)
            pictures.append(grey - grey.mean())
            times.append(float(frame.time))
    return np.array(times), np.stack(pictures)


def judged(film: Film, copy: Film, origin: Callable[[Span], Span | None], params: DataParams) -> Figures:
    """Recall and wrong twins of a copy's clips; `origin` tells where in the film a span comes from."""
    clips, scores = table("clips", [*film.clips, *copy.clips]), table("scores", [*film.scores, *copy.scores])
    twins = dedup.run(table("videos", [film.video, copy.video]), clips, scores, params.dedup)
    twin_of = {row["clip_id"]: row["twin_of"] for row in twins.to_pylist()}
    begins = {row["clip_id"]: row["start"] for row in [*film.clips, *copy.clips]}
    spans = {row["clip_id"]: (Span(row["start"], row["end"]), row["shot"]) for row in film.clips}
    shots = {clip: shot for clip, (_, shot) in spans.items()}
    planted = found = 0
    for row in copy.clips:
        source = origin(Span(row["start"], row["end"]))
        near = [] if source is None else [c for c, (span, _) in spans.items() if span.share_of(source) >= MIN_OVERLAP]
        planted += bool(near)
        found += bool(near) and (row["clip_id"] in twin_of or all(clip in twin_of for clip in near))
        inside = [] if source is None else [shot for span, shot in spans.values() if span.share_of(source) > 0.0]
        if inside:
            shots[row["clip_id"]] = inside[0]
    placed = [row for row in twins.to_pylist() if row["clip_id"] in shots and row["twin_of"] in shots]
    wrong = [
        {"kind": row["kind"], "distance": round(row["distance"], 4),
         "seconds": [round(begins[row[which]], 2) for which in ("clip_id", "twin_of")]}
        for row in placed if shots[row["clip_id"]] != shots[row["twin_of"]]
    ]  # fmt: skip
    return {"clips": len(copy.clips), "planted": planted, "found": found, "twins": len(placed),
            "wrong_by_hash": sum(pair["kind"] == "hash" for pair in wrong),
            "wrong_by_embedding": sum(pair["kind"] == "embedding" for pair in wrong),
            "recall": round(found / planted, 4) if planted else 0.0, "wrong": wrong}  # fmt: skip


def read(root: Path, path: Path, params: DataParams) -> Film:
    """Split a film as params say, and hash its clips by the functions of scoring."""
    folder = root / "raw" / path.stem
    folder.mkdir(parents=True)
    shutil.copy(path, folder)
    rows = ingest.run(path.stem, str(folder), params.ingest, root, track)
    videos = table("videos", rows)
    limit = params.limit.model_copy(update={"seconds": None})
    spans = [dict(row) for row in split.run(videos, limit, params.split, root, track) if row["reason"] is None]
    spans.sort(key=lambda row: row["start_pts"])
    settings = settings_of(limit, params.split, params.score, root).as_json()
    asked = [tuple(row[key] for key in ("clip_id", "start_pts", "end_pts", "frames")) for row in spans]
    found = measure_clips(str(path), asked, ("phash", "embedding"), settings, None)
    blank = {**dict.fromkeys(tables.SCORES.names), "overall": 0.5}
    return Film(dict(rows[0]), spans, [{**blank, **found[row["clip_id"]], "clip_id": row["clip_id"]} for row in spans])


def recoded(
    source: Path, path: Path, seconds: int, change: Callable[[av.VideoFrame], av.VideoFrame], crf: int,
    frames: set[int] | None = None,
) -> Path:  # fmt: skip
    """The first so many seconds of a film again, of its frames only `frames`."""
    with av.open(str(source)) as film, av.open(str(path), "w") as copy:
        stream, number = copy.add_stream("libx264", rate=RATE), 0
        stream.pix_fmt, stream.options = "yuv420p", {"crf": str(crf), "preset": "veryfast"}
        for place, frame in enumerate(film.decode(video=0)):
            if place >= seconds * RATE:
                break
            if frames is None or place in frames:
                picture = change(frame)
                if not number:
                    stream.width, stream.height = picture.width, picture.height
                picture.pts, picture.time_base = number, Fraction(1, RATE)
                copy.mux(stream.encode(picture))
                number += 1
        copy.mux(stream.encode(None))
    return path


def table(name: str, rows: Sequence[Row]) -> pa.Table:
    return pa.Table.from_pylist([dict(row) for row in rows], schema=tables.SCHEMAS[name])


def track(items: Any, total: int, label: str) -> Any:
    return items


def shown(name: str, figures: Figures) -> Figures:
    print(f"{name}: " + ", ".join(f"{value} {what}" for what, value in figures.items() if what != "wrong"), flush=True)
    return figures


if __name__ == "__main__":
    main()
