"""A hundred hostile files through the whole pipeline: nothing crashes, each is accounted for, each gets its verdict."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from hostile import PIXELS, SECONDS, Entry, corpus
from typer.testing import CliRunner

from data_pipeline import ingest
from data_pipeline.cli import app
from infra.settings import AppContext
from sana_video.data.shards import read_index

ROOT = Path(__file__).resolve().parents[2]
Rows = list[dict[str, Any]]


MEASURED = ("flow_motion", "vmaf_motion", "saturation")
WIDE = ["--set", f"data.curate.ranges.default={{{', '.join(f'{name}: [0, 255]' for name in MEASURED)}}}"]
LOW = ["min_clips=1", "min_kept=1", "kept_fraction=[0, 1]", "max_nulls=1"]
LOW += [f"budgets.{boundary}.others=1" for boundary in ("ingest", "split", "scores", "captions")]
BARS = [word for bar in LOW for word in ("--set", f"data.gate.{bar}")]


def sana(root: Path, *words: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, list(words), obj=AppContext(root, root / "params.yaml"))
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture(scope="module", params=["quick", pytest.param("whole", marks=pytest.mark.slow)])
def project(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, make_video: Callable[..., Path]
) -> tuple[Path, list[Entry]]:
    """A project whose only batch is the corpus, taken up to the selection by the commands.

    The quick one has every file that is refused, and one in five of those that go all the way.
    """
    root = tmp_path_factory.mktemp("hostile")
    for name in ("dvc.yaml", "versions.yaml"):
        shutil.copy(ROOT / name, root / name)
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["data"]["batches"] = {"hostile": {"path": "raw/hostile"}}
    params["data"]["ingest"].update(min_seconds=0.5, max_seconds=SECONDS, max_pixels=PIXELS, min_short_side=32)
    params["data"]["split"].update(frames=9, min_shot_seconds=0.5)
    for view in (params["data"]["pixels"], *params["data"]["views"].values()):
        view.update(height=32, width=48, frames=9)
    (root / "params.yaml").write_text(yaml.safe_dump(params))
    folder = root / "raw" / "hostile"
    folder.mkdir(parents=True)
    entries = corpus(make_video, tmp_path_factory.mktemp("elsewhere"))
    if request.param == "quick":
        good = [entry for entry in entries if entry.verdict == "ok"]
        entries = [entry for entry in entries if entry not in good or good.index(entry) % 5 == 0]
    for entry in entries:
        entry.make(folder / os.fsdecode(entry.name))
    (folder / "notes.txt").write_text("beside the films")
    (folder / ".hidden.mp4").write_text("not looked at")
    for stage in ("ingest", "split", "score", "caption"):
        sana(root, stage, "--batch", "hostile")
    for stage in ("dedup", "quarantine", "classify", "curate"):
        sana(root, stage)
    return root, entries


def table(root: Path, name: str) -> Rows:
    place = root / "data" / name
    return pq.read_table(place / "hostile.parquet" if place.is_dir() else place.with_suffix(".parquet")).to_pylist()


def code(reason: str | None) -> str:
    return "ok" if reason is None else reason.split(":")[0]


def test_there_are_enough_of_them(project: tuple[Path, list[Entry]]) -> None:
    verdicts = Counter(entry.verdict for entry in project[1])
    assert len(project[1]) >= 70 and len(verdicts) >= 14 and verdicts["ok"] >= 6


def test_every_file_has_its_verdict(project: tuple[Path, list[Entry]]) -> None:
    """The first reason on the way from file to scores, for all of them at once: one row a file, no more, no less."""
    root, entries = project
    films = {row["uri"].removeprefix("raw/hostile/"): row for row in table(root, "videos")}
    found = {name: code(row["reason"]) for name, row in films.items()}
    for name, row in films.items():
        clips = [clip for clip in table(root, "clips") if clip["video_id"] == row["video_id"]]
        live = {clip["clip_id"] for clip in clips if clip["reason"] is None}
        reasons = [score["reason"] for score in table(root, "scores") if score["clip_id"] in live]
        if row["reason"] is None and None not in reasons:
            found[name] = code(next(filter(None, [*(clip["reason"] for clip in clips), *reasons])))
    assert found == {ingest.printable(os.fsdecode(entry.name)): entry.verdict for entry in entries}


def test_rows_in_are_rows_out(project: tuple[Path, list[Entry]]) -> None:
    root, _ = project
    live = {row["video_id"] for row in table(root, "videos") if row["reason"] is None}
    clips = table(root, "clips")
    assert {row["video_id"] for row in clips} == live
    going_on = sorted(row["clip_id"] for row in clips if row["reason"] is None)
    for name in ("scores", "captions"):
        assert sorted(row["clip_id"] for row in table(root, name)) == going_on, name
    selection = table(root, "selection")
    assert {row["clip_id"] for row in selection} == {row["clip_id"] for row in clips}
    assert all(row["keep"] == (row["reason"] is None) for row in selection)
    scored = {row["clip_id"] for row in table(root, "scores") if row["reason"] is None}
    assert {row["clip_id"] for row in selection if row["keep"]} <= scored


def test_what_a_name_says_is_not_done(project: tuple[Path, list[Entry]]) -> None:
    root, _ = project
    assert not list(root.rglob("owned")) and not Path("owned").exists()
    for row in table(root, "videos"):
        assert row["uri"].isprintable() and row["uri"].startswith("raw/hostile/")


def test_the_same_bytes_again(project: tuple[Path, list[Entry]]) -> None:
    root, _ = project
    before = (root / "data" / "videos" / "hostile.parquet").read_bytes()
    sana(root, "ingest", "--batch", "hostile")
    assert (root / "data" / "videos" / "hostile.parquet").read_bytes() == before


def test_what_is_left_goes_to_the_end_once_the_bars_are_low(
    project: tuple[Path, list[Entry]], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """A batch of damage is red, and nothing is made of it. With every bar down, all that can be read is encoded."""
    root, entries = project
    told = sana(root, "gate", "data", code=3)
    assert ("budgets" if "quick" in request.node.name else "kept_fraction") in told  # more good files: within budgets
    for words in (["encode", "--view", "pixels"], ["export", "--format", "hf", "--out", str(tmp_path / "hf")]):
        assert "gate data is red" in sana(root, *words, code=3)
    assert not (root / "data" / "shards").exists() and not (tmp_path / "hf").exists()
    for stage in (["curate"], ["gate", "data", *BARS], ["encode", "--view", "pixels"], ["report"]):
        sana(root, *stage, *WIDE)
    sana(root, "gate", "shards", "--view", "pixels", *WIDE)
    out = ["--out", str(tmp_path / "hf"), "--view", "pixels"]
    sana(root, "export", "--format", "hf", *out, *WIDE)
    kept = {row["clip_id"] for row in table(root, "selection") if row["keep"]}
    assert len(kept) > 2
    assert set(read_index(root / "data" / "shards" / "pixels").column("key").to_pylist()) == kept
    assert {path.stem for path in (tmp_path / "hf").rglob("*.mp4")} == kept
    steps = dict(line.rsplit(",", 1) for line in (root / "reports/data/funnel.csv").read_text().splitlines()[1:])
    assert int(steps["kept"]) == len(kept)
    page = (root / "reports" / "data" / "report.html").read_text()
    refused = Counter(code(row["reason"]) for row in table(root, "videos") if row["reason"])
    assert sum(refused.values()) + len({row["video_id"] for row in table(root, "clips")}) == len(entries)
    assert all(name in page for name in refused)
