"""The report: its numbers against tables that can be counted by hand, and hostile texts on the page."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import browser
import numpy as np
import pyarrow as pa
import pytest
from good_tables import good_rows, params, row, table

from data_pipeline import report, tables
from data_pipeline.expectations.facts import in_memory
from data_pipeline.report import charts, examples, figures, load, pictures, throughput
from data_pipeline.report.load import Chosen
from data_pipeline.report.words import stand_in

EVIL = "</figcaption><script>alert('x')</script> <img src=x onerror=y> \" ' &amp;"


def choice(clip: str, *reasons: str, source: str = "s", subset: str = "train") -> dict[str, Any]:
    return row(
        "selection", clip_id=clip, video_id="v", source=source, keep=not reasons, reasons=list(reasons),
        reason=reasons[0] if reasons else None, bucket="480x832x33", subset=None if reasons else subset,
    )  # fmt: skip


def a_choice(flow: dict[str, float] | None = None) -> Chosen:
    clips = [row("clips", clip_id=c, frames=32, fps=16.0, reason="SHORT" if c == "e" else None) for c in "abcde"]
    scores = [row("scores", clip_id=c, flow_motion=(flow or {}).get(c)) for c in "dcba"]
    chosen = [
        choice("a"),
        choice("b", source="t", subset="val"),
        choice("c", "TWIN"),
        choice("d", "FLOW_MOTION_LOW", "TWIN"),
        choice("e", "SHORT: 1 s"),
    ]
    named = {"clips": clips, "scores": scores, "selection": chosen}
    return load.from_tables(in_memory({name: table(name, rows) for name, rows in named.items()}))


def test_the_funnel_never_grows_and_ends_at_what_is_kept() -> None:
    steps = figures.funnel(a_choice())
    assert [(name, int(counts.sum())) for name, counts in steps] == [
        ("spans", 5),
        ("clips", 4),
        ("scored", 4),
        ("in range", 3),
        ("without copies", 2),
        ("kept", 2),
        ("train", 1),
        ("val", 1),
    ]
    assert dict(steps)["kept"].tolist() == [1, 1]


def test_the_summary_counts_by_reason_and_source() -> None:
    videos = table("videos", [row("videos", uri="a"), row("videos", uri="b", reason="UNREADABLE: no")])
    summary = figures.summarise(a_choice(), videos)
    assert summary["dropped"] == {"FLOW_MOTION_LOW": 1, "SHORT": 1, "TWIN": 1}
    assert summary["sources"] == {"s": 1, "t": 1}
    assert (summary["kept"], summary["kept_fraction"], summary["rejected_videos"]) == (2, 0.4, 1)
    assert summary["kept_hours"] == round(4.0 / 3600, 5)
    assert figures.drops(a_choice())[0][0] == "FLOW_MOTION_LOW"
    assert figures.buckets(a_choice()) == [("480x832x33", 1, 1)]


def test_bins_and_missing_values_sum_to_the_rows_of_each_source() -> None:
    random = np.random.default_rng(0)
    values = random.lognormal(0.0, 2.0, 5000)
    values[:50], values[50] = np.nan, np.inf
    source, scored = random.integers(0, 3, 5000), random.random(5000) < 0.9
    bounds = {"a": (0.5, 4.0), "b": (0.0, 1e9), "c": None}
    found = figures.histograms(values, source, ["a", "b", "c"], bounds, scored)
    for at, one in enumerate(found):
        here = values[scored & (source == at)]
        assert sum(one.counts) + one.missing == one.rows == len(here)
        assert one.missing == (~np.isfinite(here)).sum()
        low, high = one.bounds or (-np.inf, np.inf)
        assert (one.below, one.above) == ((here < low).sum(), (here[np.isfinite(here)] > high).sum())
    assert found[0].span[1] < 1000, "a threshold far away does not squeeze the clips into one bin"
    picture = charts.histogram(found[0], "flow_motion")
    drawn = [int(n.replace(",", "")) for n in re.findall(r": ([\d,]+) clips</title>", picture)]
    assert sum(drawn) == sum(found[0].counts)
    assert re.findall(r'<g class="mark">.*?>([\d.]+)</text>', picture) == ["0.5", "4"]


def test_nothing_to_draw_is_no_failure() -> None:
    nothing = np.full(3, np.nan)
    (one,) = figures.histograms(nothing, np.zeros(3, int), ["a"], {"a": (0.0, 1.0)}, np.ones(3, bool))
    assert (sum(one.counts), one.missing, one.median) == (0, 3, None)


@pytest.mark.parametrize("ties", [1, 20])
def test_an_edge_sheet_holds_the_nearest_clips_of_each_side(ties: int) -> None:
    random = np.random.default_rng(ties)
    values = np.round(random.normal(10.0, 3.0, 400) * 20 / ties) / (20 / ties)
    ids = [f"c{at:03d}" for at in range(400)]
    source = np.arange(400) % 2
    base = a_choice()
    chosen = Chosen(**{**vars(base), "clip_id": pa.chunked_array([ids]), "source": source, "sources": ["s", "t"]})
    ends = {"s": 8.0, "t": 11.0}
    low, high = examples.edges("flow_motion", values, chosen, {name: (end, 15.0) for name, end in ends.items()})
    for edge, limit, sign in ((low, ends, 1), (high, dict.fromkeys(ends, 15.0), -1)):
        away = [
            (sign * (value - limit["st"[at % 2]]), name)
            for at, (value, name) in enumerate(zip(values, ids, strict=True))
        ]
        inside = sorted(pair for pair in away if pair[0] >= 0)[: examples.EDGE_CLIPS]
        beyond = sorted((-off, name) for off, name in away if off < 0)
        assert [one.clip_id for one in edge.inside] == [name for _, name in inside]
        assert [one.clip_id for one in edge.outside] == [name for _, name in beyond[: examples.EDGE_CLIPS]]
        assert edge.beyond == len(beyond)
    assert low.bounds == (8.0, 11.0)
    assert examples.edges("x", values, chosen, {"s": (-np.inf, np.inf)}) == []


def project(root: Path, **changes: Any) -> Path:
    """The good tables of two batches under `root`/data, with every foreign text an attack; their films are gone."""
    rows = good_rows(params())
    for each in rows["captions"]:
        each.update(text=EVIL, captioner="template (stand-in for Qwen2.5-VL)")
    for each in rows["videos"]:
        each.update(licence=EVIL, attribution=EVIL, reason=each["reason"] and f"UNREADABLE: {EVIL}")
        each["uri"] += EVIL.replace("/", "")
    owners = {each["clip_id"]: each["source"] for each in rows["clips"]}
    for name in ("videos", "clips", "scores", "captions"):
        for batch in ("one", "two"):
            mine = [e for e in rows[name] if (e.get("source") or owners[e["clip_id"]]) == batch]
            foreign = [{**e, "source": batch + EVIL} if "source" in e else e for e in mine]
            tables.write(name, foreign, root / "data" / name / f"{batch}.parquet")
    for name in ("twins", "selection"):
        mine = [{**e, "source": e["source"] + EVIL} if "source" in e else e for e in rows[name]]
        tables.write(name, mine, root / "data" / f"{name}.parquet")
    return root


class Tags(HTMLParser):
    """Every element and attribute name of a page, and whether its elements end in the order they began."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def unchanged(items: Any, total: int, label: str) -> Any:
    return items


