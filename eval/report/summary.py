"""summary.json: every measure with its count, seeds, mean and 95 % interval, computed from the per-video tables.

The tables come first and the aggregate after, so the numbers do not depend on how the work was spread. A failed video
stays in the denominator with the worst value its measure can take (`WORST`): a model cannot score better by failing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from eval.params import EvalParams
from eval.statistics import cluster_sums, mean_interval, ratio_interval

SCHEMA = 1
Row = dict[str, Any]
Summary = dict[str, Any]


@dataclass(frozen=True)
class Measure:
    """One column of the t2v table: its unit, what a failed video counts as, and the column that names its estimator."""

    unit: str
    worst: float
    meaning: str
    estimator: str = ""


T2V: dict[str, Measure] = {
    "flow_motion": Measure("px", 0.0, "optical flow over half a second, mean length", "flow_estimator"),
    "vmaf_motion": Measure("levels", 0.0, "luma difference of neighbouring frames, blurred"),
    "saturation": Measure("0-255", 0.0, "HSV saturation, mean"),
    "brightness": Measure("0-255", 0.0, "HSV value, mean"),
    "overall": Measure("0-1", 0.0, "aesthetic and technical quality", "aesthetic_scorer"),
    "frozen": Measure("share", 1.0, "neighbouring frames that are equal"),
    "black": Measure("share", 1.0, "frames with nothing to see"),
}


def expected_measures(params: EvalParams) -> list[str]:
    """The names that a whole evaluation has; `gate_eval` refuses a summary that lacks one."""
    noise = [f"vae/{name}@{eps:g}" for eps in params.latent_noise for name in ("psnr", "psnr_pooled", "ssim")]
    return [
        *noise,
        "vae/psnr_mean_colour",
        "vae/psnr_gain",
        "heldout/loss",
        "heldout/ratio",
        *(f"t2v/{name}" for name in T2V),
    ]


def _entry(
    estimate: tuple[float, tuple[float, float] | None],
    rows: Sequence[Row],
    cluster: str,
    unit: str,
    meaning: str,
    stand_in: str = "",
    seeds: Sequence[int] = (),
) -> Row:
    mean, interval = estimate
    return {
        "mean": mean,
        "ci95": list(interval) if interval else None,
        "n": len(rows),
        "clusters": len({row[cluster] for row in rows}),
        "failed": sum(row["status"] != "ok" for row in rows),
        "seeds": list(seeds),
        "unit": unit,
        "meaning": meaning,
        "stand_in": stand_in,
    }


def vae_measures(rows: Sequence[Row], params: EvalParams) -> dict[str, Row]:
    """Reconstruction, with a failed clip counted as 0 dB and SSIM 0; clusters are clips."""
    stand_in = "own held-out clips, a stand-in for the paper's 1000 Panda-70M clips"
    found: dict[str, Row] = {}
    for eps in params.latent_noise:
        level = [row for row in rows if row["eps"] == eps]
        for name, unit, meaning in (
            ("psnr", "dB", f"autoencoder PSNR, mean over frames, latent noise {eps:g}"),
            ("psnr_pooled", "dB", f"autoencoder PSNR, error pooled over frames, latent noise {eps:g}"),
            ("ssim", "", f"autoencoder SSIM, latent noise {eps:g}"),
        ):
            found[f"vae/{name}@{eps:g}"] = _mean(
                level, lambda row, name=name: row[name] or 0.0, unit, meaning, stand_in, params
            )
    clean = [row for row in rows if row["eps"] == 0.0]
    found["vae/psnr_mean_colour"] = _mean(
        clean,
        lambda row: row["psnr_mean_colour"] or 0.0,
        "dB",
        "PSNR of each clip painted in its mean colour",
        stand_in,
        params,
    )
    found["vae/psnr_gain"] = _mean(
        clean,
        lambda row: (row["psnr"] or 0.0) - (row["psnr_mean_colour"] or 0.0),
        "dB",
        "PSNR over that of the mean colour",
        stand_in,
        params,
    )
    return found


def _mean(rows: Sequence[Row], value: Any, unit: str, meaning: str, stand_in: str, params: EvalParams) -> Row:
    names = [row["clip_id"] for row in rows]
    return _entry(
        mean_interval([value(row) for row in rows], names), rows, "clip_id", unit, meaning, stand_in, [params.seed]
    )


def heldout_measures(rows: Sequence[Row], params: EvalParams) -> dict[str, Row]:
    """Velocity loss on held-out clips, and its ratio to that of zero; a failed draw counts as twice zero's."""
    names = [row["clip_id"] for row in rows]
    losses = [row["loss"] if row["status"] == "ok" else 2.0 * row["zero"] for row in rows]
    (above, _), (below, _) = cluster_sums(losses, names), cluster_sums([row["zero"] for row in rows], names)
    loss, ratio = mean_interval(losses, names), ratio_interval(above, below)
    meaning = "flow-matching loss at fixed noise and times, held-out clips"
    return {
        "heldout/loss": _entry(loss, rows, "clip_id", "", meaning, seeds=[params.seed]),
        "heldout/ratio": _entry(
            ratio, rows, "clip_id", "", f"{meaning}, over that of predicting zero", seeds=[params.seed]
        ),
    }


