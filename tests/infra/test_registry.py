"""The registry for real: git, DVC and a local remote in a project of two stages."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from infra import registry
from infra.registry import (
    champion,
    ensure_repository,
    fetch,
    journal,
    list_versions,
    preflight,
    promote,
    register,
    registered,
    resolve,
    rollback,
    uncommitted,
    verify_bundle,
    write_manifest,
)

NAME = "sana-video"
REPO = str(Path(__file__).parents[2])
TRAIN = """
import pathlib, yaml
steps = yaml.safe_load(open("params.yaml"))["train"]["steps"]
pathlib.Path("models").mkdir(exist_ok=True)
pathlib.Path("models/weights").write_bytes(bytes([steps]) * 1000)
"""
PACKAGE = f"""
import pathlib, sys
sys.path.insert(0, {REPO!r})
from infra.registry import write_manifest
folder = pathlib.Path("release")
(folder / "autoencoder").mkdir(parents=True)
(folder / "autoencoder" / "weights").write_bytes(pathlib.Path("models/weights").read_bytes())
(folder / "config.json").write_text("{{}}")
write_manifest(folder)
"""
FILES = {
    "train.py": TRAIN,
    "package.py": PACKAGE,
    "params.yaml": "train: {steps: 3}\n",
    ".gitignore": "/models\n/release\n/runs\n/reports\n.storage\n",
    ".dvcignore": "",
    ".dvc/.gitignore": "/config.local\n/tmp\n/cache\n",
    ".dvc/config": "[core]\n    analytics = false\n    remote = local\n['remote \"local\"']\n    url = ../.storage\n",
    "dvc.yaml": f"""
stages:
  train: {{cmd: {sys.executable} train.py, deps: [train.py], params: [train.steps], outs: [models]}}
  package: {{cmd: {sys.executable} package.py, deps: [models, package.py], outs: [release]}}
artifacts:
  {NAME}: {{path: release, type: model}}
