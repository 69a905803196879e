"""How many frames of another shot get into clips: films with known cuts through `split`, by detector.

    python benchmarks/leaks.py [--detectors content adaptive …] [--films 24fps vfr …] [--weights DIR] [--out FILE]

Each film is rendered (H.264 with B-frames) with the number of its shot written into every frame, split as the pipeline
does, and every clip is decoded: a frame whose number is not that of most of its clip has leaked, and so has a frame
of a dissolve or a fade. `lost` counts the clips that the true shots would hold and that are missing. The measure
`cuts_inside` is the check on what was cut: `passed` counts the leaking clips that it does not see, `refused` the clean
ones that it would drop. `transnetv2` takes part where `--weights` names the folder of its weights.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from data_pipeline import ingest, split, tables
from data_pipeline.params import IngestParams, LimitParams, ScoreParams, SplitParams
from data_pipeline.score.clip import measure_clips
from data_pipeline.score.settings import settings_of
from sana_video.video.io import decode_spans

THRESHOLDS = {"content": 27.0, "adaptive": 3.0, "hash": 0.35, "histogram": 0.2, "transnetv2": 0.5}
SIZE = (96, 160)
BLOCK, BITS = 4, 6  # the number of the shot: 6 black or white squares of 4x4 in the top left corner
MIXED = 63  # the number of a frame that belongs to no shot
CLOCK = 12_000  # ticks a second of the rendered files
INGEST = IngestParams(min_seconds=0.1, max_seconds=120.0, max_pixels=1 << 22, min_short_side=16)
SCORE = ScoreParams(short_side=96, flow="dis", aesthetic="classical", sample_seconds=0.5, workers=1)
SPLIT = {"min_shot_seconds": 0.6, "fps": 16, "frames": 17, "trim_frames": 1}

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Film:
    """Shots of `lengths` seconds, frames at `stamps`; between shots `soft` seconds of dissolve or fade."""

    kind: str
    lengths: Sequence[float]
    fps: Sequence[float] = (24.0,)  # one for all, or by turns every second
    speed: float = 60.0  # pixels a second that pictures pan
    alike: bool = False  # all shots in the colours of the first
    flash: float | None = None  # seconds from the beginning of one flash to the next
    soft: float = 0.0
    through_black: bool = False
    options: dict[str, str] = field(default_factory=dict)

    def stamps(self) -> list[Fraction]:
        """When each frame is shown, in seconds, on the clock of the file."""
        stamps, now, end = [], Fraction(0), Fraction(sum(self.lengths))
        while now < end:
            stamps.append(now)
            rate = self.fps[int(now) % len(self.fps)]
            now += Fraction(round(CLOCK / rate), CLOCK) if rate == int(rate) else Fraction(1001, round(rate * 1001))
        return stamps

    def edges(self) -> list[float]:
        return [sum(self.lengths[:k]) for k in range(len(self.lengths) + 1)]


def _before_end(fps: float) -> list[float]:
    """Lengths such that each cut lies one frame before the end of a clip that would be laid from the last cut."""
    frames, margin = int(SPLIT["frames"]), int(SPLIT["trim_frames"])
    return [(margin + clips * frames) / 16 - 1 / fps for clips in (1, 2, 1, 3)] + [2.0]


EVEN = (2.6, 1.9, 3.1, 2.2, 2.7)
FILMS: dict[str, Film] = {
    **{f"{rate:g}fps": Film("hard", EVEN, (rate,)) for rate in (12.0, 23.976, 24.0, 25.0, 29.97, 50.0, 60.0)},
    "vfr": Film("hard", EVEN, (30.0, 12.0, 24.0)),
    "many_b_frames": Film("hard", EVEN, options={"bf": "8", "b-adapt": "0", "g": "250", "sc_threshold": "0"}),
    "before_end": Film("hard", _before_end(24.0)),
    "before_end_60fps": Film("hard", _before_end(60.0), (60.0,)),
    "short": Film("hard", (2.0, 0.3, 0.2, 2.4, 0.4, 1.9, 0.25, 2.2)),
    "stills": Film("hard", EVEN, speed=0.0),
    "alike": Film("hard_alike", EVEN, alike=True),
    "flashes": Film("flash", (6.0, 6.0), flash=2.2),
    "pan": Film("pan", (5.0, 5.0), speed=900.0),
    "dissolves": Film("dissolve", (3.4, 3.4, 3.4, 3.4), soft=1.0),
    "quick_dissolves": Film("dissolve", (2.8, 2.8, 2.8, 2.8), soft=0.25),
    "fades": Film("fade", (3.4, 3.4, 3.4, 3.4), soft=0.8, through_black=True),
}


@dataclass
class Count:
    """`expected`: clips that the true shots hold. `lost`: of them, how many are missing among clean clips.

    Of the check after the cut: `passed` of the leaking clips, `refused` of the clean ones.
    """

    clips: int = 0
    leaked_clips: int = 0
    leaked_frames: int = 0
    passed: int = 0
    refused: int = 0
    expected: int = 0
    lost: int = 0

    def add(self, other: Count) -> None:
        for name, value in asdict(other).items():
            setattr(self, name, getattr(self, name) + value)


def _texture(shot: int, colours: int, seed: int) -> NDArray[np.float64]:
    """A smooth wrapping texture (H, W, 3): its pattern is the shot's, its colours those of shot `colours`."""
    rng, tone = np.random.default_rng([seed, shot]), np.random.default_rng([seed, 99, colours])
    y, x = np.mgrid[0 : SIZE[0], 0 : SIZE[1]] / np.array(SIZE).reshape(2, 1, 1)
    waves = sum(
        np.sin(2 * np.pi * (rng.integers(1, 6) * x + rng.integers(1, 5) * y) + rng.uniform(0, 6.3)) for _ in range(4)
    )
    hue = 6 * (tone.uniform(0, 0.05) + 0.37 * colours)
    base = 110 + 80 * np.cos(np.pi / 3 * (hue - np.array([0, 2, 4])))
    texture: NDArray[np.float64] = np.clip(base + 24 * np.asarray(waves)[..., None] * np.array([1.0, 0.8, 0.6]), 0, 255)
    return texture


