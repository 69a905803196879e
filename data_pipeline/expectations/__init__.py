"""The rules of the data gates, as code: a suite for each boundary that tables cross, and one set for a view's shards.

Rows are judged by row where a rule looks at one (`rows`, by the rules of `ingest`, `split`, `scores` and `captions`).
What is a relation (rows in = rows out + rows with a reason, a budget, a distance from the reference batch) is first
made a table of its own, one row for each thing that is counted, so that every rule is put to the test on rows that
exist and the page shows what was seen. Sections are made one after another and from whole columns: ten million clips
are judged within the memory of one machine. `docs/gates.md` lists every rule; `document` writes that list.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from data_pipeline.expectations import balance, budgets, classes, drift, nulls, rows, selection
from data_pipeline.expectations.facts import Read, on_disk
from data_pipeline.expectations.files import files as files_of
from data_pipeline.expectations.files import readable
from data_pipeline.params import Boundary, DataParams
from infra.gates import Rule, Section

Sections = Callable[[str, Read, DataParams], Iterable[tuple[str, Section]]]


@dataclass(frozen=True)
class Suite:
    """The rules of one suite of the gate `data`, and how the tables under them are made, one after another."""

    rules: Callable[[DataParams], list[Rule]]
    sections: Sections
    asked: Callable[[DataParams], bool] = lambda params: True


def _of_rows(boundary: Boundary) -> Suite:
    of = rows.BOUNDARIES[boundary]
    return Suite(
        lambda params: [*of.of_rows(params), *of.of_tables(params)],
        lambda name, read, params: rows.sections(boundary, read, params),
    )


def _alone(make: Callable[[Read, DataParams], Section]) -> Sections:
    return lambda name, read, params: [(name, make(read, params))]


SUITES: Mapping[str, Suite] = {
    "rows": Suite(balance.rules_of_rows, _alone(balance.rows_in_and_out)),
    **{boundary: _of_rows(boundary) for boundary in rows.BOUNDARIES},
    "nulls": Suite(nulls.rules_of_nulls, _alone(nulls.nulls)),
    "budgets": Suite(budgets.rules_of_budgets, _alone(budgets.budgets)),
    "releases": Suite(budgets.rules_of_releases, _alone(budgets.releases)),
    "twins": Suite(selection.rules_of_twins, _alone(selection.twins)),
    "classes": Suite(classes.rules_of_classes, _alone(classes.classes)),
    "selection": Suite(selection.rules_of_choices, _alone(selection.choices)),
    "sources": Suite(selection.rules_of_sources, _alone(selection.sources)),
    "amounts": Suite(balance.rules_of_amounts, _alone(balance.amounts)),
    "drift": Suite(drift.rules_of_drift, _alone(drift.drift), lambda params: params.gate.reference is not None),
}


def data_sections(paths: Mapping[str, Path], root: Path, params: DataParams) -> Iterator[tuple[str, Section]]:
    """The boundary `data`, from ingest to the selection, one section after another.

    `paths`: every table by its project-relative name. Where one has other columns than its schema nothing more is
    read. ValueError for a missing table.
    """
    files = files_of(paths)
    yield "files", files
    if readable(files):
        yield from table_sections(on_disk(root, list(params.batches)), params)


def table_sections(read: Read, params: DataParams) -> Iterator[tuple[str, Section]]:
    """The sections over what stands in the tables."""
    for name, suite in SUITES.items():
        if suite.asked(params):
            yield from suite.sections(name, read, params)
            pa.default_memory_pool().release_unused()
