"""A small real DVC project whose stages do as a file tells them, and a Prefect home for these tests alone."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import pytest
import yaml

from infra import settings

# Prefect reads its settings once, when it is imported, which files of tests do at their head: not in a fixture
_HOME = tempfile.TemporaryDirectory(prefix="prefect-", ignore_cleanup_errors=True)
os.environ["PREFECT_HOME"] = _HOME.name
settings.prepare_environment(Path(_HOME.name))

STEP = """
import json, os, pathlib, sys, time
name, out, *sources = sys.argv[1:]
root = pathlib.Path.cwd()
told = root / "orders.json"
orders = json.loads(told.read_text()).get(name, {}) if told.exists() else {}
count = root / "runs" / "count" / name
count.parent.mkdir(parents=True, exist_ok=True)
times = int(count.read_text()) + 1 if count.exists() else 1
count.write_text(str(times))
if orders.get("sleep"):
    (root / "runs" / "pid").write_text(str(os.getpid()))
    time.sleep(orders["sleep"])
kind = orders.get("kind", "ok") if times <= orders.get("times", 10**6) else "ok"
if kind == "silent":
    os._exit(9)
if kind in ("ok", "gate_red"):
    path = root / out
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(orders.get("text", "".join((root / s).read_text() for s in sources) + name))
code = {"ok": 0, "gate_red": 3, "gate_broken": 4, "user": 2}.get(kind, 1)
status = {"stage": name, "kind": kind, "reason": orders.get("reason", ""), "exit_code": code,
          "counters": {"times": times}, "seconds": 0.0}
target = root / "runs" / "status" / f"{name}.json"
target.parent.mkdir(parents=True, exist_ok=True)
target.write_text(json.dumps(status))
print("step", name, kind, flush=True)
sys.exit(code)
"""

# a@x, a@y -> b -> gate_data -> gate_sft, data_report; d stands alone
GRAPH = """
stages:
  a:
    foreach: [x, y]
    do:
      cmd: python step.py a@${item} out/a-${item}.txt raw/raw.txt
      deps: [raw]
      params: [train.seed]
      outs: ["out/a-${item}.txt"]
  b:
    cmd: python step.py b out/b.txt out/a-x.txt out/a-y.txt
    deps: [out/a-x.txt, out/a-y.txt]
    outs: [out/b.txt]
  gate_data:
    cmd: python step.py gate_data reports/gates/data.json out/b.txt
    deps: [out/b.txt]
    outs: [reports/gates/data.json]
  gate_sft:
    cmd: python step.py gate_sft reports/gates/sft.json out/b.txt
    deps: [out/b.txt, reports/gates/data.json]
    outs: [reports/gates/sft.json]
  data_report:
    cmd: python step.py data_report out/report.txt out/b.txt
    deps: [out/b.txt, reports/gates/data.json]
    outs: [out/report.txt]
  d:
    cmd: python step.py d out/d.txt raw/raw.txt
    deps: [raw]
    outs: [out/d.txt]
"""
SHIPPED = Path(__file__).resolve().parents[2] / "params.yaml"


def git(root: Path, *words: str) -> None:
    identity = ("-c", "user.name=a test", "-c", "user.email=test@localhost")
    subprocess.run(["git", *identity, *words], cwd=root, check=True, capture_output=True)


@pytest.fixture
def small_project(tmp_path: Path) -> Path:
    """A git and DVC project of seven stages; `orders.json` says how each behaves."""
    root = tmp_path / "project"
    root.mkdir()
    (root / "step.py").write_text(textwrap.dedent(STEP))
    (root / "dvc.yaml").write_text(GRAPH)
    params = yaml.safe_load(SHIPPED.read_text())
    params["data"]["batches"] = {"raw": {"path": "raw"}}
    (root / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    (root / "versions.yaml").write_text("a: 1\n")
    (root / "raw").mkdir()
    (root / "raw" / "raw.txt").write_text("raw ")
    (root / ".gitignore").write_text(
        "/out/\n/reports/\n/runs/\n/.worktrees/\n/raw\n/weights/\n/orders.json\n/.prefect/\n"
    )
    git(root, "init", "-q")
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q"], cwd=root, check=True, capture_output=True)
    (root / ".dvc" / "config").write_text("[core]\n    analytics = false\n    autostage = false\n")
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", "a small project")
    return root