def t2v_measures(rows: Sequence[Row], params: EvalParams) -> dict[str, Row]:
    """Each measure of the generated clips, with the same of the real clips of the same captions under `real`."""
    made = [row for row in rows if row["kind"] == "generated"]
    real = [row for row in rows if row["kind"] == "real"]
    found = {}
    for name, measure in T2V.items():
        stand_in = _stand_in(rows, measure.estimator)
        entry = _entry(_t2v_mean(made, name), made, "prompt_id", measure.unit, measure.meaning, stand_in, params.seeds)
        mean, interval = _t2v_mean(real, name)
        found[f"t2v/{name}"] = {
            **entry,
            "real": {"mean": mean, "ci95": list(interval) if interval else None, "n": len(real)},
        }
    return found


def _stand_in(rows: Sequence[Row], estimator: str) -> str:
    """What the estimators in that column stand in for; they say so in their own names."""
    names = {row[estimator] or "" for row in rows} if estimator else set()
    return "; ".join(sorted(name for name in names if "stand-in" in name))


def _t2v_mean(rows: Sequence[Row], name: str) -> tuple[float, tuple[float, float] | None]:
    worst = T2V[name].worst
    values = [row[name] if row["status"] == "ok" else worst for row in rows]
    return mean_interval(values, [row["prompt_id"] for row in rows])


def summarise(tables: dict[str, list[Row]], params: EvalParams, about: Row) -> Summary:
    """The whole summary; `about` (model, size, stand-ins, sources, digests) goes in beside the measures.

    Raises ValueError on an empty table: an evaluation of nothing has no numbers.
    """
    for name, rows in tables.items():
        if not rows:
            raise ValueError(f"the {name} table of the evaluation is empty")
    made = [row for row in tables["t2v"] if row["kind"] == "generated"]
    expected = params.prompts * params.seeds_per_prompt
    failed = sum(row["status"] != "ok" for row in made)
    measures = {
        **vae_measures(tables["vae"], params),
        **heldout_measures(tables["heldout"], params),
        **t2v_measures(tables["t2v"], params),
    }
    return {
        "schema": SCHEMA,
        **about,
        "coverage": {
            "expected": expected,
            "produced": len(made) - failed,
            "failed": failed,
            "missing": expected - len(made),
        },
        "sampling": {
            "steps": params.steps,
            "guidance": params.guidance,
            "seeds": list(params.seeds),
            "prompts": params.prompts,
        },
        "measures": measures,
    }


def dumps(summary: Summary) -> bytes:
    """Deterministic JSON; raises ValueError on NaN or infinity, which JSON does not have."""
    return (json.dumps(summary, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n").encode()
