"""A folder of everything that people have: one row a file, and why it is refused."""

from __future__ import annotations

import hashlib
import shutil
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import yaml
from films import flat, grey, write
from hostile import endless

from data_pipeline import ingest, tables
from data_pipeline.params import IngestParams

PARAMS = IngestParams(min_seconds=0.5, max_seconds=5.0, max_pixels=1 << 20, min_short_side=64)


def track(items: Any, total: int, label: str) -> Any:
    return items


def rows_of(root: Path, batch: str = "film", params: IngestParams = PARAMS) -> dict[str, dict[str, Any]]:
    rows = ingest.run(batch, f"raw/{batch}", params, root, track)
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
    make_video(raw / "slides.mp4", times=[0.0, 4.5])
    make_video(raw / "wide.mp4", times=[0.0, 0.1], size=(1088, 1920))
    shutil.copy(good, raw / "film.dat")
    (raw / "notes.txt").write_text("not a video, and not called one")
    (raw / "prompts.JSON").write_text("{}")
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
        "slides.mp4": "ODD_RATE",
        "wide.mp4": "TOO_LARGE",
        "film.dat": "UNKNOWN_SUFFIX",
    }
    assert rows["twin.mp4"]["reason"] == "DUPLICATE_OF:raw/film/good.mp4"


def test_what_is_odd_about_the_picture_stands_in_the_row(tmp_path: Path, make_video: Any) -> None:
    raw = tmp_path / "raw" / "film"
    make_video(raw / "plain.mp4", seconds=1)
    tags = {"colorspace": 9, "color_range": 1, "color_primaries": 9, "color_trc": 16}
    bright = [flat((500 + k, 512, 512), (64, 96), "yuv420p10le") for k in range(25)]
    write(raw / "hdr.mkv", bright, codec="ffv1", options={}, tags=tags)
    woven = [grey(40 + k, (64, 96)) for k in range(25)]
    write(raw / "fields.mp4", woven, options={"x264-params": "interlaced=1"}, sample_aspect=Fraction(4, 3))
    late = [Fraction(25 + k, 25) for k in range(25)]
    write(raw / "late.mkv", [grey(90 + k) for k in range(25)], times=late)
    rows = rows_of(tmp_path)
    assert {row["reason"] for row in rows.values()} == {None}
    columns = ("hdr", "colour_primaries", "interlaced", "sample_aspect", "mirrored", "start")
    assert {name: [row[c] for c in columns] for name, row in rows.items()} == {
        "plain.mp4": [False, "unknown", False, 1.0, False, 0.0],
        "hdr.mkv": [True, "bt2020", False, 1.0, False, 0.0],
        "fields.mp4": [False, "unknown", True, pytest.approx(4 / 3), False, 0.0],
        "late.mkv": [False, "unknown", False, 1.0, False, 1.0],
    }
    strict = rows_of(tmp_path, params=PARAMS.model_copy(update={"hdr": "reject", "interlaced": "reject"}))
    assert {name: (row["reason"] or "ok").split(":")[0] for name, row in strict.items()} == {
        "plain.mp4": "ok",
        "hdr.mkv": "HDR",
        "fields.mp4": "INTERLACED",
        "late.mkv": "ok",
    }


def test_the_short_side_is_that_of_the_picture_as_shown(tmp_path: Path) -> None:
    thin = [grey(40 + k, (96, 96)) for k in range(25)]
    write(tmp_path / "raw" / "film" / "a.mp4", thin, sample_aspect=Fraction(1, 2))
    assert rows_of(tmp_path)["a.mp4"]["reason"].startswith("TOO_SMALL: 48x96 as shown")


def test_links_stay_within_the_project(tmp_path: Path, make_video: Any) -> None:
    """A link to the project's cache is followed, one to elsewhere is not, however the batch's folder is reached."""
    outside = make_video(tmp_path / "elsewhere" / "a.mp4", seconds=1)
    root = tmp_path / "project"
    cached = root / ".dvc" / "cache" / "ab" / "cdef"
    cached.parent.mkdir(parents=True)
    shutil.move(make_video(tmp_path / "b.mp4", seconds=1, seed=1), cached)
    raw = root / "raw" / "film"
    raw.mkdir(parents=True)
    (raw / "good.mp4").symlink_to(cached)
    (raw / "out.mp4").symlink_to(outside)
    assert {name: (row["reason"] or "ok").split(":")[0] for name, row in rows_of(root).items()} == {
        "good.mp4": "ok",
        "out.mp4": "LINK_OUTSIDE",
    }
    worktree = tmp_path / "worktree"
    worktree.mkdir()
    (worktree / "raw").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    rows = ingest.run("film", "raw", PARAMS, worktree, track)
    assert [row["reason"] for row in rows] == [None]


@pytest.mark.parametrize("name", ["a.mp4", "фильм 🎬.mp4", "<b>.mp4", "a\u200db.mp4"])
def test_names_that_can_be_shown_stay(name: str) -> None:
    assert ingest.printable(name) == name


def test_names_that_cannot_be_shown_are_told_apart() -> None:
    odd = ["a\n.mp4", "a\\n.mp4", "\udcff.mp4", "\\udcff.mp4", "\u202e.mp4", "\x1b.mp4", "\x00.mp4"]
    shown = [ingest.printable(name) for name in odd]
    assert len(set(shown)) == len(odd) and all(name.isascii() and name.isprintable() for name in shown)


def test_a_file_that_holds_up_the_probe_costs_its_own_row(
    tmp_path: Path, make_video: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest, "PROBE_SECONDS", 4.0)
    raw = tmp_path / "raw" / "film"
    make_video(raw / "good.mp4", seconds=1)
    endless(raw / "endless.mp4")
    rows = rows_of(tmp_path)
    assert rows["good.mp4"]["reason"] is None
    assert rows["endless.mp4"]["reason"] == "DECODER_TIMEOUT: no answer within 4 s"


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
    stated = ("source", "origin", "licence", "attribution")
    assert [plain[key] for key in stated] == ["film", "real", "unstated", None]
    rule = {
        "match": "bbb*",
        "source": "bunny",
        "licence": "CC-BY-3.0",
        "attribution": "(c) 2008",
        "url": "https://x.org",
    }
    (raw / "sources.yaml").write_text(yaml.safe_dump({"sources": [rule]}))
    rows = rows_of(tmp_path)
    assert [rows["bbb.mp4"][key] for key in stated] == ["bunny", "real", "CC-BY-3.0", "(c) 2008"]
    assert [rows["other.mp4"][key] for key in stated] == ["film", "real", "unstated", None]
    (raw / "sources.yaml").write_text(yaml.safe_dump({"sources": [{**rule, "origin": "synthetic"}]}))
    rows = rows_of(tmp_path)
    assert (rows["bbb.mp4"]["origin"], rows["other.mp4"]["origin"]) == ("synthetic", "real")


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
