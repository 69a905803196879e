"""Which settings of OpenCV's DIS stand in for UniMatch: what each costs, and what it loses against the medium preset.

    python benchmarks/flow.py [FILES…] [--clips 40] [--out FILE]

Without files, the demo's (`make demo` fetches them). Two tests of each contender, all on the same luma:

- clips: up to so many of each film, five pairs of pictures half a second apart, none across a cut of PySceneDetect's.
  Spearman's rank correlation with the medium preset of the four columns that a threshold may be set on.
- moves: a picture of each clip, moved by a known pan, zoom or roll of 2 to 80 px. Error of the flow where it stays
  visible, and of the camera's model fitted to it, in pixels of the 320x576 picture.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from separate_tools import begins_in_shots

from sana_video.video.flow import camera, dis
from sana_video.video.io import Film
from sana_video.video.measures import flow_pair

ROOT = Path(__file__).resolve().parents[1]
PAIRS, EVERY = 5, Fraction(1, 2)
COLUMNS = ("flow_motion", "camera_motion", "camera_jitter", "object_motion")
LONG = 30.0  # px: from here on a move is called long
Pixels = NDArray[np.uint8]
Flow = NDArray[np.float32]
Estimator = Callable[[Pixels], list[Flow]]


def preset(number: int, **settings: int) -> Estimator:
    """DIS of a preset on pictures of 320x576, with some of its settings changed."""
    estimator = cv2.DISOpticalFlow.create(number)
    for name, value in settings.items():
        getattr(estimator, f"set{name}")(value)

    def flow(pictures: Pixels) -> list[Flow]:
        unset = np.empty((0, 0), np.float32)
        fields = (estimator.calc(first, second, unset) for first, second in itertools.pairwise(pictures))
        return [np.ascontiguousarray(field.transpose(2, 0, 1), np.float32) for field in fields]

    return flow


def ours(pictures: Pixels) -> list[Flow]:
    """Enlarged, to be compared pixel by pixel."""
    size = dis.SIZE[::-1]
    return [
        np.stack([cv2.resize(part, size) for part in field]).astype(np.float32) for field in dis.dis_flows(pictures)
    ]


MEDIUM = cv2.DISOPTICAL_FLOW_PRESET_MEDIUM
CONTENDERS: dict[str, Estimator] = {
    "medium": preset(MEDIUM),
    "ours": ours,
    "medium, finest scale 2": preset(MEDIUM, FinestScale=2),
    "the same, 2 refinements": preset(MEDIUM, FinestScale=2, VariationalRefinementIterations=2),
    "the same, no refinement": preset(MEDIUM, FinestScale=2, VariationalRefinementIterations=0),
    "the same, 2, stride 4": preset(MEDIUM, FinestScale=2, PatchStride=4, VariationalRefinementIterations=2),
    "medium, finest scale 3": preset(MEDIUM, FinestScale=3),
    "fast": preset(cv2.DISOPTICAL_FLOW_PRESET_FAST),
    "ultrafast": preset(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST),
}


def stretched(picture: Pixels) -> Pixels:
    upright = picture.T if picture.shape[0] > picture.shape[1] else picture
    return cv2.resize(upright, dis.SIZE[::-1], interpolation=cv2.INTER_LINEAR).astype(np.uint8, copy=False)


def clips_of(path: Path, most: int) -> Iterator[Pixels]:
    """Luma uint8 (PAIRS + 1, 320, 576) of evenly chosen clips, each inside one shot."""
    begins = begins_in_shots(path, PAIRS * EVERY, most)
    with Film(path, short_side=240) as film:
        for begin in begins:
            yield np.stack([stretched(film.at(begin + k * EVERY).luma) for k in range(PAIRS + 1)])


def moves(clips: list[Pixels]) -> Iterator[tuple[Pixels, Pixels, Flow, NDArray[np.bool_], float]]:
    """(first, second, true flow, where it stays visible, length at the centre) of pictures moved by known amounts."""
    rng, (height, width) = np.random.RandomState(0), dis.SIZE
    y, x = np.mgrid[:height, :width].astype(np.float64)
    centre = np.array([(width - 1) / 2, (height - 1) / 2])
    for clip, turned in itertools.product(clips, (False, True)):
        angle, length = rng.uniform(0, 2 * np.pi), float(rng.choice([2, 5, 10, 20, 40, 80]))
        zoom, roll = (1 + rng.uniform(-0.15, 0.15), rng.uniform(-0.1, 0.1)) if turned else (1.0, 0.0)
        length = min(length, 20.0) if turned else length
        linear = zoom * np.array([[np.cos(roll), -np.sin(roll)], [np.sin(roll), np.cos(roll)]])
        shift = centre - linear @ centre + length * np.array([np.cos(angle), np.sin(angle)])
        to_x, to_y = (linear[row, 0] * x + linear[row, 1] * y + shift[row] for row in (0, 1))
        matrix = np.hstack([linear, shift[:, None]])
        second = cv2.warpAffine(clip[0], matrix, (width, height), borderMode=cv2.BORDER_REFLECT)
        seen = (to_x >= 0) & (to_x < width) & (to_y >= 0) & (to_y < height)
        yield clip[0], second.astype(np.uint8), np.stack([to_x - x, to_y - y]).astype(np.float32), seen, length


def columns(clip: Pixels, estimate: Estimator) -> tuple[list[float], float]:
    """COLUMNS of a clip, and the seconds of processor time that its flows took."""
    begin = time.process_time()
    flows = estimate(clip)
    took = time.process_time() - begin
    split = camera.split_motion(flows)
    mean = float(np.mean([flow_pair(flow).l2 for flow in flows]))
    return [mean, split.camera_motion, split.camera_jitter, split.object_motion], took


def errors(clips: list[Pixels], estimate: Estimator) -> dict[str, list[float]]:
    """Median and mean error of the flow, and of the camera's model, over short and long moves, px."""
    found: dict[str, list[float]] = {f"{of} {far}": [] for far in ("short", "long") for of in ("flow", "camera")}
    for first, second, true, seen, length in moves(clips):
        [flow], far = estimate(np.stack([first, second])), "long" if length > LONG else "short"
        found[f"flow {far}"].append(float(np.hypot(*(flow - true))[seen].mean()))
        model, right = (camera.fit_camera(field) for field in (flow, true))
        places = np.stack([*np.mgrid[-280:288:8, -160:160:8].reshape(2, -1), np.ones(71 * 40)], 1)
        found[f"camera {far}"].append(float(np.hypot(*(places @ (model - right)).T).mean()))
    return {name: [float(np.median(each)), float(np.mean(each))] for name, each in found.items()}


