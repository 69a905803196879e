"""Every score of one file or of a span of it, by the functions that score the clips of the pipeline.

A clip is held in memory whole, a film is not: what is longer than ten seconds is measured in windows of ten, which
share their border frame, so that every pair of neighbouring frames is measured once. The scores of the windows are then
joined: means of pairs by how many there are, means of pictures likewise, the shared one counted once; cuts add up, and
the camera's jitter is taken anew of all its models. So these are what one window of the whole span would give. Not so
`flicker`, which loses the border frames, and what is no mean of pictures: `watermark`, `borders`, `saturation_lit`,
`embedding` and the quality scores are the mean of the windows.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from math import floor
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.score.clip import MODELS, Values
from data_pipeline.score.networks import Networks
from data_pipeline.score.seen import MOTION_FPS, own_samples
from data_pipeline.score.settings import COLUMNS, SIZE, Settings
from data_pipeline.scoring import ask
from sana_video.video.flow import camera
from sana_video.video.measures import FLOW_SIZE, sample_indices
from sana_video.video.sandbox import Sandbox

WINDOW_SECONDS = 10.0

_JOINED_LISTS = ("flow_pairs", "flow_absmean_pairs", "flow_times", "phash")
_MEAN_OF = {
    **dict.fromkeys(("flow_motion", "camera_motion", "object_motion"), "flow pairs"),
    "vmaf_motion": "motion pairs", "stillness": "pairs", "duplicate_frames": "pairs", "flicker": "inner frames",
}  # fmt: skip
_LABELS = ("flow_estimator", "aesthetic_scorer", "text_detector", "nsfw_detector", "embedder", *SIZE)


@dataclass(frozen=True)
class Extent:
    """Of a film: PTS of its first and last frame, and their unit."""

    first: int
    last: int
    time_base: Fraction


@dataclass(frozen=True)
class Window:
    """Part of a span: its first frame counted from the span's, at the settings' rate, and how many there are."""

    begin: int
    frames: int


@dataclass(frozen=True)
class Measured:
    """`span` in seconds from the film's first frame to the last one looked at; `scores` by column of the table."""

    path: Path
    span: tuple[float, float]
    frames: int
    windows: int
    scores: Values


def measure_file(
    path: Path, span: tuple[float, float] | None, settings: Settings, networks: Networks, sandbox: Sandbox
) -> Measured:
    """All measures that `settings` ask for. `span`: seconds from the first frame, the end exclusive; None for all.

    Raises FileNotFoundError, and ValueError with a reason where the file cannot be decoded or holds too little.
    """
    if not path.is_file():
        raise FileNotFoundError("no such file")
    told = sandbox.call("data_pipeline.score.file:extent", path=str(path))
    film = Extent(told["first"], told["last"], Fraction(told["time_base"]))
    begin, frames = _frames(film, span, settings.fps)
    windows = windows_of(frames, settings)
    parts = []
    for window in windows:
        chosen = replace(settings, frames=window.frames, shared_end=window != windows[-1])
        start = _pts(film, begin + Fraction(window.begin, settings.fps))
        parts.append(_measure(path, start, film, window, chosen, networks, sandbox))
    end = float(begin + Fraction(frames - 1, settings.fps))
    return Measured(path, (float(begin), end), frames, len(windows), joined(parts, windows, settings))


def extent(path: str) -> dict[str, Any]:
    """`Extent` of a film, for JSON: its first frame is decoded, the others' stamps are read. Runs in the sandbox."""
    from sana_video.video.io import Film

    with Film(Path(path)) as film:
        first = next((film.pts(frame) for frame in film.frames()), None)
        if first is None:
            raise ValueError("TOO_FEW_FRAMES: no frame comes out of the decoder")
        film.container.seek(first, stream=film.stream, backward=True)
        stamps = [packet.pts for packet in film.container.demux(film.stream) if packet.pts is not None]
        return {"first": first, "last": max([first, *stamps]), "time_base": str(film.time_base)}


def _frames(film: Extent, span: tuple[float, float] | None, fps: int) -> tuple[Fraction, int]:
    """(begin in seconds, frames at `fps`) of the asked span. ValueError if it holds fewer than two frames."""
    length = (film.last - film.first) * film.time_base
    begin = Fraction(span[0]).limit_denominator(1_000_000) if span else Fraction(0)
    last = length
    if span:
        if not 0 <= span[0] < span[1]:
            raise ValueError(f"--span {span[0]:g}:{span[1]:g} is not BEGIN:END in rising seconds")
        last = min(length, Fraction(span[1]).limit_denominator(1_000_000) - Fraction(1, 10 * fps))
    frames = floor((last - begin) * fps) + 1
    if frames < 2:
        what = f"--span {span[0]:g}:{span[1]:g} of {float(length):.2f} s" if span else f"{float(length):.2f} s"
        raise ValueError(f"TOO_FEW_FRAMES: {what} holds fewer than two frames at {fps} fps")
    return begin, frames


