"""report.html: one static page that opens from disk, to judge the data by. No script, no network; it prints.

The order is that of a reviewer's questions: how much is left, where do the thresholds lie, are they right (real clips
on both sides of each), what was refused, what is it called, where does it come from. Captions, file names, sources and
reasons are what others wrote: every one goes through `el`, which escapes it, inside <bdi>, so that its direction ends
with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from data_pipeline.report import charts
from data_pipeline.report.charts import count, share
from data_pipeline.report.examples import Edge, Shown
from data_pipeline.report.figures import Counts, Histogram
from data_pipeline.report.pictures import Picture
from data_pipeline.report.words import MEASURES, about_reason, clipped, stand_in
from infra.gates import page_path
from infra.html import Child, Safe, el

Row = dict[str, Any]
GATE = page_path(Path("reports/gates/data.json")).relative_to("reports")
MOST_SOURCES = 6  # with histograms and columns of their own; `params` name thresholds for few
MOST_LINES = 60  # of any table


@dataclass(frozen=True)
class Measure:
    """A measure with its histograms, thresholds and what made it; `bounded` where any source has a threshold."""

    name: str
    histograms: list[Histogram]
    edges: list[Edge]
    made_by: list[str]

    @property
    def bounded(self) -> bool:
        return bool(self.edges)


@dataclass(frozen=True)
class Content:
    """All that the page shows."""

    summary: Row
    sources: list[str]
    funnel: list[tuple[str, Counts]]
    measures: list[Measure]
    drops: list[tuple[str, Counts]]
    dropped: Mapping[str, list[Shown]]
    pairs: list[tuple[str, int, list[Row]]]
    twin_limits: Mapping[str, float | None]
    captioned: list[Shown]
    buckets: list[tuple[str, int, int]]
    videos: list[Row]
    refused: list[tuple[str, int, list[Row]]]
    made_by: list[tuple[str, list[str]]]
    captions: Mapping[str, Row]
    pictures: Mapping[str, Picture]


def render(content: Content) -> str:
    """The whole page."""
    sections = {
        "funnel": ("From spans to clips", _funnel(content)),
        "measures": ("Measures and thresholds", _measures(content)),
        "edges": ("At the edges", _edges(content)),
        "reasons": ("Why clips were dropped", _reasons(content)),
        "twins": ("Near copies", _twins(content)),
        "captions": ("Captions", _captions(content)),
        "buckets": ("Buckets and subsets", _buckets(content)),
        "sources": ("Where the videos come from", _videos(content)),
        "made": ("What made the numbers", _made_by(content)),
    }
    links = [el("li", el("a", title, href=f"#{name}")) for name, (title, _) in sections.items()]
    lead = el(
        "p",
        "What was kept of the raw films, why the rest was not, and real clips on both sides of every threshold. "
        "Whether it may be trained on is decided by the ",
        el("a", "data gate", href=f"../{GATE}"),
        "; how fast each stage was stands in ",
        el("a", "throughput", href="throughput.html"),
        ".",
        class_="lead",
    )
    body = [
        el("h1", "Training data"),
        lead,
        _tiles(content.summary),
        el("nav", el("ul", links), aria_label="Sections"),
        *(
            el("section", el("h2", title, id=f"{name}-title"), parts, id=name, aria_labelledby=f"{name}-title")
            for name, (title, parts) in sections.items()
        ),
    ]
    return document("Training data", body)


def document(title: str, body: Child) -> str:
    """A page in the house's look: its style stands inside."""
    style = (files("infra") / "page.css").read_text() + (files("data_pipeline") / "report" / "report.css").read_text()
    head = el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("title", title),
        el("style", Safe(style)),
    )
    skip = el("a", "Skip to the content", href="#content", class_="skip")
    page = el("html", head, el("body", skip, el("main", body, id="content")), lang="en")
    return f"<!doctype html>\n{page}\n"


