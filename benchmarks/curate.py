"""What all measures of a film cost, against only decoding it and against the separate tools one after another.

    python benchmarks/curate.py [FILES…] [--seconds 60] [--rounds 3] [--films 1,10,100] [--out FILE]

Without files, the film of the demo (`make demo` fetches it). Correctness first: VMAF motion against FFmpeg's filter and
saturation against OpenCV on the same pictures. Then the contenders take turns over the same span, each on one thread:

- decode: PyAV reads the frames and nothing else
- ours: the clips of 81 frames at 16 fps end to end, every measure that needs no network, at the size of the 480p recipe
- tools: PySceneDetect's content detector, FFmpeg's vmafmotion, saturation by OpenCV every half second, DIS flow every
  half second at 320x576, and the clips cut with x264: each opens and decodes the film itself, as tools do

Text, nudity and TransNetV2 have networks of their own and are left out. `--films` measures that many copies of a short
clip in one call each: the cost per clip should not depend on their number. The fastest of the rounds counts.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from data_pipeline.params import DataParams
from data_pipeline.score.clip import measure_clips
from data_pipeline.score.settings import Settings, settings_of
from infra.settings import load_section
from sana_video.video import io
from sana_video.video import measures as m

ROOT = Path(__file__).resolve().parents[1]
FRAMES, FPS, EVERY = 81, 16, 0.5
DEMO = ROOT / "data" / "raw" / "film" / "big_buck_bunny.mp4"
Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Job:
    """A film and its spans, of which each is a clip of FRAMES frames."""

    path: Path
    spans: tuple[tuple[int, int], ...]
    end: float  # seconds: after the last span

    def ours(self, settings: Settings) -> None:
        spans = [(f"{i:06}", low, high, FRAMES) for i, (low, high) in enumerate(self.spans)]
        found = measure_clips(str(self.path), spans, settings.measures, settings.as_json(), None)
        bad = {clip: values["reason"] for clip, values in found.items() if "reason" in values}
        if bad:
            raise SystemExit(f"{self.path}: {len(bad)} clips could not be measured, {next(iter(bad.values()))}")


def job_of(path: Path, seconds: float) -> Job:
    with io.Film(path) as film:
        base, start = film.time_base, film.stream.start_time or 0
        length = (
            film.stream.duration * base if film.stream.duration else Fraction(film.container.duration, av.time_base)
        )
    clip = Fraction(FRAMES, FPS)
    count = int(min(Fraction(seconds), length - Fraction(1, 4)) / clip)
    if count < 1:
        raise SystemExit(f"{path}: {float(length):.1f} s hold no clip of {float(clip):.2f} s")
    edges = [start + round(i * clip / base) for i in range(count + 1)]
    return Job(path, tuple(itertools.pairwise(edges)), float(edges[-1] * base))


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

    detect(str(job.path), ContentDetector(), end_time=job.end)


def vmaf_filter(source: Iterator[av.VideoFrame]) -> list[float]:
    """vmafmotion of each frame, by FFmpeg."""
    graph, scores = None, []
    for frame in source:
        if graph is None:
            graph = av.filter.Graph()
            size = {"width": frame.width, "height": frame.height}
            first = graph.add_buffer(**size, format=frame.format, time_base=frame.time_base)
            motion, last = graph.add("vmafmotion"), graph.add("buffersink")
            first.link_to(motion)
            motion.link_to(last)
            graph.configure()
        graph.push(frame)
        scores.append(float(graph.pull().metadata["lavfi.vmafmotion.score"]))
    return scores


def sampled(job: Job) -> Iterator[Pixels]:
    """A BGR picture every half second, through OpenCV."""
    capture = cv2.VideoCapture(str(job.path))
    step = max(1, round(capture.get(cv2.CAP_PROP_FPS) * EVERY))
    for index in range(round(job.end * capture.get(cv2.CAP_PROP_FPS))):
        if not capture.grab():
            break
        if index % step == 0:
            yield capture.retrieve()[1]
    capture.release()


def saturation(pictures: Iterator[Pixels]) -> float:
    return float(np.mean([cv2.cvtColor(picture, cv2.COLOR_BGR2HSV)[..., 1].mean() for picture in pictures]))


def flow(job: Job) -> None:
    estimator = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    small = (cv2.cvtColor(cv2.resize(p, (576, 320)), cv2.COLOR_BGR2GRAY) for p in sampled(job))
    for before, after in itertools.pairwise(small):
        estimator.calc(before, after, None)


def cut(job: Job, folder: Path) -> None:
    """Every span into a file of its own: x264 at 480 lines."""
    with av.open(str(job.path)) as container:
        width, height = container.streams.video[0].width, container.streams.video[0].height
    size = (480, 2 * round(480 * width / height / 2))
    clips = io.decode_spans(job.path, job.spans, FPS, FRAMES, size=size)
    for i, clip in enumerate(clips):
        with av.open(str(folder / f"{i}.mp4"), "w") as out:
            stream = out.add_stream("libx264", rate=FPS, options={"preset": "veryfast", "threads": "1"})
            stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
            for picture in clip:
                out.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
            out.mux(stream.encode(None))


def check(job: Job) -> dict[str, float]:
    """The largest difference to FFmpeg's filter over a clip, and to OpenCV's saturation; SystemExit where too large."""
    with io.Film(job.path, short_side=240) as film:
        clip = io.decode_clip(film, *job.spans[0], FPS, FRAMES)
    grey = []
    for i, luma in enumerate(clip.luma):
        frame = av.VideoFrame.from_ndarray(luma, "gray8")
        frame.pts, frame.time_base = i, Fraction(1, FPS)
        grey.append(frame)
    theirs = vmaf_filter(iter(grey))[1:]
    off = {
        "vmaf_motion": float(np.abs(np.array(m.vmaf_motion_frames(clip.luma)) - theirs).max()),
        "saturation": abs(m.saturation(clip.rgb) - saturation(iter(clip.rgb[..., ::-1]))),
    }
    for name, bound in (("vmaf_motion", 0.006), ("saturation", 0.5)):
        if off[name] > bound:
            raise SystemExit(f"{name} differs by {off[name]:.4f} from the tool's, more than {bound}")
    return off


def fastest(contenders: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Seconds of the best of `rounds` turns, the contenders one after another in each."""
    best = dict.fromkeys(contenders, float("inf"))
    for _ in range(rounds):
        for name, run in contenders.items():
            begin = time.perf_counter()
            run()
            best[name] = min(best[name], time.perf_counter() - begin)
    return best