def pictures(film: Film, seed: int) -> Iterable[tuple[Fraction, int, Pixels]]:
    """(time, number of the shot or MIXED, picture) of every frame."""
    textures = [_texture(shot, 0 if film.alike else shot, seed) for shot in range(len(film.lengths))]
    edges = film.edges()
    for stamp in film.stamps():
        time = float(stamp)
        shot = min(int(np.searchsorted(edges, time + 1e-9, side="right")) - 1, len(textures) - 1)
        picture, number = _softened(film, textures, edges, shot, time)
        picture = np.roll(picture, -round(time * film.speed), axis=1)
        if film.flash is not None and time % film.flash < 0.08 and time > 1:
            picture = picture + 130
        yield stamp, number, _numbered(np.clip(picture, 0, 255).astype(np.uint8), number)


def _softened(
    film: Film, textures: list[NDArray[np.float64]], edges: list[float], shot: int, time: float
) -> tuple[NDArray[np.float64], int]:
    near = min(range(1, len(edges) - 1), key=lambda k: abs(edges[k] - time), default=0)
    done = (time - edges[near]) / film.soft + 0.5 if film.soft and near else -1.0  # of the transition, 0-1
    if not 0.0 < done < 1.0:
        return textures[shot], shot
    if film.through_black:
        return textures[shot] * abs(2 * done - 1), MIXED
    return textures[near - 1] * (1 - done) + textures[near] * done, MIXED


def _numbered(picture: Pixels, number: int) -> Pixels:
    for bit in range(BITS):
        picture[:BLOCK, bit * BLOCK : (bit + 1) * BLOCK] = 255 * (number >> bit & 1)
    return picture


def number_of(picture: Pixels) -> int:
    """The number written into a decoded frame."""
    squares = picture[:BLOCK, : BITS * BLOCK].astype(float).reshape(BLOCK, BITS, BLOCK, 3).mean(axis=(0, 2, 3))
    return sum(1 << bit for bit, value in enumerate(squares) if value > 128)


def render(film: Film, path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(film.fps[0]).limit_denominator(1001))
        stream.height, stream.width, stream.pix_fmt = *SIZE, "yuv420p"
        stream.options = {"crf": "12", "preset": "veryfast", "bf": "3", "g": "48", **film.options}
        stream.codec_context.time_base = Fraction(1, CLOCK)
        for stamp, _, picture in pictures(film, seed):
            frame = av.VideoFrame.from_ndarray(picture, "rgb24").reformat(format="yuv420p")
            frame.time_base, frame.pts = Fraction(1, CLOCK), round(stamp * CLOCK)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def expected(film: Film) -> int:
    """Clips that the true shots hold, less what is soft at their ends."""
    edges, tick, room = film.edges(), Fraction(1, CLOCK), film.soft / 2
    total = 0
    for k, (start, end) in enumerate(itertools.pairwise(edges)):
        first, last = start + room * (k > 0), end - room * (k < len(film.lengths) - 1)
        bounds = math.ceil(first * CLOCK), math.floor(last * CLOCK)
        total += sum(
            1 for _ in split.spans_in(*bounds, tick, *(int(SPLIT[key]) for key in ("fps", "frames", "trim_frames")))
        )
    return total