def data_table(
    caption: str, head: Sequence[str], rows: Sequence[Sequence[Child]], *, numbers: Sequence[int] = ()
) -> Safe:
    """A table that scrolls by itself, by keyboard too; the columns in `numbers` stand right."""
    kinds = ["number" if at in numbers else "" for at in range(len(head))]
    top = el("tr", [el("th", word, scope="col", class_=kind) for word, kind in zip(head, kinds, strict=True)])
    lines = [
        el("tr", [el("td", cell, class_=kind) for cell, kind in zip(row, kinds, strict=True)])
        for row in rows[:MOST_LINES]
    ]
    more = f" (the first {MOST_LINES} of {len(rows):,})" if len(rows) > MOST_LINES else ""
    table = el("table", el("caption", caption + more, class_="note"), el("thead", top), el("tbody", lines))
    return el("div", table, class_="card scroll", tabindex=0, role="region", aria_label=caption)


def _foreign(text: object, most: int = 160) -> Safe:
    return el("bdi", clipped(str(text), most))


def _note(text: str) -> Safe:
    return el("p", text, class_="note")


def _tiles(summary: Row) -> Safe:
    minutes = summary["kept_hours"] * 60
    tiles = (
        (count(summary["kept"]), "clips kept", f"{summary['kept_fraction']:.1%} of {count(summary['clips'])} spans"),
        (f"{minutes:.1f} min" if minutes < 600 else f"{minutes / 60:,.1f} h", "of film kept", ""),
        (count(summary["train"]), "to train on", f"and {count(summary['val'])} held out"),
        (count(summary["videos"]), "videos", f"and {count(summary['rejected_videos'])} refused"),
    )
    return el(
        "div",
        [
            el("div", el("b", number), el("span", name), el("span", more, class_="ci"), class_="card tile")
            for number, name, more in tiles
        ],
        class_="tiles",
    )


def _funnel(content: Content) -> list[Safe]:
    steps = [(name, int(each.sum())) for name, each in content.funnel]
    parts = [el("div", charts.bars(steps, unit="clips"), class_="card")]
    if len(content.sources) > 1:
        rows = [[name, *(count(int(n)) for n in _by_source(each))] for name, each in content.funnel]
        head = ["step", *_source_names(content)]
        parts.append(el("details", el("summary", "By source"), _wide("Clips left, by source", head, rows)))
    return parts


def _source_names(content: Content) -> list[str]:
    rest = len(content.sources) - MOST_SOURCES
    return [clipped(name, 40) for name in content.sources[:MOST_SOURCES]] + ([f"{rest} others"] if rest > 0 else [])


def _by_source(counts: Counts) -> list[int]:
    shown = [int(n) for n in counts[:MOST_SOURCES]]
    return shown + ([int(counts[MOST_SOURCES:].sum())] if len(counts) > MOST_SOURCES else [])


def _wide(caption: str, head: Sequence[str], rows: Sequence[Sequence[Child]]) -> Safe:
    return data_table(caption, head, rows, numbers=range(1, len(head)))


def _measures(content: Content) -> list[Safe]:
    bounded = [_measure(one) for one in content.measures if one.bounded]
    free = [_measure(one) for one in content.measures if not one.bounded]
    said = (
        "Scored clips by source. Dashed: the thresholds of params.yaml; the share that each side drops stands below. "
    )
    said += "What lies beyond the axis is counted in its last bin."
    if len(content.sources) > MOST_SOURCES:
        said += f" Drawn are the first {MOST_SOURCES} of {len(content.sources)} sources."
    parts = [_note(said), el("div", bounded, class_="measures")]
    if free:
        more = el("summary", f"{len(free)} measures without a threshold")
        parts.append(el("details", more, el("div", free, class_="measures")))
    return parts


def _measure(one: Measure) -> Safe:
    shown = [_one_source(each, one.name) for each in one.histograms[:MOST_SOURCES]]
    meaning = el("p", MEASURES.get(one.name, ""), class_="meaning")
    return el("article", el("h3", one.name, _badge(one.made_by)), meaning, shown, class_="card")


