"""The same bytes from one worker, from several, and from a cluster; what is lost where something breaks on the way."""

from __future__ import annotations

import contextlib
import functools
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import psutil
import pyarrow as pa
import pytest
from films import grey, picture, write
from ray_cluster import ray_cluster

from data_pipeline import ingest, score, split, tables
from data_pipeline.params import IngestParams, LimitParams, ScoreParams, SplitParams
from infra import engine
from sana_video.video import measures

INGEST = IngestParams(min_seconds=0.1, max_seconds=7200.0, max_pixels=1 << 24, min_short_side=16)
SPLIT = SplitParams(detector="content", threshold=27.0, min_shot_seconds=0.6, fps=16, frames=17, trim_frames=1)
SCORE = ScoreParams(short_side=64, flow="dis", aesthetic="classical", sample_seconds=0.5, workers=1)
ALL = LimitParams()
MIB = 1 << 20
X265 = {"preset": "ultrafast", "x265-params": "log-level=none"}


def track(items: Any, total: int, label: str) -> Any:
    return items


class Batch:
    """The films of a folder, in a project of their own."""

    def __init__(self, raw: Path, root: Path) -> None:
        root.mkdir(exist_ok=True)
        self.root = root
        self.videos = tables.write("videos", ingest.run("film", str(raw), INGEST, root, track), root / "videos")

    def clips(self, params: SplitParams = SPLIT, track: Any = track) -> pa.Table:
        return tables.write("clips", split.run(self.videos, ALL, params, self.root, track), self.root / "clips")

    def scores(self, workers: int = 1, cut: SplitParams = SPLIT, track: Any = track) -> pa.Table:
        clips, params = tables.read("clips", self.root / "clips"), SCORE.model_copy(update={"workers": workers})
        rows = score.run(self.videos, clips, ALL, cut, params, measures.MEASURE_VERSIONS, self.root, track)
        return tables.write("scores", rows, self.root / "scores")

    def bytes(self, workers: int = 1) -> list[bytes]:
        """Of the tables of clips and scores, made anew."""
        self.clips()
        self.scores(workers)
        return [(self.root / name).read_bytes() for name in ("clips", "scores")]

    def elsewhere(self, root: Path) -> Batch:
        """The same films, of which nothing is known yet."""
        root.mkdir()
        other = object.__new__(Batch)
        other.root, other.videos = root, self.videos
        return other


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory, make_video: Any) -> Path:
    """Three films of 18 clips in all."""
    folder = tmp_path_factory.mktemp("raw")
    for number, seconds in enumerate((9, 4, 7)):
        make_video(folder / f"{number}.mp4", seconds=seconds, shots=2, size=(64, 96), seed=number)
    return folder


@pytest.fixture(scope="module")
def known(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Batch, list[bytes]]:
    """The batch, and the bytes that one worker makes of it."""
    batch = Batch(raw, tmp_path_factory.mktemp("known"))
    return batch, batch.bytes()


def test_a_cluster_and_any_number_of_workers_give_the_same_bytes(
    known: tuple[Batch, list[bytes]], tmp_path: Path
) -> None:
    batch, expected = known
    assert batch.elsewhere(tmp_path / "2").bytes(workers=2) == expected
    with ray_cluster():
        assert batch.elsewhere(tmp_path / "ray").bytes() == expected


@pytest.mark.parametrize("work", [score.WORK, split.WORK])
def test_a_worker_starts_light(work: str) -> None:
    """What reads films is loaded by its sandbox: a worker that did so too would cost each stage a second a core."""
    heavy = "{'av', 'cv2', 'numpy', 'pyarrow', 'torch'}"
    program = f"import sys, infra.engine.worker, {work.split(':')[0]}; print({heavy} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "set()\n"


def workers() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if "infra.engine" in " ".join(child.cmdline())]


def sandboxes() -> list[psutil.Process]:
    return [child for worker in workers() for child in worker.children()]


@pytest.mark.parametrize("victims", [workers, sandboxes])
def test_what_is_killed_in_the_midst_costs_another_try(
    victims: Callable[[], list[psutil.Process]], known: tuple[Batch, list[bytes]], tmp_path: Path
) -> None:
    batch, expected = known
    killed = []

    def kills(items: Any, total: int, label: str) -> Iterator[Any]:
        for item in items:
            if not killed:
                killed.extend(victims())
                for process in killed:
                    process.kill()
            yield item

    mine = batch.elsewhere(tmp_path / "mine")
    (mine.root / "clips").write_bytes(expected[0])
    mine.scores(track=kills)
    assert killed and (mine.root / "scores").read_bytes() == expected[1]


