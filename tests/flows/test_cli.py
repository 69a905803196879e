"""The `sana-video` command: exit codes, one line for a mistake, global options anywhere, and what it imports."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from typer.testing import CliRunner, Result

from flows.cli import app
from flows.program import hoist

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name in ("params.yaml", "dvc.yaml", "versions.yaml"):
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def sana(project: Path, *words: str) -> Result:
    return CliRunner().invoke(app, ["--root", str(project), *words])


def python(code: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, timeout=120)


def test_help_answers_before_anything_heavy_is_loaded() -> None:
    heavy = {"torch", "cv2", "av", "pyarrow", "pandas", "prefect", "dvc", "mlflow", "great_expectations"}
    code = (
        "import atexit, sys\n"
        f"atexit.register(lambda: print(sorted({heavy} & {{m.split('.')[0] for m in sys.modules}}), file=sys.stderr))\n"
        "sys.argv = ['sana-video', '--help']\n"
        "from flows.cli import main\n"
        "main()"
    )
    done = python(code)
    assert done.stderr.strip() == "[]"
    assert "release" in done.stdout


def test_a_training_rank_imports_neither_prefect_nor_dvc_nor_mlflow() -> None:
    code = (
        "import sys, flows.cli, flows.training\n"
        "from sana_video.train import loop\n"
        "print(sorted({m.split('.')[0] for m in sys.modules} & {'prefect', 'dvc', 'mlflow', 'great_expectations'}))"
    )
    done = python(code)
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("train", "run", "--stage", "nosuch"), 2, "unknown training stage 'nosuch'"),
        (("train", "run", "--stage", "t2i"), 3, "there is no verdict"),
        (("train", "plan", "--set", "train.seedd=3"), 2, "did you mean seed"),
        (("--set", "train.seed=x", "train", "plan"), 2, "train.seed"),
        (("sample", "--model", "nosuch", "--prompt", "x", "--out", "a.mp4"), 2, "no such folder"),
        (("sample", "--model", ".", "--prompt", "x", "--out", "a.gif"), 2, ".mp4"),
        (("sample", "--model", ".", "--prompt", "x", "--out", "a.mp4", "--size", "9"), 2, "HEIGHTxWIDTH"),
        (("--set", "release.name=2-models-", "train", "plan"), 2, "release.name"),
        (("recipe", "use", "nosuch"), 2, "no recipe called 'nosuch'"),
        (("flow", "run", "nosuch"), 2, "no flow called 'nosuch'"),
        (("release", "package"), 3, "there is no verdict"),
        (("release", "register"), 3, "there is no verdict"),
        (("nosuch",), 2, "No such command"),
    ],
)
def test_a_mistake_is_a_line_and_an_exit_code(project: Path, words: tuple[str, ...], code: int, said: str) -> None:
    result = sana(project, *words)
    assert result.exit_code == code, result.output
    assert said in result.stderr
    assert "Traceback" not in result.output


def test_no_project_is_a_line(tmp_path: Path) -> None:
    result = sana(tmp_path, "train", "plan")
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert "params.yaml: no such file" in result.stderr


def test_a_broken_verdict_is_exit_4(project: Path) -> None:
    gates = project / "reports" / "gates"
    gates.mkdir(parents=True)
    (gates / "shards-high.json").write_text("{")
    assert sana(project, "train", "run", "--stage", "t2i").exit_code == 4


def test_plan_and_print_config(project: Path) -> None:
    rows = json.loads(sana(project, "train", "plan", "--json").stdout)
    assert [row["stage"] for row in rows][:2] == ["autoencoder", "t2i"]
    shown = yaml.safe_load(sana(project, "train", "plan", "--set", "train.seed=5", "--print-config").stdout)
    assert shown["train"]["seed"] == 5
    alone = sana(project, "--set", "train.seed=6", "--print-config")
    assert (alone.exit_code, yaml.safe_load(alone.stdout)["train"]["seed"]) == (0, 6)
    nothing = sana(project, "--json")
    assert (nothing.exit_code, "Missing command" in nothing.output) == (2, True)


def test_doctor_names_targets_that_exist_and_only_what_is_there(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from flows import doctor

    monkeypatch.setattr(doctor, "LIBRARIES", ("no-such-library",))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    rows = [vars(check) for look in (doctor._libraries, doctor._device) for check in look(project)]
    targets = set(re.findall(r"`make ([a-z-]+)`", rows[0]["found"]))
    assert targets and targets <= set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert "plain torch" in rows[-1]["found"]  # which form of the operations runs here


def test_using_a_recipe_keeps_the_old_params_and_refuses_a_bad_one(project: Path) -> None:
    old = (project / "params.yaml").read_text()
    recipes = project / "recipes"
    recipes.mkdir()
    (recipes / "other.yaml").write_text("# Another seed.\n" + old.replace("seed: 1\n", "seed: 9\n"))
    (recipes / "bad.yaml").write_text("data: {}\n")
    assert "Another seed." in sana(project, "recipe", "list").stdout
    assert sana(project, "recipe", "use", "bad").exit_code == 2
    assert (project / "params.yaml").read_text() == old
    assert sana(project, "recipe", "use", "other").exit_code == 0
    assert yaml.safe_load((project / "params.yaml").read_text())["train"]["seed"] == 9
    assert (project / "params.yaml.before").read_text() == old


def test_hoist_moves_what_is_global_and_leaves_what_is_the_commands_own() -> None:
    words = ["train", "run", "--set", "a.b=1", "--stage", "x", "--json", "--", "--set"]
    assert hoist(words, set()) == ["--set", "a.b=1", "--json", "train", "run", "--stage", "x", "--", "--set"]
    assert hoist(["data", "split", "--set=a.b=1"], {"--set"}) == ["data", "split", "--set=a.b=1"]
