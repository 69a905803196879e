"""Gates: rules over tables, checked by great-expectations, closed unless every one of them was seen to hold.

great-expectations passes an empty frame, an all-null column and an empty suite, and drops a rule that it cannot load.
So this wrapper adds what each rule takes for granted (rows, columns, no nulls, finite numbers), and then compares what
was evaluated with what was declared. The verdict is `green`, `red` (the data break a rule) or `broken` (the check
itself did not work); only green lets anything pass. A verdict's bytes depend on the tables and the rules alone.

Who stands below a gate calls `require`, because DVC only sees that the report exists.
"""

from __future__ import annotations

import functools
import gc
import hashlib
import json
import math
import operator
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infra.gate_page import LARGEST, is_finite, observed_text, render
from infra.storage import atomic_text, digest

if TYPE_CHECKING:
    import pandas as pd

GATES_VERSION = 2

_EXAMPLES = 20
_LARGE = 100_000  # rows
_SEVERITIES = ("critical", "warning")
_NULL_RULES = {"ExpectColumnValuesToBeNull", "ExpectColumnValuesToNotBeNull"}
_COLUMN_KEYS = ("column", "column_A", "column_B", "column_list")


class GateRed(Exception):
    """The data do not hold what the gate demands, or no verdict says that they do."""


class GateBroken(Exception):
    """The gate could not tell: a rule failed to run, or the verdict cannot be read."""


@dataclass(frozen=True)
class Rule:
    """One great-expectations expectation, by the name of its class, with its arguments.

    `about` says in words what holds where it holds, `param` which key of params.yaml sets its limits.
    """

    name: str
    limits: Mapping[str, Any]
    severity: str = "critical"
    about: str = ""
    param: str = ""

    @property
    def columns(self) -> list[str]:
        """The columns that the rule reads."""
        named = [self.limits[key] for key in _COLUMN_KEYS if key in self.limits]
        return [column for entry in named for column in ([entry] if isinstance(entry, str) else entry)]


@dataclass(frozen=True)
class Overlay:
    """Two distributions in one picture: the share of each that falls into equal bins from `low` to `high`."""

    title: str
    low: float
    high: float
    shares: Mapping[str, Sequence[float]]  # by the name of the distribution, the reference first


@dataclass(frozen=True)
class Section:
    """A table under its rules. A column in `nullable` may hold nulls; any other that a rule reads may not.

    `shown`: the table is small and of counts, and stands in the verdict and on its page.
    """

    frame: pd.DataFrame
    rules: Sequence[Rule]
    key_column: str
    nullable: Sequence[str] = ()
    pictures: Sequence[Overlay] = ()
    shown: bool = False


@dataclass(frozen=True)
class Verdict:
    """What a gate found. `tables` maps paths to digests, `sections` holds rows and each rule's result as plain JSON."""

    boundary: str
    verdict: str
    tables: Mapping[str, str]
    sections: Mapping[str, Mapping[str, Any]]
    context: Mapping[str, Any]
    params: str
    problems: Sequence[str] = field(default_factory=list)

    def failures(self, severity: str = "critical") -> list[str]:
        """The failing rules of a severity, one phrase each."""
        return [
            _phrase(name, rule)
            for name, section in self.sections.items()
            for rule in section["rules"]
            if not rule["ok"] and rule["severity"] == severity
        ]


def expect(name: str, severity: str = "critical", *, about: str = "", param: str = "", **limits: Any) -> Rule:
    """A rule by the name of its great-expectations class, such as "ExpectColumnValuesToBeBetween".

    A `critical` rule that fails makes the verdict red, a `warning` is only shown. ValueError for another severity.
    """
    if severity not in _SEVERITIES:
        raise ValueError(f"{name}: severity {severity!r} is not one of {', '.join(_SEVERITIES)}")
    return Rule(name, limits, severity, about, param)


def evaluate(
    boundary: str,
    sections: Mapping[str, Section] | Iterable[tuple[str, Section]],
    tables: Mapping[str, str],
    context: Mapping[str, Any] | None = None,
) -> Verdict:
    """Check every section and give the verdict; never raises for what the data hold.

    Sections may come one after another, so that the frame of only one is in memory. `tables` maps the
    project-relative path of each table (file or folder) to its `infra.storage.digest`: a reader compares them.
    `context` is kept in the verdict and its params digest (plain JSON: the settings that were in force).
    """
    results: dict[str, dict[str, Any]] = {}
    declared: dict[str, Sequence[Rule]] = {}
    problems: list[str] = []
    for name, section in sections.items() if isinstance(sections, Mapping) else sections:
        results[name], found = _check_section(section)
        declared[name] = section.rules
        large = len(section.frame) > _LARGE
        del section  # or its frame would stand beside that of the next;
        if large:  # great-expectations' objects are rings that hold it, too
            gc.collect()
        problems += [f"{name}: {problem}" for problem in found]
    problems += [] if declared else ["no section was declared"]
    red = any(not rule["ok"] and rule["severity"] == "critical" for s in results.values() for rule in s["rules"])
    return Verdict(
        boundary=boundary,
        verdict="broken" if problems else "red" if red else "green",
        tables=dict(sorted(tables.items())),
        sections=results,
        context=_plain(context or {}),
        params=_params_digest(declared, context or {}),
        problems=problems,
    )


