"""Drift: the distance of two batches, what of it is chance, and what the page shows of both."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from good_tables import Rows, clip, params, reader, row, score, video

from data_pipeline.expectations.drift import apart, drift
from data_pipeline.params import DataParams
from infra.gates import Section, evaluate

CLIPS = 400


def two_batches(**second: float) -> Rows:
    """Two films of many clips each, `flow_motion` 1 to 5; of the second's clips, `second` is added to the measures."""
    rows: Rows = {"videos": [], "clips": [], "scores": [], "captions": []}
    for film, batch in (("a", "one"), ("b", "two")):
        rows["videos"].append(video(film, batch))
        for n in range(CLIPS):
            placed = {**clip(film, batch, n), "reason": None}
            measured = {**score(placed["clip_id"]), "flow_motion": 1.0 + 4.0 * (n % 100) / 100}
            for name, more in second.items() if batch == "two" else ():
                measured[name] += more
            rows["clips"].append(placed)
            rows["scores"].append(measured)
            text = "A calm film of a bunny in a meadow" + " and more" * (n % 3)
            rows["captions"].append(row("captions", clip_id=placed["clip_id"], text=text))
    return rows


def judged(rows: Rows, asked: DataParams) -> tuple[Section, str]:
    section = drift(reader(rows), asked)
    return section, evaluate("data", {"drift": section}, {}).verdict


def test_batches_that_are_spread_alike_pass_and_each_shift_is_named() -> None:
    asked = params(reference="one")
    section, verdict = judged(two_batches(), asked)
    assert verdict == "green" and set(section.frame["beyond_chance"]) == {0.0}
    shifted = two_batches(flow_motion=3.0)
    section, verdict = judged(shifted, asked)
    assert verdict == "red"
    [failure] = evaluate("data", {"drift": section}, {}).failures()
    assert "flow_motion of two against one: 0.760 apart, 0.138 may be chance, 0.3 beyond it is allowed" in failure
    assert "[data.gate.drift]" in failure
    loose = {**asked.gate.drift.model_dump(), "flow_motion": 0.63}
    assert judged(shifted, params(reference="one", drift=loose))[1] == "green", "the bound in params counts"


def test_captions_and_shots_drift_too() -> None:
    rows = two_batches()
    for each in rows["captions"][CLIPS:]:
        each["text"] += " under a sky of many clouds"
    for each in rows["clips"][CLIPS:]:
        each["shot_end"] += 5.0
    section, verdict = judged(rows, params(reference="one"))
    over = section.frame["spread"][section.frame["beyond_chance"] > section.frame["bound"]]
    assert verdict == "red"
    assert [text.split(" ")[0] for text in over] == ["shot_seconds", "caption_words"]


def test_what_has_a_reason_does_not_count_and_nothing_at_all_is_as_far_as_can_be() -> None:
    rows = two_batches(flow_motion=3.0)
    for each in rows["scores"][CLIPS:]:
        each["reason"] = "DECODE_FAILED"
    section, verdict = judged(rows, params(reference="one"))
    assert verdict == "red"
    gone = section.frame[section.frame["beyond_chance"] == 1.0]["spread"]
    assert {text.split(" ")[0] for text in gone} == {"flow_motion", "vmaf_motion", "saturation", "overall"}


def test_both_spreads_are_drawn() -> None:
    section, _ = judged(two_batches(flow_motion=3.0), params(reference="one"))
    [picture] = [each for each in section.pictures if each.title.startswith("flow_motion")]
    assert list(picture.shares) == ["one", "two"]
    assert all(sum(shares) == pytest.approx(1.0, abs=1e-3) for shares in picture.shares.values())
    assert picture.shares["one"][0] > 0 == picture.shares["two"][0] and picture.shares["two"][-1] > 0


def test_the_distance_is_that_of_its_definition() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=200).round(1), rng.normal(0.5, 2.0, 77).round(1)
    points = np.union1d(a, b)
    assert apart(a, b) == pytest.approx(max(abs((a <= x).mean() - (b <= x).mean()) for x in points))
    assert apart(a, a) == 0.0 and apart(a, a + 100) == 1.0 and apart(a, np.empty(0)) == 1.0


def test_the_reference_must_be_one_of_several_batches() -> None:
    with pytest.raises(ValueError, match="reference 'film' must be one of several batches: there are one, two"):
        params(reference="film")
    alone = copy.deepcopy(params(reference="one").model_dump())
    del alone["batches"]["two"]
    with pytest.raises(ValueError, match="must be one of several batches"):
        DataParams.model_validate(alone)
