"""Near copies among a million hashes, and among a hundred thousand embeddings: time, peak memory, recall, on one CPU.

    python benchmarks/dedup.py --out benchmarks/results/dedup.json
    python benchmarks/dedup.py --hashes 200000 --vectors 0

Random clips of ten hashes that change by a few bits from frame to frame, one clip in ten with a planted copy: each
frame's hash off by up to eight bits (a mean of four), a third of the copies a sample late. Random unit vectors of 300
numbers in loose groups, one in ten with a copy at a cosine of about 0.99. Each part runs in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.near import Sequences, Vectors, near_sequences, near_vectors

FRAMES, WIDTH = 10, 300
DISTANCE = 6.0  # mean bits of 64, as data.dedup.max_distance is shipped

Pairs = tuple[Any, Any]  # two arrays of rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hashes", type=int, default=1_000_000)
    parser.add_argument("--vectors", type=int, default=100_000)
    parser.add_argument("--part", choices=["hashes", "vectors"], help="run this one here and print it as JSON")
    parser.add_argument("--out", type=Path, help="Write the figures here as JSON.")
    given = parser.parse_args()
    if given.part:
        print(json.dumps(hashes(given.hashes) if given.part == "hashes" else vectors(given.vectors)))
        return
    figures = {}
    for part in ("hashes", "vectors"):
        if count := getattr(given, part):
            again = [sys.executable, *sys.argv, "--part", part]
            found = json.loads(subprocess.run(again, check=True, capture_output=True).stdout)
            figures[part] = {"count": count, **found}
            print(
                f"{count:,} {part}: {found['seconds']:.1f} s, peak {found['peak_gib']:.2f} GiB, "
                f"recall {found['recall']:.4f} of {found['planted']:,} planted, {found['others']:,} other pairs"
            )
    if given.out:
        about = {"machine": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()}
        given.out.write_text(json.dumps({"about": about, **figures}, indent=1) + "\n")


def hashes(count: int) -> dict[str, Any]:
    """Seconds, peak and recall of `near_sequences` over `count` hashes."""
    every, planted = clips_of(count)
    begin = time.perf_counter()
    found = near_sequences(every, DISTANCE)
    return told(begin, found.i, found.j, planted)


def clips_of(count: int) -> tuple[Sequences, Pairs]:
    """Clips of together `count` hashes, and which of them (i, j), i < j, are a film's and its copy's."""
    rng = np.random.default_rng(1)
    clips = count // FRAMES
    films = clips * 10 // 11
    steps = sparse(rng, (films, FRAMES + 1), 3)
    steps[:, 0] = rng.integers(0, 2**64, films, np.uint64)
    film = np.bitwise_xor.accumulate(steps, axis=1)
    who = rng.choice(films, clips - films, replace=False)
    late = rng.random(len(who)) < 1 / 3
    copies = np.where(late[:, None], film[who, 1:], film[who, :-1]) ^ sparse(rng, (len(who), FRAMES), 8)
    flat = np.concatenate([film[:, :-1], copies]).ravel()
    start = np.arange(clips, dtype=np.int64) * FRAMES
    return Sequences(flat, start, np.full(clips, FRAMES, np.int64)), (who, films + np.arange(len(who)))


def sparse(rng: np.random.Generator, shape: tuple[int, int], most: int) -> np.ndarray[Any, np.dtype[np.uint64]]:
    """Masks with 0 to `most` bits set."""
    mask = np.zeros(shape, np.uint64)
    wanted = rng.integers(0, most + 1, shape)
    for bit in range(most):
        one = np.uint64(1) << rng.integers(0, 64, shape).astype(np.uint64)
        mask |= np.where(wanted > bit, one, np.uint64(0))
    return mask


def vectors(count: int) -> dict[str, Any]:
    rng = np.random.default_rng(1)
    films = count * 10 // 11
    groups = unit(rng, max(1, films // 50))
    film = shortened(groups[rng.integers(0, len(groups), films)] + 0.6 * unit(rng, films))
    who = rng.choice(films, count - films, replace=False)
    every = np.concatenate([film, shortened(film[who] + 0.14 * unit(rng, len(who)))])
    begin = time.perf_counter()
    found = near_vectors(every, np.arange(count), 0.02)
    return told(begin, found.i, found.j, (who, films + np.arange(len(who))))


def unit(rng: np.random.Generator, count: int) -> Vectors:
    return shortened(rng.standard_normal((count, WIDTH), np.float32))


def shortened(values: Vectors) -> Vectors:
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def told(begin: float, i: Any, j: Any, planted: Pairs) -> dict[str, Any]:
    seconds = time.perf_counter() - begin
    first, second = planted
    most = int(second.max(initial=0)) + 1
    hit = np.isin(first * most + second, i * most + j)
    return {
        "seconds": round(seconds, 1),
        "peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
        "planted": len(first),
        "recall": float(hit.mean()) if len(first) else 1.0,
        "others": len(i) - int(hit.sum()),
    }


if __name__ == "__main__":
    main()