def _badge(made_by: Sequence[str]) -> Child:
    named = stand_in(made_by)
    return [" ", el("span", f"stand-in for {named}", class_="badge", title="; ".join(made_by))] if named else ""


def _one_source(one: Histogram, name: str) -> Safe:
    middle = f"median {one.median:.3g}" if one.median is not None else ""
    who = el(
        "p", el("b", _foreign(one.source, 40)), f"{count(one.rows)} clips, {middle}" if middle else "", class_="who"
    )
    if one.median is None:
        return el("div", who, el("p", "No clip has this measure.", class_="lost-share"), class_="one")
    lost: list[Child] = []
    if one.bounds:
        sides = ((one.below, "below", one.bounds[0]), (one.above, "above", one.bounds[1]))
        said = [(n, f"{share(n, one.rows)} {side} {bound:g}") for n, side, bound in sides]
        below, above = (el("b", text) if n else text for n, text in said)
        lost = ["drops ", below, ", ", above]
    missing = f"{'; ' if lost else ''}{share(one.missing, one.rows)} not measured" if one.missing else ""
    return el("div", who, charts.histogram(one, name), el("p", lost, missing, class_="lost-share"), class_="one")


def _edges(content: Content) -> list[Safe]:
    every = [edge for one in content.measures for edge in one.edges]
    dropping = [_edge(edge, content) for edge in every if edge.beyond]
    idle = [_edge(edge, content) for edge in every if not edge.beyond]
    parts = [
        _note(
            "The clips nearest to each threshold, on both sides: if those outside look as good as those inside, it "
            "is too strict. Three frames of each clip, first to last; a clip may fail another rule as well."
        ),
        *(dropping or [el("p", "No threshold drops a clip.")]),
    ]
    if idle:
        parts.append(el("details", el("summary", f"{len(idle)} thresholds that drop nothing"), idle))
    return parts


def _edge(edge: Edge, content: Content) -> Safe:
    word = "least" if edge.end == "low" else "most"
    title = f"{edge.measure}: at {word} {', '.join(f'{bound:g}' for bound in edge.bounds[:MOST_SOURCES])}"
    inside, outside = (
        el(
            "div",
            el("h4", f"Just {side}" + (f" ({count(edge.beyond)} clips beyond)" if side == "outside" else "")),
            el("div", [_figure(each, content) for each in shown], class_="sheets")
            if shown
            else el("p", "No clip.", class_="note"),
            class_=side,
        )
        for side, shown in (("inside", edge.inside), ("outside", edge.outside))
    )
    return el("article", el("h3", title), el("div", inside, outside, class_="sides"), class_="card edge")


def _figure(one: Shown, content: Content, *, full: bool = False) -> Safe:
    told = content.captions.get(one.clip_id, {})
    text = told.get("text") or told.get("reason") or ""
    value = el("b", f"{one.value:.4g} ") if one.value is not None else ""
    tags = [told[key] for key in ("category", "style") if full and told.get(key)]
    return el(
        "figure",
        _picture(one.clip_id, content),
        el(
            "figcaption",
            value,
            _foreign(one.source, 40),
            el("bdi", clipped(text, 900 if full else 140), class_="text"),
            el("span", " · ".join(tags), class_="tag") if tags else "",
            el("code", one.clip_id),
        ),
    )


def _picture(clip_id: str, content: Content) -> Safe:
    picture = content.pictures.get(clip_id, Picture(note="not shown"))
    if not picture.address:
        return el("div", f"No picture: {clipped(picture.note, 120)}", class_="none")
    return el("img", src=picture.address, alt=f"Three frames of clip {clip_id}", loading="lazy", decoding="async")


