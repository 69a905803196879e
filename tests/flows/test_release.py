"""What a registered version becomes, and which version the demo samples: real git, DVC and a local remote."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from flows import demo
from flows.release import settle
from flows.sample import Request
from infra import registry

NAME = "sana-video"
STAGE = """
  package:
    cmd: mkdir -p release && cp raw/raw.txt release/weights && {python} -c "{code}"
    deps: [raw]
    outs: [release]
"""
CODE = "import pathlib; from infra.registry import write_manifest; write_manifest(pathlib.Path('release'))"


def command(root: Path, *words: str) -> None:
    done = subprocess.run(words, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def pack(root: Path, weights: str) -> None:
    (root / "raw" / "raw.txt").write_text(weights)
    command(root, sys.executable, "-m", "dvc", "repro", "-q", "-s", "package")


@pytest.fixture
def project(small_project: Path) -> Path:
    with (small_project / "dvc.yaml").open("a") as graph:
        graph.write(STAGE.format(python=sys.executable, code=CODE))
    (small_project / ".gitignore").open("a").write("/release/\n/.storage/\n/samples/\n")
    command(small_project, sys.executable, "-m", "dvc", "remote", "add", "-q", "-d", "local", ".storage")
    identity = ("-c", "user.name=a test", "-c", "user.email=test@localhost")
    command(small_project, "git", *identity, "commit", "-qam", "Package")
    return small_project


def test_a_candidate_becomes_champion_once(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pack(project, "one")
    first, _ = registry.register(project, project / "release", NAME)
    version, new = registry.register(project, project / "release", NAME)  # the run that registered it got no further
    assert (version, new) == (first, False)
    assert settle(project, version, new).champion
    assert registry.champion(project, NAME) == first

    pack(project, "two")
    second, new = registry.register(project, project / "release", NAME)
    assert settle(project, second, new).champion
    registry.rollback(project, NAME, first.version, "it flickers")
    told = settle(project, second, False)
    assert (told.champion, told.note) == (False, f"champion is {first.version}")

    sampled: list[str] = []

    def note(request: Request, out: Path, *rest: object) -> None:
        sampled.append(f"{request.model} {out.name}")

    monkeypatch.setattr(demo, "sample", note)
    pack(project, "one")
    demo._sample(project)
    assert sampled == [f"{NAME}@{first.version} {NAME}@{first.version}.mp4"]
