"""The page to judge the data by: one static file that needs no network, and its numbers for DVC.

What was dropped and why, each measure's distribution with the thresholds drawn in, the clips just inside and just
outside the range that drops most, and where every video comes from. Equal tables give equal bytes.
"""

from __future__ import annotations

import base64
import html
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from data_pipeline.caption import display_aspect
from data_pipeline.expectations import Joined
from data_pipeline.params import DataParams, Range
from infra.gates import page_path
from infra.storage import atomic_text, is_remote, local_copy
from sana_video.video.io import decode_span

Row = dict[str, Any]
Track = Callable[[Iterable[Any], int, str], Iterable[Any]]

EDGE_CLIPS = 4  # clips shown on each side of the range's edge, and as many from the middle
FRAMES_SHOWN = 3
FRAME_HEIGHT = 90
BINS = 32

_UNITS = {
    "flow_motion": "mean flow over 0.5 s, pixels of the 320x576 picture",
    "vmaf_motion": "mean luma difference of neighbouring frames, 0-255",
    "saturation": "mean HSV saturation, 0-255",
    "overall": "quality, 0-1",
    "cuts_inside": "cuts found inside the clip",
}
_REASONS = {
    "TWIN": "near copy of a clip that stays",
    "SHOT_TOO_SHORT": "the shot does not hold one clip",
    "SPLIT_GUARD": "too near to the held-out part of the same film",
}


def run(joined: Joined, params: DataParams, root: Path, track: Track) -> dict[str, int]:
    """Write report.html, summary.json and funnel.csv to `root`/reports/data; returns what was counted."""
    folder = root / "reports" / "data"
    rows = {name: joined.rows(name) for name in ("videos", "clips", "scores", "captions", "selection")}
    summary, steps = summarise(rows), funnel(rows)
    shown = contact_sheet(rows, params, root, track)
    atomic_text(folder / "report.html", page(rows, params, summary, steps, shown))
    atomic_text(folder / "summary.json", json.dumps(summary, indent=1, sort_keys=True) + "\n")
    atomic_text(folder / "funnel.csv", "step,clips\n" + "".join(f"{step},{clips}\n" for step, clips in steps))
    return {"clips": summary["clips"], "kept": summary["kept"]}


def code(reason: str) -> str:
    """The reason without its detail: `TOO_SHORT: 0.3 s` -> `TOO_SHORT`."""
    return reason.partition(":")[0]


def summarise(rows: Mapping[str, list[Row]]) -> dict[str, Any]:
    """The numbers that `dvc metrics diff` compares: counts, hours, fraction kept, drops by reason, counts by source."""
    chosen = rows["selection"]
    kept = [row for row in chosen if row["keep"]]
    lengths = {row["clip_id"]: row["frames"] / row["fps"] for row in rows["clips"] if row["fps"] and row["frames"]}
    drops = Counter(code(row["reason"]) for row in chosen if not row["keep"])
    sources = sorted({row["source"] for row in chosen})
    return {
        "videos": sum(row["reason"] is None for row in rows["videos"]),
        "rejected_videos": sum(row["reason"] is not None for row in rows["videos"]),
        "clips": len(chosen),
        "kept": len(kept),
        "kept_fraction": round(len(kept) / len(chosen), 4) if chosen else 0.0,
        "kept_hours": round(sum(lengths.get(row["clip_id"], 0.0) for row in kept) / 3600, 5),
        "train": sum(row["subset"] == "train" for row in kept),
        "val": sum(row["subset"] == "val" for row in kept),
        "dropped": dict(sorted(drops.items())),
        "sources": {name: sum(row["source"] == name for row in kept) for name in sources},
    }


