"""Films under s3://, on a real server: what its faults cost, and what an outage does to the run."""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from ray_cluster import ray_cluster
from s3_server import Proxy, Server, s3_server

from data_pipeline import ingest, score, split, tables
from data_pipeline.params import IngestParams, LimitParams, ScoreParams, SplitParams
from infra import engine, stage
from sana_video.video import measures

INGEST = IngestParams(min_seconds=0.1, max_seconds=60.0, max_pixels=1 << 22, min_short_side=16)
SPLIT = SplitParams(detector="content", threshold=27.0, min_shot_seconds=0.6, fps=16, frames=17, trim_frames=1)
SCORE = ScoreParams(short_side=64, flow="dis", aesthetic="classical", sample_seconds=0.5, workers=2)
ALL = LimitParams()
FILMS = [f"{number}.mp4" for number in range(8)]
BATCH = "s3://films/raw"


def track(items: Any, total: int, label: str) -> Any:
    return items


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, make_video: Any) -> Path:
    root = tmp_path_factory.mktemp("films")
    for number, name in enumerate(FILMS):
        make_video(root / "raw" / name, seconds=1.5, size=(64, 96), seed=number)
    return root


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Iterator[Server]:
    with s3_server(tmp_path_factory.mktemp("s3")) as running:
        client = running.client()
        client.create_bucket(Bucket="films")
        for name in FILMS:
            client.upload_file(str(folder / "raw" / name), "films", f"raw/{name}")
        yield running


@pytest.fixture(scope="module")
def videos(server: Server, tmp_path_factory: pytest.TempPathFactory) -> pa.Table:
    return videos_of(BATCH, tmp_path_factory.mktemp("videos"))


