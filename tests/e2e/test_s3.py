"""A batch under an s3:// prefix takes the place of a folder by one key of params.yaml: real DVC, real S3 protocol."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import boto3
import pyarrow.parquet as pq
import pytest
from moto.server import ThreadedMotoServer
from small_project import Project, lay_out, shrink


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


def test_a_prefix_is_curated_like_a_folder(
    endpoint: str, tmp_path: Path, make_video: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "x",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    film = make_video(tmp_path / "film.mp4", seconds=4.0, fps=24, size=(160, 96), shots=2, seed=3)
    s3 = boto3.client("s3", endpoint_url=endpoint)
    s3.create_bucket(Bucket="studio")
    s3.upload_file(str(film), "studio", "raw/film.mp4")

    project: Project = lay_out(tmp_path / "project")
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
    s3.upload_file(str(film), "studio", "raw/again.mp4")
    project.dvc("repro", "ingest@film")
    assert project.ran() == {"ingest@film"}