def test_a_clip_that_ends_its_worker_twice_is_a_row_and_no_other_is(
    known: tuple[Batch, list[bytes]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch, expected = known
    monkeypatch.setattr(score, "WORK", "engine_work:deadly_measure")
    mine = batch.elsewhere(tmp_path / "mine")
    (mine.root / "clips").write_bytes(expected[0])
    found = {row["clip_id"]: row for row in mine.scores(workers=2).to_pylist()}
    (lost,) = [clip for clip, row in found.items() if row["reason"]]
    assert found[lost]["reason"] == "WORKER_CRASHED: 2 workers ended while they worked on it"
    others = {row["clip_id"]: row for row in tables.read("scores", batch.root / "scores").to_pylist()}
    assert {clip: row for clip, row in found.items() if clip != lost} == {k: v for k, v in others.items() if k != lost}


def test_a_film_that_needs_too_much_memory_costs_its_own_rows(
    tmp_path: Path, make_video: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Frames of 14 MB, of which a decoder holds a dozen."""
    write(tmp_path / "raw" / "large.mp4", (grey(90 + k, (2304, 4096)) for k in range(24)), rate=16)
    make_video(tmp_path / "raw" / "small.mp4", seconds=1.5, size=(64, 96))
    batch = Batch(tmp_path / "raw", tmp_path)
    monkeypatch.setattr(engine, "opened", functools.partial(engine.opened, memory=220 * MIB))
    rows = {row["uri"]: row["video_id"] for row in batch.videos.to_pylist()}
    reasons = {row["video_id"]: row["reason"] for row in batch.clips().to_pylist()}
    assert reasons[rows["raw/small.mp4"]] is None
    assert reasons[rows["raw/large.mp4"]] == "DECODER_CRASHED: the decoding process ended with signal 9"


_KILLED = """
import sys, time; sys.path[:] = {path!r}
from pathlib import Path
from data_pipeline import score, split, tables
from data_pipeline.params import LimitParams, ScoreParams, SplitParams
from sana_video.video.measures import MEASURE_VERSIONS

def track(items, total, label):
    for item in items:
        yield item
        time.sleep(600)  # what came is kept by now

root, cut = Path({root!r}), SplitParams.model_validate_json({split!r})
videos, score_params = tables.read("videos", root / "videos"), ScoreParams.model_validate_json({score!r})
if {stage!r} == "split":
    split.run(videos, LimitParams(), cut, root, track)
else:
    clips = tables.read("clips", root / "clips")
    score.run(videos, clips, LimitParams(), cut, score_params, MEASURE_VERSIONS, root, track)
"""


# of the measures of a chunk that of `embedding` is written last
@pytest.mark.parametrize(
    ("stage", "kept"),
    [
        pytest.param("split", "splits/*/*.json", marks=pytest.mark.slow),
        ("score", "measures/embedding-*/*/*.parquet"),
    ],
)
def test_a_killed_run_goes_on_where_it_stood(
    stage: str, kept: str, known: tuple[Batch, list[bytes]], tmp_path: Path
) -> None:
    batch, expected = known
    mine = batch.elsewhere(tmp_path / "mine")
    (mine.root / "videos").write_bytes((batch.root / "videos").read_bytes())
    (mine.root / "clips").write_bytes(expected[0])
    told = {"path": sys.path, "root": str(mine.root), "stage": stage}
    cut, how = SPLIT.model_dump_json(), SCORE.model_dump_json()
    run = subprocess.Popen([sys.executable, "-c", _KILLED.format(**told, split=cut, score=how)])
    until(lambda: list((mine.root / "runs").glob(kept)))
    family = psutil.Process(run.pid).children(recursive=True)
    run.kill()
    run.wait()
    assert not psutil.wait_procs(family, timeout=20)[1]
    before = {path: path.stat().st_mtime_ns for path in (mine.root / "runs").rglob("*.*")}
    came = []

    def counts(items: Any, total: int, label: str) -> Iterator[Any]:
        for item in items:
            came.append(item)
            yield item

    mine.clips(track=counts) if stage == "split" else mine.scores(track=counts)
    assert len(came) == 2, "one of three was kept"
    assert (mine.root / f"{'clips' if stage == 'split' else 'scores'}").read_bytes() == expected[stage == "score"]
    assert before == {path: path.stat().st_mtime_ns for path in before}


def until(true: Callable[[], Any], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def looped(source: Path, path: Path, times: int) -> Path:
    """The film so many times over, one after another; no frame is encoded again."""
    with av.open(str(path), "w") as out:
        stream, shift = None, 0
        for _ in range(times):
            with av.open(str(source)) as container:
                stream = stream or out.add_stream_from_template(container.streams.video[0])
                for packet in container.demux(video=0):
                    if packet.dts is None:
                        continue
                    packet.pts, packet.dts, packet.stream = packet.pts + shift, packet.dts + shift, stream
                    out.mux(packet)
                shift += container.streams.video[0].duration
    return path


class Peak(threading.Thread):
    """The most that any worker and its sandbox held of their own at once, bytes, while the block ran."""

    def __enter__(self) -> Peak:
        self.bytes, self._done = 0, threading.Event()
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self.join()

    def run(self) -> None:
        while not self._done.wait(0.05):
            for worker in workers():
                self.bytes = max(self.bytes, sum(anonymous(p.pid) for p in [worker, *worker.children(recursive=True)]))


def anonymous(pid: int) -> int:
    with contextlib.suppress(OSError), open(f"/proc/{pid}/status") as status:
        return next((int(line.split()[1]) << 10 for line in status if line.startswith("RssAnon")), 0)
    return 0


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_memory_is_bounded_whatever_the_films_length(tmp_path: Path, make_video: Any) -> None:
    minute = make_video(tmp_path / "minute.mp4", seconds=60, size=(180, 320), shots=6)
    cut, peaks = SPLIT.model_copy(update={"frames": 81}), {}
    for minutes in (5, 25):
        root = tmp_path / str(minutes)
        (root / "raw").mkdir(parents=True)
        looped(minute, root / "raw" / "film.mp4", minutes)
        batch = Batch(root / "raw", root)
        assert batch.videos["duration"].to_pylist() == [pytest.approx(60 * minutes, abs=1)]
        with Peak() as splitting:
            assert batch.clips(cut).num_rows >= 6 * minutes
        with Peak() as scoring:
            assert set(batch.scores(cut=cut)["reason"].to_pylist()) == {None}
        peaks[minutes] = splitting.bytes, scoring.bytes
        print(f"{minutes} minutes: split {splitting.bytes / MIB:.0f} MiB, score {scoring.bytes / MIB:.0f} MiB")
    for short, long in zip(peaks[5], peaks[25], strict=True):
        assert 0 < long < 2048 * MIB
        assert long < short + 32 * MIB  # split knows a few numbers of each frame, and there are 28,800 more


@pytest.mark.slow
def test_memory_is_bounded_whatever_the_films_size(tmp_path: Path) -> None:
    """2160 lines of 10-bit PQ, which go to standard range through linear light, in floats."""
    rng = np.random.default_rng(0)
    shades = [rng.integers(300, 600, (270, 480)).astype(np.uint16).repeat(8, 0).repeat(8, 1) for _ in range(2)]
    chroma = np.full((1080, 1920), 512, np.uint16)
    frames = (picture([np.roll(shades[k // 36], 8 * k, axis=1), chroma, chroma], "yuv420p10le") for k in range(72))
    tags = {"colorspace": 9, "color_range": 1, "color_primaries": 9, "color_trc": 16}
    write(tmp_path / "raw" / "film.mkv", frames, rate=24, codec="libx265", options=X265, tags=tags)
    batch = Batch(tmp_path / "raw", tmp_path)
    (video,) = batch.videos.to_pylist()
    assert video["hdr"] and (video["height"], video["reason"]) == (2160, None)
    with Peak() as splitting:
        assert batch.clips().num_rows == 2
    with Peak() as scoring:
        assert batch.scores()["reason"].to_pylist() == [None, None]
    print(f"2160 lines of PQ: split {splitting.bytes / MIB:.0f} MiB, score {scoring.bytes / MIB:.0f} MiB")
    assert 0 < splitting.bytes < 2048 * MIB and 0 < scoring.bytes < 2048 * MIB
