"""The registry of released models: annotated git tags in GTO's format over bundles in a DVC remote. No server.

`NAME@v0.1.0` names a version; `NAME#STAGE#N` is the N-th entry of an append-only journal that says which version holds
a stage, so rolling back is one more entry. A bundle is known by the sha256 of its manifest.json: registering the same
one twice changes nothing. The commit under a tag stands on the branch `releases` and is built without touching the
user's branch, index or files.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from infra.storage import atomic_dir, atomic_text, sha256_file

BRANCH = "releases"
CANDIDATE = "candidate"
CHAMPION = "champion"

_MANIFEST = "manifest.json"
_PINNED = ("dvc.lock", "dvc.yaml", "params.yaml", "versions.yaml")
_REPORTS = (".json", ".md", ".csv")
_REPORT_BYTES = 262_144
_NAME = re.compile(r"[a-z][a-z0-9-]*[a-z0-9]")  # what GTO takes as an artifact or a stage
_VERSION = re.compile(r"v(\d+)\.(\d+)\.(\d+)")
_IDENTITY = ("-c", "user.name=sana-video", "-c", "user.email=sana-video@localhost")
_UNSIGNED = ("-c", "commit.gpgsign=false", "-c", "tag.gpgsign=false")  # nobody is there to type a passphrase


class CommandFailed(RuntimeError):
    """git or DVC refused; the message is one line with their own words."""


@dataclass(frozen=True)
class Version:
    """A registered bundle.

    `head` is the commit it was made on, `uncommitted` lists the files that were changed there and in no commit.
    """

    name: str
    version: str
    commit: str
    digest: str
    head: str
    uncommitted: tuple[str, ...]


@dataclass(frozen=True)
class Entry:
    """One entry of a stage journal."""

    stage: str
    number: int
    commit: str
    reason: str


def write_manifest(folder: Path) -> str:
    """Write manifest.json: path, bytes and sha256 of every file. Returns its own sha256, the bundle's id."""
    files = [
        {"path": name, "bytes": (folder / name).stat().st_size, "sha256": sha256_file(folder / name)}
        for name in _bundle_files(folder)
    ]
    atomic_text(folder / _MANIFEST, json.dumps({"version": 1, "files": files}, indent=1) + "\n")
    return sha256_file(folder / _MANIFEST)


def verify_bundle(folder: Path) -> str:
    """The bundle's id, if every file is as its manifest says and none is missing or added. ValueError otherwise."""
    path = folder / _MANIFEST
    if not path.is_file():
        raise ValueError(f"{folder}: no bundle, it has no {_MANIFEST}; make one with `sana-video release package`")
    try:
        stated = {str(entry["path"]): (int(entry["bytes"]), str(entry["sha256"])) for entry in _manifest(path)}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: not a manifest") from error
    found = _bundle_files(folder)
    if odd := sorted(set(found) ^ set(stated)):
        raise ValueError(
            f"{folder / odd[0]}: {'missing from the bundle' if odd[0] in stated else 'not in the manifest'}"
        )
    for name in found:
        file = folder / name
        if (file.stat().st_size, sha256_file(file)) != stated[name]:
            raise ValueError(f"{file}: damaged, its bytes are not those that the manifest states")
    return sha256_file(path)


def ensure_repository(root: Path) -> bool:
    """Make `root` a git repository with everything in its first commit, if there is none (an unpacked archive)."""
    if not (root / ".git").exists():
        _git(root, "init", "-q", "-b", "main")
    if _has_commit(root):
        return False
    _git(root, "add", "--all")
    _git(root, *_settings(root), "commit", "-q", "-m", "Start from an unpacked archive")
    return True


def preflight(root: Path) -> None:
    """ValueError for what would keep a bundle from being registered: known before hours of training, not after."""
    if not _has_commit(root):
        raise ValueError(f"{root}: the repository has no commit yet; make one, then register")
    if not _dvc(root, "config", "core.remote", accept_failure=True).strip():
        raise ValueError("no default DVC remote; add one with `dvc remote add --default NAME URL`")
    if f"branch refs/heads/{BRANCH}" in _git(root, "worktree", "list", "--porcelain").splitlines():
        raise ValueError(f"the branch {BRANCH} is checked out; switch to another, it is written to here")


