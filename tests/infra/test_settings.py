"""Mistakes in params.yaml and the environment are one line with the key, the value and what was meant."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import BaseModel, ConfigDict, Field

from infra.settings import find_root, load_section, load_yaml, machine, prepare_environment, share_cores


class Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Split(Strict):
    fps: float = Field(gt=0)
    detector: str = "content"


class Batch(Strict):
    path: str


class Data(Strict):
    split: Split
    batches: dict[str, Batch]
    pixels: Split | None = None


TEXT = "data:\n  split: {fps: 16}\n  batches: {film: {path: raw/film}}\neval: {seed: 1}\n"


@pytest.fixture
def params(tmp_path: Path) -> Path:
    path = tmp_path / "params.yaml"
    path.write_text(TEXT)
    return path


def test_a_section_is_read_and_overridden(params: Path) -> None:
    data = load_section(params, "data", Data, ["data.split.fps=8", "data.batches.more={path: raw/more}", "eval.seed=2"])
    assert data.split.fps == 8
    assert sorted(data.batches) == ["film", "more"]
    assert load_section(params, "data.split", Split).detector == "content"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("data: {split: {fsp: 16, fps: 1}, batches: {}}", r"split.fsp: unknown key \(value 16\); did you mean fps\?"),
        ("data: {split: {fps: 1}, batches: {a: {pth: x, path: y}}}", r"data.batches.a.pth: .*did you mean path\?"),
        ("data: {split: {fps: 1}, batches: {}, pixels: {fps: 1, detectr: c}}", r"pixels.detectr: .*mean detector\?"),
        ("data: {split: {fps: -3}, batches: {}}", r"data.split.fps: -3 is not possible: Input should be"),
        ("data: {batches: {}}", r"data.split: missing"),
        ("data: {split: {fps: 0, x: 1}, batches: {}}", r"data.split.fps: 0 .*\(and 1 more\)"),
        ("dta: {}", r"section data is missing; did you mean dta\?"),
        ("data: {}\nx: [1,\n  2\ny: }", r"params.yaml, line \d: not valid YAML"),
        ("- 1\n- 2", r"expected sections .* found \[1, 2\]"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line(params: Path, text: str, line: str) -> None:
    params.write_text(text)
    with pytest.raises(ValueError, match=line) as caught:
        load_section(params, "data", Data)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ("data.split.fps", "expected section.key=value"),
        ("dat.split.fps=1", "no section dat; did you mean data?"),
        ("data.split.fps=[1", "not valid YAML"),
        ("data.split.fps=fast", "data.split.fps: 'fast' is not possible"),
        ("data.split.fp=1", "did you mean fps?"),
    ],
)
def test_a_mistaken_override_is_one_line(params: Path, given: str, line: str) -> None:
    with pytest.raises(ValueError) as caught:
        load_section(params, "data", Data, [given])
    assert line in str(caught.value) and "\n" not in str(caught.value)


def test_the_root_is_found_from_below(params: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no project here or above"):
        find_root(params.parent)
    (params.parent / "dvc.yaml").touch()
    (params.parent / "data" / "raw").mkdir(parents=True)
    assert find_root(params.parent / "data" / "raw") == params.parent.resolve()
    with pytest.raises(FileNotFoundError, match=r"none.yaml: no such file"):
        load_yaml(params.parent / "none.yaml")


def test_the_environment_is_read_and_a_wrong_value_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SANA_S3_ENDPOINT", "http://localhost:9")
    assert machine().s3_endpoint == "http://localhost:9"
    monkeypatch.setenv("SANA_S3_ANONYMOUS", "perhaps")
    with pytest.raises(ValueError, match="SANA_s3_anonymous: 'perhaps' is not possible"):
        machine()


def test_telemetry_is_off_unless_the_user_says_otherwise(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("DO_NOT_TRACK", "DVC_NO_ANALYTICS", "MLFLOW_DISABLE_TELEMETRY", "PREFECT_HOME"):
        monkeypatch.setenv(name, "x")
        monkeypatch.delenv(name)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    prepare_environment(tmp_path)
    assert os.environ["DO_NOT_TRACK"] == "true" and os.environ["DVC_NO_ANALYTICS"] == "1"
    assert os.environ["PREFECT_HOME"] == str(tmp_path / ".prefect")
    assert os.environ["HF_HUB_OFFLINE"] == "0"


def test_the_doors_are_cheap_to_import() -> None:
    heavy = "{'torch', 'great_expectations', 'mlflow', 's3fs', 'dvc', 'pandas', 'prefect', 'ray'}"
    modules = "infra.settings, infra.storage"
    program = (
        f"import sys, {modules}; sys.exit(str(sorted({heavy} & set(sys.modules))) if {heavy} & set(sys.modules) else 0)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_stages_share_the_cores_unless_the_user_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "")
    monkeypatch.delenv("OMP_NUM_THREADS")
    share_cores(10_000)
    assert os.environ["OMP_NUM_THREADS"] == "1"
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    share_cores(10_000)
    assert os.environ["OMP_NUM_THREADS"] == "7"