def windows_of(frames: int, settings: Settings) -> list[Window]:
    """Windows of about ten seconds, a whole number of flow samples long, each with the first frame of the next.

    The last is between half and one and a half times as long, so that it holds a pair of samples too.
    """
    samples = max(1, round(WINDOW_SECONDS / settings.sample_seconds))
    step = max(1, round(samples * settings.sample_seconds * settings.fps))
    begins = list(range(0, max(1, frames - 1 - step // 2), step))
    ends = [*begins[1:], frames - 1]
    return [Window(begin, end - begin + 1) for begin, end in zip(begins, ends, strict=True)]


def _pts(film: Extent, seconds: Fraction) -> int:
    return film.first + floor(seconds / film.time_base)


def _measure(
    path: Path,
    start: int,
    film: Extent,
    window: Window,
    settings: Settings,
    networks: Networks,
    sandbox: Sandbox,
) -> Values:
    with tempfile.TemporaryDirectory() as scratch:
        spans = [("0", start, film.last + 1, window.frames)]
        found = ask(sandbox, path, spans, settings.measures, settings.as_json(), Path(scratch))["0"]
        if "reason" in found:
            raise ValueError(found["reason"])
        pictures = {"0": networks.load(Path(scratch), "0", settings.measures)}
        return found | networks.measure(pictures, {"0": window.frames}, settings.measures)["0"]


def joined(parts: Sequence[Values], windows: Sequence[Window], settings: Settings) -> Values:
    """The scores of consecutive windows as one. Of a single window they are what they are."""
    shift = [window.begin / settings.fps for window in windows]
    moved = [
        {**part, "flow_times": [time + by for time in part["flow_times"]]}
        for part, by in zip(parts, shift, strict=True)
    ]
    counts = [_counts(window, settings, window != windows[-1]) for window in windows]
    scores = {name: _join(name, [part[name] for part in moved], counts) for name in moved[0] if name != MODELS}
    if len(parts) > 1:
        scores["camera_jitter"] = _jitter([part[MODELS] for part in parts], windows, settings)
    return scores


def _counts(window: Window, settings: Settings, shared: bool) -> dict[str, float]:
    """Of how many of each a window's means are: what they weigh."""
    samples = sample_indices(window.frames, settings.fps, settings.sample_seconds)
    return {
        "flow pairs": len(samples) - 1,
        "motion pairs": len(sample_indices(window.frames, settings.fps, 1 / MOTION_FPS)) - 1,
        "pairs": window.frames - 1,
        "inner frames": max(1, window.frames - 2),
        "pictures": len(own_samples(samples, window.frames, shared)),
    }


def _jitter(models: Sequence[Values], windows: Sequence[Window], settings: Settings) -> float:
    """`camera_jitter` over all windows, with the changes from one to the next."""
    seconds = [
        (b - a) / settings.fps
        for window in windows
        for a, b in itertools.pairwise(sample_indices(window.frames, settings.fps, settings.sample_seconds))
    ]
    fitted = [np.array(model) for each in models for model in each["of"]]
    shape = tuple(models[0]["shape"])
    return camera.jitter(fitted, np.array(seconds), shape, FLOW_SIZE[0] // shape[0])


def _join(name: str, values: Sequence[Any], counts: Sequence[dict[str, float]]) -> Any:
    if len(values) == 1 or name in _LABELS:
        return values[0]
    if name in _JOINED_LISTS:
        return [each for value in values for each in value]
    if name == "cuts_inside":
        return sum(values)
    if name == "nsfw":
        return max(values)
    weights = [count[_MEAN_OF.get(name, "pictures")] for count in counts]
    known = [(value, weight) for value, weight in zip(values, weights, strict=True) if value is not None]
    if not known:
        return None
    mean = np.average([value for value, _ in known], axis=0, weights=[weight for _, weight in known])
    if name == "embedding":
        return [float(value) for value in mean / np.linalg.norm(mean)]
    return [float(value) for value in mean] if mean.ndim else float(mean)


def stand_ins(scores: Values) -> dict[str, str]:
    """{measure: what took it} for those measures that a stand-in took."""
    return {
        measure: scores[column]
        for measure, columns in COLUMNS.items()
        for column in columns
        if isinstance(scores.get(column), str) and "stand-in" in scores[column]
    }


def as_json(measured: Measured, settings: Settings, versions: dict[str, int]) -> Values:
    """What a program reads: scores by column, the settings they were taken at, versions and stand-ins by measure."""
    return {
        "file": str(measured.path),
        "span": list(measured.span),
        "fps": settings.fps,
        "frames": measured.frames,
        "windows": measured.windows,
        "short_side": settings.short_side,
        "scores": measured.scores,
        "versions": {name: versions[name] for name in settings.measures},
        "stand_ins": stand_ins(measured.scores),
    }


def as_lines(measured: Measured, settings: Settings, versions: dict[str, int]) -> Iterable[str]:
    """What a person reads: one line a column; of a list its length and mean."""
    height, width = (measured.scores[name] for name in SIZE)
    begin, end = measured.span
    yield f"{measured.path}: {begin:.2f}-{end:.2f} s, {measured.frames} frames at {settings.fps} fps, {width}x{height}"
    told, named = stand_ins(measured.scores), set(_LABELS)
    for measure in settings.measures:
        by = f"   {told[measure]}" if measure in told else ""
        for column in COLUMNS[measure]:
            if column not in named:
                yield f"  {column:<20}{_shown(measured.scores[column]):>24}   v{versions[measure]}{by}"


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, list):
        mean = "" if not value or value[0] > 2**32 else f", mean {float(np.mean(value)):.3f}"
        return f"{len(value)} values{mean}"
    return str(value) if isinstance(value, int) else f"{value:.4f}"
