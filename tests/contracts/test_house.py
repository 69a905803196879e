"""The house holds its shape: import tiers, documents that name only what exists, listed public names."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted(p for p in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("recipes/**/*.md")])
TOP = "sana_video|data_pipeline|eval|infra|flows|tests|benchmarks|docs|recipes"


def test_import_tiers_hold() -> None:
    linter = Path(sys.executable).parent / "lint-imports"
    result = subprocess.run([linter], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_documents_name_only_files_that_exist(document: Path) -> None:
    text = document.read_text()
    named = re.findall(rf"`((?:{TOP})/[\w./-]*\w)`", text) + re.findall(rf"\]\(((?:{TOP})/[\w./-]*\w)", text)
    missing = [path for path in named if not (ROOT / path).exists()]
    assert not missing


@pytest.mark.parametrize("module", ["sana_video", "data_pipeline", "eval", "infra", "flows"])
def test_importing_a_package_touches_nothing(module: str, tmp_path: Path) -> None:
    """No folder made, no environment changed, nothing heavy pulled in."""
    code = f"""
import importlib, os, sys
before = dict(os.environ)
importlib.import_module({module!r})
assert dict(os.environ) == before
heavy = {{"prefect", "dvc", "mlflow", "great_expectations", "transformers"}} & set(sys.modules)
assert not heavy, heavy
"""
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert not list(tmp_path.iterdir())
