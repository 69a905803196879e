"""What curation costs with a tool for each score: every one opens and decodes the film itself, as its users run it.

PyAV's share is on one thread; OpenCV and PySceneDetect, which reads through it, decode on all cores, as they do unless
they are told not to.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from numpy.typing import NDArray

FRAMES, FPS, EVERY = 81, 16, 0.5
Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Job:
    """A film and its spans in PTS, of which each is a clip of FRAMES frames; `begin` and `end` in seconds."""

    path: Path
    spans: tuple[tuple[int, int], ...]
    begin: float
    end: float


def job_of(path: Path, seconds: float) -> Job:
    """The clips that the first `seconds` hold, end to end."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        base, start = stream.time_base or Fraction(1, 90000), stream.start_time or 0
        length = stream.duration * base if stream.duration else Fraction(container.duration or 0, av.time_base)
    clip = Fraction(FRAMES, FPS)
    count = int(min(Fraction(seconds), length - Fraction(1, 4)) / clip)
    if count < 1:
        raise SystemExit(f"{path}: {float(length):.1f} s hold no clip of {float(clip):.2f} s")
    edges = [start + round(i * clip / base) for i in range(count + 1)]
    return Job(path, tuple(itertools.pairwise(edges)), float(edges[0] * base), float(edges[-1] * base))


def begins_in_shots(path: Path, seconds: Fraction, most: int) -> list[Fraction]:
    """Where evenly chosen clips of so many seconds begin, by the film's own clock, each inside a shot of
    PySceneDetect's and an eighth of a second from its ends."""
    from scenedetect import ContentDetector, detect

    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        start = (stream.start_time or 0) * (stream.time_base or Fraction(0))
    margin, begins = Fraction(1, 8), []
    for first, last in detect(str(path), ContentDetector(), start_in_scene=True):
        begin, end = (start + Fraction(edge.seconds).limit_denominator(100_000) for edge in (first, last))
        begins += [begin + margin + k * seconds for k in range(int((end - begin - 2 * margin) / seconds))]
    return begins[:: max(1, -(-len(begins) // most))]


def frames(job: Job) -> Iterator[av.VideoFrame]:
    """The frames before the end of the last span, decoded on one thread."""
    with av.open(str(job.path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        for frame in container.decode(stream):
            if frame.time is not None and frame.time >= job.end:
                return
            yield frame


def decode(job: Job) -> None:
    for _ in frames(job):
        pass


def scene_cuts(job: Job) -> None:
    from scenedetect import ContentDetector, detect

    detect(str(job.path), ContentDetector(), end_time=job.end - job.begin)


def vmaf_filter(source: Iterator[av.VideoFrame]) -> list[float]:
    """vmafmotion of each frame, by FFmpeg."""
    graph, scores = None, []
    for frame in source:
        graph = graph or _graph(frame, [("vmafmotion", "")])
        graph.push(frame)
        scores.append(float(graph.pull().metadata["lavfi.vmafmotion.score"]))
    return scores


def _graph(frame: av.VideoFrame, filters: list[tuple[str, str]]) -> av.filter.Graph:
    graph = av.filter.Graph()
    graph.threads = 1
    size = {"width": frame.width, "height": frame.height}
    source = graph.add_buffer(**size, format=frame.format, time_base=frame.time_base)
    graph.link_nodes(source, *(graph.add(*each) for each in filters), graph.add("buffersink")).configure()
    return graph


def sampled(job: Job) -> Iterator[Pixels]:
    """A BGR picture every half second, through OpenCV."""
    capture = cv2.VideoCapture(str(job.path))
    rate = capture.get(cv2.CAP_PROP_FPS)
    step = max(1, round(rate * EVERY))
    for index in range(round((job.end - job.begin) * rate)):
        if not capture.grab():
            break
        if index % step == 0:
            yield capture.retrieve()[1]
    capture.release()


def saturation(pictures: Iterator[Pixels]) -> float:
    """Mean S of BGR pictures, 0-255."""
    return float(np.mean([cv2.cvtColor(picture, cv2.COLOR_BGR2HSV)[..., 1].mean() for picture in pictures]))


def flow(job: Job) -> None:
    estimator = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    small = (cv2.cvtColor(cv2.resize(p, (576, 320)), cv2.COLOR_BGR2GRAY) for p in sampled(job))
    for before, after in itertools.pairwise(small):
        estimator.calc(before, after, None)


def cut(job: Job, folder: Path) -> None:
    """The clips into files of their own: one reading, FFmpeg's fps and scale to 480 lines, x264 veryfast."""
    graph, kept = None, []
    for frame in frames(job):
        graph = graph or _graph(frame, [("fps", str(FPS)), ("scale", "-2:480"), ("format", "yuv420p")])
        graph.push(frame)
        while True:
            try:
                kept.append(graph.pull())
            except (av.error.BlockingIOError, av.error.EOFError):
                break
        while len(kept) >= FRAMES:
            _encode(kept[:FRAMES], folder / "clip.mp4")
            del kept[:FRAMES]


def _encode(pictures: list[av.VideoFrame], path: Path) -> None:
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=FPS, options={"preset": "veryfast", "threads": "1"})
        stream.height, stream.width, stream.pix_fmt = pictures[0].height, pictures[0].width, "yuv420p"
        for index, picture in enumerate(pictures):
            picture.pts, picture.time_base, picture.pict_type = index, Fraction(1, FPS), 0
            out.mux(stream.encode(picture))
        out.mux(stream.encode(None))