@pytest.fixture
def proxy(server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    with Proxy(server) as between:
        monkeypatch.setenv("SANA_S3_ENDPOINT", between.endpoint)
        yield between


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Faults are tried again as always, with shorter pauses."""
    hasty = functools.partial(engine.results, patience=engine.Patience(retries=2, pause=0.01))
    monkeypatch.setattr(engine, "results", hasty)


def videos_of(place: str, root: Path) -> pa.Table:
    return tables.write("videos", ingest.run("film", place, INGEST, root, track), root / "videos")


def clips_of(videos: pa.Table, root: Path) -> pa.Table:
    return tables.write("clips", split.run(videos, ALL, SPLIT, root, track), root / "clips")


def scores_of(videos: pa.Table, clips: pa.Table, root: Path) -> pa.Table:
    rows = score.run(videos, clips, ALL, SPLIT, SCORE, measures.MEASURE_VERSIONS, root, track)
    return tables.write("scores", rows, root / "scores")


def reasons(table: pa.Table, videos: pa.Table) -> dict[str, str | None]:
    """{name of the film: what comes before the colon of the reason of its first row}."""
    names = {row["video_id"]: row["uri"].rsplit("/", 1)[-1] for row in videos.to_pylist()}
    return {names[row["video_id"]]: (row["reason"] or "").split(":")[0] or None for row in table.to_pylist()}


def test_a_prefix_gives_the_bytes_of_the_folder_whatever_passes(
    folder: Path, server: Server, proxy: Proxy, tmp_path: Path, hasty: None
) -> None:
    """Errors and broken connections that pass are tried again; ids are of content, so both batches are the same."""
    proxy.spoil = {"0.mp4": (2, "500"), "1.mp4": (3, "503"), "2.mp4": (2, "cut")}
    results = []
    for root, place in ((tmp_path / "here", str(folder / "raw")), (tmp_path / "there", BATCH)):
        videos = videos_of(place, root)
        clips = clips_of(videos, root)
        scores_of(videos, clips, root)
        results.append([(root / name).read_bytes() for name in ("clips", "scores")])
    assert results[0] == results[1]
    assert [row["uri"] for row in videos.to_pylist()] == [f"{BATCH}/{name}" for name in FILMS]
    assert all(proxy.reads[name] > 3 for name in proxy.spoil) and proxy.reads["5.mp4"] == 3  # one read a stage


@pytest.mark.parametrize("way", ["cut", pytest.param("500", marks=pytest.mark.slow)])
def test_an_object_that_stays_unreadable_costs_its_rows_alone(
    way: str, videos: pa.Table, proxy: Proxy, tmp_path: Path, hasty: None
) -> None:
    proxy.spoil = {"3.mp4": (10**6, way)}
    found = reasons(clips_of(videos, tmp_path), videos)
    assert found == {**dict.fromkeys(FILMS), "3.mp4": "STORAGE_FAILED"}
    proxy.spoil = {}
    assert set(reasons(clips_of(videos, tmp_path), videos).values()) == {None}, "a mended one is read the next time"


def test_an_object_that_is_gone_costs_its_rows_at_once(server: Server, videos: pa.Table, tmp_path: Path) -> None:
    body = server.client().get_object(Bucket="films", Key="raw/4.mp4")["Body"].read()
    server.client().delete_object(Bucket="films", Key="raw/4.mp4")
    try:
        rows = clips_of(videos, tmp_path).to_pylist()
    finally:
        server.client().put_object(Bucket="films", Key="raw/4.mp4", Body=body)
    lost = [row["reason"] for row in rows if row["reason"]]
    assert lost == [f"STORAGE_REFUSED: {BATCH}/4.mp4: nothing there"] and len(rows) == len(FILMS)


def test_refused_credentials_are_one_line(
    videos: pa.Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    assert stage.run("split@film", lambda _: {"clips": len(clips_of(videos, tmp_path))}, root=tmp_path) == 2
    assert "access refused; check the AWS_* credentials" in capfd.readouterr().err.splitlines()[-1]


@pytest.mark.slow
def test_an_outage_in_the_midst_stops_the_stage_as_transient_and_costs_nothing(
    videos: pa.Table, proxy: Proxy, tmp_path: Path, hasty: None
) -> None:
    def goes_down(items: Any, total: int, label: str) -> Any:
        for item in items:
            proxy.spoil = dict.fromkeys(FILMS, (10**6, "cut"))
            yield item

    def work(_: Any) -> dict[str, int]:
        return {"clips": len(split.run(videos, ALL, SPLIT, tmp_path, goes_down))}

    assert stage.run("split@film", work, root=tmp_path) == 1
    status = json.loads((tmp_path / "runs/status/split@film.json").read_text())
    assert status["kind"] == "transient" and not (tmp_path / "clips").exists()
    done = len(list((tmp_path / "runs" / "splits").glob("*/*.json")))
    assert 1 <= done <= len(FILMS) - engine.OUTAGE
    proxy.spoil, before = {}, proxy.reads.total()
    assert set(reasons(clips_of(videos, tmp_path), videos).values()) == {None}
    assert proxy.reads.total() - before == len(FILMS) - done, "what was split before is not fetched again"


@pytest.mark.slow
def test_a_server_that_is_killed_and_started_again_costs_nothing(
    server: Server, videos: pa.Table, tmp_path: Path
) -> None:
    clips = clips_of(videos, tmp_path)
    scores_of(videos, clips, tmp_path)
    first = (tmp_path / "scores").read_bytes()
    again = tmp_path / "again"

    def dies_once(items: Any, total: int, label: str) -> Any:
        for number, item in enumerate(items):
            if number == 0:
                server.kill()
                server.start()
            yield item

    rows = score.run(videos, clips, ALL, SPLIT, SCORE, measures.MEASURE_VERSIONS, again, dies_once)
    tables.write("scores", rows, again / "scores")
    assert (again / "scores").read_bytes() == first


@pytest.mark.slow
def test_a_cluster_reads_a_prefix_like_one_machine(server: Server, tmp_path: Path) -> None:
    made = []
    for root in (tmp_path / "here", tmp_path / "cluster"):
        with ray_cluster() if root.name == "cluster" else contextlib.nullcontext():
            videos = videos_of(BATCH, root)
            scores_of(videos, clips_of(videos, root), root)
        made.append([(root / name).read_bytes() for name in ("videos", "clips", "scores")])
    assert made[0] == made[1]