def funnel(rows: Mapping[str, list[Row]]) -> list[tuple[str, int]]:
    """(step, clips left after it) from all spans to the two subsets; each clip leaves at its first reason."""
    chosen = rows["selection"]
    cut = {row["clip_id"] for row in rows["clips"] if row["reason"] is None}
    scored = cut & {row["clip_id"] for row in rows["scores"] if row["reason"] is None}
    reasons = {row["clip_id"]: set(row["reasons"]) for row in chosen}
    in_range = {clip for clip in scored if not reasons.get(clip, {"?"}) - {"TWIN", "SPLIT_GUARD"}}
    alone = {clip for clip in in_range if "TWIN" not in reasons[clip]}
    return [
        ("spans", len(rows["clips"])),
        ("clips", len(cut)),
        ("scored", len(scored)),
        ("in range", len(in_range)),
        ("without copies", len(alone)),
        ("kept", sum(row["keep"] for row in chosen)),
        ("train", sum(row["subset"] == "train" for row in chosen)),
        ("val", sum(row["subset"] == "val" for row in chosen)),
    ]


def histogram(values: Sequence[float], marks: Sequence[float]) -> str:
    """An SVG of how `values` spread, with `marks` (thresholds) drawn where they lie within the picture.

    The axis ends at the 99th percentile or at a mark near it; what lies beyond is counted in the last bar.
    """
    finite = [value for value in values if value is not None and math.isfinite(value)]
    if not finite:
        return "<p>No clip has this measure.</p>"
    top = float(np.percentile(finite, 99)) or 1.0
    near = [mark for mark in marks if 0 < mark <= 1.5 * top]
    high = max([top, *near]) * 1.02
    low = min(0.0, min(finite))
    counts, _ = np.histogram(np.clip(finite, low, high), BINS, (low, high))
    tallest, wide = max(1, int(counts.max())), 560 / BINS
    bars = "".join(
        f'<rect x="{20 + i * wide:.1f}" y="{110 - 100 * n / tallest:.1f}" width="{wide - 1.5:.1f}" '
        f'height="{100 * n / tallest:.1f}"><title>{n} clips</title></rect>'
        for i, n in enumerate(counts.tolist())
    )
    lines = "".join(
        f'<line x1="{x:.1f}" x2="{x:.1f}" y1="4" y2="110"/><text class="mark" x="{x + 3:.1f}" y="17">{mark:g}</text>'
        for mark in sorted(set(marks))
        if low <= mark <= high
        for x in [20 + 560 * (mark - low) / (high - low)]
    )
    ends = f'<text x="20" y="128">{low:.3g}</text><text x="580" y="128" text-anchor="end">{high:.3g}</text>'
    return f'<svg viewBox="0 0 600 130" role="img">{bars}{lines}{ends}</svg>'


def edge_clips(rows: Mapping[str, list[Row]], params: DataParams) -> list[tuple[str, list[Row]]]:
    """(heading, selection rows): kept clips nearest to a threshold, dropped ones, and kept ones from the middle."""
    scores = {row["clip_id"]: row for row in rows["scores"] if row["reason"] is None}
    margins = {
        row["clip_id"]: margin({**row, **scores[row["clip_id"]]}, params.curate.ranges_of(row["source"]))
        for row in rows["selection"]
        if row["clip_id"] in scores
    }
    order = sorted(
        (row for row in rows["selection"] if row["clip_id"] in margins),
        key=lambda r: (margins[r["clip_id"]], r["clip_id"]),
    )
    kept = [row for row in order if row["keep"]]
    outside = [row for row in order if margins[row["clip_id"]] < 0][-EDGE_CLIPS:]
    copies = [row for row in order if row["reasons"] == ["TWIN"]][:EDGE_CLIPS]
    middle = len(kept) // 2
    return [
        ("Kept, nearest to a threshold", kept[:EDGE_CLIPS]),
        ("Kept, from the middle", kept[max(middle, EDGE_CLIPS) : max(middle, EDGE_CLIPS) + EDGE_CLIPS]),
        ("Dropped, nearest to a threshold", outside[::-1]),
        ("Dropped as copies", copies),
    ]