def test_a_page_of_hostile_texts_and_lost_films_is_whole_inert_and_the_same_again(tmp_path: Path) -> None:
    root, asked = project(tmp_path), params()
    report.run(root, list(asked.batches), asked, unchanged)
    page = (root / report.PAGE).read_text()
    seen = Tags()
    seen.feed(page)
    assert seen.open == []
    assert "script" not in seen.tags
    assert not {name for name in seen.attributes if name.startswith("on")}
    assert "&lt;script&gt;alert" in page
    assert "img" not in seen.tags, "every film is gone"
    assert "No picture: its film is gone" in page
    for name in ("UniMatch", "DOVER", "Qwen2.5-VL"):
        assert f"stand-in for {name}" in page
    assert "http" not in page
    report.run(root, list(asked.batches), asked, unchanged)
    assert (root / report.PAGE).read_text() == page


@pytest.mark.skipif(browser.installed() is None, reason="no browser is installed")
def test_a_browser_builds_the_page_that_was_written(tmp_path: Path) -> None:
    """Every chart, sheet and table of the source, and no element that a foreign text began."""
    root, asked = project(tmp_path), params()
    report.run(root, list(asked.batches), asked, unchanged)
    page, dom = (root / report.PAGE).read_text(), browser.dom_after(root / report.PAGE, tmp_path / "profile")
    for element in ("svg", "figure", "table", "section", "h2", "rect", "td"):
        assert dom.count(f"<{element}") == page.count(f"<{element}"), element
    assert dom.count("<svg") > 5 and "<script" not in dom and "<img" not in dom