def uncommitted(root: Path) -> list[str]:
    """Changed or new files that git does not hold and does not ignore, except dvc.lock and reports/."""
    listed = _git(root, "status", "--porcelain", "-z", "--no-renames", "--untracked-files=all").split("\0")
    paths = [entry[3:] for entry in listed if entry]
    return sorted(path for path in paths if path != "dvc.lock" and not path.startswith("reports/"))


def registered(root: Path, bundle: Path, name: str) -> Version | None:
    """The version that this bundle is registered as: the newest that can be champion, else the newest."""
    digest = verify_bundle(bundle)
    same = [version for version in list_versions(root, name) if version.digest == digest]
    return max(same, key=lambda version: (not version.uncommitted, _order(version.version)), default=None)


def register(root: Path, bundle: Path, name: str) -> tuple[Version, bool]:
    """Register the bundle as the next minor version and as candidate; returns it and whether it is new.

    The bytes reach the default DVC remote before any tag says that they are there. A bundle that is registered already
    gives its version back, unless that was made with uncommitted changes and now all is committed: then a new version
    says so. ValueError for a damaged bundle, one that dvc.lock does not record, and all that `preflight` refuses.
    """
    _check_name(name)
    known, changed = registered(root, bundle, name), tuple(uncommitted(root))
    if known is not None and (changed or not known.uncommitted):
        if not any(entry.stage == CANDIDATE and entry.commit == known.commit for entry in journal(root, name)):
            _assign(root, known, CANDIDATE, "registered")
        return known, False
    preflight(root)
    _check_recorded(root, bundle)
    _dvc(root, "push", "--quiet")
    number, head = _next(list_versions(root, name)), _git(root, "rev-parse", "HEAD").strip()
    planned = Version(name, number, "", sha256_file(bundle / _MANIFEST), head, changed)
    version = replace(planned, commit=_commit(root, planned))
    _tag(root, f"{name}@{number}", version.commit, _version_message(version))
    _assign(root, version, CANDIDATE, "registered")
    return version, True


def promote(root: Path, name: str, version: str, stage: str = CHAMPION, reason: str = "promoted") -> Version:
    """Give the stage to a version by a new journal entry; nothing happens if it holds the stage already.

    ValueError for an unknown version, and for a champion whose commit does not hold all that made it.
    """
    _check_name(stage)
    chosen = resolve(root, f"{name}@{version}")
    if stage == CHAMPION and chosen.uncommitted:
        raise ValueError(
            f"{name}@{version} cannot be champion: it was made with uncommitted changes"
            f" ({', '.join(chosen.uncommitted[:5])}); commit them, package and register again"
        )
    if _holder(root, name, stage) != chosen.commit:
        _assign(root, chosen, stage, reason)
    return chosen


def rollback(root: Path, name: str, to: str, reason: str) -> Version:
    """Make an earlier version champion again: one more journal entry, nothing is deleted."""
    if not reason.strip():
        raise ValueError("a rollback needs a reason")
    return promote(root, name, to, CHAMPION, f"rollback: {reason}")


def list_versions(root: Path, name: str) -> list[Version]:
    """All registered versions, oldest first. Tags that are not ours (no manifest in the message) are passed over."""
    found = [_parsed(name, *record) for record in _tags(root, f"{name}@v*")]
    return sorted((version for version in found if version is not None), key=lambda version: _order(version.version))


def journal(root: Path, name: str) -> list[Entry]:
    """Every entry of the stage journal, oldest first."""
    entries = []
    for tag, commit, message in _tags(root, f"{name}#*"):
        if match := re.fullmatch(rf"{re.escape(name)}#([a-z0-9-]+)#(\d+)", tag):
            entries.append(Entry(match[1], int(match[2]), commit, _field(message, "reason")))
    return sorted(entries, key=lambda entry: entry.number)


def champion(root: Path, name: str) -> Version | None:
    """The version that holds the stage `champion`, or None."""
    commit = _holder(root, name, CHAMPION)
    return next((version for version in list_versions(root, name) if version.commit == commit), None)


