"""report.html: one static page that opens from disk. No server, no network, no modules; it prints without its videos.

The order is that of a reviewer's questions: is it whole, what does it make, does it learn, what is it made of.
Everything it shows comes from summary.json and the tables beside it, so the same numbers give the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from eval.report.charts import Series, legend, line_chart, range_bars
from eval.report.pictures import Stills
from infra.html import Child, Safe, el

Row = dict[str, Any]
Curves = Mapping[str, Sequence[Row]]

SHOWN_UNITS = ("px", "dB", "levels")
MOST_PROMPTS = 24  # shown with videos; the others are in the tables
PLAY = """
const films = [...document.querySelectorAll('video')], all = document.getElementById('play');
films.forEach(film => {
  film.removeAttribute('controls');
  film.onclick = () => film.paused ? film.play() : film.pause();
});
all.onclick = () => {
  const start = films.every(film => film.paused);
  films.forEach(film => { film.currentTime = 0; start ? film.play() : film.pause(); });
  all.textContent = start ? 'Pause all' : 'Play all';
};
"""


def render(summary: Row, tables: Mapping[str, Sequence[Row]], stills: Mapping[str, Stills], curves: Curves) -> str:
    """The page. `stills` by the `file` column of table t2v; `curves` by stage: rows of step, loss, heldout."""
    title = f"{summary['model']} · evaluation"
    body = [
        _head(summary),
        _verdict(summary),
        _tiles(summary["measures"]),
        _failures(tables),
        _grid(tables["t2v"], stills),
        _learning(curves, tables["heldout"]),
        _autoencoder(summary["measures"]),
        _measures(summary["measures"]),
        _stand_ins(summary),
        _sources(summary["sources"]),
        _provenance(summary),
    ]
    head = el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("title", title),
        el("style", Safe((files("infra") / "page.css").read_text())),
    )
    return f"<!doctype html>\n{el('html', head, el('body', el('main', body), el('script', Safe(PLAY))), lang='en')}\n"


def _head(summary: Row) -> list[Safe]:
    size, sampling = summary["size"], summary["sampling"]
    what = (
        f"Stage {summary['stage']} ({summary['objective'].replace('_', '-')}), {size['width']}×{size['height']}, "
        f"{size['frames']} frames at {size['fps']:g} fps; "
        f"{sampling['steps']} sampling steps, guidance {sampling['guidance']:g}."
    )
    return [el("h1", f"{summary['model']}: evaluation"), el("p", what, class_="lead")]


def _verdict(summary: Row) -> Safe:
    cover = summary["coverage"]
    whole = not cover["failed"] and not cover["missing"]
    made = f"{cover['produced']} of {cover['expected']} videos were made"
    word = "Complete" if whole else "Incomplete"
    said = f"{made}; {cover['failed']} failed, {cover['missing']} are missing. "
    rest = (
        "Whether it may be released is decided by the gates: reports/gates/eval.json, then reports/gates/release.json."
    )
    return el("section", el("strong", word), el("p", said + rest), class_=f"band-top {'good' if whole else 'bad'}")


def number(value: float, unit: str = "") -> str:
    """Three significant digits, at most three decimals; two decimals for decibels."""
    if unit == "dB":
        return f"{value:.2f}"
    if abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.3g}" if abs(value) >= 0.1 else f"{value:.3f}".rstrip("0").rstrip(".")


def _interval(entry: Row) -> str:
    unit = entry.get("unit", "")
    if entry["ci95"] is None:
        return "no interval: one cluster"
    return f"95 % CI {number(entry['ci95'][0], unit)} to {number(entry['ci95'][1], unit)}"


def _tile(entry: Row, name: str, unit: str, note: str) -> Safe:
    value = el("b", number(entry["mean"], entry["unit"]), el("small", unit) if unit else "")
    return el(
        "div", value, el("span", name), el("span", f"{_interval(entry)}; {note}", class_="ci"), class_="card tile"
    )


def _tiles(measures: Row) -> Safe:
    flow, clean = measures["t2v/flow_motion"], measures["vae/psnr@0"]
    tiles = [
        _tile(measures["heldout/ratio"], "held-out loss over that of predicting nothing", "", "lower is better"),
        _tile(
            clean, "autoencoder PSNR", "dB", f"mean colour {number(measures['vae/psnr_mean_colour']['mean'], 'dB')} dB"
        ),
        _tile(flow, "motion of generated clips", "px", f"real clips {number(flow['real']['mean'])} px"),
        _tile(
            measures["t2v/frozen"],
            "share of frozen frames",
            "",
            f"real clips {number(measures['t2v/frozen']['real']['mean'])}",
        ),
    ]
    return el("section", tiles, class_="tiles")


def _failures(tables: Mapping[str, Sequence[Row]]) -> Child:
    lost = [(name, row) for name, rows in tables.items() for row in rows if row["status"] != "ok"]
    if not lost:
        return ""
    lines = [
        el(
            "tr",
            el("td", name),
            el("td", el("code", row.get("clip_id") or row["prompt_id"])),
            el("td", row["reason"] or ""),
        )
        for name, row in lost
    ]
    head = el("tr", el("th", "table"), el("th", "clip"), el("th", "reason"))
    note = el("p", "Each of these counts in every mean with the worst value its measure can take.", class_="note")
    return [el("h2", f"{len(lost)} failed"), note, el("table", head, lines)]


def _grid(rows: Sequence[Row], stills: Mapping[str, Stills]) -> list[Safe]:
    prompts = sorted({row["prompt_id"] for row in rows})
    shown = [_prompt([row for row in rows if row["prompt_id"] == name], stills) for name in prompts[:MOST_PROMPTS]]
    note = (
        f"{len(shown)} of {len(prompts)} held-out captions, each with the real clip it describes. "
        "Below each clip, four of its frames, first to last. "
        "Click a clip to play it."
    )
    button = el("button", "Play all", id="play", type="button")
    return [el("h2", "What it makes, beside what is real"), el("p", note, class_="note"), button, *shown]


def _prompt(rows: Sequence[Row], stills: Mapping[str, Stills]) -> Safe:
    ordered = sorted(rows, key=lambda row: (row["kind"] != "real", row["seed"] or 0))
    clips = [_figure(row, stills) for row in ordered]
    return el("article", el("h3", f"“{rows[0]['prompt']}”"), el("div", clips, class_="clips"), class_="card prompt")


def _figure(row: Row, stills: Mapping[str, Stills]) -> Safe:
    real = row["kind"] == "real"
    who = el("span", "real clip" if real else f"generated, seed {row['seed']}", class_="who real" if real else "who")
    if row["status"] != "ok" or row["file"] not in stills:
        return el("figure", el("div", row["reason"] or "no video", class_="lost"), el("figcaption", who))
    still = stills[row["file"]]
    film = el(
        "video",
        src=row["file"],
        poster=still.poster,
        controls=True,
        muted=True,
        loop=True,
        playsinline=True,
        preload="none",
    )
    sheet = el("img", src=still.sheet, class_="sheet", alt=f"frames of {row['prompt']}", loading="lazy")
    chips = [
        el("span", f"{label} {number(row[name])}")
        for name, label in (
            ("flow_motion", "motion"),
            ("saturation", "saturation"),
            ("overall", "look"),
            ("frozen", "frozen"),
        )
        if row[name] is not None
    ]
    return el("figure", film, sheet, el("figcaption", who, el("div", chips, class_="chips")))


def _learning(curves: Curves, heldout: Sequence[Row]) -> list[Safe]:
    cards = [_curve(stage, rows) for stage, rows in curves.items() if rows]
    cards.append(_by_time(heldout))
    note = (
        "Training loss of each stage behind this model, with the loss on held-out clips at fixed noise and times. "
        "Last: the evaluated model's held-out loss by noise level, over that of predicting no velocity; below 1 it "
        "has learned something there."
    )
    return [el("h2", "Does it learn"), el("p", note, class_="note"), el("div", cards, class_="pair")]


def _curve(stage: str, rows: Sequence[Row]) -> Safe:
    lines = [
        Series(name, [row["step"] for row in known], [row[column] for row in known], style, dots=column == "heldout")
        for column, name, style in (("loss", "training", "made"), ("heldout", "held out", "truth"))
        if (known := [row for row in rows if row.get(column) is not None])
    ]
    return el("div", el("h3", stage), line_chart(lines, "step", "loss", height=220), legend(lines), class_="card")


def _by_time(rows: Sequence[Row]) -> Safe:
    times = sorted({row["time"] for row in rows})
    known = [[row for row in rows if row["time"] == time and row["status"] == "ok"] for time in times]
    points = [
        (group[0]["time"], sum(r["loss"] for r in group) / sum(r["zero"] for r in group)) for group in known if group
    ]
    lines = [Series("this model", [x for x, _ in points], [y for _, y in points], "made")] if points else []
    lines.append(Series("no velocity", times, [1.0] * len(times), "truth", dots=False))
    chart = line_chart(lines, "noise level σ", "loss ratio", height=220)
    return el("div", el("h3", "Held-out loss ratio by noise level"), chart,
              legend(lines), class_="card")  # fmt: skip


def _autoencoder(measures: Row) -> list[Safe]:
    note = (
        "Held-out clips are encoded, noise of the given standard deviation is added to the normalised latents "
        "(x' = x + εz, as in the paper's Table 7), and they are decoded. Bands are 95 % intervals over clips. "
        "Same definition as the paper, other clips: the numbers do not compare with its table."
    )
    colour = measures["vae/psnr_mean_colour"]["mean"]
    cards = []
    for name, title, unit in (("psnr", "PSNR", "dB"), ("ssim", "SSIM", "")):
        levels = [
            (float(key.split("@")[1]), entry) for key, entry in measures.items() if key.startswith(f"vae/{name}@")
        ]
        levels.sort(key=lambda level: level[0])
        x, y = [eps for eps, _ in levels], [entry["mean"] for _, entry in levels]
        ends = [entry["ci95"] or (entry["mean"], entry["mean"]) for _, entry in levels]
        lines = [Series("autoencoder", x, y, "made", [low for low, _ in ends], [high for _, high in ends])]
        if name == "psnr":
            lines.append(Series("each clip's mean colour", x, [colour] * len(x), "truth", dots=False))
        heading = f"{title}, {unit}" if unit else title
        cards.append(
            el("div", el("h3", heading), line_chart(lines, "latent noise ε", title), legend(lines), class_="card")
        )
    return [el("h2", "The autoencoder"), el("p", note, class_="note"), el("div", cards, class_="pair")]


def _measures(measures: Row) -> list[Safe]:
    head = ("measure", "generated or model", "real clips", "", "n", "seeds")
    lines = [_measure(name, entry) for name, entry in sorted(measures.items())]
    table = el("table", el("tr", [el("th", word, class_="number" if word == "n" else "") for word in head]), lines)
    note = "Mean with 95 % bootstrap interval; prompts (or clips) are drawn again, each with all its seeds."
    return [el("h2", "All measures"), el("p", note, class_="note"), el("div", table, class_="card scroll")]


def _measure(name: str, entry: Row) -> Safe:
    badge = el("span", "stand-in", class_="badge", title=entry["stand_in"]) if entry["stand_in"] else ""
    what = el("td", name, " ", badge, el("span", entry["meaning"], class_="sub"))
    bars = [("made", entry["mean"], entry["ci95"])]
    real: Child = ""
    if "real" in entry:
        bars.append(("truth", entry["real"]["mean"], entry["real"]["ci95"]))
        real = _value({**entry["real"], "unit": entry["unit"]})
    seeds = ", ".join(str(seed) for seed in entry["seeds"])
    values = [el("td", value, class_="value") for value in (_value(entry), real)]
    counts = [el("td", str(entry["n"]), class_="number"), el("td", seeds)]
    return el("tr", what, values, el("td", range_bars(bars)), counts)


def _value(entry: Row) -> list[Safe]:
    interval = [number(end, entry["unit"]) for end in entry["ci95"] or ()]
    return [
        el("span", number(entry["mean"], entry["unit"]), f" {entry['unit']}" if entry["unit"] in SHOWN_UNITS else ""),
        el("span", " to ".join(interval) or "no interval", class_="sub"),
    ]


def _stand_ins(summary: Row) -> Child:
    if not summary["stand_ins"]:
        return ""
    lines = [el("tr", el("td", said)) for said in summary["stand_ins"]]
    note = "Parts of this run that stand in for what a production run uses. Numbers that depend on them carry the mark."
    return [el("h2", "Stand-ins"), el("p", note, class_="note"), el("div", el("table", lines), class_="card scroll")]


def _sources(sources: Sequence[Row]) -> list[Safe]:
    head = el("tr", [el("th", word) for word in ("source", "videos", "licence", "attribution")])
    lines = [
        el(
            "tr",
            el("td", row["source"]),
            el("td", str(row["videos"])),
            el("td", row["licence"]),
            el("td", row["attribution"]),
        )
        for row in sources
    ]
    return [el("h2", "Material and licences"), el("div", el("table", head, lines), class_="card scroll")]


def _provenance(summary: Row) -> list[Safe]:
    head = el("tr", el("th", "what was read"), el("th", "sha256"))
    lines = [
        el("tr", el("td", el("code", name)), el("td", el("code", sha)))
        for name, sha in sorted(summary["digests"].items())
    ]
    note = el(
        "p",
        "The tables behind this page: vae.parquet, heldout.parquet, t2v.parquet and ",
        el("a", "summary.json", href="summary.json"),
        ", in the folder of this page.",
        class_="note",
    )
    return [el("h2", "Provenance"), note, el("div", el("table", head, lines), class_="card scroll")]
