"""The same bytes from one worker, from several, and from a cluster; what is lost where something breaks on the way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ray_cluster import ray_cluster

from data_pipeline import ingest, score, split, tables
from data_pipeline.params import IngestParams, LimitParams, ScoreParams, SplitParams
from sana_video.video import measures

INGEST = IngestParams(min_seconds=0.1, max_seconds=7200.0, max_pixels=1 << 22, min_short_side=16)
SPLIT = SplitParams(detector="content", threshold=27.0, min_shot_seconds=0.6, fps=16, frames=17, trim_frames=1)
SCORE = ScoreParams(short_side=64, flow="dis", aesthetic="classical", sample_seconds=0.5, workers=1)
TABLES = ("videos", "clips", "scores")


def track(items: Any, total: int, label: str) -> Any:
    return items


def curate(raw: Path, root: Path, workers: int = 1) -> dict[str, bytes]:
    """The bytes of each table from ingest to scores, of the films in `raw`, made in the project `root`."""
    root.mkdir()
    (root / "raw").symlink_to(raw)
    videos = tables.write("videos", ingest.run("film", "raw", INGEST, root, track), root / "videos")
    rows = split.run(videos, LimitParams(), SPLIT, root, track)
    clips = tables.write("clips", rows, root / "clips")
    params = SCORE.model_copy(update={"workers": workers})
    scores = score.run(videos, clips, LimitParams(), SPLIT, params, measures.MEASURE_VERSIONS, root, track)
    tables.write("scores", scores, root / "scores")
    return {name: (root / name).read_bytes() for name in TABLES}


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory, make_video: Any) -> Path:
    """Three films, 18 clips; one file that is none."""
    folder = tmp_path_factory.mktemp("raw")
    for number, seconds in enumerate((9, 4, 7)):
        make_video(folder / f"{number}.mp4", seconds=seconds, shots=2, size=(64, 96), seed=number)
    (folder / "bad.mp4").write_text("no film")
    return folder


def test_a_cluster_and_any_number_of_workers_give_the_same_bytes(raw: Path, tmp_path: Path) -> None:
    alone = curate(raw, tmp_path / "1")
    assert curate(raw, tmp_path / "2", workers=2) == alone
    with ray_cluster():
        assert curate(raw, tmp_path / "ray") == alone