def resolve(root: Path, reference: str) -> Version:
    """The version that "NAME@v0.1.0" or "NAME@STAGE" means. ValueError if there is none."""
    name, _, wanted = reference.partition("@")
    _check_name(name)
    versions = list_versions(root, name)
    if _VERSION.fullmatch(wanted):
        found = next((version for version in versions if version.version == wanted), None)
    else:
        commit = _holder(root, name, wanted)
        found = next((version for version in versions if version.commit == commit), None)
    if found is None:
        known = ", ".join(version.version for version in versions) or "none"
        raise ValueError(f"{reference}: no such version or stage; registered: {known}")
    return found


def fetch(root: Path, reference: str, to: Path) -> Version:
    """Bring the bundle of a version into the folder `to` and verify it; a folder that holds it already stays."""
    version = resolve(root, reference)
    if (to / _MANIFEST).is_file() and sha256_file(to / _MANIFEST) == version.digest:
        verify_bundle(to)
        return version
    with atomic_dir(to) as folder:
        _dvc(root, "artifacts", "get", str(root), version.name, "--rev", version.version, "-o", str(folder / "bundle"))
        for entry in (folder / "bundle").iterdir():
            entry.rename(folder / entry.name)
        (folder / "bundle").rmdir()
        if verify_bundle(folder) != version.digest:
            raise ValueError(f"{reference}: the remote holds another bundle than the one that was registered")
    return version


def _manifest(path: Path) -> list[dict[str, Any]]:
    files: list[dict[str, Any]] = json.loads(path.read_text())["files"]
    return files