def test_a_missing_table_is_named(tmp_path: Path) -> None:
    root, asked = project(tmp_path), params()
    (root / "data/twins.parquet").unlink()
    with pytest.raises(ValueError, match="table twins is missing"):
        report.run(root, list(asked.batches), asked, unchanged)


def test_a_film_is_the_file_that_goes_on_not_a_refused_one_of_the_same_bytes(tmp_path: Path) -> None:
    films = [("a.dat", "UNKNOWN_SUFFIX: .dat"), ("b.mp4", None), ("c.mp4", "DUPLICATE_OF:b.mp4")]
    rows = [row("videos", video_id="v", uri=uri, reason=reason) for uri, reason in films]
    tables.write("videos", rows, tmp_path / "data/videos/one.parquet")
    found = load.rows_of(tmp_path, ["one"], "videos", ["v"], ["uri", "reason"])
    assert found == {"v": {"video_id": "v", "uri": "b.mp4", "reason": None}}


def test_pictures_stay_within_their_budget_and_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "BUDGET", 100)
    found = {name: pictures.Picture(address="x" * 40) for name in "abc"}
    kept = pictures._within_budget(["a", "a", "b", "c", "d"], found)
    assert [len(kept[name].address) for name in "abcd"] == [40, 0, 0, 0]
    assert "small" in kept["b"].note and kept["d"].note == "no span of a film"


def test_real_frames_come_out_of_the_sandbox(tmp_path: Path, make_video: Any) -> None:
    make_video(tmp_path / "film.mp4", seconds=2.0, shots=1)
    spans = [
        {"clip_id": name, "video_id": "v", "start_pts": start, "end_pts": end, "time_base": "1/1"}
        for name, start, end in (("a", 0, 10_000), ("late", 10**9, 10**9 + 5000), ("none", None, None))
    ]
    videos = {"v": {"uri": "film.mp4"}}
    found = pictures.decode(["a", "late", "none"], {one["clip_id"]: one for one in spans}, videos, tmp_path, unchanged)
    assert found["a"].address.startswith("data:image/webp;base64,")
    assert found["late"].address == "" and "TOO_FEW_FRAMES" in found["late"].note
    assert found["none"].note == "no span of a film"


def test_throughput_is_told_by_film_and_by_clip() -> None:
    status = {"stage": "score@film", "kind": "ok", "counters": {"scores": 50}, "seconds": 20.0}
    assert throughput.speed(status, {"film": 0.5, "more": 9.0}) == [
        "score@film",
        "ok",
        "50 scores",
        "20.0",
        "2.50",
        "40",
    ]
    assert throughput.speed({**status, "counters": {}, "stage": "dedup"}, {"film": 0.5})[2:] == ["", "20.0", "", "40"]
    assert "2.50" in throughput.render([status], {"film": 0.5})


def test_a_stand_in_is_known_by_what_it_says_of_itself() -> None:
    assert stand_in(["opencv-dis (stand-in for UniMatch)", "unimatch"]) == "UniMatch"
    assert stand_in(["unimatch"]) == ""