def rank_correlation(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Spearman's; equal values share their mean rank."""
    return float(np.corrcoef(_ranks(a), _ranks(b))[0, 1])


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts).astype(np.float64)
    return (last - (counts - 1) / 2)[which]


def compare(clips: list[Pixels]) -> dict[str, Any]:
    found, reference = {}, None
    for name, estimate in CONTENDERS.items():
        told = [columns(clip, estimate) for clip in clips]
        values = np.array([each for each, _ in told])
        reference = values if reference is None else reference
        found[name] = {
            "ms_a_pair": 1000 * sum(took for _, took in told) / len(clips) / PAIRS,
            "rank_correlation": {
                column: rank_correlation(values[:, k], reference[:, k]) for k, column in enumerate(COLUMNS)
            },
            "mean": dict(zip(COLUMNS, values.mean(0).tolist(), strict=True)),
            "error": errors(clips, estimate),
        }
        ranks = "  ".join(f"{found[name]['rank_correlation'][column]:.3f}" for column in COLUMNS)
        missed = "  ".join(f"{of} {each[0]:.2f}/{each[1]:.2f}" for of, each in found[name]["error"].items())
        print(f"{name:34}{found[name]['ms_a_pair']:6.1f} ms   rank {ranks}   error {missed}", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="*")
    parser.add_argument("--clips", type=int, default=40, help="of each film, at most")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    files = given.files or sorted((ROOT / "data" / "raw").glob("*/*.mp*"))
    if not files:
        raise SystemExit("no films under data/raw (make demo fetches them)")
    cv2.setNumThreads(1)
    clips = [clip for path in files for clip in clips_of(path, given.clips)]
    print(f"{len(clips)} clips of {len(files)} films, {PAIRS} pairs each")
    print(f"rank: of {', '.join(COLUMNS)}; error: median/mean, px")
    found = {"clips": len(clips), "films": [path.name for path in files], "contenders": compare(clips)}
    if given.out:
        given.out.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
