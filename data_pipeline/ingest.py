"""ingest: a folder or s3:// prefix of files -> the videos table, one row a file, rejects with their reason.

A video is named by its content, so the same bytes have the same id wherever they lie. Nothing is copied or changed.
Where footage comes from and under which licence stands in `sources.yaml` in the batch's folder:

    sources:
      - match: "bbb*.mp4"            # glob over the path inside the batch; the first match counts
        source: big-buck-bunny       # thresholds of curation can be set per source
        licence: CC-BY-3.0
        attribution: "(c) 2008 Blender Foundation, www.bigbuckbunny.org"
        url: "https://www.bigbuckbunny.org"
        origin: real                 # or synthetic, of what a model made; real where it is left out

Without it the source is the batch's name, the licence "unstated" and the origin "real".

Every entry of the folder is a row, but for hidden files and what usually lies beside films (SIDE_FILES). A name is
believed in nothing: it decides only whether a file is looked into, and no link is followed out of the batch.
"""

from __future__ import annotations

import fnmatch
import os
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from data_pipeline.films import at_hand, sandbox
from data_pipeline.ids import content_id
from data_pipeline.ids import short_id as short_id
from data_pipeline.params import IngestParams, Name
from infra import engine
from infra.storage import is_remote, list_files, local_copy
from sana_video.video.probe import VideoInfo, probe

if TYPE_CHECKING:
    from data_pipeline.tables import Row

INGEST_VERSION = 3

SUFFIXES = (
    ".mp4", ".m4v", ".mov", ".3gp", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".vob",
    ".ts", ".m2ts", ".mts", ".flv", ".wmv", ".ogv",
)  # fmt: skip
SIDE_FILES = (
    ".yaml", ".yml", ".json", ".jsonl", ".txt", ".md", ".csv", ".tsv", ".parquet", ".srt", ".vtt", ".ass", ".pdf",
    ".jpg", ".jpeg", ".png", ".webp", ".sha256", ".md5", ".dvc", ".log",
)  # fmt: skip
UNPRINTABLE = "\\\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"  # and what turns the direction of writing
WORKERS = 2  # files looked into at once: reading them is the cost, not decoding
PROBE_SECONDS = 300.0

MIN_FPS, MAX_FPS = 0.5, 1000.0

T = TypeVar("T")
Track = Callable[[Iterable[T], int, str], Iterable[T]]
Text = Annotated[str, Field(min_length=1, max_length=500)]


class SourceRule(BaseModel):
    """Source, licence and attribution of the files whose path inside the batch matches the glob `match`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    match: Text
    source: Name
    licence: Text
    attribution: Text
    url: Text
    origin: Literal["real", "synthetic"] = "real"  # synthetic: a model made it, and its own prompts are never captions


class Sources(BaseModel):
    """The whole of `sources.yaml`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sources: Annotated[tuple[SourceRule, ...], Field(min_length=1)]

    def of(self, name: str) -> SourceRule | None:
        return next((rule for rule in self.sources if fnmatch.fnmatchcase(name, rule.match)), None)


def run(batch: str, uri: str, params: IngestParams, root: Path, track: Track[Any]) -> list[Row]:
    """Rows of the videos table for every file below `uri` but side files (relative to `root`, absolute, or s3://…).

    Raises ValueError for a folder without a video file or a faulty sources.yaml, FileNotFoundError for no folder.
    """
    place = uri if is_remote(uri) else str(root / uri)
    files = _videos_in(place, uri)
    sources = read_sources(place, uri)
    within = () if is_remote(uri) else (os.path.realpath(place), os.path.realpath(root))
    found = {name: Found("", 0, None, reason) for name in files if (reason := _refused(name, within))}
    wanted = [name for name in files if name not in found]
    with engine.opened(min(WORKERS, len(wanted))) as here:
        shards = engine.shards_of(wanted, [1] * len(wanted), here.slots)
        common = {"params": params, "root": root, "seconds": PROBE_SECONDS}
        looked = engine.results(here, f"{__name__}:look", shards, common)
        for name, one in track(looked, len(wanted), f"ingest {batch}"):
            found[name] = Found("", 0, None, one.reason) if isinstance(one, engine.Lost) else one
    return list(_mark_duplicates(_row(batch, place, name, sources, found[name], root) for name in files))


def _videos_in(place: str, uri: str) -> list[str]:
    """Every entry but side files, in order. ValueError where none of them is called a video."""
    entries = list_files(place, ("",)) if is_remote(uri) else sorted(_entries(place))
    names = [name for name in entries if not _hidden(_inside(place, name)) and not name.lower().endswith(SIDE_FILES)]
    if not any(name.lower().endswith(SUFFIXES) for name in names):
        raise ValueError(f"{uri}: no video in this folder (looked for {' '.join(SUFFIXES)})")
    return names


def _entries(place: str) -> Iterator[str]:
    """Whatever is in a local folder and is no folder: also links to folders, broken links, pipes and sockets."""
    if not Path(place).is_dir():
        raise FileNotFoundError(f"{place}: no such folder")
    for folder, folders, files in os.walk(place):
        links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
        yield from (os.path.join(folder, name) for name in [*files, *links])


def _inside(place: str, name: str) -> str:
    """A file's path inside its batch."""
    return name.removeprefix(place.rstrip("/")).lstrip("/")


def _hidden(name: str) -> bool:
    return any(part.startswith(".") for part in name.split("/"))


