"""What people decided about clips: files as the review page exports them, kept append-only under reviews/ in git.

A file is one reviewer's; a later decision of the same reviewer on a clip stands in the place of an earlier one. Two
reviewers who disagree are an error until one of them looks again: no rule here decides for them.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from infra.storage import atomic_text

KIND = "sana-video-sft-review"
ACCEPT, REJECT = "accept", "reject"
CRITERIA = (
    "motion", "stable_camera", "focus", "no_occlusion", "brightness", "natural_colour", "composition",
    "engaging_subject",
)  # fmt: skip
COLUMNS = ("clip_id", "decision", "failed", "reviewer", "time")
MAX_BYTES = 64 * 2**20

Criterion = Literal[
    "motion", "stable_camera", "focus", "no_occlusion", "brightness", "natural_colour", "composition",
    "engaging_subject",
]  # fmt: skip


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Decision(_Strict):
    clip_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    decision: Literal["accept", "reject"]
    failed: tuple[Criterion, ...] = ()
    time: str  # ISO 8601 with its zone

    @field_validator("time")
    @classmethod
    def _instant(cls, text: str) -> str:
        try:
            zone = datetime.fromisoformat(text).tzinfo
        except ValueError:
            raise ValueError(f"{text!r} is no time like 2026-01-31T12:00:00Z") from None
        if zone is None:
            raise ValueError(f"{text!r} names no time zone")
        return text


class Document(_Strict):
    """A review file."""

    kind: Literal["sana-video-sft-review"]
    version: Literal[1]
    reviewer: Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f<>&\"']{1,80}$")]
    decisions: Annotated[tuple[Decision, ...], Field(min_length=1)]


class Review(_Strict):
    """What stands of a clip after all files were read."""

    reviewer: str
    decision: Literal["accept", "reject"]
    failed: tuple[Criterion, ...]
    time: str


def read(path: Path) -> Document:
    """The review file at `path`, JSON or CSV by its suffix.

    Raises FileNotFoundError, or ValueError with one line: another schema, or a clip that is decided twice.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"{path.name}: larger than a review may be ({MAX_BYTES >> 20} MiB)")
    try:
        text = path.read_bytes().decode("utf-8-sig")
        document = Document.model_validate(_from_csv(text) if path.suffix.lower() == ".csv" else json.loads(text))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"{path.name}: no review file: {where}: {' '.join(first['msg'].split())}") from None
    except (UnicodeDecodeError, json.JSONDecodeError, csv.Error, RecursionError) as error:
        raise ValueError(f"{path.name}: no review file: {' '.join(str(error).split())}") from None
    except ValueError as error:
        raise ValueError(f"{path.name}: no review file: {error}") from None
    twice = [clip for clip, times in Counter(each.clip_id for each in document.decisions).items() if times > 1]
    if twice:
        raise ValueError(f"{path.name}: {_some(twice)} decided twice in one file")
    return document


def _from_csv(text: str) -> dict[str, object]:
    rows = list(csv.DictReader(io.StringIO(text), strict=True))
    if not rows or tuple(rows[0]) != COLUMNS:
        raise ValueError(f"its columns are not {','.join(COLUMNS)}")
    reviewers = {row["reviewer"] for row in rows}
    if len(reviewers) > 1:
        raise ValueError(f"a file is one reviewer's; this one names {', '.join(sorted(map(str, reviewers)))}")
    decisions = [
        {**{name: row[name] for name in ("clip_id", "decision", "time")}, "failed": (row["failed"] or "").split()}
        for row in rows
    ]
    return {"kind": KIND, "version": 1, "reviewer": reviewers.pop(), "decisions": decisions}


def stored(folder: Path) -> list[Document]:
    """Every review under `folder`, by name; none where there is no such folder. ValueError as `read`."""
    return [read(path) for path in sorted(folder.glob("*.json"))] if folder.is_dir() else []


def standing(documents: Iterable[Document]) -> dict[str, Review]:
    """{clip_id: what stands of it}. ValueError naming a clip on which two reviewers disagree."""
    latest: dict[str, dict[str, Review]] = {}
    for document in documents:
        for each in document.decisions:
            own = Review(reviewer=document.reviewer, decision=each.decision, failed=each.failed, time=each.time)
            before = latest.setdefault(each.clip_id, {}).get(document.reviewer)
            if before is None or _instant(before) <= _instant(own):
                latest[each.clip_id][document.reviewer] = own
    return {clip: _agreed(clip, said) for clip, said in latest.items()}


def _agreed(clip: str, said: Mapping[str, Review]) -> Review:
    """One review of several that say the same: all reviewers, all marks, the latest time."""
    names = sorted(said)
    first = said[names[0]]
    other = next((name for name in names if said[name].decision != first.decision), None)
    if other is not None:
        raise ValueError(
            f"clip {clip}: {names[0]} says {first.decision}, {other} says {said[other].decision}: "
            "one of them has to look again (the later decision of a reviewer counts)"
        )
    marks = {mark for review in said.values() for mark in review.failed}
    failed = cast("tuple[Criterion, ...]", tuple(name for name in CRITERIA if name in marks))
    last = max(said.values(), key=_instant).time
    return Review(reviewer=", ".join(names), decision=first.decision, failed=failed, time=last)


def _instant(review: Review) -> datetime:
    return datetime.fromisoformat(review.time)


def decide(paths: Sequence[Path], folder: Path, known: frozenset[str]) -> list[Path]:
    """Check the files and store what is new in each under `folder`, all or none; the files written.

    Raises ValueError, with one line, for what `read` refuses, a clip that is not in `known`, a file in which every
    decision is stored already, and reviewers who disagree, in these files or with what is stored.
    """
    before = stored(folder)
    seen = {(document.reviewer, each) for document in before for each in document.decisions}
    new: list[Document] = []
    for path in paths:
        document = read(path)
        strange = [each.clip_id for each in document.decisions if each.clip_id not in known]
        if strange:
            raise ValueError(f"{path.name}: {_some(strange)} not among the clips of data/sft.parquet")
        fresh = tuple(each for each in document.decisions if (document.reviewer, each) not in seen)
        if not fresh:
            raise ValueError(f"{path.name}: nothing new: every decision in it is stored already")
        seen |= {(document.reviewer, each) for each in fresh}
        new.append(document.model_copy(update={"decisions": fresh}))
    standing([*before, *new])
    return [_store(document, folder) for document in new]


def _store(document: Document, folder: Path) -> Path:
    text = json.dumps(document.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n"
    who = re.sub(r"[^a-z0-9]+", "-", document.reviewer.lower()).strip("-") or "reviewer"
    path = folder / f"{who[:40]}-{hashlib.sha256(text.encode()).hexdigest()[:12]}.json"
    atomic_text(path, text)
    return path


def _some(clips: Sequence[str]) -> str:
    named = ", ".join(clips[:3])
    return f"clip {named} is" if len(clips) == 1 else f"{len(clips)} clips ({named}{', …' * (len(clips) > 3)}) are"
