from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from data_pipeline import curate, tables
from data_pipeline.cli import app
from data_pipeline.params import CurateParams
from infra.settings import AppContext

ROOT = Path(__file__).resolve().parents[2]


def row(name: str, **given: Any) -> dict[str, Any]:
    return {**dict.fromkeys(tables.SCHEMAS[name].names), **given}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Sixty clips of one source and sixty of another, saturation 0 … 236, curated as params.yaml is shipped."""
    for name in ("dvc.yaml", "params.yaml", "versions.yaml"):
        shutil.copy(ROOT / name, tmp_path / name)
    data = tmp_path / "data"
    for batch, source in (("film", "one"), ("more", "two")):
        ids = [f"{source}{n:02d}" for n in range(60)]
        tables.write(
            "videos",
            [row("videos", video_id=source, uri=f"{source}.mp4", source=source, width=64, height=64, rotation=0)],
            data / "videos" / f"{batch}.parquet",
        )
        clips = [
            row(
                "clips",
                clip_id=i,
                video_id=source,
                source=source,
                shot=n,
                start=9.0 * n,
                end=9.0 * n + 2,
                frames=32,
                fps=16.0,
            )
            for n, i in enumerate(ids)
        ]
        scores = [
            row(
                "scores",
                clip_id=i,
                flow_motion=3.0,
                vmaf_motion=2.0,
                saturation=4.0 * n,
                overall=0.5,
                cuts_inside=int(n == 59),
            )
            for n, i in enumerate(ids)
        ]
        captions = [row("captions", clip_id=i, text="a film") for i in ids]
        for name, rows in (("clips", clips), ("scores", scores), ("captions", captions)):
            tables.write(name, rows, data / name / f"{batch}.parquet")
    tables.write("twins", [row("twins", clip_id="one01", twin_of="one00", rank=1)], data / "twins.parquet")
    tables.write("quarantine", [], data / "quarantine.parquet")
    tables.write("classes", [], data / "classes.parquet")
    assert sana(tmp_path, "curate")[0] == 0
    return tmp_path


def sana(root: Path, *words: str, as_json: bool = False) -> tuple[int, str]:
    context = AppContext(root, root / "params.yaml", as_json=as_json)
    result = CliRunner().invoke(app, list(words), obj=context)
    return result.exit_code, result.output


def state(root: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_it_says_what_curate_would_then_write_and_writes_nothing(project: Path) -> None:
    change = ["--set", "data.curate.ranges.default.saturation=[2,240]"]
    before = state(project)
    code, said = sana(project, "whatif", *change, as_json=True)
    assert code == 0, said
    assert state(project) == before
    answer = json.loads(said)
    [one, two, every] = answer["sources"]
    assert (one["source"], one["clips"]) == ("one", 60) and every["source"] == "all"
    # `one`: 45 of 46 within 180 (one is a twin); then 2 … 240 drops the first, frees its twin, and takes 13 more
    assert (one["kept_before"], one["newly_dropped"], one["newly_kept"]) == (45, 1, 14)
    assert (two["kept_before"], two["newly_dropped"], two["newly_kept"]) == (46, 1, 13)
    assert every["kept_after"] == one["kept_after"] + two["kept_after"] == 116
    assert one["hours_before"] == pytest.approx(45 * 2 / 3600, abs=1e-4)
    reasons = {(r["source"], r["reason"]): r for r in answer["reasons"]}
    assert reasons["one", "SATURATION_HIGH"] | {"alone_after": 0} == {
        "source": "one", "reason": "SATURATION_HIGH", "before": 14, "after": 0, "alone_after": 0}  # fmt: skip
    assert (reasons["two", "SATURATION_LOW"]["before"], reasons["two", "SATURATION_LOW"]["after"]) == (0, 1)
    assert reasons["one", "CUTS_INSIDE_HIGH"]["alone_after"] == 1
    assert ("one", "TWIN") in reasons and reasons["one", "TWIN"]["after"] == 0
    assert sana(project, "curate", *change)[0] == 0
    kept = tables.read("selection", project / "data/selection.parquet").column("keep").to_pylist()
    assert sum(kept) == 116
    code, said = sana(project, "whatif", *change, as_json=True)
    assert json.loads(said)["sources"][-1]["newly_kept"] == 0, "and against that, nothing is new"


def test_a_table_for_people(project: Path) -> None:
    code, said = sana(project, "whatif", "--set", "data.curate.ranges.two={saturation: null}")
    assert code == 0
    lines = [line.split() for line in said.splitlines()]
    assert lines[0][:4] == ["source", "clips", "kept_before", "kept_after"]
    assert lines[2][:6] == ["two", "60", "46", "59", "0", "13"]
    assert ["two", "SATURATION_HIGH", "14", "0", "0"] in lines


@pytest.mark.parametrize(
    ("change", "said"),
    [("data.curate.ranges.default.watermrk=[0,1]", "did you mean watermark?"),
     ("data.curate.ranges.default.nsfw=[1,0]", "the low end 1.0 is above the high end 0.0")],
)  # fmt: skip
def test_a_mistake_is_one_line_and_exit_2(project: Path, change: str, said: str) -> None:
    code, output = sana(project, "whatif", "--set", change)
    assert (code, len(output.strip().splitlines())) == (2, 1)
    assert said in output


def test_a_selection_of_other_tables_is_refused(project: Path) -> None:
    (project / "data/clips/more.parquet").unlink()
    assert "clips is missing" in sana(project, "whatif")[1]
    one = [row("clips", clip_id="x", video_id="two", source="two")]
    tables.write("clips", one, project / "data/clips/more.parquet")
    code, said = sana(project, "whatif")
    assert (code, "is not of these tables: run `sana-video data curate`" in said) == (2, True)


def test_calibrate_prints_a_fragment_or_writes_it(project: Path) -> None:
    before = state(project)
    code, said = sana(project, "calibrate")
    assert code == 0 and state(project) == before
    section = CurateParams.model_validate(yaml.safe_load(said)["data"]["curate"])
    assert section.ranges_of("one")["saturation"] == (0.0, 231.3)
    out = project / "found" / "ranges.yaml"
    code, told = sana(project, "calibrate", "--out", str(out), as_json=True)
    assert out.read_text() == said
    assert [source["clips"] for source in json.loads(told)] == [60, 60]
    flow = f"data.curate.ranges={json.dumps(section.model_dump(mode='json')['ranges'])}"
    assert sana(project, "whatif", "--set", flow)[0] == 0, "what is suggested can be asked about"


def test_curate_writes_the_same_bytes_again(project: Path) -> None:
    path = project / "data/selection.parquet"
    first = path.read_bytes()
    assert sana(project, "curate")[0] == 0
    assert path.read_bytes() == first
    params = CurateParams.model_validate(yaml.safe_load((project / "params.yaml").read_text())["data"]["curate"])
    shuffled = vars(curate.load(project, ["more", "film"]))
    shuffled["clips"] = shuffled["clips"].take(list(range(119, -1, -1)))
    tables.write_columns("selection", curate.run(**shuffled, params=params), path)
    assert path.read_bytes() == first
