"""dvc.yaml, params.yaml and the code agree: no dead knob, no missing command, no definition whose version drifted."""

from __future__ import annotations

import copy
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("sana_video", "data_pipeline", "eval", "infra", "flows")

# Leaves that may change without changing what any stage computes, each with the code that reads it.
OPERATIONAL = {
    "data.score.workers": "data_pipeline/score/__init__.py",
    "train.launch.processes": "flows/training.py",
    "train.checkpoint_every": "sana_video/train/loop.py",
    "train.keep_checkpoints": "sana_video/train/loop.py",
    "release.name": "flows/package.py",
    "tracking.uri": "infra/tracking.py",
    "tracking.experiment": "infra/tracking.py",
    "flow.parallel": "flows/graph_run.py",
    "flow.retries": "flows/bridge.py",
    "flow.retry_seconds": "flows/bridge.py",
    "flow.schedules.curate": "flows/serve.py",
    "flow.schedules.evaluate": "flows/serve.py",
}


def leaves(tree: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from leaves(value, (*path, str(key)))
    else:
        yield path, tree


def another(value: Any) -> Any:
    """A different value of the same type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 4
    if isinstance(value, list):
        return [another(value[0]), *value[1:]]
    return f"{value}x" if value else "x"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("graph")
    for name in ("dvc.yaml", "params.yaml", "versions.yaml", ".dvcignore"):
        shutil.copy(ROOT / name, root / name)
    shutil.copytree(ROOT / ".dvc", root / ".dvc", ignore=shutil.ignore_patterns("tmp", "cache", "config.local"))
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    return root


def resolved(root: Path) -> dict[str, tuple[Any, ...]]:
    """Of each stage: its command, its dependencies with the values of those that are parameters, its outputs."""
    from dvc.dependency.param import ParamsDependency
    from dvc.repo import Repo

    with Repo(str(root)) as repo:
        return {
            stage.addressing: (
                str(stage.cmd),
                sorted(str(d.def_path) for d in stage.deps),
                {str(d): d.read_params() for d in stage.deps if isinstance(d, ParamsDependency)},
                sorted(str(o.def_path) for o in stage.outs),
            )
            for stage in repo.index.stages
        }


@pytest.mark.slow  # each leaf is changed and asked for: most of a minute
def test_every_leaf_of_params_reaches_a_stage(project: Path) -> None:
    shipped = yaml.safe_load((ROOT / "params.yaml").read_text())
    before, dead = resolved(project), []
    for path, value in leaves(shipped):
        if ".".join(path) in OPERATIONAL:
            continue
        changed = copy.deepcopy(shipped)
        holder = changed
        for key in path[:-1]:
            holder = holder[key]
        holder[path[-1]] = another(value)
        (project / "params.yaml").write_text(yaml.safe_dump(changed))
        try:
            after = resolved(project)
        except Exception as refused:  # DVC itself refuses the graph: the key is not dead
            assert "dvc" in type(refused).__module__, refused
            continue
        if after == before:
            dead.append(".".join(path))
    shutil.copy(ROOT / "params.yaml", project / "params.yaml")
    assert not dead, f"no stage depends on {dead}"


def test_every_key_of_params_is_read_by_code() -> None:
    """A leaf may reach a stage through a whole section and still be ignored there: its name must stand in code."""
    shipped = yaml.safe_load((ROOT / "params.yaml").read_text())
    code = "\n".join(p.read_text() for package in PACKAGES for p in (ROOT / package).rglob("*.py"))
    named_by_user = {*shipped["data"]["batches"], *shipped["data"]["views"], *shipped["train"]["stages"], "default"}
    reasons = {code for budget in shipped["data"]["gate"]["budgets"].values() for code in budget} - {"others"}
    assert not [reason for reason in reasons if f"{reason}:" not in code], "a budget for a reason that no stage states"
    names = {path[-1] for path, _ in leaves(shipped)} - named_by_user - reasons
    unread = [n for n in names if not re.search(rf"\.{n}\b|[\"']{n}[\"']", code)]
    assert not unread


@pytest.mark.parametrize(("leaf", "file"), OPERATIONAL.items())
def test_an_operational_leaf_is_read_where_it_says(leaf: str, file: str) -> None:
    assert re.search(rf"\.{leaf.split('.')[-1]}\b", (ROOT / file).read_text()), f"{file} does not read {leaf}"


def commands() -> list[str]:
    found = []
    for stage in yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"].values():
        cmd = stage.get("do", stage)["cmd"]
        found += cmd if isinstance(cmd, list) else [cmd]
    return found


@pytest.mark.parametrize("command", commands())
def test_every_command_of_the_graph_exists(command: str) -> None:
    import typer

    from flows.cli import app

    program, *words = shlex.split(command.replace("${key}", "x").replace("${item}", "x"))
    assert program == "sana-video"
    node: click.Command = typer.main.get_command(app)
    context = click.Context(node)
    while words and hasattr(node, "get_command"):
        child = node.get_command(context, words[0])
        assert child is not None, f"`{command}`: no command {words[0]!r}"
        node, words = child, words[1:]
    options = {name for parameter in node.params for name in parameter.opts}
    assert {w for w in words if w.startswith("--")} <= options


def test_versions_file_equals_the_code() -> None:
    from data_pipeline.caption import CAPTION_VERSION
    from data_pipeline.classify import CLASSIFY_VERSION
    from data_pipeline.curate import CURATE_VERSION
    from data_pipeline.dedup import DEDUP_VERSION
    from data_pipeline.encode import SHARDS_VERSION
    from data_pipeline.ingest import INGEST_VERSION
    from data_pipeline.score import MEASURE_VERSIONS
    from data_pipeline.sft.choose import SFT_VERSION
    from data_pipeline.split import SPLIT_VERSION
    from eval.suite import EVAL_VERSION
    from flows.package import RELEASE_VERSION
    from infra.gates import GATES_VERSION
    from sana_video.train.config import VERSION as TRAIN_VERSION

    assert yaml.safe_load((ROOT / "versions.yaml").read_text()) == {
        "ingest": INGEST_VERSION,
        "split": SPLIT_VERSION,
        "measures": dict(MEASURE_VERSIONS),
        "caption": CAPTION_VERSION,
        "dedup": DEDUP_VERSION,
        "classify": CLASSIFY_VERSION,
        "curate": CURATE_VERSION,
        "sft": SFT_VERSION,
        "gates": GATES_VERSION,
        "shards": SHARDS_VERSION,
        "train": TRAIN_VERSION,
        "eval": EVAL_VERSION,
        "release": RELEASE_VERSION,
    }


def test_every_output_is_ignored_by_git() -> None:
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"].values()
    named = [out if isinstance(out, str) else next(iter(out)) for s in stages for out in s.get("do", s)["outs"]]
    outs = [out.replace("${key}", "x").replace("${item}", "x") for out in named]
    listed = subprocess.run(["git", "check-ignore", *outs], cwd=ROOT, capture_output=True, text=True)
    assert set(listed.stdout.split()) == set(outs)
