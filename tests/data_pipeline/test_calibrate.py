from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml

from data_pipeline import tables
from data_pipeline.calibrate import MIN_CLIPS, RULES, fragment, run, suggested
from data_pipeline.params import CurateParams

DEFAULT = {"flow_motion": [0.05, 30.0], "saturation": [0.0, 180.0], "cuts_inside": [0, 0]}
PARAMS = CurateParams.model_validate({"ranges": {"default": DEFAULT}, "validation": 0.15})


def table(name: str, rows: list[dict[str, Any]]) -> pa.Table:
    blank = dict.fromkeys(tables.SCHEMAS[name].names)
    return pa.Table.from_pylist([{**blank, **row} for row in rows], schema=tables.SCHEMAS[name])


def report() -> list[dict[str, Any]]:
    """Source `a: b` with 201 clips of rising measures, 3 of them without flow; source `few` with 5."""
    clips = [{"clip_id": f"a{n:03d}", "source": "a: b"} for n in range(201)]
    clips += [{"clip_id": f"f{n}", "source": "few"} for n in range(5)]
    clips += [{"clip_id": "cut", "source": "few", "reason": "SHOT_TOO_SHORT"}, {"clip_id": "bad", "source": "few"}]
    scores = [
        {"clip_id": c["clip_id"], "flow_motion": None if n in (7, 70, 150) else n / 10, "saturation": float(n % 201),
         "overall": n / 200, "cuts_inside": int(n == 5), "watermark": 0.0}
        for n, c in enumerate(clips[:-1])
    ]  # fmt: skip
    scores.append({"clip_id": "bad", "reason": "DECODE_FAILED"})
    videos = [{"uri": f"{n}", "source": "a: b", "origin": "real"} for n in range(3)]
    videos += [{"uri": "4", "source": "a: b", "origin": "synthetic", "reason": "TRUNCATED"}]
    videos += [{"uri": "5", "source": "few", "origin": "synthetic"}]
    return run(table("videos", videos), table("clips", clips), table("scores", scores))


def test_percentiles_nulls_and_ranges_by_source() -> None:
    one, few = report()
    assert (one["source"], one["clips"], one["enough"]) == ("a: b", 201, True)
    flow = one["measures"]["flow_motion"]
    values = np.array([n / 10 for n in range(201) if n not in (7, 70, 150)])
    assert (flow["n"], flow["nulls"]) == (198, 3)
    assert flow["p2"] == pytest.approx(np.percentile(values, 2)) and flow["p99"] == pytest.approx(
        np.percentile(values, 99)
    )
    assert one["ranges"]["flow_motion"] == [pytest.approx(0.394), pytest.approx(19.61)]
    assert one["ranges"]["saturation"] == [0.0, 196.0]
    assert one["ranges"]["overall"] == [0.1, 1.0]
    assert one["ranges"]["cuts_inside"] == [0.0, 0.0]
    assert one["ranges"]["watermark"] == [0.0, 0.0]
    assert "nsfw" not in one["ranges"], "nobody measured it"
    assert "brightness" not in one["ranges"], "there is no rule"
    assert (few["enough"], few["ranges"], few["clips"]) == (False, {}, 5)
    assert (one["origin"], few["origin"]) == ("real", "synthetic")


def test_a_source_of_both_origins_says_so() -> None:
    videos = [{"uri": each, "source": "s", "origin": each} for each in ("real", "synthetic")]
    clips = [{"clip_id": "a", "source": "s"}, {"clip_id": "b", "source": "renamed"}]
    scores = [{"clip_id": each["clip_id"]} for each in clips]
    rows = run(table("videos", videos), table("clips", clips), table("scores", scores))
    assert {row["source"]: row["origin"] for row in rows} == {"s": "both", "renamed": "unknown"}


def test_the_share_that_each_bound_would_drop() -> None:
    one = report()[0]
    assert one["drops"]["flow_motion"] == pytest.approx({"low": 4 / 201, "high": 4 / 201, "missing": 3 / 201}, abs=1e-6)
    assert one["drops"]["overall"] == pytest.approx({"low": 20 / 201, "high": 0, "missing": 0}, abs=1e-6)
    assert one["drops"]["cuts_inside"]["high"] == pytest.approx(1 / 201, abs=1e-6)
    assert one["drops_any"] == pytest.approx((20 + 4 + 2) / 201, abs=1e-6)  # flow and saturation agree but for two


def test_an_end_is_rounded_outward() -> None:
    told = {"p2": 1.23456, "p98": 9.87654321}
    assert suggested(RULES["flow_motion"], told) == (1.234, 9.877)
    assert suggested(RULES["flow_motion"], {"p2": 0.0, "p98": 0.5}) == (0.0, 0.5)
    assert suggested(RULES["watermark"], {"p98": 0.99999}) == (0.0, 1.0)


def test_the_fragment_is_a_valid_section_that_says_what_it_rests_on() -> None:
    params = CurateParams.model_validate(
        {"ranges": {"default": DEFAULT, "a: b": {"flow_motion": [1, 2], "vmaf_percentile": [2, 98], "brightness": None},
                    "gone": {"nsfw": None}}, "validation": 0.15}
    )  # fmt: skip
    text = fragment(report(), params)
    loaded = CurateParams.model_validate(yaml.safe_load(text)["data"]["curate"])
    assert loaded.ranges["default"] == params.ranges["default"] and loaded.validation == 0.15
    assert loaded.ranges["gone"] == params.ranges["gone"]
    own = loaded.ranges_of("a: b")
    assert own["flow_motion"] == (0.394, 19.61)
    assert own["vmaf_percentile"] == (2.0, 98.0)
    assert loaded.ranges["a: b"].stated()["brightness"] is None
    assert loaded.ranges_of("few") == loaded.ranges_of("another")
    assert f"too few to suggest from, {MIN_CLIPS} are needed" in text
    assert '"a: b":  # 201 clips, real;' in text and '"few": {}  # 5 clips, synthetic: too few' in text
    assert "drops 2.0% below, 2.0% above, 1.5% not measured" in text
    assert text == fragment(report(), params)


def test_every_rule_is_of_a_measure_that_may_have_a_range() -> None:
    assert set(RULES) <= set(tables.SCORES.names)
    shipped = yaml.safe_load((Path(__file__).parents[2] / "params.yaml").read_text())["data"]["curate"]
    assert CurateParams.model_validate(
        yaml.safe_load(fragment([], CurateParams.model_validate(shipped)))["data"]["curate"]
    )
