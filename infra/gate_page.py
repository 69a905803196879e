"""The page of a gate's verdict: one HTML file that needs nothing else, failures first, then every rule."""

from __future__ import annotations

import html
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

LARGEST = sys.float_info.max  # between its negative and itself lies every finite number
_NAMES = {
    "ExpectColumnPairValuesAToBeGreaterThanB": "the first is greater than the second",
    "ExpectColumnPairValuesToBeEqual": "both are equal",
    "ExpectColumnToExist": "the column exists",
    "ExpectColumnValuesToBeBetween": "each value within limits",
    "ExpectColumnValuesToBeInSet": "each value is one of",
    "ExpectColumnValuesToBeUnique": "no value twice",
    "ExpectColumnValuesToNotBeNull": "no value is missing",
    "ExpectCompoundColumnsToBeUnique": "no combination twice",
    "ExpectTableRowCountToBeBetween": "number of rows within limits",
    "ExpectTableRowCountToEqual": "number of rows",
}
_WORDS = {
    "green": "every rule holds; what follows may go on",
    "red": "the data break a rule; nothing below this gate runs",
    "broken": "the check itself did not work; nothing below this gate runs",
}
_STYLE = """
:root { color-scheme: light dark; --line: #8884; --green: #1a7f4b; --red: #c22f2f; --broken: #9a5b00; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
header { border-left: .6rem solid var(--tone); padding: .2rem 1rem; }
header p { margin: .2rem 0; }
.verdict { font-size: 2.6rem; font-weight: 700; color: var(--tone); text-transform: uppercase; letter-spacing: .04em; }
.green { --tone: var(--green); } .red { --tone: var(--red); } .broken { --tone: var(--broken); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; padding: .35rem .6rem; border-bottom: 1px solid var(--line); }
td:nth-child(n+4) { overflow-wrap: break-word; }
td:nth-child(-n+3) { white-space: nowrap; }
td small { display: block; opacity: .75; white-space: normal; max-width: 26rem; }
details { margin: .6rem 0; } summary { opacity: .75; cursor: pointer; }
figure { display: inline-block; margin: .5rem 1.5rem .5rem 0; } figcaption { font-size: .85em; max-width: 22rem; }
svg text { font-size: 11px; fill: currentColor; } svg .axis { stroke: currentColor; }
.first { fill: #8886; } .second { fill: none; stroke: #2a6fdb; stroke-width: 2; }
th { font-weight: 600; } code { font-size: .85em; overflow-wrap: break-word; }
.no, .warn { font-weight: 600; }
.no { color: var(--red); } .warn { color: var(--broken); } .yes { color: var(--green); }
"""


def render(document: Mapping[str, Any]) -> str:
    """The HTML of a verdict as infra.gates writes it to JSON. Equal verdicts give equal bytes."""
    verdict = str(document["verdict"])
    sections = document["sections"]
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>gate {_text(document['boundary'])}: {verdict}</title><style>{_STYLE}</style></head><body>",
        f'<header class="{verdict}"><h1>Gate {_text(document["boundary"])}</h1><p class="verdict">{verdict}</p>'
        f"<p>{_WORDS[verdict]}. {_tally(sections)}</p></header>",
        _problems(document["problems"]),
        _failures(sections),
        *(_section(name, section) for name, section in sections.items()),
        _digests(document),
        "</body></html>\n",
    ]
    return "\n".join(part for part in parts if part)


def _tally(sections: Mapping[str, Any]) -> str:
    rules = [rule for section in sections.values() for rule in section["rules"]]
    failed = sum(not rule["ok"] for rule in rules)
    return f"{len(rules) - failed} of {len(rules)} rules hold, over {len(sections)} table(s)."


def _problems(problems: list[str]) -> str:
    if not problems:
        return ""
    return "<h2>What did not work</h2><ul>" + "".join(f"<li>{_text(problem)}</li>" for problem in problems) + "</ul>"


