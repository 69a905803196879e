"""The list of every rule of the data gates, which docs/gates.md holds between two marks; a test compares the two.

python -m data_pipeline.expectations.document      # writes it anew, from the rules as params.yaml gives them
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from data_pipeline.expectations import SUITES, files, rows, sft, shards
from data_pipeline.params import DataParams
from infra.gate_page import limits_text, rule_name
from infra.gates import Rule
from infra.settings import find_root, load_section
from infra.storage import atomic_text

BEGIN, END = "<!-- rules: begin -->", "<!-- rules: end -->"
_WHAT: dict[str, str] = {
    "files": "One row a table's file. Where one is not of its schema, nothing more is read.",
    "rows": "One row a boundary: rows in = rows on + rows with a reason.",
    "ingest": "One row a video that goes on.",
    "split": "One row a clip that goes on.",
    "scores": "One row a scored clip that goes on. What may be missing is judged where it is there.",
    "captions": "One row a caption that goes on.",
    "nulls": "One row a column that may be empty now and then.",
    "budgets": "One row a boundary and reason.",
    "releases": "One row.",
    "twins": "One row a clip, with the one that stands for its copies.",
    "classes": "One row a classifier of `data.classify`, and one for any other.",
    "selection": "One row a clip.",
    "sources": "One row a source.",
    "amounts": "One row of counts.",
    "drift": "Only where `data.gate.reference` names a batch: one row for each measure of each other batch.",
    "sft": "`gate_sft`, one row a kept clip, and counts.",
    "shards": "`gate_pixels` and `gate_shards@view`, one row a sample, and counts.",
}


def listing(params: DataParams) -> str:
    """Every rule as markdown, one table a section; those that params only ask for at times are among them."""
    gate = params.gate.model_copy(update={"production": True, "reference": next(iter(params.batches))})
    asked = params.model_copy(update={"gate": gate})
    view = next(iter(asked.views.values()))
    of_shards = [*shards.rules_of_files(), *shards.rules_of_samples(view, None)]
    of_shards += [
        rule for rule in shards.rules_of_samples(view, 1) if rule not in of_shards
    ] + shards.rules_of_balance()
    suites = {"files": files.rules_of_files(), **{name: suite.rules(asked) for name, suite in SUITES.items()}}
    suites["sft"] = [*sft.rules_of_rows(), *sft.rules_of_clips(), *sft.rules_of_cells()]
    suites["shards"] = of_shards
    return "\n".join(line for name, found in suites.items() for line in _table(name, found, asked))


def _table(name: str, rules: Sequence[Rule], params: DataParams) -> Iterator[str]:
    yield from (f"### {name}", "", _WHAT[name], "", "| column | rule | limits | broken |", "|---|---|---|---|")
    by_row = _of_rows(name, params)
    for rule in rules:
        limits = f"`{rule.param}`" if rule.param else _limits(rule)
        broken = "warns" if rule.severity == "warning" else "set aside" if rule in by_row else "red"
        yield f"| `{', '.join(rule.columns)}` | {rule.about} | {limits} | {broken} |"
    yield ""


def _limits(rule: Rule) -> str:
    """The limits in words; of a rule that has none but its columns, its name."""
    bare = {key: value for key, value in rule.limits.items() if not key.startswith("column")}
    return limits_text(bare).replace("|", "\\|") or rule_name(rule.name, rule.limits)


def _of_rows(name: str, params: DataParams) -> list[Rule]:
    found: dict[str, rows.Boundary] = {str(key): value for key, value in rows.BOUNDARIES.items()}
    return found[name].of_rows(params) if name in found else []


def main() -> None:
    root = find_root(Path.cwd())
    page = root / "docs" / "gates.md"
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    found = listing(load_section(root / "params.yaml", "data", DataParams, []))
    atomic_text(page, f"{before}{BEGIN}\n{found}{END}{rest.partition(END)[2]}")


if __name__ == "__main__":
    main()
