"""The tables of the data pipeline: one schema each, one writer, one reader.

Tables grow sideways: a stage writes one new table keyed by `video_id` or `clip_id` and never edits an earlier one.
`reason` is null for a row that goes on and names the first thing wrong with one that does not, so that
rows in = rows out + rows with a reason. The writer sorts by key and fixes every writer option, so equal rows
are equal bytes and DVC stops a wave of reruns where nothing changed.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from infra import parquet
from infra.storage import atomic_write

ROW_GROUP = 65_536

_str, _f64, _i32, _i64, _bool = pa.string(), pa.float64(), pa.int32(), pa.int64(), pa.bool_()

VIDEOS = pa.schema(
    [
        ("video_id", _str),  # sha256 of the file's bytes, base32, 26 characters; "" where the bytes could not be read
        ("batch", _str),
        ("source", _str),
        ("origin", _str),  # real | synthetic, of the source: whether a model made it
        ("uri", _str),  # local path relative to the project, or s3://…
        ("bytes", _i64),
        ("container", _str),
        ("codec", _str),
        ("width", _i32),  # coded size, before rotation
        ("height", _i32),
        ("rotation", _i32),  # degrees clockwise to apply for display, after mirroring: 0, 90, 180, 270
        ("mirrored", _bool),  # left and right to be exchanged for display
        ("sample_aspect", _f64),  # width of a sample over its height; 1 for square pixels
        ("interlaced", _bool),  # rebuilt as progressive frames wherever it is read
        ("fps", _f64),  # average rate
        ("frames", _i64),  # as the container states it; null where it does not
        ("start", _f64),  # seconds: the first time stamp, which may be negative
        ("duration", _f64),  # seconds
        ("pixel_format", _str),
        ("colour_range", _str),
        ("colour_matrix", _str),
        ("colour_primaries", _str),
        ("colour_transfer", _str),
        ("hdr", _bool),  # PQ or HLG: tone-mapped to BT.709 wherever it is read
        ("has_audio", _bool),
        ("licence", _str),
        ("attribution", _str),
        ("reason", _str),
    ]
)

CLIPS = pa.schema(
    [
        ("clip_id", _str),  # hash of video_id, span and split settings, base32, 26 characters
        ("video_id", _str),
        ("source", _str),
        ("shot", _i32),  # index of the shot inside the video
        ("start_pts", _i64),  # in units of the stream's time base
        ("end_pts", _i64),  # exclusive
        ("time_base", _str),  # "1/24000"
        ("start", _f64),  # seconds
        ("end", _f64),
        ("frames", _i32),  # exactly this many at `fps`, 4k+1
        ("fps", _f64),
        ("shot_start", _f64),  # seconds: of the whole shot, without fades and black; null where no shot was found
        ("shot_end", _f64),
        ("cut_before", _f64),  # mean change of luma (0-255) across the shot's first edge; null where the film begins
        ("cut_after", _f64),
        ("change_inside", _f64),  # the largest change from one frame of the film to the next inside the clip
        ("detector", _str),
        ("reason", _str),
    ]
)

SCORES = pa.schema(
    [
        ("clip_id", _str),
        ("flow_motion", _f64),  # mean L2 flow over pairs 0.5 s apart, pixels of the 320x576 picture
        ("flow_pairs", pa.list_(_f64)),  # mean L2 of each pair
        ("flow_absmean_pairs", pa.list_(_f64)),  # mean of |u| and |v| together, of each pair
        ("flow_times", pa.list_(_f64)),  # seconds from the clip's start to the first picture of each pair
        ("camera_motion", _f64),  # the part of the flow that one global camera model explains
        ("camera_jitter", _f64),  # how much the camera's motion changes from pair to pair
        ("object_motion", _f64),  # what the camera leaves
        ("flow_estimator", _str),
        ("vmaf_motion", _f64),  # mean over frames but the first, luma 0-255 scale
        ("saturation", _f64),  # mean HSV S, 0-255
        ("saturation_lit", _f64),  # the same without dark pixels and black bars; null where nothing is lit
        ("brightness", _f64),  # mean HSV V, 0-255
        ("colour", pa.list_(_f64)),  # mean R, G, B, 0-255
        ("aesthetic", _f64),  # 0-1
        ("technical", _f64),  # 0-1
        ("overall", _f64),  # 0-1
        ("aesthetic_scorer", _str),
        ("borders", _f64),  # share of the picture under black bars, 0-1
        ("watermark", _f64),  # 0-1: edges that stand still in a corner while the picture changes
        ("stillness", _f64),  # share of the pairs of frames that do not move
        ("flicker", _f64),  # brightness that goes up and down from frame to frame, 0-255 levels
        ("duplicate_frames", _f64),  # share of the frames that repeat the one before
        ("text_area", _f64),  # share of the picture under text; null where not asked for
        ("text_detector", _str),
        ("nsfw", _f64),  # 0-1; null where not asked for
        ("nsfw_detector", _str),
        ("cuts_inside", _i32),
        ("phash", pa.list_(pa.uint64())),  # one per compared frame
        ("embedding", pa.list_(pa.float32())),  # unit length
        ("embedder", _str),
        ("height", _i32),  # the size the measures were taken at
        ("width", _i32),
        ("reason", _str),
    ]
)

CAPTIONS = pa.schema(
    [
        ("clip_id", _str),
        ("text", _str),  # one line, no control or bidi characters; null where there is a reason
        ("original", _str),  # the prompt that the video came with, null where it came with none; never a caption
        ("category", _str),  # human | animal | object | scene; null of a captioner that does not look
        ("style", _str),  # realistic | cartoon | cinematic
        ("captioner", _str),
        ("prompt_version", _i32),
        ("model", _str),  # name and digest of the weights, the model an endpoint was asked for, or the stand-in
        ("attempts", _i32),  # how often was asked: 0 of the template
        ("reason", _str),
    ]
)

TWINS = pa.schema(
    [
        ("clip_id", _str),
        ("twin_of", _str),  # the clip that stands for the group: none is better
        ("rank", _i32),  # place in the group, best first; `twin_of` itself is 0
        ("kind", _str),  # hash | embedding: which of the two found it
        ("distance", _f64),  # hash: bits of 64, mean over the frames compared; embedding: 1 - cosine
        ("embedder", _str),  # what made the embedding; null for a hash
    ]
)

SELECTION = pa.schema(
    [
        ("clip_id", _str),
        ("video_id", _str),
        ("source", _str),
        ("keep", _bool),
        ("reason", _str),  # the first rule that dropped it
        ("reasons", pa.list_(_str)),  # all of them
        ("vmaf_percentile", _f64),  # of vmaf_motion among all measured clips of the source, 0-100
        ("bucket", _str),  # "HxWxF": the nearest published 480p size; what a view cuts a clip to stands in its index
        ("subset", _str),  # train | val
    ]
)

SFT = pa.schema(
    [
        ("clip_id", _str),
        ("video_id", _str),
        ("source", _str),
        ("category", _str),  # as the captioner says
        ("style", _str),
        ("cell", _str),  # "category/style", or unknown
        ("moves", _str),  # object | camera | both; null where neither does
        ("motion", _bool),  # the criteria: moves, moderately; null where only a person could tell and none has
        ("stable_camera", _bool),
        ("focus", _bool),
        ("no_occlusion", _bool),
        ("brightness", _bool),
        ("natural_colour", _bool),
        ("composition", _bool),
        ("engaging_subject", _bool),
        ("overall", _f64),  # by which candidates of one cell are ordered
        ("human", _str),  # accept | reject; null where nobody looked
        ("reviewer", _str),
        ("marked", pa.list_(_str)),  # the criteria that a person saw failing
        ("reasons", pa.list_(_str)),  # why it is no candidate
        ("place", _i32),  # in its cell, from 1; null of what is no candidate
        ("chosen", _bool),
    ]
)

CLASSES = pa.schema(
    [
        ("entry", _str),  # classifier and clip, "low_quality_game:abc…"
        ("classifier", _str),
        ("clip_id", _str),
        ("probability", _f64),  # 0-1; null where a feature is missing
        ("version", _str),  # digest of the classifier
    ]
)

QUARANTINE = pa.schema(
    [
        ("entry", _str),  # boundary and key, "scores:abc…": a clip may be refused at several
        ("boundary", _str),  # ingest | split | scores | captions
        ("key", _str),  # of the row there: the uri of a file, the clip_id elsewhere
        ("video_id", _str),
        ("source", _str),
        ("reason", _str),  # as the stage stated it, or RULE: and the columns that break a rule of the gate
        ("released", _bool),  # goes on in spite of a rule, because params name it
    ]
)

KEYS = {
    "videos": "uri",
    "clips": "clip_id",
    "scores": "clip_id",
    "captions": "clip_id",
    "twins": "clip_id",
    "selection": "clip_id",
    "sft": "clip_id",
    "classes": "entry",
    "quarantine": "entry",
}
SCHEMAS = {
    "videos": VIDEOS,
    "clips": CLIPS,
    "scores": SCORES,
    "captions": CAPTIONS,
    "twins": TWINS,
    "selection": SELECTION,
    "sft": SFT,
    "classes": CLASSES,
    "quarantine": QUARANTINE,
}

Row = Mapping[str, Any]


def write(table: str, rows: Iterable[Row], path: Path) -> pa.Table:
    """Write `rows` as table `table` to `path`, sorted by its key, atomically.

    Raises ValueError on a row with an unknown or missing column, or on a key that stands twice.
    """
    schema, key = SCHEMAS[table], KEYS[table]
    ordered = sorted(rows, key=lambda row: row[key])
    for row in ordered:
        if row.keys() != set(schema.names):
            odd = sorted(set(row) ^ set(schema.names))
            raise ValueError(f"table {table}: row {row.get(key)!r}: columns {odd} are missing or unknown")
    return write_columns(table, pa.Table.from_pylist([dict(row) for row in ordered], schema=schema), path)


def write_columns(table: str, columns: pa.Table, path: Path) -> pa.Table:
    """Write what already is a pyarrow table in the schema of `table`, sorted by its key, atomically.

    Raises ValueError where the columns are not the schema's, the order is another, or a key stands twice.
    """
    if not columns.schema.equals(SCHEMAS[table]):
        raise ValueError(f"table {table}: its columns are not {columns.schema.names}")
    keys = columns.column(KEYS[table])
    rising = pc.less(keys.slice(0, max(0, len(keys) - 1)), keys.slice(1))
    if not pc.all(rising, min_count=0).as_py():
        at = pc.index(rising, False).as_py()
        here, after = keys[at].as_py(), keys[at + 1].as_py()
        what = f"{here!r} stands twice" if here == after else f"{after!r} comes after {here!r}"
        raise ValueError(f"table {table}: {KEYS[table]} {what}")
    buffer = io.BytesIO()
    pq.write_table(columns, buffer, row_group_size=ROW_GROUP, compression="zstd", version="2.6", store_schema=True)
    atomic_write(path, buffer.getvalue())
    return columns


def check(table: str, path: Path) -> None:
    """Raises ValueError when table `table` is missing or damaged at `path`, or its columns are not the schema's."""
    if not path.is_file():
        raise ValueError(f"table {table} is missing: {path} (run the stage that writes it)")
    found = parquet.schema(path)
    if not found.equals(SCHEMAS[table]):
        raise ValueError(f"{path} is not a {table} table: its columns are {found.names}")


def read(table: str, path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Table `table` from `path`, or only its `columns`, `text` by its first letter: most of a table is never looked at.

    Raises ValueError when it is missing or damaged, or its columns are not the schema's.
    """
    check(table, path)
    if columns is None or "text" not in columns:
        return parquet.table(path, columns)
    # whoever asks for columns asks whether there is a text: millions of whole ones would fill the memory
    parts = [_begun(part) for part in parquet.batches(path, ROW_GROUP, columns)]
    return pa.Table.from_batches(parts, pa.schema([SCHEMAS[table].field(name) for name in columns]))


def _begun(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The batch with its texts cut to their first letter."""
    at = batch.schema.get_field_index("text")
    return batch.set_column(at, "text", pc.utf8_slice_codeunits(batch.column(at), 0, 1))


def read_batches(table: str, folder: Path, batches: Sequence[str], columns: Sequence[str] | None = None) -> pa.Table:
    """The tables of exactly the named batches, joined. Raises ValueError naming a batch whose table is missing."""
    return pa.concat_tables([read(table, folder / f"{batch}.parquet", columns) for batch in batches])
