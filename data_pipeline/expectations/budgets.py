"""What may be refused or set aside: a budget for each reason at each boundary, as a share of the boundary's rows."""

from __future__ import annotations

from collections import Counter

import pandas as pd
import pyarrow.compute as pc

from data_pipeline.expectations.facts import Read
from data_pipeline.expectations.rows import BOUNDARIES, CODE
from data_pipeline.expectations.rules import above, within
from data_pipeline.params import OTHERS, DataParams
from infra.gates import Rule, Section


def rules_of_budgets(params: DataParams) -> list[Rule]:
    about = "no more of a boundary's rows are refused or set aside for a reason than its budget"
    return [above("budget", "share", about, or_equal=True, param="data.gate.budgets")]


def budgets(read: Read, params: DataParams) -> Section:
    """One row for each budget and each reason met; what was released by name costs nothing."""
    listed = read("quarantine", ["boundary", "reason", "released"])
    listed = listed.filter(pc.invert(listed.column("released")))
    told = pc.extract_regex(listed.column("reason"), r"^(?P<code>[A-Z][A-Z0-9_]*)")
    reasons = pc.fill_null(pc.struct_field(told, "code"), OTHERS).to_pylist()
    met = Counter(zip(listed.column("boundary").to_pylist(), reasons, strict=True))
    rows = []
    for boundary, of in BOUNDARIES.items():
        budget = params.gate.budgets[boundary]
        every = max(1, len(read(of.table, ["reason"])))
        for reason in sorted({CODE, *budget} | {code for where, code in met if where == boundary}):
            share = met[boundary, reason] / every
            most = budget.get(reason, 0.0 if reason == CODE else budget[OTHERS])
            told_of = f"{boundary} {reason}: {met[boundary, reason]} of {every}"
            rows.append({"reason": told_of, "share": share, "budget": most})
    return Section(pd.DataFrame(rows), rules_of_budgets(params), "reason", shown=True)


def rules_of_releases(params: DataParams) -> list[Rule]:
    return [
        within("unfounded", 0, 0, "nothing is released that params do not name", "data.gate.released"),
        within("without_effect", 0, 0, "whatever params release breaks a rule", "data.gate.released", "warning"),
    ]


def releases(read: Read, params: DataParams) -> Section:
    listed = read("quarantine", ["key", "reason", "released"])
    free = set(listed.column("key").filter(listed.column("released")).to_pylist())
    named = set(params.gate.released)
    counts = {"unfounded": len(free - named), "without_effect": len(named - free)}
    return Section(
        pd.DataFrame([{"released": ", ".join(sorted(free ^ named)) or "as named", **counts}]),
        rules_of_releases(params),
        "released",
    )
