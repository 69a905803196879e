"""Rules over one column or two, as every boundary states them, and which rows of a table break one.

great-expectations judges. `breaking` says the same of whole columns at once and by row, which the quarantine needs to
set aside exactly the rows that fail; the gate then judges what goes on, so that the two may never differ unseen.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_pipeline.columns import Bools
from infra.gates import Rule, expect


def within(
    column: str, low: float | None, high: float | None, about: str, param: str = "", severity: str = "critical"
) -> Rule:
    limits = {name: value for name, value in (("min_value", low), ("max_value", high)) if value is not None}
    return expect("ExpectColumnValuesToBeBetween", severity, about=about, param=param, column=column, **limits)


def one_of(column: str, values: Sequence[Any], about: str, param: str = "") -> Rule:
    return expect("ExpectColumnValuesToBeInSet", about=about, param=param, column=column, value_set=list(values))


def matches(column: str, pattern: str, about: str, param: str = "") -> Rule:
    return expect("ExpectColumnValuesToMatchRegex", about=about, param=param, column=column, regex=pattern)


def differs(column: str, pattern: str, about: str, param: str = "") -> Rule:
    return expect("ExpectColumnValuesToNotMatchRegex", about=about, param=param, column=column, regex=pattern)


def above(a: str, b: str, about: str, *, or_equal: bool = False, param: str = "") -> Rule:
    return expect(
        "ExpectColumnPairValuesAToBeGreaterThanB", about=about, param=param, column_A=a, column_B=b, or_equal=or_equal
    )


def equal(a: str, b: str, about: str) -> Rule:
    return expect("ExpectColumnPairValuesToBeEqual", about=about, column_A=a, column_B=b)


def breaking(rule: Rule, table: pa.Table, nullable: Collection[str] = ()) -> Bools:
    """Of each row, whether it breaks the rule. A null breaks it unless its column is in `nullable`, infinity always."""
    columns = [_plain(table.column(name)) for name in rule.columns]
    missing = [_missing(column) for column in columns]
    absent = np.logical_and.reduce(missing)
    infinite = np.logical_or.reduce([_infinite(column) for column in columns])
    held = _filled(_HOLDS[rule.name](rule, *columns))
    demanded = [gone for gone, name in zip(missing, rule.columns, strict=True) if name not in nullable]
    broken: Bools = infinite | (~held & ~absent) | np.logical_or.reduce([np.zeros(len(table), bool), *demanded])
    return broken


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column


def _between(rule: Rule, column: pa.ChunkedArray) -> pa.ChunkedArray:
    low, high = rule.limits.get("min_value", -np.inf), rule.limits.get("max_value", np.inf)
    return pc.and_(pc.greater_equal(column, pa.scalar(float(low))), pc.less_equal(column, pa.scalar(float(high))))


def _in_set(rule: Rule, column: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.is_in(column, value_set=pa.array(rule.limits["value_set"], column.type))


def _greater(rule: Rule, a: pa.ChunkedArray, b: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.greater_equal(a, b) if rule.limits["or_equal"] else pc.greater(a, b)


def _regex(rule: Rule, column: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.match_substring_regex(column, rule.limits["regex"])


_HOLDS: Mapping[str, Callable[..., pa.ChunkedArray]] = {
    "ExpectColumnValuesToBeBetween": _between,
    "ExpectColumnValuesToBeInSet": _in_set,
    "ExpectColumnValuesToMatchRegex": _regex,
    "ExpectColumnPairValuesAToBeGreaterThanB": _greater,
}


def _filled(column: pa.ChunkedArray) -> Bools:
    return cast(Bools, pc.fill_null(column, False).to_numpy(zero_copy_only=False).astype(bool))


def _missing(column: pa.ChunkedArray) -> Bools:
    return cast(Bools, column.is_null(nan_is_null=True).to_numpy(zero_copy_only=False))


def _infinite(column: pa.ChunkedArray) -> Bools:
    if not pa.types.is_floating(column.type):
        return np.zeros(len(column), bool)
    return _filled(pc.is_inf(column))