def margin(score: Row, ranges: Mapping[str, Range]) -> float:
    """How far inside its ranges a clip lies: least distance to an end over the range's width; below 0 outside."""
    found = []
    for name, (low, high) in ranges.items():
        value = score[name]
        if value is not None and math.isfinite(value) and high > low:
            found.append(min(value - low, high - value) / (high - low))
    return min(found, default=-1.0)


def contact_sheet(
    rows: Mapping[str, list[Row]], params: DataParams, root: Path, track: Track
) -> list[tuple[str, list[tuple[Row, list[str]]]]]:
    """(heading, [(selection row, frames as data: URLs)]) for the clips at the edges."""
    headings = edge_clips(rows, params)
    clips = {row["clip_id"]: row for row in rows["clips"]}
    videos = {row["video_id"]: row for row in rows["videos"] if row["reason"] is None}
    wanted = [row for _, group in headings for row in group]
    pictures = {
        row["clip_id"]: frames_of(clips[row["clip_id"]], videos[row["video_id"]], root)
        for row in track(wanted, len(wanted), "pictures")
    }
    return [(heading, [(row, pictures[row["clip_id"]]) for row in group]) for heading, group in headings]


def frames_of(clip: Row, video: Row, root: Path) -> list[str]:
    """A few frames of a clip, evenly spread, as data: URLs of small JPEGs."""
    size = (FRAME_HEIGHT, round(FRAME_HEIGHT * min(2.4, max(0.5, display_aspect(video) or 1.0))))
    span, step = (clip["start_pts"], clip["end_pts"]), (clip["frames"] - 1) // (FRAMES_SHOWN - 1)
    with local_copy(video["uri"] if is_remote(video["uri"]) else str(root / video["uri"])) as path:
        pixels = decode_span(path, *span, int(clip["fps"]), clip["frames"], size=size)
    return [_data_url(picture) for picture in pixels[::step]]


