"""The prompts that videos came with: `prompts.jsonl` in the batch's folder, beside sources.yaml.

    {"file": "castle/0001.mp4", "prompt": "a castle made of glass, slow dolly in"}

`file` is the path inside the batch. What such a prompt says is what somebody asked for, not what is seen: a synthetic
source's (`origin: synthetic` in sources.yaml) is always rewritten from the pictures, and the table keeps it beside.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from data_pipeline.caption.ask import MAX_ORIGINAL
from data_pipeline.caption.text import clean
from infra.storage import is_remote, list_files, local_copy

FILE = "prompts.jsonl"


def originals(videos: pa.Table, uri: str, root: Path) -> dict[str, str]:
    """{video_id: the prompt it came with}, on one line without control characters, of a batch at `uri`.

    Raises ValueError naming the line that is not as it should be, or the video with two prompts.
    """
    place = uri if is_remote(uri) else str(root / uri)
    prompts = _read(place, uri)
    found = {row["video_id"]: prompts.get(inside(row["uri"], place, root)) for row in _good(videos)}
    return {video_id: text for video_id, text in found.items() if text}


def synthetic(videos: pa.Table) -> set[str]:
    """The ids of videos that a model made, as sources.yaml stated when they were taken in."""
    return {row["video_id"] for row in _good(videos) if row["origin"] == "synthetic"}


def inside(uri: str, place: str, root: Path) -> str:
    """A video's path inside its batch."""
    whole = uri if is_remote(uri) else str(root / uri)
    return whole.removeprefix(place.rstrip("/")).lstrip("/")


def _good(videos: pa.Table) -> list[dict[str, Any]]:
    return [row for row in videos.to_pylist() if row["reason"] is None]


def _read(place: str, uri: str) -> dict[str, str]:
    wanted = f"{place.rstrip('/')}/{FILE}"
    if wanted not in list_files(place, (FILE,)):
        return {}
    with local_copy(wanted) as path:
        lines = path.read_bytes().splitlines()
    prompts: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        if line.strip():
            file, text = _line(line, f"{uri}/{FILE}, line {number}")
            if prompts.setdefault(file, text) != text:
                raise ValueError(f"{uri}/{FILE}, line {number}: {file!r} has another prompt above")
    return prompts


def _line(line: bytes, where: str) -> tuple[str, str]:
    try:
        row: Any = json.loads(line)
    except (ValueError, RecursionError):
        raise ValueError(f"{where}: not a JSON object on a line of UTF-8") from None
    if not isinstance(row, Mapping) or not all(isinstance(row.get(key), str) for key in ("file", "prompt")):
        raise ValueError(f'{where}: {{"file": …, "prompt": …}} is wanted, each a string')
    return row["file"], clean(row["prompt"], MAX_ORIGINAL)
