"""A folder of everything that people have: one row a file, and why it is refused."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from data_pipeline import ingest, tables
from data_pipeline.params import IngestParams

PARAMS = IngestParams(min_seconds=0.5, max_seconds=5.0, max_pixels=1 << 20, min_short_side=64)


def track(items: Any, total: int, label: str) -> Any:
    return items


def rows_of(root: Path, batch: str = "film") -> dict[str, dict[str, Any]]:
    rows = ingest.run(batch, f"raw/{batch}", PARAMS, root, track)
    assert tables.write("videos", rows, root / "videos.parquet").num_rows == len(rows)  # the schema holds
    return {Path(row["uri"]).name: dict(row) for row in rows}


def test_every_bad_file_is_a_row_with_its_reason(tmp_path: Path, make_video: Any) -> None:
    raw = tmp_path / "raw" / "film"
    good = make_video(raw / "good.mp4", seconds=2)
    shutil.copy(good, raw / "twin.mp4")
    (raw / "empty.mp4").touch()
    (raw / "text.mp4").write_text("hello, I am a film\n" * 10)
    (raw / "playlist.mp4").write_text("#EXTM3U\n#EXTINF:4,\nfile:///etc/passwd\n")
    (raw / "cut.mp4").write_bytes(good.read_bytes()[:-4000])
    make_video(raw / "still.mp4", times=[0.0])
    make_video(raw / "blink.mp4", seconds=0.25, seed=1)
    make_video(raw / "long.mp4", seconds=6)
    make_video(raw / "tiny.mp4", size=(48, 80))
    make_video(raw / "wide.mp4", times=[0.0, 0.1], size=(1088, 1920))
    (raw / "notes.txt").write_text("not a video, and not called one")
    (raw / ".hidden.mp4").write_text("x")
    rows = rows_of(tmp_path)
    codes = {name: (row["reason"] or "ok").split(":")[0] for name, row in rows.items()}
    assert codes == {
        "good.mp4": "ok",
        "twin.mp4": "DUPLICATE_OF",
        "empty.mp4": "EMPTY_FILE",
        "text.mp4": "NOT_A_VIDEO",
        "playlist.mp4": "NOT_A_VIDEO",
        "cut.mp4": "TRUNCATED",
        "still.mp4": "TOO_FEW_FRAMES",
        "blink.mp4": "TOO_SHORT",
        "long.mp4": "TOO_LONG",
        "tiny.mp4": "TOO_SMALL",
        "wide.mp4": "TOO_LARGE",
    }
    assert rows["twin.mp4"]["reason"] == "DUPLICATE_OF:raw/film/good.mp4"


def test_the_id_is_the_content_and_the_uri_is_relative(tmp_path: Path, make_video: Any) -> None:
    path = make_video(tmp_path / "raw" / "film" / "sub" / "a.mp4", seconds=1)
    row = rows_of(tmp_path)["a.mp4"]
    assert row["uri"] == "raw/film/sub/a.mp4"
    assert row["video_id"] == ingest.short_id(hashlib.sha256(path.read_bytes()).digest())
    assert len(row["video_id"]) == 26 and row["bytes"] == path.stat().st_size
    moved = tmp_path / "elsewhere" / "raw" / "film"
    moved.mkdir(parents=True)
    shutil.move(path, moved / "b.mp4")
    assert rows_of(tmp_path / "elsewhere")["b.mp4"]["video_id"] == row["video_id"]


def test_source_and_licence_come_from_the_batch_or_are_unstated(tmp_path: Path, make_video: Any) -> None:
    raw = tmp_path / "raw" / "film"
    make_video(raw / "bbb.mp4", seconds=1)
    make_video(raw / "other.mp4", seconds=1, seed=1)
    plain = rows_of(tmp_path)["bbb.mp4"]
    assert (plain["source"], plain["licence"], plain["attribution"]) == ("film", "unstated", None)
    rule = {
        "match": "bbb*",
        "source": "bunny",
        "licence": "CC-BY-3.0",
        "attribution": "(c) 2008",
        "url": "https://x.org",
    }
    (raw / "sources.yaml").write_text(yaml.safe_dump({"sources": [rule]}))
    rows = rows_of(tmp_path)
    assert [rows["bbb.mp4"][key] for key in ("source", "licence", "attribution")] == ["bunny", "CC-BY-3.0", "(c) 2008"]
    assert rows["other.mp4"]["licence"] == "unstated"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("sources: [{match: '*', source: x}]", r"sources\.0\.licence"),
        ("sources: [{match: '*', source: x, licence: y, attribution: z, url: u, lizenz: y}]", "lizenz"),
        ("sources: []", "sources"),
        ("sources: [", "is not YAML"),
    ],
)
def test_a_faulty_sources_file_is_one_clear_line(tmp_path: Path, make_video: Any, text: str, told: str) -> None:
    make_video(tmp_path / "raw" / "film" / "a.mp4", seconds=1)
    (tmp_path / "raw" / "film" / "sources.yaml").write_text(text)
    with pytest.raises(ValueError, match=told) as error:
        rows_of(tmp_path)
    assert "\n" not in str(error.value) and "raw/film/sources.yaml" in str(error.value)


def test_a_folder_without_video_is_named(tmp_path: Path) -> None:
    (tmp_path / "raw" / "film").mkdir(parents=True)
    (tmp_path / "raw" / "film" / "readme.txt").write_text("soon")
    with pytest.raises(ValueError, match="raw/film: no video"):
        rows_of(tmp_path)
    with pytest.raises(FileNotFoundError, match="raw/gone"):
        rows_of(tmp_path, "gone")


def test_equal_input_gives_equal_bytes(tmp_path: Path, make_video: Any) -> None:
    for seed in range(3):
        make_video(tmp_path / "raw" / "film" / f"{seed}.mp4", seconds=1, seed=seed)
    rows_of(tmp_path)
    first = (tmp_path / "videos.parquet").read_bytes()
    rows_of(tmp_path)
    assert (tmp_path / "videos.parquet").read_bytes() == first


def test_version_is_that_of_the_file() -> None:
    stated = yaml.safe_load((Path(__file__).parents[2] / "versions.yaml").read_text())
    assert stated["ingest"] == ingest.INGEST_VERSION
