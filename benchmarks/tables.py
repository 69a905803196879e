"""Choosing among ten million clips, and judging them: commands as a user runs them, time and peak memory of each.

    python benchmarks/tables.py --out benchmarks/results/tables.json
    python benchmarks/tables.py --rows 1000000 --only gate

Synthetic tables of four sources in a temporary project: 500 clips a video, a tenth of the clips outside some range, one
in fifty a twin, captions of 90 words. Making them is not counted. The peak is that of resident memory, as the kernel
keeps it; seconds of the processor stand beside those of the clock, which other work on the machine makes longer.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_pipeline import tables

ROOT = Path(__file__).resolve().parents[1]
PER_VIDEO, SOURCES, PART = 500, 4, 1_000_000
MEASURES = {"flow_motion": 12.0, "vmaf_motion": 12.0, "saturation": 90.0, "overall": 0.5}
LOOKS = ["--set", "data.caption.captioner=qwen"]  # the template writes shorter captions
BARS = ["--set", "data.gate.min_videos=1", "--set", "data.gate.max_nulls=1.0"]  # optional measures are not made here
CHANGE = ["--set", "data.curate.ranges.default.saturation=[0,150]"]
COMMANDS = {
    "quarantine": ["quarantine"],
    "curate": ["curate"],
    "whatif": ["whatif", *CHANGE],
    "gate": ["gate", "data", *BARS],
    "report": ["report"],
    "sft": ["sft"],
    "gate_sft": ["gate", "sft"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--only", choices=COMMANDS, help="Time this one alone; what it needs runs before it.")
    parser.add_argument("--keep", type=Path, help="Make the tables in this folder, or take those that it has.")
    parser.add_argument("--out", type=Path, help="Write the figures here as JSON.")
    given = parser.parse_args()
    with contextlib.nullcontext(given.keep) if given.keep else tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        root.mkdir(parents=True, exist_ok=True)
        for name in ("params.yaml", "dvc.yaml", "versions.yaml"):
            shutil.copy(ROOT / name, root / name)
        if not (root / "data/classes.parquet").is_file():  # the last to be made
            make(root, given.rows)
        about = {"machine": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()}
        figures = {}
        for name, figure in run(root, given.rows, given.only):
            figures[name] = figure
            if given.out:  # as they come: the last commands take the longest
                told = {"about": about, "rows": given.rows, "commands": figures}
                given.out.write_text(json.dumps(told, indent=1) + "\n")


def run(root: Path, rows: int, only: str | None) -> Iterator[tuple[str, dict[str, float]]]:
    """(command, seconds, seconds of the processor and peak GiB of it), one after another, printed as they come."""
    for name, words in COMMANDS.items():
        figure = timed([sys.executable, "-m", "flows.cli", "--root", str(root), "data", *words, *LOOKS])
        if only in (None, name):
            told = ", ".join(f"{what} {value}" for what, value in figure.items())
            print(f"{rows:,} rows, data {name}: {told}", flush=True)
            yield name, figure
        if name == only:
            return


def timed(command: list[str]) -> dict[str, float]:
    """Seconds and peak resident GiB of a command. Raises CalledProcessError where it fails."""
    begin = time.perf_counter()
    child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    if os.waitstatus_to_exitcode(status):
        raise subprocess.CalledProcessError(os.waitstatus_to_exitcode(status), command)
    return {
        "seconds": round(time.perf_counter() - begin, 1),
        "processor_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_gib": round(usage.ru_maxrss / 2**20, 2),
    }


def make(root: Path, rows: int) -> None:
    """The tables of batch `film` with all rows, and an empty batch `more`, as the shipped params name them."""
    videos = -(-rows // PER_VIDEO)
    ids = named("v", np.arange(videos))
    source = pa.array([f"source{n}" for n in range(SOURCES)])
    sizes = {"width": fixed(1280, videos), "height": fixed(720, videos), "rotation": fixed(0, videos)}
    films = {"bytes": pa.array(np.full(videos, 9)), "fps": reals(24.0, videos), "duration": reals(1200.0, videos)}
    told = {"batch": words("film", videos), "licence": words("CC0", videos), "origin": words("real", videos)}
    own = {
        "video_id": ids,
        "uri": ids,
        "source": source.take(pa.array(np.arange(videos) % SOURCES)),
        **sizes,
        **films,
        **told,
    }
    write(root, "videos", [own])
    parts = [np.arange(begin, min(begin + PART, rows)) for begin in range(0, rows, PART)]
    write(root, "clips", (clips(part, source) for part in parts))
    write(root, "scores", (scores(part) for part in parts))
    text = pa.array(["a long sentence of some words about what is to be seen " * 8])
    write(
        root,
        "captions",
        ({"clip_id": named("c", p), "text": text.take(fixed(0, len(p))), **captioned(len(p))} for p in parts),
    )
    twin = np.arange(1, rows, 50)
    found = {"clip_id": named("c", twin), "twin_of": named("c", twin - 1), "rank": fixed(1, len(twin))}
    found |= {"kind": words("hash", len(twin)), "distance": reals(2.0, len(twin))}
    write(root, "twins", [found], "data/twins.parquet")
    write(root, "classes", [], "data/classes.parquet")


def clips(numbers: Any, source: pa.Array) -> dict[str, pa.Array]:
    video, at = numbers // PER_VIDEO, numbers % PER_VIDEO
    return {
        "clip_id": named("c", numbers),
        "video_id": named("v", video),
        "source": source.take(pa.array(video % SOURCES)),
        "shot": pa.array(at // 4, pa.int32()),
        "start": pa.array(at * 2.1),
        "end": pa.array(at * 2.1 + 33 / 16),
        "start_pts": pa.array(at * 2100),
        "end_pts": pa.array(at * 2100 + 2063),
        "time_base": words("1/1000", len(numbers)),
        "frames": fixed(33, len(numbers)),
        "fps": reals(16.0, len(numbers)),
        "detector": words("content", len(numbers)),
    }


def scores(numbers: Any) -> dict[str, pa.Array]:
    rng = np.random.default_rng(int(numbers[0]))
    measures = {name: pa.array(middle * rng.gamma(8.0, 1 / 8.0, len(numbers))) for name, middle in MEASURES.items()}
    return {
        "clip_id": named("c", numbers),
        **measures,
        **{name: reals(0.5, len(numbers)) for name in ("aesthetic", "technical", "brightness")},
        **{name: fixed(96, len(numbers)) for name in ("height", "width")},
        "saturation": pa.array(np.minimum(measures["saturation"].to_numpy(), 255.0)),
        "overall": pa.array(np.minimum(measures["overall"].to_numpy(), 1.0)),
        "phash": pa.FixedSizeListArray.from_arrays(pa.array(np.arange(2 * len(numbers), dtype=np.uint64)), 2).cast(
            tables.SCORES.field("phash").type
        ),
        "flow_estimator": words("opencv-dis (stand-in for UniMatch)", len(numbers)),
        "aesthetic_scorer": words("classical (stand-in for DOVER)", len(numbers)),
        "cuts_inside": pa.array((rng.random(len(numbers)) < 0.02).astype(np.int32)),
    }


def captioned(count: int) -> dict[str, pa.Array]:
    return {"captioner": words("qwen2.5-vl", count), "prompt_version": fixed(1, count)}


def named(kind: str, numbers: Any) -> pa.Array:
    """Ids of 26 characters in rising order."""
    return pa.array(np.char.add(kind, np.char.zfill(numbers.astype("U25"), 25)))


def fixed(value: int, count: int) -> pa.Array:
    return pa.array(np.full(count, value, np.int32))


def reals(value: float, count: int) -> pa.Array:
    return pa.array(np.full(count, value))


def words(text: str, count: int) -> pa.Array:
    return pa.array([text]).take(fixed(0, count))


def write(root: Path, table: str, parts: Any, path: str | None = None) -> None:
    """The parts as one file; columns that are not given are null."""
    schema = tables.SCHEMAS[table]
    for place, given in (
        (path or f"data/{table}/film.parquet", parts),
        (None if path else f"data/{table}/more.parquet", ()),
    ):
        if place:
            (root / place).parent.mkdir(parents=True, exist_ok=True)
            with pq.ParquetWriter(root / place, schema) as writer:
                for part in given:
                    count = len(next(iter(part.values())))
                    writer.write_table(
                        pa.table(
                            [part[f.name] if f.name in part else pa.nulls(count, f.type) for f in schema], schema=schema
                        ),
                        row_group_size=tables.ROW_GROUP,
                    )


if __name__ == "__main__":
    main()
