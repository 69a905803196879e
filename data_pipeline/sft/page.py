"""The page on which a person judges candidates: one file, no network, every film inside it.

What comes from outside (captions, sources, file names) goes into one block of JSON in which no markup can begin, and
the script puts it on the screen as text, never as HTML. Films are H.264 at a small size and rate, the first seconds of
a clip are all of it; what does not decode is left out and said.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_pipeline.columns import codes, numbers, places
from data_pipeline.films import at_hand
from data_pipeline.pictures import clips_of
from data_pipeline.sft.choose import CELLS, MEASURES, ranked
from data_pipeline.sft.reviews import COLUMNS, KIND
from sana_video.video.io import Pixels
from sana_video.video.mp4 import encode_mp4
from sana_video.video.sandbox import Sandbox

SIDE = 240  # pixels of the shorter side of a film
LONGEST = 432  # and of the longer one
FPS = 8
CRF = 30
PER_PLACE = 3  # candidates shown for each clip that a cell is to give: about one in three passes a person's eye

Row = dict[str, Any]
Track = Callable[[Iterable[Any], int, str], Iterable[Any]]

LABELS = {
    "motion": "motion: nothing moves, too little or too much",
    "stable_camera": "stable camera: shakes or jerks",
    "focus": "focus: blurred, or the action is not clear",
    "no_occlusion": "occlusion: the action is hidden",
    "brightness": "brightness: too dark, too bright, flickers",
    "natural_colour": "natural colour: garish, tinted or pale",
    "composition": "composition: badly framed",
    "engaging_subject": "engaging subject: nothing to look at",
}


def candidates(table: pa.Table, quotas: Sequence[int], page: int, size: int) -> pa.Table:
    """Page `page` (from 1) of those that nobody has judged, the best of every cell first; empty past the last.

    Of each cell no more than `PER_PLACE` times its quota are shown at all. With `accepted_only`, what waits for
    nothing but a person is a candidate here too.
    """
    waiting = _only_unreviewed(table)
    cell = pc.index_in(table.column("cell"), value_set=pa.array(CELLS)).to_numpy()
    place = np.where(waiting, _place(table, cell, waiting), 0)
    limit = PER_PLACE * np.array(quotas)[cell]
    who = np.flatnonzero((place > 0) & (place <= limit))
    order = who[np.lexsort((cell[who], place[who]))]
    return table.take(pa.array(order[(page - 1) * size : page * size]))


def _only_unreviewed(table: pa.Table) -> Any:
    reasons = table.column("reasons")
    count = pc.list_value_length(reasons).to_numpy()
    parents = pc.list_parent_indices(reasons).to_numpy()
    unseen = count == 0
    unread = pc.equal(pc.list_flatten(reasons), "NOT_REVIEWED").to_numpy(zero_copy_only=False)
    unseen[parents[unread & (count[parents] == 1)]] = True
    return unseen & pc.is_null(table.column("human")).to_numpy(zero_copy_only=False)


def _place(table: pa.Table, cell: Any, waiting: Any) -> Any:
    """The place that those who wait would have among each other."""

    nobody = np.zeros(len(waiting), bool)
    quality = np.nan_to_num(numbers(table.column("overall")), nan=-np.inf)
    return ranked(cell.astype(np.int64), waiting, nobody, codes(table.column("video_id"))[0], quality, None)


def build(
    shown: pa.Table, videos: pa.Table, clips: pa.Table, scores: pa.Table, captions: pa.Table, root: Path, track: Track
) -> str:
    """The page of the candidates in `shown` (rows of the SFT table), in their order."""
    ids = shown.column("clip_id")
    spans, measured, told = (_rows(table, ids) for table in (clips, scores, captions))
    files_of = {row["video_id"]: row["uri"] for row in videos.to_pylist() if row["reason"] is None}
    films = dict(track(_films(spans, files_of, root), len(ids), "films"))
    entries = [
        {
            "clip_id": row["clip_id"],
            "cell": row["cell"],
            "source": row["source"] or "",
            "place": f"{spans[row['clip_id']]['start']:.1f} s of {Path(files_of.get(row['video_id'], '')).name}",
            "moves": row["moves"] or "",
            "caption": told.get(row["clip_id"], {}).get("text") or "",
            "measures": _measures(measured.get(row["clip_id"], {})),
            "film": films.get(row["clip_id"], ""),
        }
        for row in shown.to_pylist()
    ]
    return _document(entries)


def _rows(table: pa.Table, ids: pa.ChunkedArray) -> dict[str, Row]:
    own = places(ids, table.column("clip_id"))
    return {row["clip_id"]: row for row in table.take(pa.array(own[own >= 0])).to_pylist()}


def _measures(score: Row) -> list[list[str]]:
    names = (*(name for of in MEASURES.values() for name in of), "overall")
    return [[name.replace("_", " "), f"{score[name]:.3g}"] for name in names if score.get(name) is not None]


def _films(spans: dict[str, Row], files_of: dict[str, str], root: Path) -> Iterator[tuple[str, str]]:
    """(clip_id, film as a data: URL, empty where it does not decode), film after film, each read forward once."""
    order = sorted(spans.values(), key=lambda row: (row["video_id"], row["start_pts"], row["clip_id"]))
    with Sandbox() as sandbox:
        for video_id, group in itertools.groupby(order, key=lambda row: row["video_id"]):
            members = list(group)
            uri = files_of.get(video_id)
            if uri is None:
                yield from ((row["clip_id"], "") for row in members)
                continue
            frames = [max(1, round(row["frames"] / row["fps"] * FPS)) for row in members]
            cut = [(row["start_pts"], row["end_pts"]) for row in members]
            with at_hand(uri, root) as path:
                shown = clips_of(sandbox, path, cut, FPS, frames, short_side=SIDE)
                yield from ((row["clip_id"], _film(pictures)) for row, pictures in zip(members, shown, strict=True))


def _film(pictures: Pixels | str) -> str:
    if isinstance(pictures, str):
        return ""
    return "data:video/mp4;base64," + base64.b64encode(_mp4(_small(pictures))).decode("ascii")


def _small(pictures: Pixels) -> Pixels:
    """Even sides, and the middle of what is wider or taller than `LONGEST`."""
    height, width = (min(side, LONGEST) // 2 * 2 for side in pictures.shape[1:3])
    top, left = (pictures.shape[1] - height) // 2, (pictures.shape[2] - width) // 2
    return cast(Pixels, np.ascontiguousarray(pictures[:, top : top + height, left : left + width]))


def _mp4(pictures: Pixels) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "film.mp4"
        encode_mp4(path, pictures, FPS, {}, crf=CRF)
        return path.read_bytes()


def _document(entries: list[Row]) -> str:
    """Nothing of `entries` can end the block of data it stands in: `<`, `>` and `&` are written as escapes."""
    page = hashlib.sha256("\n".join(entry["clip_id"] for entry in entries).encode()).hexdigest()[:12]
    data = {
        "kind": KIND, "page": page, "columns": COLUMNS, "criteria": [[name, LABELS[name]] for name in MEASURES],
        "clips": entries,
    }  # fmt: skip
    text = json.dumps(data, ensure_ascii=True)
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    own = files("data_pipeline.sft")
    style, script = (own.joinpath(name).read_text("utf-8") for name in ("review.css", "review.js"))
    policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; media-src data:"
    return (
        "<!doctype html>\n<html lang=en><head><meta charset=utf-8><title>SFT review</title>"
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        f"<meta name=viewport content='width=device-width'><style>{style}</style></head><body>"
        f"<script type='application/json' id=data>{text}</script>\n<script>\n{script}</script></body></html>\n"
    )
