"""What a score loses by the size that it is taken at: each clip at the sizes of `score`, and at others.

    python benchmarks/sizes.py [FILES…] [--lines 480] [--quality-lines 480] [--clips 60] [--out FILE]

Without files, the material of the demo (`make demo` fetches it). Of up to so many clips of three seconds of each film:
Spearman's rank correlation between both sizes, the mean difference and the largest, for every column of one number.
"""

from __future__ import annotations

import argparse
import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from flow import rank_correlation
from separate_tools import begins_in_shots

from data_pipeline.params import DataParams
from data_pipeline.score import seen
from data_pipeline.score.clip import measure_clips
from data_pipeline.score.settings import Settings, settings_of
from infra.settings import load_section
from sana_video.video import io

ROOT = Path(__file__).resolve().parents[1]
FRAMES, FPS = 49, 16


def spans_of(path: Path, most: int) -> list[tuple[str, int, int, int]]:
    begins, length = begins_in_shots(path, Fraction(FRAMES, FPS), most), Fraction(FRAMES, FPS)
    with io.Film(path) as film:
        base = film.time_base
    return [(f"{k:04}", round(at / base), round((at + length) / base), FRAMES) for k, at in enumerate(begins)]


def scores(spans: dict[Path, Any], settings: Settings, lines: int, quality_lines: int) -> list[dict[str, Any]]:
    """Of all clips in order, measured at these sizes."""
    own = seen.LINES, seen.QUALITY_LINES
    seen.LINES, seen.QUALITY_LINES = lines, quality_lines
    try:
        found = [
            measure_clips(str(path), each, settings.measures, settings.as_json(), None) for path, each in spans.items()
        ]
    finally:
        seen.LINES, seen.QUALITY_LINES = own
    return [clip for film in found for clip in film.values()]


def compare(ours: list[dict[str, Any]], others: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    both = [(a, b) for a, b in zip(ours, others, strict=True) if "reason" not in a and "reason" not in b]
    found: dict[str, dict[str, float]] = {}
    for column, value in both[0][0].items():
        if isinstance(value, (int, float)) and column not in ("height", "width"):
            a, b = np.array([(a[column], b[column]) for a, b in both if None not in (a[column], b[column])], float).T
            found[column] = {
                "rank_correlation": rank_correlation(a, b) if np.ptp(a) and np.ptp(b) else float(np.array_equal(a, b)),
                "mean": float(a.mean()),
                "mean_difference": float((a - b).mean()),
                "largest_difference": float(np.abs(a - b).max()),
            }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="*")
    parser.add_argument("--lines", type=int, default=480)
    parser.add_argument("--quality-lines", type=int, default=480)
    parser.add_argument("--clips", type=int, default=60, help="of each film, at most")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    files = given.files or sorted((ROOT / "data" / "raw").glob("*/*.mp*"))
    cv2.setNumThreads(1)
    params = load_section(ROOT / "params.yaml", "data", DataParams, [])
    settings = settings_of(params.limit, params.split, params.score, ROOT)
    spans = {path: spans_of(path, given.clips) for path in files}
    ours = scores(spans, settings, seen.LINES, seen.QUALITY_LINES)
    found = compare(ours, scores(spans, settings, given.lines, given.quality_lines))
    print(
        f"{len(ours)} clips: {seen.LINES} and {seen.QUALITY_LINES} lines against {given.lines}, {given.quality_lines}"
    )
    for column, each in found.items():
        print(f"{column:17}" + ", ".join(f"{name} {value:.3f}" for name, value in each.items()))
    if given.out:
        told = {"clips": len(ours), "against": [given.lines, given.quality_lines], "columns": found}
        given.out.write_text(json.dumps(told, indent=2) + "\n")


if __name__ == "__main__":
    main()
