"""The report's pictures of numbers, as inline SVG and bars: they print, scale, and need no script."""

from __future__ import annotations

import math
from collections.abc import Sequence

from data_pipeline.report.figures import Histogram
from infra.html import Safe, el

WIDTH, TALL, FOOT, HEAD = 420, 84, 20, 20


def count(number: int) -> str:
    return f"{number:,}"


def share(part: int, whole: int) -> str:
    """`3.1 %`; `<0.1 %` rather than a nought that is none."""
    if not whole or not part:
        return "0 %"
    percent = 100 * part / whole
    return "<0.1 %" if percent < 0.05 else f"{percent:.1f} %" if percent < 99.95 or part == whole else ">99.9 %"


def bars(rows: Sequence[tuple[str, int]], *, unit: str) -> Safe:
    """A list of names, each with a bar over the same scale and its number."""
    most = max([1, *(number for _, number in rows)])
    lines = [
        el(
            "li",
            el("span", name),
            el("span", el("i", style=f"width:{100 * number / most:.2f}%"), class_="bar", aria_hidden="true"),
            el("b", count(number), el("span", f" {unit}", class_="unseen")),
        )
        for name, number in rows
    ]
    return el("ol", lines, class_="bars")


def histogram(one: Histogram, name: str) -> Safe:
    """Bins as bars, those beyond a threshold in another colour, the thresholds as lines with their values."""
    low, high = one.span
    step, tallest = WIDTH / len(one.counts), max(1, *one.counts)
    least, most = one.bounds or (-math.inf, math.inf)
    drawn = [
        el(
            "rect",
            el("title", f"{low + at * (high - low) / len(one.counts):.4g}: {count(number)} clips"),
            class_="out" if not least <= low + (at + 0.5) * (high - low) / len(one.counts) <= most else "in",
            x=round(at * step + 0.5, 2),
            y=round(TALL - _height(number, tallest), 2),
            width=round(step - 1, 2),
            height=round(_height(number, tallest), 2),
        )
        for at, number in enumerate(one.counts)
        if number
    ]
    axis = el("line", class_="grid", x1=0, x2=WIDTH, y1=TALL, y2=TALL)
    ends = [
        el("text", f"{low:.3g}", x=0, y=TALL + 16),
        el("text", f"{high:.3g}", x=WIDTH, y=TALL + 16, text_anchor="end"),
    ]
    marks = [_mark(end, low, high) for end in sorted({least, most}) if low <= end <= high]
    said = f"{name}, {one.source}: {count(one.rows)} clips from {low:.3g} to {high:.3g}"
    return el(
        "svg", drawn, axis, ends, marks, viewBox=f"0 0 {WIDTH} {TALL + FOOT}", role="img", aria_label=said,
        class_="chart histogram",
    )  # fmt: skip


def _height(number: int, tallest: int) -> float:
    """At least one pixel: a bin with a single clip is to be seen."""
    return max(1.0, (TALL - HEAD) * number / tallest)


def _mark(value: float, low: float, high: float) -> Safe:
    x = round((value - low) / (high - low) * WIDTH, 2)
    right = x > WIDTH * 0.8
    label = el("text", f"{value:g}", x=x - 4 if right else x + 4, y=12, text_anchor="end" if right else "start")
    return el("g", el("line", x1=x, x2=x, y1=0, y2=TALL), label, class_="mark")
