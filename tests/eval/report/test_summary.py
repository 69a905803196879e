"""Failures stay in the denominators, and the summary is whole, deterministic and plain JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest

from eval.params import EvalParams
from eval.report.summary import dumps, expected_measures, summarise

Tables = dict[str, list[dict[str, Any]]]


def test_every_expected_measure_is_there(params: EvalParams, tables: Tables, about: dict[str, Any]) -> None:
    summary = json.loads(dumps(summarise(tables, params, about)))
    assert set(summary["measures"]) == set(expected_measures(params))
    assert summary["coverage"] == {"expected": 4, "produced": 4, "failed": 0, "missing": 0}
    motion = summary["measures"]["t2v/flow_motion"]
    assert (motion["mean"], motion["n"], motion["clusters"], motion["seeds"]) == (1.5, 4, 2, [7, 8])
    assert motion["ci95"] == [1.0, 2.0]
    assert motion["real"]["mean"] == 3.0
    assert "stand-in" in motion["stand_in"]
    assert summary["measures"]["vae/psnr_gain"]["mean"] == pytest.approx(15.5)
    assert summary["measures"]["heldout/ratio"]["mean"] == pytest.approx(0.45)


def test_row_order_does_not_matter(params: EvalParams, tables: Tables, about: dict[str, Any]) -> None:
    turned = {name: rows[::-1] for name, rows in tables.items()}
    assert dumps(summarise(turned, params, about)) == dumps(summarise(tables, params, about))


def test_a_failed_video_lowers_every_score(params: EvalParams, tables: Tables, about: dict[str, Any]) -> None:
    empty = dict.fromkeys(
        ("flow_motion", "saturation", "frozen", "black", "overall", "vmaf_motion", "brightness", "file")
    )
    tables["t2v"][0] |= {**empty, "status": "failed", "reason": "latents are not finite"}
    summary = summarise(tables, params, about)
    assert summary["coverage"] == {"expected": 4, "produced": 3, "failed": 1, "missing": 0}
    assert summary["measures"]["t2v/frozen"]["mean"] == pytest.approx((1.0 + 3 * 0.1) / 4)
    assert summary["measures"]["t2v/flow_motion"]["mean"] == pytest.approx((0 + 1 + 2 + 2) / 4)
    assert summary["measures"]["t2v/flow_motion"]["n"] == 4


def test_a_failed_reconstruction_and_a_failed_draw_count(
    params: EvalParams, tables: Tables, about: dict[str, Any]
) -> None:
    tables["vae"][0] |= {"psnr": None, "psnr_pooled": None, "ssim": None, "status": "failed", "reason": "not finite"}
    tables["heldout"][0] |= {"loss": None, "status": "failed", "reason": "not finite"}
    measures = summarise(tables, params, about)["measures"]
    assert measures["vae/psnr@0"]["mean"] == pytest.approx(31.0 / 2)
    assert measures["heldout/ratio"]["mean"] == pytest.approx((2.0 + 0.4 + 0.5 + 0.5) / 4)


@pytest.mark.parametrize("table", ["vae", "heldout", "t2v"])
def test_an_empty_table_is_an_error(params: EvalParams, tables: Tables, about: dict[str, Any], table: str) -> None:
    with pytest.raises(ValueError, match=table):
        summarise({**tables, table: []}, params, about)


def test_json_has_no_nan(params: EvalParams, tables: Tables, about: dict[str, Any]) -> None:
    tables["t2v"][0]["flow_motion"] = float("nan")
    with pytest.raises(ValueError, match="JSON"):
        dumps(summarise(tables, params, about))