def _failures(sections: Mapping[str, Any]) -> str:
    failed = [(name, rule) for name, section in sections.items() for rule in section["rules"] if not rule["ok"]]
    if not failed:
        return ""
    failed.sort(key=lambda pair: str(pair[1]["severity"]))  # critical before warning
    rows = "".join(f"<tr><td>{_text(name)}</td>{_cells(rule)}<td>{_examples(rule)}</td></tr>" for name, rule in failed)
    return _table("What does not hold", "<th>table</th>" + _HEAD + "<th>first rows</th>", rows)


_HEAD = "<th></th><th>rule</th><th>column</th><th>limits</th><th>observed</th><th>rows against it</th>"


def _section(name: str, section: Mapping[str, Any]) -> str:
    told = [rule for rule in section["rules"] if rule.get("about")] or section["rules"]
    taken = [rule for rule in section["rules"] if rule not in told]
    return "".join(
        [
            f"<h2>{_text(name)}: {section['rows']:,} rows</h2>",
            _grid(_HEAD, (_cells(rule) for rule in told)),
            _counts(section.get("table", [])),
            *(overlay(picture) for picture in section.get("pictures", [])),
            _granted(taken),
        ]
    )


def _counts(table: Sequence[Mapping[str, Any]]) -> str:
    """A small table as it is."""
    if not table:
        return ""
    head = "".join(f"<th>{_text(column)}</th>" for column in table[0])
    return _grid(head, ("".join(f"<td>{_text(_short(value))}</td>" for value in row.values()) for row in table))


def _granted(rules: Sequence[Mapping[str, Any]]) -> str:
    """What the declared rules presuppose, folded away where there are others to read."""
    if not rules:
        return ""
    held = sum(rule["ok"] for rule in rules)
    told = f"{held} of {len(rules)} rules hold that these take for granted: rows, columns, no nulls, finite numbers"
    return f"<details><summary>{told}</summary>{_grid(_HEAD, (_cells(rule) for rule in rules))}</details>"


_WIDTH, _HEIGHT, _FOOT = 340, 110, 16


def overlay(picture: Mapping[str, Any]) -> str:
    """Two distributions over one axis: the first as a grey area, the second as a line."""
    (first, area), (second, line) = picture["shares"].items()
    top = max(*area, *line, 1e-9)
    paths = f'<path class="first" d="{_steps(area, top)} Z"/><path class="second" d="{_steps(line, top)}"/>'
    ends = (
        f'<text x="0" y="{_HEIGHT + 13}">{_text(_short(picture["low"]))}</text>'
        f'<text x="{_WIDTH}" y="{_HEIGHT + 13}" text-anchor="end">{_text(_short(picture["high"]))}</text>'
    )
    axis = f'<line class="axis" x1="0" y1="{_HEIGHT}" x2="{_WIDTH}" y2="{_HEIGHT}"/>'
    return (
        f'<figure><svg width="{_WIDTH}" height="{_HEIGHT + _FOOT}" role="img" aria-label="{_text(picture["title"])}">'
        f"{paths}{axis}{ends}</svg><figcaption>{_text(picture['title'])}<br>grey: {_text(first)}, line: {_text(second)}"
        "</figcaption></figure>"
    )


def _steps(shares: Sequence[float], top: float) -> str:
    """The outline of a histogram as an SVG path, from the axis at the left to the axis at the right."""
    width = _WIDTH / len(shares)
    corners = [f"M0 {_HEIGHT}"]
    for at, share in enumerate(shares):
        y = round(_HEIGHT - share / top * (_HEIGHT - 4), 1)
        corners.append(f"L{round(at * width, 1)} {y} L{round((at + 1) * width, 1)} {y}")
    return " ".join([*corners, f"L{_WIDTH} {_HEIGHT}"])