def _reasons(content: Content) -> list[Safe]:
    if not content.drops:
        return [el("p", "No clip was dropped.")]
    rows: list[list[Child]] = [
        [_foreign(name, 60), about_reason(name), *(count(n) for n in _by_source(each)), count(int(each.sum()))]
        for name, each in content.drops
    ]
    head = ["first reason", "meaning", *_source_names(content), "all"]
    table = data_table("Clips by the first reason that dropped them", head, rows, numbers=range(2, len(head)))
    shown = [
        el(
            "article",
            el("h3", _foreign(name, 60), ": ", about_reason(name)),
            el("div", [_figure(each, content) for each in content.dropped[name]], class_="sheets"),
            class_="card edge",
        )
        for name, _ in content.drops[:MOST_LINES]
    ]
    return [table, *shown]


def _twins(content: Content) -> list[Safe]:
    if not content.pairs:
        return [el("p", "No clip is a near copy of another.")]
    parts = [
        _note("Pairs found, those farthest apart first: where a wrong pair would be. The left clip stands for both.")
    ]
    for kind, found, shown in content.pairs:
        limit = content.twin_limits.get(kind)
        unit = "bits of 64" if kind == "hash" else "1 - cosine"
        asked = f", at most {limit:g} {unit}" if limit is not None else ""
        by = _badge([row["embedder"] for row in shown if row["embedder"]][:1])
        parts += [
            el("h3", f"By {kind}: {count(found)} copies{asked}", by),
            el("div", [_pair(row, unit, content) for row in shown], class_="twins"),
        ]
    return parts


def _pair(row: Row, unit: str, content: Content) -> Safe:
    sides = [
        el("figure", _picture(name, content), el("figcaption", el("code", name)))
        for name in (row["twin_of"], row["clip_id"])
    ]
    return el("article", el("p", el("b", f"{row['distance']:.4g}"), f" {unit}"), sides, class_="card twin")


def _captions(content: Content) -> list[Safe]:
    if not content.captioned:
        return [el("p", "No clip is kept.")]
    names = [name for what, by in content.made_by if what == "captions" for name in by]
    shown = [el("div", _figure(each, content, full=True), class_="card") for each in content.captioned]
    note = el(
        "p", "Kept clips of each source with their captions, as they will be trained on.", _badge(names), class_="note"
    )
    return [note, el("div", shown, class_="sheets captions")]


def _buckets(content: Content) -> list[Safe]:
    if not content.buckets:
        return [el("p", "No clip is kept.")]
    total = sum(train + val for _, train, val in content.buckets)
    rows = [[name, count(train), count(val), share(train + val, total)] for name, train, val in content.buckets]
    chart = charts.bars([(name, train + val) for name, train, val in content.buckets[:12]], unit="clips")
    return [
        _note("Height × width × frames of what is kept: the published shape nearest to the film's."),
        el("div", chart, class_="card"),
        _wide("Clips kept, by bucket and subset", ("bucket", "train", "held out", "share"), rows),
    ]


def _videos(content: Content) -> list[Safe]:
    rows = [
        [
            _foreign(row["source"], 60),
            row["origin"] or "",
            count(row["rejected_count"]),
            count(row["rejected_sum"]),
            f"{row['hours_sum']:.3f}",
            _foreign(row["licence"] or "unknown"),
            _foreign(row["attribution"] or ""),
        ]
        for row in content.videos
    ]
    head = ("source", "origin", "files", "refused", "hours", "licence", "attribution")
    parts = [data_table("Files by source and licence", head, rows, numbers=(2, 3, 4))]
    if content.refused:
        refused = [
            [name, count(found), el("ul", [el("li", _foreign(f"{row['uri']}: {row['reason']}")) for row in rows_])]
            for name, found, rows_ in content.refused
        ]
        parts.append(
            data_table("Refused files, with the first of each reason", ("reason", "files", ""), refused, numbers=(1,))
        )
    return parts


def _made_by(content: Content) -> list[Safe]:
    rows = [[what, _foreign(", ".join(by)), _badge(by)] for what, by in content.made_by if by]
    note = "A stand-in is a small program in the place of what a production run uses: its numbers order clips, no more."
    return [_note(note), data_table("Estimators", ("number", "made by", ""), rows)]