def count(path: Path, clips: Sequence[dict[str, Any]], film: Film, params: SplitParams) -> Count:
    """Decode each clip, look at the numbers of its frames, and check it as `score` does."""
    found = Count(clips=len(clips), expected=expected(film))
    spans = sorted((clip["start_pts"], clip["end_pts"]) for clip in clips)
    settings = settings_of(LimitParams(), params, SCORE, Path()).as_json()
    named = [(str(k), *span, int(SPLIT["frames"])) for k, span in enumerate(spans)]
    checked = measure_clips(str(path), named, ("cuts_inside",), settings, None)
    decoded = decode_spans(path, spans, int(SPLIT["fps"]), int(SPLIT["frames"]))
    for k, frames in enumerate(decoded):
        numbers = Counter(number_of(frame) for frame in frames)
        own = max((number for number in numbers if number != MIXED), key=lambda number: numbers[number], default=None)
        foreign = len(frames) - (numbers[own] if own is not None else 0)
        found.leaked_frames += foreign
        found.leaked_clips += foreign > 0
        whole = checked[str(k)]["cuts_inside"] == 0
        found.passed += foreign > 0 and whole
        found.refused += foreign == 0 and not whole
    found.lost = max(0, found.expected - (found.clips - found.leaked_clips))
    return found


def measure(
    root: Path, names: Sequence[str], detectors: Sequence[str], weights: str | None
) -> dict[str, dict[str, Count]]:
    """{detector: {film: Count}}."""
    for seed, name in enumerate(names):
        render(FILMS[name], root / "raw" / f"{name}.mp4", seed)
    rows = ingest.run("films", "raw", INGEST, root, lambda items, total, label: items)
    videos = tables.write("videos", rows, root / "videos.parquet")
    film_of = {row["video_id"]: Path(row["uri"]).stem for row in videos.to_pylist()}
    result: dict[str, dict[str, Count]] = {}
    for detector in detectors:
        params = SplitParams.model_validate(
            {
                **SPLIT,
                "detector": detector,
                "threshold": THRESHOLDS[detector],
                "weights": weights or "weights/transnetv2",
            }
        )
        rows = split.run(videos, LimitParams(), params, root, lambda items, total, label: items)
        by_film: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
        for row in rows:
            if row["reason"] is None:
                by_film[film_of[row["video_id"]]].append(dict(row))
        result[detector] = {
            name: count(root / "raw" / f"{name}.mp4", by_film[name], FILMS[name], params) for name in names
        }
    return result


def by_kind(films: dict[str, Count]) -> dict[str, Count]:
    kinds: dict[str, Count] = {}
    for name, found in films.items():
        kinds.setdefault(FILMS[name].kind, Count()).add(found)
    return kinds


def show(result: dict[str, dict[str, Count]]) -> None:
    heads = (("clips", 7), ("leaked", 8), ("share", 8), ("frames", 8), ("passed", 8), ("refused", 9), ("lost", 6))
    print(f"{'detector':12}{'kind':12}" + "".join(f"{name:>{width}}" for name, width in heads) + " of")
    for detector, films in result.items():
        for kind, found in by_kind(films).items():
            share = found.leaked_clips / found.clips if found.clips else 0.0
            print(
                f"{detector:12}{kind:12}{found.clips:7}{found.leaked_clips:8}{share:8.1%}"
                f"{found.leaked_frames:8}{found.passed:8}{found.refused:9}{found.lost:6} {found.expected}"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--detectors", nargs="+", choices=sorted(THRESHOLDS), default=None)
    parser.add_argument("--films", nargs="+", choices=list(FILMS), default=list(FILMS))
    parser.add_argument("--weights", help="the folder of TransNet V2's weights")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/leaks.json"))
    asked = parser.parse_args()
    detectors = asked.detectors or [name for name in THRESHOLDS if name != "transnetv2" or asked.weights]
    weights = str(Path(asked.weights).resolve()) if asked.weights else None
    with tempfile.TemporaryDirectory() as folder:
        result = measure(Path(folder), asked.films, detectors, weights)
    show(result)
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    told = {
        detector: {
            "threshold": THRESHOLDS[detector],
            "kinds": {kind: asdict(found) for kind, found in by_kind(films).items()},
            "films": {name: asdict(found) for name, found in films.items()},
        }
        for detector, films in result.items()
    }
    asked.out.write_text(json.dumps({"clip": SPLIT, "detectors": told}, indent=1) + "\n")


if __name__ == "__main__":
    main()