def _cells(rule: Mapping[str, Any]) -> str:
    mark = "yes" if rule["ok"] else "warn" if rule["severity"] == "warning" else "no"
    word = {"yes": "holds", "warn": "warning", "no": "fails"}[mark]
    name = f'<span title="{_text(rule["rule"])}">{_text(rule_name(str(rule["rule"]), rule["limits"]))}</span>'
    about = f"<small>{_text(rule['about'])}</small>" if rule.get("about") else ""
    param = f"<small><code>{_text(rule['param'])}</code></small>" if rule.get("param") else ""
    column, limits, observed, count = (
        _text(_short(value))
        for value in (
            rule["column"],
            limits_text(rule["limits"]),
            observed_text(rule["observed"]),
            rule["unexpected_count"],
        )
    )
    return (
        f'<td class="{mark}">{word}</td><td>{name}{about}</td><td>{column}</td><td>{limits}{param}</td>'
        f"<td>{observed}</td><td>{count}</td>"
    )


def rule_name(rule: str, limits: Mapping[str, Any]) -> str:
    """The rule in words: those of `_NAMES`, else the words that its own name is made of."""
    if limits.get("or_equal"):
        return "the first is at least the second"
    spelled = re.sub(r"(?<!^)(?=[A-Z])", " ", rule.removeprefix("Expect")).lower()
    return _NAMES.get(rule, spelled.replace(" to ", " "))


def is_finite(limits: Mapping[str, Any]) -> bool:
    """True for limits that only shut out what is no finite number."""
    return limits.get("min_value") == -LARGEST and limits.get("max_value") == LARGEST


def limits_text(limits: Mapping[str, Any]) -> str:
    """The limits in words: `0.2 to 1`, `at least 3`, `at most 30`, `finite`; others by their names."""
    said = [f"{key} {_short(value)}" for key, value in limits.items() if key not in _LIMITS]
    values = limits.get("value_set", [limits["value"]] if "value" in limits else [])
    words = [", ".join(map(_short, values)), _range(limits), *said]
    return ", ".join(word for word in words if word)


_LIMITS = ("min_value", "max_value", "value", "value_set", "or_equal")


def _range(limits: Mapping[str, Any]) -> str:
    low, high = limits.get("min_value"), limits.get("max_value")
    if is_finite(limits):
        return "finite"
    if low is None:
        return "" if high is None else f"at most {_short(high)}"
    if high is None:
        return f"at least {_short(low)}"
    return _short(low) if low == high else f"{_short(low)} to {_short(high)}"


def observed_text(observed: Any) -> str:
    """What a rule saw, in words: a value, several, the range of a column, or how many values there were."""
    if isinstance(observed, Mapping):
        if "lowest" in observed:
            return f"{_short(observed['lowest'])} to {_short(observed['highest'])}"
        return f"{observed['values']} values" if "values" in observed else str(dict(observed))
    if isinstance(observed, list):
        return ", ".join(map(_short, observed))
    return _short(observed)


def _examples(rule: Mapping[str, Any]) -> str:
    return ", ".join(f"<code>{_text(example)}</code>" for example in rule["examples"])


def _digests(document: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<tr><td>{_text(path)}</td><td><code>{_text(value)}</code></td></tr>"
        for path, value in document["tables"].items()
    )
    rows += f"<tr><td>rules and settings</td><td><code>{_text(document['params'])}</code></td></tr>"
    return _table("What was checked", "<th>table</th><th>sha256</th>", rows)


def _table(title: str, head: str, rows: str) -> str:
    return f"<h2>{title}</h2>{_frame(head, rows)}"


def _grid(head: str, rows: Iterable[str]) -> str:
    return _frame(head, "".join(f"<tr>{row}</tr>" for row in rows))


def _frame(head: str, rows: str) -> str:
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'


def _short(value: Any) -> str:
    if value is None:
        return ""
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 120 else text[:117] + "…"


def _text(value: Any) -> str:
    return html.escape(str(value))