def read_sources(place: str, uri: str) -> Sources | None:
    """`sources.yaml` of a batch, None where there is none. Raises ValueError with the faulty key and value."""
    found = [name for name in list_files(place, ("sources.yaml",)) if _inside(place, name) == "sources.yaml"]
    if not found:
        return None
    with local_copy(found[0]) as path:
        try:
            return Sources.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise ValueError(f"{uri}/sources.yaml: {where}: {first['msg']} (got {first['input']!r})") from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ValueError(f"{uri}/sources.yaml is not YAML: {' '.join(str(error).split())}") from error


@dataclass(frozen=True)
class Found:
    """What came out of one file: its id and size, what it is as far as that was seen, and why it is refused."""

    video_id: str
    size: int
    info: VideoInfo | None
    reason: str | None


def look(names: Iterable[str], params: IngestParams, root: Path, seconds: float) -> Iterator[Found]:
    """In a worker: hash and probe files, `seconds` for each probe.

    What is wrong with a file is its reason; what is wrong with the machine, or with the store it lies in, is raised.
    """
    for name in names:
        with at_hand(name, root) as path:
            yield _look(path, name, params, seconds)


def _look(path: Path, name: str, params: IngestParams, seconds: float) -> Found:
    try:
        video_id, size = content_id(path), path.stat().st_size
    except OSError as error:
        return Found(video_id="", size=0, info=None, reason=f"UNREADABLE: {error.strerror}")
    info = None
    try:
        if not name.lower().endswith(SUFFIXES):
            raise ValueError(f"UNKNOWN_SUFFIX: {Path(name).suffix or 'none'}; rename the file if it is a video")
        info = probe(path, max_pixels=params.max_pixels, seconds=seconds, sandbox=sandbox())
        _check(info, params)
    except ValueError as error:
        return Found(video_id=video_id, size=size, info=info, reason=str(error))
    except RuntimeError as error:  # a file that nobody thought of: it costs its own row, and the row says so
        last = str(error).strip().splitlines()[-1]
        return Found(video_id=video_id, size=size, info=info, reason=f"PROBE_FAILED: {last}")
    return Found(video_id=video_id, size=size, info=info, reason=None)


def _refused(name: str, within: tuple[str, ...]) -> str | None:
    """Why a file is not even opened: its name, or where it leads to; None if it may be.

    `within`: the folders that a local file may really lie in.
    """
    if printable(name) != name:
        return "BAD_NAME: a name with control characters, backslashes or bytes that are no UTF-8"
    if is_remote(name):
        return None
    real = os.path.realpath(name)
    if not any(real.startswith(folder + os.sep) for folder in within):
        return "LINK_OUTSIDE: a link out of the batch is not followed; copy the file"
    if not os.path.isfile(real):
        return "NOT_A_FILE: a folder, pipe, socket, device or broken link"
    return None


def printable(name: str) -> str:
    """A name that any table, page and terminal can show: what cannot be is escaped, so that two names stay two."""
    if all(c not in UNPRINTABLE and unicodedata.category(c) not in ("Cc", "Cs", "Zl", "Zp") for c in name):
        return name
    return name.encode("unicode_escape", "surrogatepass").decode("ascii")


def _check(info: VideoInfo, params: IngestParams) -> None:
    """Raise ValueError with a reason code for a video outside the limits."""
    if info.duration < params.min_seconds:
        raise ValueError(f"TOO_SHORT: {info.duration:.2f} s, at least {params.min_seconds:g} s")
    if info.duration > params.max_seconds:
        raise ValueError(f"TOO_LONG: {info.duration:.0f} s, at most {params.max_seconds:g} s")
    if not MIN_FPS <= info.fps <= MAX_FPS:
        raise ValueError(f"ODD_RATE: {info.fps:.3f} frames a second, {MIN_FPS:g} to {MAX_FPS:g}")
    height, width = info.display_size
    if min(height, width, info.width, info.height) < params.min_short_side:
        raise ValueError(f"TOO_SMALL: {width}x{height} as shown, short side at least {params.min_short_side}")
    if info.hdr and params.hdr == "reject":
        raise ValueError(f"HDR: {info.colour_transfer}, and ingest.hdr is `reject`")
    if info.interlaced and params.interlaced == "reject":
        raise ValueError("INTERLACED: and ingest.interlaced is `reject`")


def _row(batch: str, place: str, name: str, sources: Sources | None, found: Found, root: Path) -> dict[str, Any]:
    rule = sources.of(_inside(place, name)) if sources else None
    technical: Mapping[str, Any] = asdict(found.info) if found.info else {f.name: None for f in fields(VideoInfo)}
    return {
        **technical,
        "video_id": found.video_id,
        "batch": batch,
        "source": rule.source if rule else batch,
        "origin": rule.origin if rule else "real",
        "uri": printable(_relative(name, root)),
        "bytes": found.size,
        "licence": rule.licence if rule else "unstated",
        "attribution": rule.attribution if rule else None,
        "reason": found.reason,
    }


def _relative(name: str, root: Path) -> str:
    if is_remote(name) or not Path(name).is_relative_to(root):
        return name
    return Path(name).relative_to(root).as_posix()


def _mark_duplicates(rows: Iterable[dict[str, Any]]) -> Iterator[Row]:
    """The first good file of each content stays; later ones say which it is. Bad files keep their own reason."""
    first: dict[str, str] = {}
    for row in sorted(rows, key=lambda row: row["uri"]):
        if row["reason"] is None and (kept := first.setdefault(row["video_id"], row["uri"])) != row["uri"]:
            row = {**row, "reason": f"DUPLICATE_OF:{kept}"}
        yield row
