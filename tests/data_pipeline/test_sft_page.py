"""The review page at work in a browser: keys are pressed, and what it exports is read as a review."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any

import browser
import pytest

from data_pipeline.sft import page, reviews

EVIL = "</script><img src=x onerror=\"document.title='owned'\"><b>bold</b>"
REVIEWER = "Ana Núñez, 2nd"
DRIVER = """
<script>
"use strict";
(async () => {
  const found = { said: [], files: [] };
  URL.createObjectURL = (blob) => { found.blob = blob; return "#"; };
  const press = (key, target = document) => target.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
  const name = document.getElementById("reviewer"), said = () => document.getElementById("said").textContent;
  document.getElementById("json").click(); found.said.push(said());
  name.value = "<b>"; document.getElementById("json").click(); found.said.push(said());
  name.value = "REVIEWER"; document.getElementById("json").click(); found.said.push(said());
  name.dispatchEvent(new Event("input"));
  press("a");                        // the first is accepted, the second is looked at
  press("3"); press("7"); press("7"); press("r");  // it fails in focus; composition was marked and unmarked
  press("r"); press("u"); press("a");              // the third is rejected, taken back, and accepted
  press("a"); press("u");                          // the fourth stays undecided
  press("ArrowLeft"); press("8"); press("x"); press("9"); press("ArrowRight");
  press("r", name);                                // typed into the name: no decision
  found.count = document.getElementById("count").textContent;
  found.caption = document.getElementById("caption").textContent;
  for (const kind of ["json", "csv"]) {
    document.getElementById(kind).click();
    found.files.push(await found.blob.text());
  }
  found.kept = JSON.parse(localStorage.getItem(Object.keys(localStorage)[0]));
  found.title = document.title;
  const left = document.createElement("pre");
  document.body.append(Object.assign(left, { id: "found", textContent: JSON.stringify(found) }));
})();
</script>
"""


def entry(clip_id: str) -> dict[str, Any]:
    told = {"cell": "human/realistic", "source": EVIL, "place": "0.0 s of a.mp4", "moves": "object", "caption": EVIL}
    return {"clip_id": clip_id, **told, "measures": [["overall", "0.7"]], "film": ""}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the page said and exported while it was worked with."""
    if browser.installed() is None:
        pytest.skip("no browser is installed")
    folder = tmp_path_factory.mktemp("review")
    text = page._document([entry(clip_id) for clip_id in "abcd"])
    (folder / "page.html").write_text(text.replace("</body>", DRIVER.replace("REVIEWER", REVIEWER) + "</body>"))
    dom = browser.dom_after(folder / "page.html", folder / "profile")
    match = re.search(r'<pre id="found">(.*?)</pre>', dom, re.S)
    assert match, "the script ended before its end"
    told: dict[str, Any] = json.loads(html.unescape(match[1]))
    return told


@pytest.mark.parametrize(("place", "suffix"), [(0, "json"), (1, "csv")])
def test_what_the_keys_decided_is_exported_as_a_review(
    found: dict[str, Any], tmp_path: Path, place: int, suffix: str
) -> None:
    path = tmp_path / f"review.{suffix}"
    path.write_text(found["files"][place])
    read = reviews.read(path)
    assert read.reviewer == REVIEWER
    told = {each.clip_id: (each.decision, each.failed) for each in read.decisions}
    assert told == {"a": ("accept", ()), "b": ("reject", ("focus",)), "c": ("accept", ("engaging_subject",))}
    assert reviews.decide([path], tmp_path / "reviews", frozenset("abcd"))


def test_nothing_is_exported_without_a_name_or_a_decision(found: dict[str, Any]) -> None:
    assert [said.split(",")[0] for said in found["said"]] == [
        "your name first: a review says whose it is", "a name without < > & and quotation marks",
        "nothing is decided yet",
    ]  # fmt: skip


def test_the_page_keeps_what_was_decided_and_shows_foreign_text_as_text(found: dict[str, Any]) -> None:
    assert found["count"] == "3 of 4 decided · 4"
    assert found["kept"]["decisions"].keys() == {"a", "b", "c"} and found["kept"]["reviewer"] == REVIEWER
    assert found["caption"] == EVIL and found["title"] == "SFT review"