""",
    "reports/gates/data.json": '{"verdict": "green"}\n',
}


def command(root: Path, *words: str) -> str:
    done = subprocess.run(words, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, f"{words}: {done.stdout}\n{done.stderr}"
    return done.stdout


def git(root: Path, *words: str) -> str:
    return command(root, "git", *words)


def dvc(root: Path, *words: str) -> str:
    return command(root, sys.executable, "-m", "dvc", *words)


def lay_out(root: Path) -> None:
    for name, text in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def set_steps(root: Path, steps: int) -> None:
    (root / "params.yaml").write_text(f"train: {{steps: {steps}}}\n")
    dvc(root, "repro", "-q")


@pytest.fixture
def nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine where git knows no name, no e-mail address and no settings."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    monkeypatch.setenv("DVC_NO_ANALYTICS", "1")
    for variable in ("GIT_AUTHOR_NAME", "GIT_AUTHOR_EMAIL", "GIT_COMMITTER_NAME", "GIT_COMMITTER_EMAIL", "EMAIL"):
        monkeypatch.delenv(variable, raising=False)


def test_the_life_of_a_model(tmp_path: Path, nobody: None) -> None:
    root = tmp_path / "project"
    lay_out(root)
    broken_key = "[commit]\ngpgsign = true\n[tag]\ngpgsign = true\n[gpg]\nprogram = /bin/false\n"
    (tmp_path / "home" / ".gitconfig").write_text(broken_key)
    git(root, "init", "-q")  # a first try that got no further
    assert ensure_repository(root) is True  # an unpacked archive, and no identity to commit with
    assert ensure_repository(root) is False
    dvc(root, "repro", "-q")
    (root / "staged.txt").write_text("the user's own work")
    git(root, "add", "staged.txt")
    before = (git(root, "status", "--porcelain"), git(root, "rev-parse", "HEAD"), git(root, "ls-files", "-s"))
    git(root, "rm", "-q", "--cached", "staged.txt")
    (root / "staged.txt").unlink()

    # register: once, again, and with the commit as it was
    first, new = register(root, root / "release", NAME)
    assert (first.version, new, first.uncommitted) == ("v0.1.0", True, ())
    assert register(root, root / "release", NAME) == (first, False)
    assert git(root, "tag").split() == ["sana-video#candidate#1", "sana-video@v0.1.0"]
    assert git(root, "rev-parse", "HEAD") == before[1]
    held = git(root, "ls-tree", "-r", "--name-only", first.commit).split()
    assert {"dvc.lock", "params.yaml", "released/reports/gates/data.json", "train.py"} <= set(held)
    assert "reports/gates/data.json" not in held
    assert git(root, "status", "--porcelain") == "?? dvc.lock\n"

    # a second bundle, made with changes that are not committed
    set_steps(root, 4)
    (root / "notes.txt").write_text("new file")
    (root / "reports" / "more.json").write_text("{}")
    git(root, "add", "notes.txt")
    before = (git(root, "status", "--porcelain"), git(root, "rev-parse", "HEAD"), git(root, "ls-files", "-s"))
    second, new = register(root, root / "release", NAME)
    assert (second.version, new, second.uncommitted) == ("v0.2.0", True, ("notes.txt", "params.yaml"))
    assert (git(root, "status", "--porcelain"), git(root, "rev-parse", "HEAD"), git(root, "ls-files", "-s")) == before
    assert git(root, "show", f"{second.commit}:params.yaml") == "train: {steps: 4}\n"
    with pytest.raises(ValueError, match=r"v0.2.0 cannot be champion: .*\(notes.txt, params.yaml\)"):
        promote(root, NAME, "v0.2.0")
    assert champion(root, NAME) is None

    # the same bundle once all is committed: a version of its own, which may be champion
    lineage = json.loads(git(root, "show", f"{second.commit}:released/lineage.json"))
    assert (lineage["head"], lineage["uncommitted"]) == (before[1].strip(), ["notes.txt", "params.yaml"])
    assert f"head: {before[1].strip()}" in git(root, "tag", "-l", "--format=%(contents)", "sana-video@v0.2.0")
    assert register(root, root / "release", NAME) == (second, False)
    git(root, "-c", "user.name=A", "-c", "user.email=a@b", "commit", "--no-gpg-sign", "-qam", "Train longer")
    clean, new = register(root, root / "release", NAME)
    assert (clean.version, new, clean.uncommitted, clean.digest) == ("v0.3.0", True, (), second.digest)
    assert clean.head == git(root, "rev-parse", "HEAD").strip()
    assert register(root, root / "release", NAME) == (clean, False)
    assert registered(root, root / "release", NAME) == clean

    # promote and roll back: a journal that only grows
    set_steps(root, 5)
    git(root, "-c", "user.name=A", "-c", "user.email=a@b", "commit", "--no-gpg-sign", "-qam", "Train longer still")
    third, _ = register(root, root / "release", NAME)
    promote(root, NAME, "v0.1.0")
    promote(root, NAME, "v0.1.0", reason="again: nothing happens")
    promote(root, NAME, "v0.4.0", reason="gate green")
    assert champion(root, NAME) == third == resolve(root, "sana-video@champion")
    rollback(root, NAME, "v0.1.0", "flickers\nat night")
    assert champion(root, NAME) == first
    assert [f"{entry.stage}#{entry.number}" for entry in journal(root, NAME)] == [
        "candidate#1",
        "candidate#2",
        "candidate#3",
        "candidate#4",
        "champion#5",
        "champion#6",
        "champion#7",
    ]
    assert journal(root, NAME)[-1].reason == "rollback: flickers at night"
    assert [version.version for version in list_versions(root, NAME)] == ["v0.1.0", "v0.2.0", "v0.3.0", "v0.4.0"]

    # GTO reads the same tags, DVC brings the bundle from another folder, by tag and without our code
    away = tmp_path / "away"
    away.mkdir()
    assert "v0.4.0" in command(root, str(Path(sys.executable).with_name("gto")), "show")
    dvc(away, "artifacts", "get", str(root), NAME, "--rev", "v0.2.0", "-o", "second")
    dvc(away, "artifacts", "get", str(root), NAME, "--stage", "champion", "-o", "champion")
    dvc(away, "get", str(root), "release", "--rev", "sana-video@v0.4.0", "-o", "third")
    digests = [verify_bundle(away / name) for name in ("champion", "second", "third")]
    assert digests == [version.digest for version in (first, second, third)]

    # and so does `fetch`, from the remote alone
    shutil.rmtree(root / ".dvc" / "cache")
    shutil.rmtree(root / ".dvc" / "tmp")
    target = root / "runs" / "fetched"
    assert fetch(root, "sana-video@champion", target) == first
    assert (target / "autoencoder" / "weights").read_bytes() == bytes([3]) * 1000
    (target / "autoencoder" / "weights").write_bytes(b"damaged")
    with pytest.raises(ValueError, match="autoencoder/weights: damaged"):
        fetch(root, "sana-video@champion", target)
    shutil.rmtree(target)
    fetch(root, "sana-video@v0.4.0", target)
    assert verify_bundle(target) == third.digest


@pytest.mark.slow
def test_what_is_refused(tmp_path: Path, nobody: None) -> None:
    root = tmp_path / "project"
    lay_out(root)
    ensure_repository(root)
    with pytest.raises(ValueError, match=r"has no manifest\.json"):
        register(root, root / "release", NAME)
    dvc(root, "repro", "-q")
    with pytest.raises(ValueError, match="'Sana Video' cannot name"):
        register(root, root / "release", "Sana Video")
    (root / "release" / "config.json").unlink()
    with pytest.raises(ValueError, match=r"config\.json: missing from the bundle"):
        register(root, root / "release", NAME)
    (root / "release" / "config.json").write_text("{ }")
    write_manifest(root / "release")
    with pytest.raises(ValueError, match=r"release: not what dvc\.lock records \(modified\)"):
        register(root, root / "release", NAME)
    shutil.rmtree(root / "release")
    dvc(root, "checkout", "-q")
    (root / ".dvc" / "config").write_text("[core]\n    analytics = false\n")
    with pytest.raises(ValueError, match="no default DVC remote"):
        register(root, root / "release", NAME)
    git(root, "checkout", "-q", "--", ".dvc/config")
    preflight(root)
    git(root, "worktree", "add", "-q", "-b", registry.BRANCH, str(tmp_path / "elsewhere"))
    for place in (root, tmp_path / "elsewhere"):
        with pytest.raises(ValueError, match="the branch releases is checked out"):
            preflight(place)
    with pytest.raises(ValueError, match="the branch releases is checked out"):
        register(root, root / "release", NAME)
    assert list_versions(root, NAME) == [] and journal(root, NAME) == []
    with pytest.raises(ValueError, match=r"sana-video@v9\.9\.9: no such version or stage; registered: none"):
        resolve(root, "sana-video@v9.9.9")
    with pytest.raises(ValueError, match="a rollback needs a reason"):
        rollback(root, NAME, "v0.1.0", " ")


def test_uncommitted_leaves_out_what_the_run_itself_writes(tmp_path: Path, nobody: None) -> None:
    lay_out(tmp_path)
    ensure_repository(tmp_path)
    (tmp_path / ".gitignore").write_text("/models\n/release\n")
    for name in ("dvc.lock", "models/weights", "my film/a b.mp4", "réel.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "train.py").unlink()
    found = [path for path in uncommitted(tmp_path) if not path.startswith("home/")]
    assert found == [".gitignore", "my film/a b.mp4", "réel.txt", "train.py"]


def test_a_bundle_is_exactly_what_its_manifest_says(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "weights").write_bytes(b"1234")
    with pytest.raises(ValueError, match="no bundle"):
        verify_bundle(tmp_path)
    assert write_manifest(tmp_path) == write_manifest(tmp_path) == verify_bundle(tmp_path)
    (tmp_path / "extra").touch()
    with pytest.raises(ValueError, match="extra: not in the manifest"):
        verify_bundle(tmp_path)
    (tmp_path / "extra").unlink()
    (tmp_path / "deep" / "weights").write_bytes(b"1235")
    with pytest.raises(ValueError, match="deep/weights: damaged"):
        verify_bundle(tmp_path)
    (tmp_path / "manifest.json").write_text('{"files": [{}]}')
    with pytest.raises(ValueError, match="not a manifest"):
        verify_bundle(tmp_path)
