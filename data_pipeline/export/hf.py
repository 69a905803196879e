"""Plain mp4 files with a table: the folder layout of Hugging Face `datasets` for videos.

    train/00000/<clip_id>.mp4     at most 10,000 files a folder, which is the Hub's limit
    train/metadata.parquet        file_name first, then caption, scores, licence, attribution, source …
    val/…                         the held-out clips
    README.md                     the dataset card: licences, counts, stand-ins

A stand-in's numbers go along: the column beside them names it.
"""

from __future__ import annotations

import html
import io
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from data_pipeline import tables
from data_pipeline.encode import decoded
from data_pipeline.export import MANIFEST, STATED, Item, Plan, Row, Track, licences, stand_ins, written
from infra.storage import atomic_text, atomic_write, require_space, sha256_file
from sana_video.video.mp4 import encode_mp4

FILES_A_FOLDER = 10_000
_FIRST = ["file_name", "caption", *STATED, "clip_id", "video_id", "width", "height", "frames"]
OF = {"selection": "", "sft": " of the SFT set"}
_TOLD = ("original", "category", "style", "captioner", "model")
_MEASURED = [f for f in tables.SCORES if f.name not in ("clip_id", "phash", "embedding", "height", "width", "reason")]
SCHEMA = pa.schema(
    [(name, pa.int32() if name in ("width", "height", "frames") else pa.string()) for name in _FIRST]
    + [("fps", pa.float64())]
    + [(name, pa.string()) for name in _TOLD]
    + _MEASURED
)


def write(out: Path, plan: Plan, track: Track) -> dict[str, int | float | str]:
    """Write the export to `out`, or what is missing of it; returns counters. OSError if the disk is full."""
    places = _places(plan.items)
    missing = [item for item in plan.items if not (out / places[item.key]).exists()]
    by_key = {item.key: item for item in missing}
    source = decoded([item.kept for item in missing], plan.sizes, plan.frames, plan.fps, plan.root)
    for clip, pixels in track(source, len(missing), "clips"):
        item = by_key[clip.clip_id]
        require_space(out, pixels.nbytes // 4)
        encode_mp4(out / places[item.key], pixels, plan.fps, {"copyright": f"{item.licence}; {item.attribution}"})
    for side in ("train", "val"):
        rows = [_row(item, places[item.key], plan) for item in plan.items if item.kept.subset == side]
        if rows:
            _write_table(out / side / "metadata.parquet", rows)
    atomic_text(out / "README.md", card(plan))
    files = [*sorted(places.values()), *(path.relative_to(out).as_posix() for path in sorted(out.glob("*/*.parquet")))]
    written(out / MANIFEST, {name: sha256_file(out / name) for name in files})
    return {"clips": len(plan.items), "written": len(missing)}


def _places(found: Sequence[Item]) -> dict[str, str]:
    """{clip_id: path below the export}."""
    counts = {"train": 0, "val": 0}
    places = {}
    for item in found:
        side = item.kept.subset
        places[item.key] = f"{side}/{counts[side] // FILES_A_FOLDER:05d}/{item.key}.mp4"
        counts[side] += 1
    return places


def _row(item: Item, place: str, plan: Plan) -> Row:
    return {
        **{field.name: item.scores[field.name] for field in _MEASURED},
        **{name: item.caption[name] for name in _TOLD},
        "file_name": place.partition("/")[2],
        "caption": item.caption["text"],
        **{name: getattr(item, name) for name in (*STATED, "video_id")},
        "clip_id": item.key,
        "height": item.size[0],
        "width": item.size[1],
        "frames": plan.frames,
        "fps": float(plan.fps),
    }


def _write_table(path: Path, rows: list[Row]) -> None:
    rows.sort(key=lambda row: str(row["file_name"]))
    buffer = io.BytesIO()
    table = pa.Table.from_pylist(rows, schema=SCHEMA)
    pq.write_table(table, buffer, row_group_size=tables.ROW_GROUP, compression="zstd", version="2.6")
    atomic_write(path, buffer.getvalue())


def card(plan: Plan) -> str:
    """The dataset card: front matter that the Hub reads, then what a reader must know before use."""
    sides = {side: sum(item.kept.subset == side for item in plan.items) for side in ("train", "val")}
    files = [{"split": {"val": "validation"}.get(side, side), "path": f"{side}/**"} for side, n in sides.items() if n]
    front = {
        "license": "other",
        "license_name": "as-stated-per-clip",
        "license_link": "README.md",
        "task_categories": ["text-to-video"],
        "configs": [{"config_name": "default", "data_files": files}],
    }
    columns = (*STATED, "clips")
    table = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    table += [f"| {' | '.join(_cell(str(row[name])) for name in columns)} |" for row in licences(plan.items)]
    standing = "".join(f"- {_cell(name)}\n" for name in stand_ins(plan.items)) or "None.\n"
    return (
        f"---\n{yaml.safe_dump(front, sort_keys=False)}---\n\n# Video clips with captions\n\n"
        f"{sides['train']} clips{OF[plan.clips]} to train on and {sides['val']} held out, of {plan.frames} frames at "
        f"{plan.fps} frames per second. `metadata.parquet` beside the clips holds caption, scores, licence and "
        "attribution of each, and whether a camera or a model made it (`origin`: real or synthetic).\n\n"
        "## Licences\n\n" + "\n".join(table) + "\n\nThe clips are parts of these films, scaled and cropped; keep the "
        f"attributions.\n\n## Stand-ins\n\nWhat stood in for a production model, as the columns name it:\n\n{standing}"
    )


def _cell(text: str) -> str:
    """Text of others in a Markdown table: shown as it is."""
    plain = html.escape(" ".join(text.split()))
    return "".join(f"\\{letter}" if letter in "\\|[]*_`!#~" else letter for letter in plain)