def _bundle_files(folder: Path) -> list[str]:
    names = (file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
    return sorted(name for name in names if name != _MANIFEST)


def is_name(name: str) -> bool:
    """Whether a model or a stage can be called so."""
    return _NAME.fullmatch(name) is not None


def _check_name(name: str) -> None:
    if not is_name(name):
        raise ValueError(f"{name!r} cannot name a model or a stage: small letters, digits and '-', a letter first")


def _has_commit(root: Path) -> bool:
    head = ["git", "rev-parse", "-q", "--verify", "HEAD"]
    return subprocess.run(head, cwd=root, capture_output=True).returncode == 0


def _check_recorded(root: Path, bundle: Path) -> None:
    """The tag will pin dvc.lock, so the bundle has to be the very output that dvc.lock records."""
    if not (root / "dvc.lock").is_file():
        raise ValueError(f"{root / 'dvc.lock'}: missing; run `dvc repro` first")
    relative = bundle.resolve().relative_to(root.resolve()).as_posix()
    changed = json.loads(_dvc(root, "data", "status", "--json", "--granular") or "{}").get("uncommitted", {})
    for kind, paths in changed.items():
        if any(str(path).rstrip("/").split("/")[0] == relative for path in paths if kind != "unchanged"):
            raise ValueError(f"{relative}: not what dvc.lock records ({kind}); run `dvc repro` first")


def _commit(root: Path, version: Version) -> str:
    """A commit on the branch `releases`: the tree of HEAD, what pins the run, and under released/ the small reports
    and what the bundle was made on."""
    paths = {name: root / name for name in _PINNED if (root / name).is_file()}
    paths |= {f"released/{path.relative_to(root).as_posix()}": path for path in _small_reports(root)}
    files = {name: path.read_bytes() for name, path in paths.items()}
    tree = _tree(root, files | {"released/lineage.json": _lineage(version)})
    tip = _git(root, "for-each-ref", "--format=%(objectname)", f"refs/heads/{BRANCH}").strip()
    parents = [word for parent in dict.fromkeys([tip, version.head]) if parent for word in ("-p", parent)]
    message = f"Release {version.name} {version.version}\n\nmanifest: {version.digest}\n"
    commit = _git(root, *_settings(root), "commit-tree", tree, *parents, "-m", message).strip()
    _git(root, "update-ref", f"refs/heads/{BRANCH}", commit, tip or "0" * 40)
    return commit


def _lineage(version: Version) -> bytes:
    """What release/lineage.json cannot say, because a bundle's bytes follow from its inputs alone."""
    kept = ("name", "version", "digest", "head", "uncommitted")
    return (json.dumps({key: getattr(version, key) for key in kept}, indent=1) + "\n").encode()


def _tree(root: Path, files: Mapping[str, bytes]) -> str:
    """HEAD's tree with `files` put in, through an index of its own so that the user's stays as it is."""
    with tempfile.TemporaryDirectory() as folder:
        index, content = ("env", f"GIT_INDEX_FILE={folder}/index"), Path(folder, "content")
        _run(root, [*index, "git", "read-tree", "HEAD"])
        for name, data in files.items():
            content.write_bytes(data)
            blob = _git(root, "hash-object", "-w", "--", str(content)).strip()
            _run(root, [*index, "git", "update-index", "--add", "--cacheinfo", f"100644,{blob},{name}"])
        return _run(root, [*index, "git", "write-tree"]).strip()


def _small_reports(root: Path) -> list[Path]:
    """Under another name than in the project: DVC refuses an output that git tracks as well."""
    return sorted(
        path
        for path in (root / "reports").rglob("*")
        if path.is_file() and path.suffix in _REPORTS and path.stat().st_size <= _REPORT_BYTES
    )


def _assign(root: Path, version: Version, stage: str, reason: str) -> None:
    number = max((entry.number for entry in journal(root, version.name)), default=0) + 1
    tag = f"{version.name}#{stage}#{number}"
    about = f"manifest: {version.digest}\nreason: {' '.join(reason.split())}"
    message = f"{version.name} {version.version} is {stage}\n\n{about}\n"
    _tag(root, tag, version.commit, message)


def _tag(root: Path, tag: str, commit: str, message: str) -> None:
    _git(root, *_settings(root), "tag", "--annotate", tag, commit, "-m", message)


def _version_message(version: Version) -> str:
    lines = [f"{version.name} {version.version}", "", f"manifest: {version.digest}", f"head: {version.head}"]
    return "\n".join([*lines, f"uncommitted: {json.dumps(list(version.uncommitted))}"]) + "\n"


def _parsed(name: str, tag: str, commit: str, message: str) -> Version | None:
    number, digest = tag.partition("@")[2], _field(message, "manifest")
    if not _VERSION.fullmatch(number) or not digest:
        return None
    changed = tuple(json.loads(_field(message, "uncommitted") or "[]"))
    return Version(name, number, commit, digest, _field(message, "head"), changed)


def _field(message: str, key: str) -> str:
    return next((line.partition(": ")[2] for line in message.splitlines() if line.startswith(f"{key}: ")), "")


def _holder(root: Path, name: str, stage: str) -> str | None:
    return next((entry.commit for entry in reversed(journal(root, name)) if entry.stage == stage), None)


def _tags(root: Path, pattern: str) -> list[tuple[str, str, str]]:
    """(tag, commit, message) of the annotated tags that match."""
    layout = "%(refname:lstrip=2)%00%(*objectname)%00%(contents)%01"
    listed = _git(root, "for-each-ref", f"--format={layout}", f"refs/tags/{pattern}")
    records = [record.lstrip("\n").split("\0") for record in listed.split("\1") if record.strip()]
    return [(tag, commit, message) for tag, commit, message in records if commit]


def _next(versions: Sequence[Version]) -> str:
    if not versions:
        return "v0.1.0"
    major, minor, _ = _order(versions[-1].version)
    return f"v{major}.{minor + 1}.0"


def _order(version: str) -> tuple[int, int, int]:
    match = _VERSION.fullmatch(version)
    assert match is not None
    return int(match[1]), int(match[2]), int(match[3])


def _settings(root: Path) -> tuple[str, ...]:
    """Our own commits and tags are unsigned, and carry a stand-in name where the user has set none."""
    known = subprocess.run(["git", "var", "GIT_COMMITTER_IDENT"], cwd=root, capture_output=True).returncode == 0
    return _UNSIGNED if known else (*_IDENTITY, *_UNSIGNED)


def _git(root: Path, *arguments: str) -> str:
    return _run(root, ["git", *arguments])


def _dvc(root: Path, *arguments: str, accept_failure: bool = False) -> str:
    return _run(root, [sys.executable, "-m", "dvc", "--wait-for-lock", *arguments], accept_failure)


def _run(root: Path, command: Sequence[str], accept_failure: bool = False) -> str:
    if shutil.which(command[0]) is None:
        raise FileNotFoundError(f"{command[0]}: not installed")
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    if done.returncode and not accept_failure:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["no message"]
        raise CommandFailed(f"`{' '.join(command[:5])} …` failed: {' '.join(lines[-3:])}")
    return done.stdout
