"""The page holds what the summary holds, escapes what it was given, and asks the network for nothing."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

from eval.params import EvalParams
from eval.report.charts import Series, line_chart, ticks
from eval.report.page import render
from eval.report.pictures import stills
from eval.report.summary import summarise
from infra.html import VOID, el

Tables = dict[str, list[dict[str, Any]]]
CURVES = {"causal": [{"step": 0, "loss": 1.0, "heldout": 1.1}, {"step": 10, "loss": 0.6, "heldout": None}]}


class Balanced(HTMLParser):
    """Raises on an element that is closed by another, and collects the text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


@pytest.fixture
def page(params: EvalParams, tables: Tables, about: dict[str, Any]) -> str:
    frames = np.random.default_rng(0).integers(0, 255, (17, 64, 96, 3), dtype=np.uint8)
    pictures = {row["file"]: stills(frames) for row in tables["t2v"]}
    return render(summarise(tables, params, about), tables, pictures, CURVES)


def test_it_is_whole_and_says_what_it_should(page: str) -> None:
    parser = Balanced()
    parser.feed(page)
    assert not parser.open
    words = " ".join(parser.words)
    for text in (
        "Complete",
        "4 of 4 videos",
        "stand-in",
        "CC BY 3.0",
        "www.bigbuckbunny.org",
        "heldout/ratio",
        "causal",
    ):
        assert text in words
    assert page.count("<video") == 6 and page.count("data:image/jpeg") == 12


def test_text_is_escaped(page: str) -> None:
    assert "<b>view</b>" not in page and "&lt;b&gt;view&lt;/b&gt; &amp; sky" in page
    assert el("a", "<", title='"') == '<a title="&quot;">&lt;</a>'


def test_nothing_is_loaded_from_elsewhere(page: str) -> None:
    assert not re.search(r'(src|href|poster)="(?!clips/|data:image/|summary\.json)', page)
    assert not re.search(r"fetch\(|import |type=.module|@import|url\(", page)


def test_a_failed_video_is_told_first(params: EvalParams, tables: Tables, about: dict[str, Any]) -> None:
    tables["t2v"][0] |= {"status": "failed", "reason": "frame 3 is not finite", "file": None}
    page = render(summarise(tables, params, about), tables, {}, {})
    assert "Incomplete" in page and page.index("frame 3 is not finite") < page.index("What it makes")


def test_ticks_are_round_and_cover() -> None:
    assert ticks(0.0, 1.0) == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert ticks(23.1, 31.9)[0] <= 23.1 and ticks(23.1, 31.9)[-1] >= 31.9
    assert len(ticks(5.0, 5.0)) >= 2


def test_a_chart_of_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="nothing to draw"):
        line_chart([Series("a", [], [], "made")], "x", "y")