def _data_url(picture: np.ndarray[Any, Any]) -> str:
    done, data = cv2.imencode(".jpg", np.ascontiguousarray(picture[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, 72])
    assert done
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode()


def page(
    rows: Mapping[str, list[Row]],
    params: DataParams,
    summary: Mapping[str, Any],
    steps: Sequence[tuple[str, int]],
    shown: Sequence[tuple[str, list[tuple[Row, list[str]]]]],
) -> str:
    """The whole page."""
    texts = {row["clip_id"]: row["text"] for row in rows["captions"]}
    verdict = page_path(Path("reports/gates/data.json")).relative_to("reports")
    sections = [
        f"<h1>Training data</h1>{_tiles(summary)}",
        f"<h2>From spans to clips</h2>{_bars(steps)}",
        f"<h2>Why clips were dropped, by source</h2>{_reasons(rows['selection'])}",
        f"<h2>Measures and thresholds</h2>{_measures(rows, params)}",
        f"<h2>At the edges</h2>{''.join(_strip(heading, group, texts) for heading, group in shown)}",
        f"<h2>Where the videos come from</h2>{_videos(rows['videos'])}",
        f"<h2>What stands in for what</h2>{_stand_ins(rows)}",
        f'<p class="quiet">Checked by the <a href="../{verdict}">data gate</a>. This page needs no network.</p>',
    ]
    head = f"<!doctype html><html lang=en><meta charset=utf-8><title>Training data</title>{_STYLE}"
    return f"{head}<main>{''.join(sections)}</main></html>\n"


def _e(value: object) -> str:
    return html.escape(str(value))


def _table(head: Sequence[str], body: Iterable[Sequence[object]]) -> str:
    """An HTML table; numbers are set right."""
    top = "".join(f"<th>{_e(name)}" for name in head)
    lines = ["".join(f"<td{' class=n' if isinstance(v, int | float) else ''}>{_e(v)}" for v in line) for line in body]
    return f"<div class=scroll><table><tr>{top}{''.join('<tr>' + line for line in lines)}</table></div>"


def _tiles(summary: Mapping[str, Any]) -> str:
    minutes = summary["kept_hours"] * 60
    tiles = (
        (summary["videos"], "videos"),
        (summary["rejected_videos"], "rejected videos"),
        (summary["clips"], "spans"),
        (summary["kept"], "clips kept"),
        (f"{summary['kept_fraction']:.0%}", "of the spans"),
        (f"{minutes:.1f} min" if minutes < 600 else f"{summary['kept_hours']:.1f} h", "kept"),
        (f"{summary['train']} + {summary['val']}", "train + held out"),
    )
    return "<div class=tiles>" + "".join(f"<div><b>{_e(n)}</b>{_e(name)}</div>" for n, name in tiles) + "</div>"


def _bars(steps: Sequence[tuple[str, int]]) -> str:
    most = max(1, *(clips for _, clips in steps))
    return (
        "<div class=bars>"
        + "".join(
            f"<span>{_e(step)}</span><i style='width:{100 * clips / most:.1f}%'></i><b>{clips}</b>"
            for step, clips in steps
        )
        + "</div>"
    )


def _reasons(chosen: list[Row]) -> str:
    sources = sorted({row["source"] for row in chosen})
    drops = Counter((code(row["reason"]), row["source"]) for row in chosen if not row["keep"])
    kept = Counter(row["source"] for row in chosen if row["keep"])
    names = sorted({reason for reason, _ in drops}, key=lambda r: (-sum(drops[r, s] for s in sources), r))
    body: list[list[object]] = [
        [r, _meaning(r), *(drops[r, s] for s in sources), sum(drops[r, s] for s in sources)] for r in names
    ]
    body.append(["kept", "", *(kept[s] for s in sources), sum(kept.values())])
    return _table(["first reason", "meaning", *sources, "all"], body)


def _meaning(reason: str) -> str:
    if reason.startswith("MISSING_"):
        return f"{reason[8:].lower()} could not be told"
    for ending, words in (("_LOW", "below its range"), ("_HIGH", "above its range")):
        if reason.endswith(ending):
            return f"{reason.removesuffix(ending).lower()} {words}"
    return _REASONS.get(reason, reason.replace("_", " ").lower())


def _measures(rows: Mapping[str, list[Row]], params: DataParams) -> str:
    sources = sorted({row["source"] for row in rows["selection"]})
    ranges = [params.curate.ranges_of(source) for source in sources]
    cards = []
    for name in sorted({name for given in ranges for name in given}):
        table = "selection" if name == "vmaf_percentile" else "scores"
        values = [row[name] for row in rows[table] if table == "selection" or row["reason"] is None]
        marks = sorted({end for given in ranges for end in given.get(name, ())})
        seen = sorted(v for v in values if v is not None and math.isfinite(v))
        middle = f", median {seen[len(seen) // 2]:.3g}" if seen else ""
        limits = "; ".join(sorted({"{:g} to {:g}".format(*given[name]) for given in ranges if name in given}))
        cards.append(
            f"<div class=card><h3>{_e(name)}</h3><p>{_e(_UNITS.get(name, name))}. Kept: {limits}{middle}.</p>"
            f"{histogram(values, marks)}</div>"
        )
    return f"<div class=cards>{''.join(cards)}</div>"


def _strip(heading: str, group: list[tuple[Row, list[str]]], texts: Mapping[str, str | None]) -> str:
    if not group:
        return f"<h3>{_e(heading)}</h3><p class=quiet>None.</p>"
    clips = "".join(_figure(row, pictures, texts.get(row["clip_id"]) or "") for row, pictures in group)
    return f"<h3>{_e(heading)}</h3><div class=strip>{clips}</div>"


def _figure(row: Row, pictures: list[str], text: str) -> str:
    images = "".join(f"<img alt='' src='{picture}'>" for picture in pictures)
    state = _e(", ".join(row["reasons"]) or row["subset"])
    return (
        f"<figure><div>{images}</div><figcaption><b>{_e(row['source'])}</b> {state}<br>{_e(text)}</figcaption></figure>"
    )


def _videos(videos: list[Row]) -> str:
    body = [
        [
            v["source"],
            v["uri"],
            _size(v),
            f"{v['duration']:.1f} s" if v["duration"] else "",
            v["licence"],
            v["attribution"] or "",
            v["reason"] or "used",
        ]
        for v in sorted(videos, key=lambda v: (v["source"], v["uri"]))
    ]
    return _table(["source", "file", "size", "length", "licence", "attribution", "state"], body)


def _size(video: Row) -> str:
    return f"{video['width']}x{video['height']}, {video['fps']:.4g} fps" if video["width"] and video["fps"] else ""


def _stand_ins(rows: Mapping[str, list[Row]]) -> str:
    told = {
        "flow motion": {row["flow_estimator"] for row in rows["scores"]},
        "quality": {row["aesthetic_scorer"] for row in rows["scores"]},
        "captions": {row["captioner"] for row in rows["captions"]},
    }
    return _table(["measure", "made by"], [[name, ", ".join(sorted(v for v in by if v))] for name, by in told.items()])


_STYLE = """<meta name=viewport content="width=device-width"><style>
:root{--ink:#1d2733;--soft:#5d6b7a;--line:#dfe5ea;--fill:#3b82c4;--back:#f6f8fa;--card:#fff;--mark:#c2410c}
@media(prefers-color-scheme:dark){:root{--ink:#e6ebf0;--soft:#9aa7b4;--line:#2d3843;--fill:#5b9fdb;--back:#12181f;--card:#1a222b;--mark:#fb923c}}
body{margin:0;background:var(--back);color:var(--ink);font:15px/1.5 system-ui,sans-serif}
main{max-width:1080px;margin:0 auto;padding:24px}
h1{font-size:28px;margin:8px 0 16px}h2{font-size:19px;margin:40px 0 12px}h3{font-size:15px;margin:18px 0 6px}
p{margin:4px 0 8px;color:var(--soft)}.quiet{color:var(--soft)}a{color:var(--fill)}
.tiles{display:flex;flex-wrap:wrap;gap:12px}.tiles div{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:10px 16px;color:var(--soft)}
.tiles b{display:block;font-size:22px;color:var(--ink)}
.bars{display:grid;grid-template-columns:9em 1fr 4em;gap:5px 10px;align-items:center}.bars i{background:var(--fill);height:16px;border-radius:3px;min-width:1px}
.bars span{text-align:right;color:var(--soft)}
.scroll{overflow-x:auto}table{border-collapse:collapse;background:var(--card);border:1px solid var(--line);min-width:60%}
th,td{padding:5px 12px;border-bottom:1px solid var(--line);text-align:left;vertical-align:top}th{color:var(--soft);font-weight:600}td.n{text-align:right;font-variant-numeric:tabular-nums}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(340px,1fr));gap:14px}.card{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:4px 14px 10px}
svg{width:100%;display:block}svg rect{fill:var(--fill)}svg line{stroke:var(--mark);stroke-width:1.5;stroke-dasharray:4 3}svg text{font-size:17px;fill:var(--soft)}svg .mark{fill:var(--mark)}
.strip{display:grid;grid-template-columns:repeat(auto-fill,minmax(500px,1fr));gap:14px}figure{margin:0;background:var(--card);border:1px solid var(--line);border-radius:8px;padding:8px}
figure div{display:flex;gap:3px;overflow:hidden}img{height:90px;min-width:0;border-radius:3px}figcaption{font-size:13px;color:var(--soft);margin-top:4px}figcaption b{color:var(--ink)}
@media(max-width:600px){.strip{grid-template-columns:1fr}main{padding:12px}}
</style>"""  # noqa: E501