def write(verdict: Verdict, path: Path) -> None:
    """Write the verdict as JSON to `path`, and as a page that reads well offline to `page_path(path)`."""
    atomic_text(path, json.dumps(_document(verdict), indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    atomic_text(page_path(path), render(_document(verdict)))


def page_path(path: Path) -> Path:
    """Where the page of the verdict at `path` lies: reports/gates/data.json -> reports/gates-pages/data.html.

    Beside the folder, not in it: stages depend on the folder of verdicts, and DVC restores verdicts but not pages.
    """
    return path.parent.with_name(path.parent.name + "-pages") / f"{path.stem}.html"


def read(path: Path) -> Verdict:
    """The verdict at `path`. GateRed if there is none, GateBroken if it cannot be understood."""
    if not path.is_file():
        raise GateRed(f"{path.name}: there is no verdict at {path}; run its gate first")
    try:
        document = json.loads(path.read_bytes())
        verdict = Verdict(**document)
        if verdict.verdict not in ("green", "red", "broken") or not isinstance(verdict.tables, dict):
            raise ValueError(f"verdict {verdict.verdict!r}")
        verdict.failures()
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise GateBroken(f"{path}: the verdict cannot be read ({type(error).__name__}); run its gate again") from error
    return verdict


def check(verdict: Verdict) -> None:
    """Raise GateBroken or GateRed, naming what failed, unless the verdict is green."""
    if verdict.verdict == "broken":
        raise GateBroken(f"gate {verdict.boundary} is broken: {_some(verdict.problems)}")
    if verdict.verdict != "green":
        raise GateRed(f"gate {verdict.boundary} is red: {_some(verdict.failures())}")


def require(verdict_path: Path, *, tables: Mapping[str, Path]) -> None:
    """Pass only if the verdict is green and was given on exactly the tables about to be read.

    `tables` maps the paths as the gate named them to where they lie. Raises GateRed if the verdict is missing, red or
    stale, GateBroken if it is broken or unreadable, FileNotFoundError if a table is not there.
    """
    verdict = read(verdict_path)
    check(verdict)
    for name, path in tables.items():
        if not path.exists():
            raise FileNotFoundError(f"{path}: no such table")
        if name not in verdict.tables:
            raise GateRed(f"gate {verdict.boundary} is stale: its verdict does not cover {name}; run it again")
        if digest(path) != verdict.tables[name]:
            raise GateRed(f"gate {verdict.boundary} is stale: {name} changed since it was checked; run it again")


def _check_section(section: Section) -> tuple[dict[str, Any], list[str]]:
    """The section as plain JSON, and what kept it from being checked."""
    if not section.rules:
        return {"rows": len(section.frame), "rules": []}, ["no rule was declared"]
    try:
        rules = [*_taken_for_granted(section), *section.rules]
        found, problems = _run(section, rules)
    except Exception as error:  # whatever a checker dies of, the gate stays closed and says so
        return {"rows": len(section.frame), "rules": []}, [f"the check did not run: {_first_line(error)}"]
    if section.frame.empty:
        problems.insert(0, "the table is empty, so no rule was put to the test")
    return {"rows": len(section.frame), "rules": found, **_exhibits(section)}, problems


def _exhibits(section: Section) -> dict[str, Any]:
    """What of a section is shown beside its rules."""
    found: dict[str, Any] = {}
    if section.pictures:
        found["pictures"] = [_plain(vars(picture)) for picture in section.pictures]
    if section.shown:
        found["table"] = [_plain(row) for row in section.frame.to_dict("records")]
    return found


def _taken_for_granted(section: Section) -> list[Rule]:
    """What the declared rules presuppose: rows, their columns, no nulls in a column read row by row, finite numbers."""
    columns = dict.fromkeys([section.key_column, *(column for rule in section.rules for column in rule.columns)])
    read_by_row = dict.fromkeys(
        [section.key_column, *(column for rule in section.rules if _by_row(rule) for column in rule.columns)]
    )
    return [
        expect("ExpectTableRowCountToBeBetween", min_value=1),
        *(expect("ExpectColumnToExist", column=column) for column in columns),
        *(
            expect("ExpectColumnValuesToNotBeNull", column=column)
            for column in read_by_row
            if column not in section.nullable and not _declared(section.rules, column)
        ),
        *(
            expect("ExpectColumnValuesToBeBetween", column=column, min_value=-LARGEST, max_value=LARGEST)
            for column in columns
            if column in section.frame
            and section.frame[column].dtype.kind == "f"
            and section.frame[column].notna().any()
        ),
    ]


def _declared(rules: Iterable[Rule], column: str) -> bool:
    return any(rule.name in _NULL_RULES and rule.columns == [column] for rule in rules)


def _by_row(rule: Rule) -> bool:
    """True for a rule over single rows (a map expectation): those skip nulls in silence."""
    from great_expectations.expectations.expectation import (
        ColumnMapExpectation,
        ColumnPairMapExpectation,
        MulticolumnMapExpectation,
    )

    return issubclass(_expectation(rule), (ColumnMapExpectation, ColumnPairMapExpectation, MulticolumnMapExpectation))


def _expectation(rule: Rule) -> Any:
    """The expectation's class, from great-expectations' own register. ValueError if it knows none of that name."""
    import great_expectations.expectations.core  # noqa: F401  (fills the register)
    from great_expectations.expectations.registry import get_expectation_impl

    snake = re.sub(r"(?<!^)(?=[A-Z])", "_", rule.name).lower()
    try:
        return get_expectation_impl(snake)
    except Exception as error:
        raise ValueError(f"{rule.name}: great-expectations knows no such expectation") from error


def _run(section: Section, rules: Sequence[Rule]) -> tuple[list[dict[str, Any]], list[str]]:
    """Evaluate the rules in one suite and bring the results back into the order of declaration."""
    results: dict[int, Any] = {}
    problems = []
    for result in _results(section, rules):
        index = int((result.expectation_config.meta or {}).get("rule", -1))
        if index in results or index not in range(len(rules)):
            problems.append(f"a result belongs to no declared rule: {result.expectation_config.type}")
            continue
        results[index] = result
    found = []
    for index, rule in enumerate(rules):
        entry, problem = _result(rule, results.get(index), section)
        found.append(entry)
        problems += [problem] if problem else []
    return found, problems


def _results(section: Section, rules: Sequence[Rule]) -> list[Any]:
    """great-expectations' own results, by its validator alone.

    Its data sources would take a fingerprint of every frame, which takes longer than all rules together, and its
    checkpoints would store and compare documents that nobody reads here.
    """
    from great_expectations.execution_engine.pandas_execution_engine import PandasExecutionEngine
    from great_expectations.validator.validator import Validator

    engine = PandasExecutionEngine()
    engine.load_batch_data("rows", section.frame)
    wanted = [
        _expectation(rule)(**rule.limits, severity=rule.severity, meta={"rule": index}).configuration
        for index, rule in enumerate(rules)
    ]
    # BASIC: a list of all failing rows would cost minutes and gigabytes where all of them fail
    found: list[Any] = Validator(execution_engine=engine, data_context=_silent()).graph_validate(
        configurations=wanted, runtime_configuration={"result_format": "BASIC"}
    )
    return found


@functools.cache
def _silent() -> Any:
    """A context that holds nothing but the wish for no progress bars."""
    import great_expectations as gx
    from great_expectations.data_context.types.base import ProgressBarsConfig

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    return context


def _result(rule: Rule, result: Any, section: Section) -> tuple[dict[str, Any], str | None]:
    """A rule's result as plain JSON, and the reason if it was not really evaluated."""
    entry: dict[str, Any] = {
        "rule": rule.name,
        "column": ", ".join(rule.columns) or None,
        "limits": {key: _plain(value) for key, value in rule.limits.items() if key not in _COLUMN_KEYS},
        "severity": rule.severity,
        "about": rule.about,
        "param": rule.param,
        "ok": False,
        "observed": None,
        "unexpected_count": None,
        "examples": [],
    }
    if result is None:
        return entry, f"{_label(rule)} was not evaluated"
    if failure := _exception(result.exception_info):
        return entry, f"{_label(rule)} failed to run: {failure}"
    found = result.result or {}
    if result.success is not True and result.success is not False:
        return entry, f"{_label(rule)} gave no answer"
    if result.success and "element_count" not in found and "observed_value" not in found and not _existence(rule):
        return entry, f"{_label(rule)} passed without looking at anything"
    entry["ok"] = result.success
    entry["observed"] = _plain(found["observed_value"] if "observed_value" in found else _seen(rule, section.frame))
    entry["unexpected_count"] = _plain(found.get("unexpected_count"))
    entry["examples"] = _examples(rule, found, section)
    return entry, None


def _seen(rule: Rule, frame: pd.DataFrame) -> Any:
    """What a rule over rows looked at: the value itself in a table of one row, else the column's range, or how many.

    Great-expectations tells only how many values there were, and "1" says nothing of a loss.
    """
    columns = [column for column in rule.columns if column in frame]
    if not columns:
        return None
    if len(frame) == 1:
        row = ["null" if value is None else value for value in (frame[column].iloc[0] for column in columns)]
        return row[0] if len(row) == 1 else row
    values = frame[columns[0]]
    if len(columns) == 1 and values.dtype.kind in "iuf" and values.notna().any():
        return {"lowest": values.min(), "highest": values.max()}
    return {"values": len(frame)}


def _existence(rule: Rule) -> bool:
    return rule.name == "ExpectColumnToExist"


def _exception(info: Any) -> str | None:
    """The first message in great-expectations' exception info, which is one record or one for each metric."""
    if not info or info.get("raised_exception") is False:
        return None
    records = [info] if "raised_exception" in info else [record for record in info.values() if isinstance(record, dict)]
    messages = sorted(_first_line(record.get("exception_message")) for record in records)
    return messages[0] if messages else "unknown error"


def _examples(rule: Rule, found: Mapping[str, Any], section: Section) -> list[Any]:
    """Keys of the first rows that fail: those whose values are among the failing ones that were told."""
    columns, frame = rule.columns, section.frame
    if not found.get("unexpected_count") or section.key_column not in frame:
        return []
    told = {_values(entry, columns) for entry in found.get("partial_unexpected_list") or []}
    failing = [False] * len(frame)
    for values in sorted(told, key=str):
        failing |= _all_equal(frame, columns, values)
    return [_plain(key) for key in frame[section.key_column][failing].head(_EXAMPLES)]


def _values(entry: Any, columns: Sequence[str]) -> tuple[Any, ...]:
    """A failing entry as great-expectations tells it (a value, a pair, a mapping), one value a column, null as None."""
    if isinstance(entry, Mapping):
        entry = tuple(entry[column] for column in columns)
    values = entry if len(columns) > 1 else (entry,)
    return tuple(None if value is None or value != value else value for value in values)


def _all_equal(frame: pd.DataFrame, columns: Sequence[str], values: Sequence[Any]) -> Any:
    equal = [
        frame[c].isna() if v is None else (frame[c] == v).fillna(False) for c, v in zip(columns, values, strict=True)
    ]
    return functools.reduce(operator.and_, equal).to_numpy(bool)


def _first_line(message: Any) -> str:
    """The message without what differs from run to run (addresses, the rest of a traceback)."""
    lines = str(message).strip().splitlines() or [type(message).__name__]
    return re.sub(r"0x[0-9a-fA-F]+", "0x…", lines[0])[:200]


def _label(rule: Rule) -> str:
    return f"{rule.name}({', '.join(rule.columns)})"


def _phrase(section: str, rule: Mapping[str, Any]) -> str:
    limits = "finite" if is_finite(rule["limits"]) else _listed(rule["limits"])
    count, observed = rule["unexpected_count"], rule["observed"]
    seen = f"{count} rows" if count and isinstance(observed, Mapping) else f"observed {observed_text(observed)}"
    examples = f", first {', '.join(map(str, rule['examples'][:3]))}" if rule["examples"] else ""
    set_by = f" [{rule['param']}]" if rule.get("param") else ""
    wanted = f"; wanted: {rule['about']}" if rule.get("about") else ""
    name = f"{rule['rule']}({rule['column'] or ''})"
    return f"{section}: {name} {limits}{set_by}: {seen}{examples}{wanted}".replace(" :", ":")


def _listed(limits: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in limits.items())


def _some(phrases: Sequence[str]) -> str:
    more = f"; and {len(phrases) - 5} more" if len(phrases) > 5 else ""
    return "; ".join(phrases[:5]) + more


def _document(verdict: Verdict) -> dict[str, Any]:
    return {
        "boundary": verdict.boundary,
        "verdict": verdict.verdict,
        "problems": list(verdict.problems),
        "tables": dict(verdict.tables),
        "params": verdict.params,
        "context": dict(verdict.context),
        "sections": dict(verdict.sections),
    }


def _params_digest(declared: Mapping[str, Sequence[Rule]], context: Mapping[str, Any]) -> str:
    rules = {
        name: [[r.name, _plain(r.limits), r.severity] for r in of_section] for name, of_section in declared.items()
    }
    text = json.dumps([GATES_VERSION, rules, _plain(context)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _plain(value: Any) -> Any:
    """`value` as plain JSON: numpy scalars and arrays by their Python value, a number that is none by its name."""
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted((_plain(entry) for entry in value), key=str)
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)
