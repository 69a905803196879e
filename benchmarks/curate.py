"""What all measures of a film cost, against only decoding it and against the separate tools one after another.

    python benchmarks/curate.py [FILES…] [--seconds 30] [--rounds 5] [--films 1,10,100] [--out FILE]

Without files, the material of the demo (`make demo` fetches it). Correctness first: VMAF motion against FFmpeg's filter
frame by frame, saturation against OpenCV on the same pixels and on whole pictures of the film's own size, which differ
by how colours are laid between their samples: 0.4 at most in clips of nine films. Then the contenders
take turns over the same span; the fastest of the rounds counts:

- decode: PyAV reads the frames and nothing else, on one thread
- ours: the clips of 81 frames at 16 fps end to end, every measure that needs no network, on one thread
- tools (`separate_tools`): PySceneDetect's content detector, FFmpeg's vmafmotion, saturation by OpenCV every half
  second, DIS flow every half second at 320x576, and the clips cut with x264

The ratio asked for, `tools_over_ours`, leaves our search for cuts out while the tools have theirs and write the clips,
which we do not: spans stay spans. `tools_but_cutting_over_ours_with_split` compares what both
do: ours with `split` of the same span by the content detector, the tools without writing.

Text, nudity and TransNet V2 have networks of their own: each is told for itself, on all cores, without the decode; an
extra that is not installed is named. `--films` curates so many short films in one run of `score`, with its sandbox and
all that a user waits for: the cost per clip should not depend on their number.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import separate_tools as tools
from separate_tools import FPS, FRAMES, Job, job_of

from data_pipeline import ingest, score, split, tables
from data_pipeline.params import DataParams
from data_pipeline.score.clip import measure_clips
from data_pipeline.score.seen import LINES, Onlooker
from data_pipeline.score.settings import Settings, settings_of
from data_pipeline.split.film import read
from data_pipeline.splitting import DETECTION_SIDE
from infra.settings import load_section
from sana_video.video import io
from sana_video.video import measures as m
from sana_video.video.measures import extras
from sana_video.video.sandbox import Sandbox

ROOT = Path(__file__).resolve().parents[1]
BOUNDS = {"vmaf_motion": 0.006, "saturation": 0.5, "saturation_at_full_size": 0.5}
CLOCKS = {"seconds": time.perf_counter, "processor": time.process_time}
SHORT_FILM = 12.0  # seconds of the first film that are one of many


def ours(job: Job, settings: Settings, measures: tuple[str, ...] | None = None) -> None:
    spans = [(f"{i:06}", low, high, FRAMES) for i, (low, high) in enumerate(job.spans)]
    wanted = settings.measures if measures is None else measures
    found = measure_clips(str(job.path), spans, wanted, settings.as_json(), None)
    bad = {clip: values["reason"] for clip, values in found.items() if "reason" in values}
    if bad:
        raise SystemExit(f"{job.path}: {len(bad)} clips could not be measured, {next(iter(bad.values()))}")


def cuts(job: Job) -> None:
    """Our own search for cuts, as `split` reads a film by default, up to the end of the last span."""
    read(str(job.path), "content", 27.0, 16, job.end - job.begin, DETECTION_SIDE, 1)


def check(job: Job, settings: Settings) -> dict[str, float]:
    """The largest differences to the tools over a clip; SystemExit where one is too large."""
    with io.Film(job.path) as film:
        seen, _ = Onlooker(film, settings.measures, (), settings)(*job.spans[0], FRAMES)
        shown = list(io.clip_frames(film, *job.spans[0], FPS, FRAMES))
        full = [film.picture(shown[k]).rgb for k in seen.indices]
    grey = []
    for i, luma in enumerate(seen.luma):
        frame = av.VideoFrame.from_ndarray(luma, "gray8")
        frame.pts, frame.time_base = i, Fraction(1, FPS)
        grey.append(frame)
    theirs = tools.vmaf_filter(iter(grey))[1:]
    assert seen.points is not None
    saturation = m.saturation(seen.colours)
    off = {
        "vmaf_motion": float(np.abs(np.array(m.vmaf_motion_frames(seen.luma)) - theirs).max()),
        "saturation": abs(saturation - tools.saturation(iter(seen.points[..., ::-1]))),
        "saturation_at_full_size": abs(saturation - tools.saturation(picture[..., ::-1] for picture in full)),
    }
    for name, bound in BOUNDS.items():
        if off[name] > bound:
            raise SystemExit(f"{job.path.name}: {name} differs by {off[name]:.4f} from the tool's, more than {bound}")
    return off


def fastest(contenders: dict[str, Callable[[], object]], rounds: int) -> dict[str, dict[str, float]]:
    """`seconds` on the wall and of the `processor`, of the best of `rounds` turns, one after another in each."""
    best = {clock: dict.fromkeys(contenders, float("inf")) for clock in CLOCKS}
    for _ in range(rounds):
        for name, run in contenders.items():
            begin = {clock: now() for clock, now in CLOCKS.items()}
            run()
            for clock, now in CLOCKS.items():
                best[clock][name] = min(best[clock][name], now() - begin[clock])
    return best


def compare(job: Job, settings: Settings, rounds: int) -> dict[str, dict[str, float]]:
    with tempfile.TemporaryDirectory() as folder:
        return fastest(
            {
                "decode": lambda: tools.decode(job),
                "ours": lambda: ours(job, settings),
                "ours: split": lambda: cuts(job),
                "tool: scenes": lambda: tools.scene_cuts(job),
                "tool: vmafmotion": lambda: tools.vmaf_filter(tools.frames(job)),
                "tool: saturation": lambda: tools.saturation(tools.sampled(job)),
                "tool: flow": lambda: tools.flow(job),
                "tool: cutting": lambda: tools.cut(job, Path(folder)),
            },
            rounds,
        )


def ratios(seconds: dict[str, float]) -> dict[str, float]:
    together = sum(took for name, took in seconds.items() if name.startswith("tool"))
    return {
        "ours_over_decode": seconds["ours"] / seconds["decode"],
        "tools_over_ours": together / seconds["ours"],
        "tools_but_cutting_over_ours_with_split": (together - seconds["tool: cutting"])
        / (seconds["ours"] + seconds["ours: split"]),
    }


def each_measure(job: Job, settings: Settings, rounds: int) -> dict[str, float]:
    """Processor seconds of each measure alone over the film, less those of decode and planes that all share."""
    bare = "decode and scale"
    one: dict[str, Callable[[], object]] = {bare: lambda: ours(job, settings, ())}
    alone = {name: lambda n=name: ours(job, settings, (n,)) for name in settings.measures}
    took = fastest(one | alone, rounds)["processor"]
    return {name: seconds - (took[bare] if name != bare else 0.0) for name, seconds in took.items()}


def networks(job: Job, settings: Settings) -> dict[str, dict[str, float] | str]:
    """Of text, nudity and TransNet V2: seconds to load, and per clip (of TransNet V2, for as long a piece of film)."""
    asked = replace(settings, text="rapidocr", nsfw="nudenet")
    with io.Film(job.path) as film:
        look = Onlooker(film, (), ("text_area", "nsfw"), asked)
        few = [look(*span, FRAMES)[1]["few"] for span in job.spans]
    found: dict[str, dict[str, float] | str] = {}
    for name, make in (("text", extras.TextDetector), ("nsfw", extras.NudityDetector)):
        try:
            begin = time.perf_counter()
            detector = make()
        except ValueError as error:
            found[name] = str(error)
            continue
        loaded = time.perf_counter()
        look_at = detector.area if name == "text" else detector.score
        for pictures in few:
            look_at(pictures)
        found[name] = {"load": loaded - begin, "per_clip": (time.perf_counter() - loaded) / len(few)}
    return found | {"transnetv2": _transnet(job)}


def _transnet(job: Job) -> dict[str, float]:
    """Random weights of the published shape: they cost what trained ones do."""
    from sana_video.video.transnet import HEIGHT, WIDTH, TransNetV2

    begin = time.perf_counter()
    network = TransNetV2().eval()
    loaded = time.perf_counter()
    with io.Film(job.path, size=(HEIGHT, WIDTH)) as film:
        pictures = np.stack([film.picture(frame).rgb for frame in tools.frames(job)])
    seen = time.perf_counter()
    network.predict(pictures)
    return {"load": loaded - begin, "per_clip": (time.perf_counter() - seen) / len(job.spans)}


def by_number(path: Path, counts: list[int], params: DataParams) -> dict[str, Any]:
    """Seconds of one run of `score` over so many short films, each with bytes of its own, by one worker."""
    limit, one = params.limit, params.score.model_copy(update={"workers": 1})
    found: dict[str, Any] = {}
    for count in counts:
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            for k in range(count):
                _copy(path, root / "raw" / f"{k:03}.mp4", k)
            videos = tables.write("videos", ingest.run("many", "raw", params.ingest, root, _plain), root / "v.parquet")
            clips = tables.write("clips", split.run(videos, limit, params.split, root, _plain), root / "c.parquet")
            begin = time.perf_counter()
            rows = score.run(videos, clips, limit, params.split, one, m.MEASURE_VERSIONS, root, _plain)
            took = time.perf_counter() - begin
            bad = [row["reason"] for row in rows if row["reason"]]
            if bad:
                raise SystemExit(f"{len(bad)} of {len(rows)} clips could not be measured: {bad[0]}")
            start = _start(root / "raw" / "000.mp4", settings_of(limit, params.split, one, root))
        rest = (took - start) / len(rows)
        found[str(count)] = {"clips": len(rows), "seconds": took, "of_them_start": start, "per_clip_then": rest}
    return found


def _start(path: Path, settings: Settings) -> float:
    """Seconds until a new sandbox has answered for the first time."""
    begin = time.perf_counter()
    with Sandbox() as sandbox:
        sandbox.call(
            "data_pipeline.score.clip:measure_clips",
            path=str(path), spans=[], measures=[], settings=settings.as_json(), folder=None,
        )  # fmt: skip
    return time.perf_counter() - begin


def _plain(items: Any, total: int, label: str) -> Any:
    return items


def _copy(path: Path, target: Path, number: int) -> None:
    """The first seconds of a film, as coded, under another title."""
    target.parent.mkdir(exist_ok=True)
    with av.open(str(path)) as source, av.open(str(target), "w") as out:
        out.metadata["title"] = str(number)
        given = source.streams.video[0]
        stream = out.add_stream_from_template(given)
        for packet in source.demux(given):
            if packet.dts is None or packet.dts * given.time_base > SHORT_FILM:
                break
            packet.stream = stream
            out.mux(packet)


def about() -> dict[str, Any]:
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    models = {line.split(":", 1)[1].strip() for line in info.splitlines() if line.startswith("model name")}
    versions = {"av": av.__version__, "cv2": cv2.__version__, "numpy": np.__version__}
    return {"machine": ", ".join(models), "cores": os.cpu_count(), "load": os.getloadavg()[0], **versions}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="*")
    parser.add_argument("--seconds", type=float, default=30.0, help="of each film, from its beginning")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--films", default="1,10,100", help="numbers of films for the cost per clip; empty for none")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    files = given.files or sorted((ROOT / "data" / "raw").glob("*/*.mp*"))
    if not files or not all(path.is_file() for path in files):
        raise SystemExit(f"no such film: {[str(path) for path in files]} (make demo fetches those of the demo)")
    cv2.setNumThreads(1)
    params = load_section(ROOT / "recipes" / "2b-480p.yaml", "data", DataParams, [])
    plain = {"flow": "dis", "aesthetic": "classical", "dover": None, "text": None, "nsfw": None}
    params = params.model_copy(update={"score": params.score.model_copy(update=plain)})
    settings = settings_of(params.limit, params.split, params.score, ROOT)
    jobs = [job_of(path, given.seconds) for path in files]
    figures: dict[str, Any] = {"about": about(), "lines": LINES, "films": {}}
    for job in jobs:
        told = {"clips": len(job.spans), "differences": check(job, settings)}
        figures["films"][job.path.name] = told | compare(job, settings, given.rounds)
        tell(job.path.name, figures["films"][job.path.name])
    figures["all"] = together(list(figures["films"].values()))
    tell("all", figures["all"])
    figures["seconds_of_each"] = each_measure(jobs[0], settings, given.rounds)
    figures["networks"] = networks(jobs[0], settings)
    print(json.dumps({name: figures[name] for name in ("seconds_of_each", "networks")}, indent=2), flush=True)
    if given.films:
        figures["by_films"] = by_number(files[0], [int(number) for number in given.films.split(",")], params)
        print(json.dumps(figures["by_films"], indent=2))
    figures["about"]["load_at_end"] = os.getloadavg()[0]
    if given.out:
        given.out.write_text(json.dumps(figures, indent=2) + "\n")


def together(films: list[dict[str, Any]]) -> dict[str, Any]:
    """The sums over all films."""
    took = {clock: {name: sum(f[clock][name] for f in films) for name in films[0][clock]} for clock in CLOCKS}
    return {"clips": sum(film["clips"] for film in films), **took}


def tell(name: str, found: dict[str, Any]) -> None:
    """Add the ratios, and print what was found."""
    found["ratios"] = {clock: ratios(found[clock]) for clock in CLOCKS}
    decode, tool = ([found["ratios"][clock][of] for clock in CLOCKS] for of in ("ours_over_decode", "tools_over_ours"))
    print(f"{name}: {found['clips']} clips; {decode[0]:.2f} times the decode (bound 2; by processor {decode[1]:.2f}),")
    print(f"  the tools take {tool[0]:.2f} times as long as ours (bound 3; by processor {tool[1]:.2f})")
    alike = [found["ratios"][clock]["tools_but_cutting_over_ours_with_split"] for clock in CLOCKS]
    print(f"  like for like, without cutting and with our split: {alike[0]:.2f} times (by processor {alike[1]:.2f})")
    print("  " + ", ".join(f"{each} {took:.2f} s" for each, took in found["seconds"].items()), flush=True)


if __name__ == "__main__":
    main()
