"""A batch under an s3:// prefix takes the place of a folder by one key of params.yaml: real DVC, a real S3 server."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from s3_server import s3_server
from small_project import Project, lay_out, shrink


@pytest.mark.slow
def test_a_prefix_is_curated_like_a_folder(tmp_path: Path, make_video: Callable[..., Path]) -> None:
    film = make_video(tmp_path / "film.mp4", seconds=4.0, fps=24, size=(160, 96), shots=2, seed=3)
    (tmp_path / "s3").mkdir()
    with s3_server(tmp_path / "s3") as server:
        client = server.client()
        client.create_bucket(Bucket="studio")
        client.upload_file(str(film), "studio", "raw/film.mp4")
        curate_and_add(lay_out(tmp_path / "project"), lambda: client.upload_file(str(film), "studio", "raw/again.mp4"))


def curate_and_add(project: Project, add: Callable[[], None]) -> None:
    project.edit(shrink)
    project.edit(lambda p: p["data"].update(batches={"film": {"path": "s3://studio/raw"}}))
    project.run("git", "init", "-q")
    project.dvc("repro", "score@film")
    videos = pq.read_table(project.root / "data/videos/film.parquet").to_pylist()
    assert [(v["uri"], v["reason"]) for v in videos] == [("s3://studio/raw/film.mp4", None)]
    scores = pq.read_table(project.root / "data/scores/film.parquet").to_pylist()
    assert scores and all(row["reason"] is None for row in scores)

    project.forget_statuses()
    project.dvc("repro", "score@film")
    assert not project.ran(), "nothing changed in the bucket"
    add()
    project.dvc("repro", "ingest@film")
    assert project.ran() == {"ingest@film"}
