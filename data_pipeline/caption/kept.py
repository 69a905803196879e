"""Prompts and answers as they were, so that nothing is asked twice and every caption can be traced to its words.

runs/captions/<captioner>-v<prompt version>-<settings>/ holds settings.json (what the answers depend on, instruction
included) and a file of JSON lines a video, each an attempt: the clip, the data it was asked with, the answer as it
came, what it cost. A line is appended by one write under a lock; of a line that a crash cut short nothing is read.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from data_pipeline.caption.ask import Ask, Reply
from infra.storage import atomic_text

ATTEMPTS = 2  # an answer that is no caption is asked for once more
_ID = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")

Key = tuple[str, int]  # clip, attempt


class Kept:
    """The answers under one captioner's settings; `root`/runs/captions/… is made when the first one comes."""

    def __init__(self, root: Path, captioner: str, version: int, settings: Mapping[str, Any]) -> None:
        text = json.dumps(settings, sort_keys=True, ensure_ascii=False, indent=1) + "\n"
        digest = hashlib.sha256(text.encode()).hexdigest()[:12]
        self.folder = root / "runs" / "captions" / f"{captioner}-v{version}-{digest}"
        self._settings = text
        self._known: dict[Key, tuple[str | None, Reply]] = {}

    def recall(self, video_ids: set[str]) -> None:
        """Read what was answered before on the clips of these videos."""
        for video_id in sorted(video_ids):
            for row in _rows(self._file(video_id)):
                reply = Reply(row["clip_id"], row["answer"], row["reason"], row["tokens"], row["requests"])
                self._known[row["clip_id"], row["attempt"]] = (row["data"], reply)

    def find(self, ask: Ask, attempt: int) -> Reply | None:
        """The answer to this very prompt, if it was asked before."""
        known = self._known.get((ask.clip_id, attempt))
        return known[1] if known and known[0] == ask.data else None

    def add(self, video_id: str, ask: Ask, attempt: int, seed: int, reply: Reply) -> None:
        """Keep an answer at once: the next moment may be the last."""
        if not (self.folder / "settings.json").is_file():
            atomic_text(self.folder / "settings.json", self._settings)
        row = {
            "clip_id": ask.clip_id, "attempt": attempt, "seed": seed, "data": ask.data, "answer": reply.answer,
            "reason": reply.reason, "tokens": reply.tokens, "requests": reply.requests,
        }  # fmt: skip
        _append(self._file(video_id), json.dumps(row))
        self._known[ask.clip_id, attempt] = (ask.data, reply)

    def _file(self, video_id: str) -> Path:
        if not _ID.fullmatch(video_id):
            raise ValueError(f"{video_id!r} is no id of a video: it cannot name a file")
        return self.folder / f"{video_id}.jsonl"


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    if not path.is_file():
        return
    for line in path.read_bytes().split(b"\n"):
        try:
            row = json.loads(line)
        except ValueError:
            continue
        yield row


def _append(path: Path, line: str) -> None:
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        size = os.fstat(descriptor).st_size
        torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
        os.write(descriptor, (b"\n" if torn else b"") + line.encode() + b"\n")
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
