"""`sana-video data measure`: the numbers of the pipeline, for whole files and spans; every mistake is one line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from typer.testing import CliRunner, Result

from data_pipeline import cli, ingest, score, split, tables
from data_pipeline.params import DataParams
from data_pipeline.score import file as one
from data_pipeline.score.settings import settings_of
from infra.settings import AppContext, load_section
from sana_video.video import measures

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, make_video: Any) -> Path:
    root = tmp_path_factory.mktemp("measure")
    for name in ("params.yaml", "versions.yaml"):
        shutil.copy(ROOT / name, root / name)
    make_video(root / "raw" / "a.mp4", seconds=3.2, shots=2)
    make_video(root / "raw" / "long.mp4", seconds=26.0, speed=1.0)
    return root


def call(root: Path, *words: str) -> Result:
    context = AppContext(root=root, params_path=root / "params.yaml", overrides=[], as_json=False)
    return CliRunner().invoke(cli.app, ["measure", *words], obj=context)


def test_a_span_has_the_scores_that_the_pipeline_gives_it(project: Path) -> None:
    def track(items: Any, total: int, label: str) -> Any:
        return items

    params = load_section(project / "params.yaml", "data", DataParams, [])
    cut = params.split.model_copy(update={"frames": 17})
    rows = [row for row in ingest.run("film", "raw", params.ingest, project, track) if row["uri"] == "raw/a.mp4"]
    videos = pa.Table.from_pylist([dict(row) for row in rows], schema=tables.VIDEOS)
    clips = split.run(videos, params.limit, cut, project, track)
    table = pa.Table.from_pylist([dict(row) for row in clips], schema=tables.CLIPS)
    versions = measures.MEASURE_VERSIONS
    scored = score.run(videos, table, params.limit, cut, params.score, versions, project, track)
    clip, row = table.to_pylist()[0], scored[0]
    span = f"{clip['start']}:{clip['start'] + 16.5 / 16}"
    result = call(project, str(project / "raw" / "a.mp4"), "--span", span, "--json")
    assert result.exit_code == 0, result.output
    (told,) = json.loads(result.stdout)
    assert told["frames"] == 17 and told["windows"] == 1 and told["fps"] == 16
    for name, value in told["scores"].items():
        assert value == (pytest.approx(row[name]) if isinstance(value, float) else row[name]), name
    asked = set(score.COLUMNS) - {"text_area", "nsfw"}
    assert set(told["versions"]) == asked
    assert told["stand_ins"]["flow_motion"] == "opencv-dis (stand-in for UniMatch)"
    assert set(told["stand_ins"]) == {"flow_motion", "aesthetic", "embedding"}


def test_a_whole_file_is_measured_in_windows_that_share_their_border(project: Path) -> None:
    path = project / "raw" / "long.mp4"
    (told,) = json.loads(call(project, str(path), "--json").stdout)
    assert told["windows"] == 3 and told["span"] == [0.0, pytest.approx(25.9, abs=0.1)]
    pairs, times = told["scores"]["flow_pairs"], told["scores"]["flow_times"]
    assert times == pytest.approx([k * 0.5 for k in range(len(pairs))]) and len(pairs) == 51
    assert told["scores"]["flow_motion"] == pytest.approx(sum(pairs) / len(pairs), rel=1e-12)
    assert len(told["scores"]["phash"]) == 52  # the samples at the borders once
    assert sum(value**2 for value in told["scores"]["embedding"]) == pytest.approx(1.0)


def test_windows_of_a_film_give_what_one_of_the_whole_gives(
    project: Path, monkeypatch: pytest.MonkeyPatch, make_video: Any
) -> None:
    """Within rounding, also where the last window has odd frames behind its last sample."""
    path = make_video(project / "raw" / "shots.mp4", seconds=7.4, size=(64, 96), shots=5, speed=1.5)
    once = json.loads(call(project, str(path), "--json").stdout)[0]
    monkeypatch.setattr(one, "WINDOW_SECONDS", 2.0)
    many = json.loads(call(project, str(path), "--json").stdout)[0]
    assert (once["windows"], many["windows"]) == (1, 4)
    means_of_windows = {"flicker", "watermark", "borders", "saturation_lit", "embedding", "cuts_inside",
                        "aesthetic", "technical", "overall"}  # fmt: skip
    for name, value in once["scores"].items():
        if name not in means_of_windows and isinstance(value, (float, list)):
            assert many["scores"][name] == pytest.approx(value, rel=1e-9), name
    assert once["scores"]["camera_jitter"] > 0


@pytest.mark.parametrize("frames", [2, 17, 160, 161, 162, 240, 241, 242, 400, 801, 5000])
def test_windows_cover_every_pair_of_frames_once(frames: int, project: Path) -> None:
    params = load_section(project / "params.yaml", "data", DataParams, [])
    settings = settings_of(params.limit, params.split, params.score, project)
    windows = one.windows_of(frames, settings)
    pairs = [w.begin + k for w in windows for k in range(w.frames - 1)]
    assert pairs == list(range(frames - 1))
    assert all(w.frames <= 242 for w in windows) and all(w.frames > 80 for w in windows[1:])


def test_a_table_for_people_names_versions_and_stand_ins(project: Path) -> None:
    result = call(project, str(project / "raw" / "a.mp4"))
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0].endswith("51 frames at 16 fps, 400x240")
    (cuts,) = [line.split() for line in lines if line.strip().startswith("cuts_inside")]
    versions = measures.MEASURE_VERSIONS
    assert cuts == ["cuts_inside", "1", f"v{versions['cuts_inside']}"]
    (flow,) = [line for line in lines if line.strip().startswith("flow_motion")]
    assert flow.endswith(f"v{versions['flow_motion']}   opencv-dis (stand-in for UniMatch)")


def test_mistakes_are_one_line_each_and_the_good_file_is_measured(project: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.mp4").write_text("no film")
    good = str(project / "raw" / "a.mp4")
    result = call(project, str(tmp_path / "bad.mp4"), good, str(tmp_path / "none.mp4"), "--json")
    assert result.exit_code == 2
    assert [entry["file"] for entry in json.loads(result.stdout)] == [good]
    assert [line.split(": ", 1)[1].split(":")[0] for line in result.stderr.splitlines()] == [
        "NOT_A_VIDEO",
        "no such file",
    ]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--span", "3:1"], "--span '3:1' is not BEGIN:END in rising seconds, like 1.5:4"),
        (["--span", "x"], "--span 'x' is not BEGIN:END"),
        (["--span", "0:nan"], "--span '0:nan' is not BEGIN:END"),
        (["--span", "50:60"], "holds fewer than two frames at 16 fps"),
        (["--span", "0:0.3"], "TOO_SHORT"),
        (["--set", "data.score.flow=raft"], "data.score.flow"),
        (["--set", "data.score.flow=unimatch"], "unimatch-flow"),
    ],
)
def test_a_mistake_ends_with_exit_2(project: Path, words: list[str], line: str) -> None:
    result = call(project, str(project / "raw" / "a.mp4"), *words)
    assert result.exit_code == 2 and line in result.stderr
    assert len(result.stderr.splitlines()) == 1 and not result.stdout


@pytest.mark.parametrize(
    ("stated", "line"),
    [
        ("ingest: 2\n", "versions.yaml has no section `measures` with the version of each measure"),
        ("measures: {flow_motion: 4}\n", "versions.yaml names the measures ['flow_motion'], the code has ["),
    ],
)
def test_versions_that_lack_measures_are_one_line(project: Path, tmp_path: Path, stated: str, line: str) -> None:
    shutil.copy(project / "params.yaml", tmp_path)
    (tmp_path / "versions.yaml").write_text(stated)
    result = call(tmp_path, str(project / "raw" / "a.mp4"))
    assert result.exit_code == 2 and result.stderr.startswith(line)
    assert len(result.stderr.splitlines()) == 1 and not result.stdout
    context = AppContext(root=tmp_path, params_path=tmp_path / "params.yaml", overrides=[], as_json=False)
    scored = CliRunner().invoke(cli.app, ["score", "--batch", "film"], obj=context)
    assert scored.exit_code == 2 and line in scored.output and "Traceback" not in scored.output


def test_a_fault_in_the_child_costs_its_file_and_not_the_run(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good, real = str(project / "raw" / "a.mp4"), one.measure_file

    def failing(path: Path, *rest: Any) -> one.Measured:
        if path.name == "long.mp4":
            raise RuntimeError("measure_clips failed in its child process:\nTraceback …\nZeroDivisionError: by zero\n")
        return real(path, *rest)

    monkeypatch.setattr(one, "measure_file", failing)
    bad = str(project / "raw" / "long.mp4")
    result = call(project, bad, good, "--span", "0:1", "--json")
    assert result.exit_code == 2 and result.stderr == f"{bad}: ZeroDivisionError: by zero\n"
    assert [entry["file"] for entry in json.loads(result.stdout)] == [good]
