"""Published weights: what there is, how it is fetched, and that it stays what it was. The one door to the hub.

Most lie on the hub; the few that do not are fetched from their makers' server, file by file.

weights.yaml is the catalogue. What was fetched is written down in weights.lock.json beside it: the commit, and size and
sha256 of every file; from then on those bytes and no others are accepted. A file is fetched to a side folder (where an
interrupted one goes on), verified, and only then moved to its place: what lies in place was right.
"""

from __future__ import annotations

import contextlib
import fnmatch
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from pydantic import BaseModel, ConfigDict, Field

from infra.download import download
from infra.settings import load_yaml, machine, validate
from infra.storage import atomic_text, require_space, sha256_file

CATALOGUE = Path(__file__).with_suffix(".yaml")
LOCK = "weights.lock.json"
Say = Callable[[str], None]


class File(BaseModel):
    """One file, or a pattern of files, in a repository: its size, and what of its sha256 is known beforehand."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bytes: int = Field(gt=0)
    sha256: str | None = Field(default=None, pattern="^[0-9a-f]{8,64}$")  # or its beginning, which names may carry

    def allows(self, digest: str) -> bool:
        """Whether `digest`, a whole sha256, is not against what is known."""
        return digest.startswith(self.sha256 or "")


class Entry(BaseModel):
    """Weights under one name of the catalogue; `repo` is on the hub, or a folder of another server (`https://…`)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    purpose: str = Field(alias="for")
    repo: str
    revision: str = "main"
    inside: str = ""
    licence: str
    terms: str
    files: dict[str, File] = Field(min_length=1)

    @property
    def bytes(self) -> int:
        return sum(file.bytes for file in self.files.values())

    @property
    def on_hub(self) -> bool:
        return "://" not in self.repo


class Locked(BaseModel):
    """What was fetched under one name: `files` maps each path in the repository to the only bytes it may have."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    repo: str
    revision: str
    inside: str
    files: dict[str, File]

    def local(self, path: str) -> Path:
        """Where a file of the repository lies below the folder of its name."""
        return Path(path).relative_to(self.inside)


def catalogue() -> dict[str, Entry]:
    """Every entry of weights.yaml by name."""
    return {name: validate(fields, name, Entry, CATALOGUE.name) for name, fields in load_yaml(CATALOGUE).items()}


def find(name: str) -> Entry:
    """The entry called `name`. ValueError names those there are."""
    known = catalogue()
    if name not in known:
        raise ValueError(f"no weights are called {name!r}; there are {', '.join(known)}")
    return known[name]


def describe(name: str) -> str:
    """One line: what it is, its size, its licence, and the command that fetches it."""
    entry = find(name)
    return (
        f"{name}: {entry.purpose}, {_size(entry.bytes)}, licence: {entry.licence} ({entry.terms}); "
        f"`sana-video weights fetch {name}` fetches it from {entry.repo}"
    )


@runtime_checkable
class Absent(Protocol):
    """An error for weights that are not in `folder`: `name` is what the catalogue calls them. Whoever raises it need
    not know of the catalogue; whoever shows it adds `how_to_fetch`."""

    name: str
    folder: Path


def how_to_fetch(error: BaseException) -> str:
    """What to add to the message of `error` where it is of weights in the catalogue; else nothing."""
    absent = isinstance(error, FileNotFoundError) and isinstance(error, Absent) and error.name in catalogue()
    return f": {describe(error.name)}" if absent and isinstance(error, Absent) else ""


def listing(folder: Path) -> list[dict[str, str]]:
    """All entries as rows; `here`: whether all files of one lie in `folder`, each of its size."""
    locked = _locks(folder)
    return [
        {
            "name": name,
            "size": _size(entry.bytes),
            "here": "yes" if name in locked and _complete(locked[name], folder / name) else "no",
            "for": entry.purpose,
            "licence": entry.licence,
        }
        for name, entry in catalogue().items()
    ]


def fetch(name: str, folder: Path, say: Say = lambda line: None) -> Path:
    """Bring the files of `name` to folder/name, which is returned; what lies there and is right is left alone.

    `say` is told of each file. Raises ValueError for a name, a file or terms that stand in the way, or bytes that are
    not those pinned; ConnectionError if the hub cannot be reached; OSError if the disk is full.
    """
    entry, place = find(name), folder / name
    known = _locks(folder).get(name)
    with _hub(entry) if entry.on_hub else contextlib.nullcontext() as hub:
        wanted = known or (_resolved(name, entry, hub) if hub else _as_listed(entry))
        place.mkdir(parents=True, exist_ok=True)
        todo = [path for path, file in wanted.files.items() if not _right(place / wanted.local(path), file)]
        require_space(place, sum(wanted.files[path].bytes for path in todo))
        found = dict(wanted.files)
        for path in todo:
            say(f"{name}: {path}, {_size(found[path].bytes)}")
            found[path] = _fetch_file(hub, wanted, path, place)
    _lock(folder, name, wanted.model_copy(update={"files": found}))
    shutil.rmtree(_side(place), ignore_errors=True)
    return place


def verify(folder: Path, name: str | None = None) -> list[dict[str, str]]:
    """Read all files of `name`, or of everything that was fetched to `folder`, anew.

    A row for each file. ValueError names the first that is missing or not the bytes that were fetched.
    """
    locked = _locks(folder)
    if name is not None and name not in locked:
        raise ValueError(f"{folder} holds no record of {find(name).repo}; {describe(name)}")
    rows = []
    for each in [name] if name is not None else sorted(locked):
        for path, file in locked[each].files.items():
            place = folder / each / locked[each].local(path)
            if not _right(place, file):
                raise ValueError(
                    f"{place} is missing or not what was fetched; `sana-video weights fetch {each}` mends it"
                )
            rows.append({"name": each, "file": path, "size": _size(file.bytes), "sha256": file.sha256 or ""})
    return rows


def _resolved(name: str, entry: Entry, hub: Any) -> Locked:
    """The commit that the entry's revision is now, and its files with the sizes and digests that the hub states."""
    info = hub.model_info(entry.repo, revision=entry.revision, files_metadata=True)
    files: dict[str, File] = {}
    for pattern, pinned in entry.files.items():
        matching = [s for s in info.siblings if fnmatch.fnmatchcase(s.rfilename, pattern)]
        if not matching:
            raise ValueError(f"{name}: {entry.repo} at {entry.revision} has no {pattern}")
        for sibling in matching:
            stated = sibling.lfs.sha256 if sibling.lfs else None
            if stated and not pinned.allows(stated):
                raise ValueError(
                    f"{name}: {entry.repo} now has another {sibling.rfilename}: {stated[:12]}… is not the "
                    f"pinned {(pinned.sha256 or '')[:12]}…"
                )
            digest = stated or pinned.sha256
            files[sibling.rfilename] = File(bytes=sibling.size or pinned.bytes, sha256=digest)
    return Locked(repo=entry.repo, revision=info.sha, inside=entry.inside, files=files)