def compare(job: Job, settings: Settings, rounds: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        took = fastest(
            {
                "decode": lambda: decode(job),
                "ours": lambda: job.ours(settings),
                "tool: scenes": lambda: scene_cuts(job),
                "tool: vmafmotion": lambda: vmaf_filter(frames(job)),
                "tool: saturation": lambda: saturation(sampled(job)),
                "tool: flow": lambda: flow(job),
                "tool: cutting": lambda: cut(job, Path(folder)),
            },
            rounds,
        )
    tools = sum(seconds for name, seconds in took.items() if name.startswith("tool"))
    return {"seconds": took, "ours_over_decode": took["ours"] / took["decode"], "tools_over_ours": tools / took["ours"]}


def each_measure(job: Job, settings: Settings) -> dict[str, float]:
    """Seconds of each measure alone over the film, less those of the decode that it shares with the others."""
    alone = {}
    for name in settings.measures:
        spans = [(f"{i:06}", low, high, FRAMES) for i, (low, high) in enumerate(job.spans)]
        begin = time.perf_counter()
        measure_clips(str(job.path), spans, [name], settings.as_json(), None)
        alone[name] = time.perf_counter() - begin
    begin = time.perf_counter()
    measure_clips(str(job.path), spans, [], settings.as_json(), None)
    bare = time.perf_counter() - begin
    return {"decode and scale": bare, **{name: max(0.0, took - bare) for name, took in alone.items()}}


def by_number(path: Path, counts: list[int], settings: Settings) -> dict[int, float]:
    """Seconds per clip where a call has so many films, each a copy of `path`'s first clip's file."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        short = Path(folder) / "0.mp4"
        cut(Job(path, job_of(path, 6.0).spans[:1], 6.0), Path(folder))
        with_end = job_of(_padded(short, Path(folder)), 6.0)
        for count in counts:
            copies = [Path(folder) / f"copy{i}.mp4" for i in range(count)]
            for copy in copies:
                shutil.copy(with_end.path, copy)
            begin = time.perf_counter()
            for copy in copies:
                Job(copy, with_end.spans, with_end.end).ours(settings)
            found[count] = (time.perf_counter() - begin) / count / len(with_end.spans)
    return found


def _padded(short: Path, folder: Path) -> Path:
    """The short film twice over, so that its first clip ends before it does."""
    target = folder / "short.mp4"
    with av.open(str(short)) as source, av.open(str(target), "w") as out:
        stream = out.add_stream("libx264", rate=FPS, options={"preset": "veryfast", "threads": "1"})
        pictures = [frame.to_ndarray(format="rgb24") for frame in source.decode(video=0)]
        stream.height, stream.width, stream.pix_fmt = *pictures[0].shape[:2], "yuv420p"
        for picture in pictures + pictures[:FPS]:
            out.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        out.mux(stream.encode(None))
    return target


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="*", default=[DEMO])
    parser.add_argument("--seconds", type=float, default=60.0, help="of each film, from its beginning")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--films", default="1,10,100", help="numbers of films for the cost per clip; empty for none")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    for path in given.files:
        if not path.is_file():
            raise SystemExit(f"{path}: no such film (make demo fetches the default one)")
    cv2.setNumThreads(1)
    params = load_section(ROOT / "recipes" / "2b-480p.yaml", "data", DataParams, [])
    score = params.score.model_copy(update={"flow": "dis", "aesthetic": "classical", "dover": None})
    score = score.model_copy(update={"text": None, "nsfw": None})
    settings = settings_of(params.limit, params.split, score, ROOT)
    figures: dict[str, Any] = {
        "about": {"machine": platform.processor() or platform.machine(), "cores": os.cpu_count()},
        "short_side": settings.short_side,
        "films": {},
    }
    for path in given.files:
        job = job_of(path, given.seconds)
        off, found = check(job), compare(job, settings, given.rounds)
        figures["films"][path.name] = {"clips": len(job.spans), "differences": off, **found}
        figures["films"][path.name]["seconds_of_each"] = each_measure(job, settings)
        print(f"{path.name}: {len(job.spans)} clips; {found['ours_over_decode']:.2f} times the decode (bound 2),")
        print(f"  the tools take {found['tools_over_ours']:.2f} times as long as ours (bound 3)")
        for name, seconds in {**found["seconds"], **figures["films"][path.name]["seconds_of_each"]}.items():
            print(f"  {name:24}{seconds:8.2f} s", flush=True)
    if given.films:
        counts = [int(number) for number in given.films.split(",")]
        figures["seconds_per_clip_by_films"] = by_number(given.files[0], counts, settings)
        for count, seconds in figures["seconds_per_clip_by_films"].items():
            print(f"{count:4} films: {seconds:.3f} s a clip")
    if given.out:
        given.out.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