def _as_listed(entry: Entry) -> Locked:
    """The files of a server other than the hub, of which no more is known than the catalogue says."""
    return Locked(repo=entry.repo, revision="", inside=entry.inside, files=entry.files)


def _fetch_file(hub: Any | None, wanted: Locked, path: str, place: Path) -> File:
    """Fetch one file beside its place, verify it, move it there; what is not right is removed."""
    if hub:
        fetched = Path(hub.hf_hub_download(wanted.repo, path, revision=wanted.revision, local_dir=_side(place)))
    else:
        fetched = download(f"{wanted.repo}/{path}", _side(place) / path)
    measured, file = _measured(fetched), wanted.files[path]
    if not file.allows(measured.sha256 or ""):
        fetched.unlink()
        raise ValueError(f"{wanted.repo}: {path} arrived with sha256 {measured.sha256}, not {file.sha256}; removed")
    target = place / wanted.local(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    os.replace(fetched, target)
    return measured


def _side(place: Path) -> Path:
    """Where the files for `place` lie until they are verified; an interrupted one goes on from there."""
    return place.with_name(f".{place.name}.part")


def _measured(path: Path) -> File:
    return File(bytes=path.stat().st_size, sha256=sha256_file(path))


def _right(path: Path, file: File) -> bool:
    return path.is_file() and file.sha256 is not None and file.allows(sha256_file(path))


def _complete(locked: Locked, place: Path) -> bool:
    lying = ((place / locked.local(path), file.bytes) for path, file in locked.files.items())
    return all(path.is_file() and path.stat().st_size == size for path, size in lying)


def _locks(folder: Path) -> dict[str, Locked]:
    path = folder / LOCK
    if not path.is_file():
        return {}
    try:
        document = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); remove it to pin anew what is fetched next") from None
    return {name: validate(fields, name, Locked, LOCK) for name, fields in document.items()}


def _lock(folder: Path, name: str, locked: Locked) -> None:
    document = {**_locks(folder), name: locked}
    fields = {each: document[each].model_dump(mode="json") for each in sorted(document)}
    atomic_text(folder / LOCK, json.dumps(fields, indent=1, sort_keys=True) + "\n")


@contextlib.contextmanager
def _hub(entry: Entry) -> Iterator[Any]:
    """The hub's client, online for this block whatever HF_HUB_OFFLINE says: to fetch is what the user asked for.

    What it raises becomes one line of ours.
    """
    import httpx2
    from huggingface_hub import HfApi, constants, errors

    endpoint = machine().hub_endpoint
    offline, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, False
    try:
        yield HfApi(endpoint=endpoint)
    except errors.GatedRepoError:
        raise ValueError(
            f"{entry.repo} is gated: accept its terms at {endpoint}/{entry.repo} ({entry.licence}) and set HF_TOKEN"
        ) from None
    except errors.RepositoryNotFoundError:
        raise ValueError(f"{endpoint} has no {entry.repo}, or it is gated: set HF_TOKEN if you were let in") from None
    except (errors.RevisionNotFoundError, errors.RemoteEntryNotFoundError) as error:
        raise ValueError(f"{entry.repo} is not as it was: {str(error).splitlines()[0]}") from None
    except (httpx2.TransportError, errors.LocalEntryNotFoundError, errors.HfHubHTTPError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConnectionError(f"{endpoint} cannot be reached for {entry.repo}: {reason}") from None
    finally:
        constants.HF_HUB_OFFLINE = offline


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e7 else f"{count / 1e6:.2f} MB" if count >= 1e4 else f"{count} B"
