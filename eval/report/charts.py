"""Charts as inline SVG: they print, scale, open from disk and need no script. Colours are CSS classes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from infra.html import Safe, el

LEFT, RIGHT, TOP, BOTTOM = 46, 14, 12, 40


@dataclass(frozen=True)
class Series:
    """A line through (x, y), with a band from low to high where both are given; `style` is a CSS class."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    style: str
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    dots: bool = True


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round numbers covering low..high."""
    span = (high - low) or abs(high) or 1.0
    raw = span / count
    size = 10.0 ** math.floor(math.log10(raw))
    step = next(s * size for s in (1, 2, 2.5, 5, 10) if s * size >= raw)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [round(i * step, 12) for i in range(first, max(last, first + 1) + 1)]


@dataclass(frozen=True)
class _Axes:
    x: tuple[float, float]
    y: tuple[float, float]
    width: int
    height: int

    def at(self, x: float, y: float) -> tuple[float, float]:
        """The place of a value in the picture."""
        across = (x - self.x[0]) / ((self.x[1] - self.x[0]) or 1.0)
        up = (y - self.y[0]) / ((self.y[1] - self.y[0]) or 1.0)
        right = LEFT + across * (self.width - LEFT - RIGHT)
        return round(right, 1), round(self.height - BOTTOM - up * (self.height - TOP - BOTTOM), 1)


def line_chart(series: Sequence[Series], x_label: str, y_label: str, *, width: int = 440, height: int = 240) -> Safe:
    """Lines with bands over two labelled axes. Raises ValueError when there is nothing to draw."""
    if not any(len(one.x) for one in series):
        raise ValueError(f"nothing to draw for {y_label!r} over {x_label!r}")
    ys = [v for one in series for v in (*one.y, *one.low, *one.high)]
    xs = [v for one in series for v in one.x]
    y_ticks = ticks(min(ys), max(ys))
    axes = _Axes((min(xs), max(xs)), (y_ticks[0], y_ticks[-1]), width, height)
    x_ticks = [t for t in ticks(*axes.x) if axes.x[0] <= t <= axes.x[1]]
    return el(
        "svg",
        _grid(axes, x_ticks, y_ticks),
        el("text", x_label, class_="axis", x=(LEFT + width - RIGHT) / 2, y=height - 6, text_anchor="middle"),
        [_band(axes, one) for one in series],
        [_line(axes, one) for one in series],
        viewBox=f"0 0 {width} {height}",
        role="img",
        aria_label=f"{y_label} over {x_label}",
        class_="chart",
    )


def _grid(axes: _Axes, x_ticks: Sequence[float], y_ticks: Sequence[float]) -> list[Safe]:
    left, bottom = LEFT, axes.height - BOTTOM
    marks = []
    for tick in y_ticks:
        _, y = axes.at(axes.x[0], tick)
        marks.append(el("line", class_="grid", x1=left, x2=axes.width - RIGHT, y1=y, y2=y))
        marks.append(el("text", f"{tick:g}", class_="tick", x=left - 8, y=y + 3.5, text_anchor="end"))
    for tick in x_ticks:
        x, _ = axes.at(tick, axes.y[0])
        marks.append(el("text", f"{tick:g}", class_="tick", x=x, y=bottom + 16, text_anchor="middle"))
    return marks


def _band(axes: _Axes, one: Series) -> Safe:
    if not one.low:
        return Safe("")
    edge = [axes.at(x, y) for x, y in zip(one.x, one.high, strict=True)]
    edge += [axes.at(x, y) for x, y in reversed(list(zip(one.x, one.low, strict=True)))]
    return el("path", class_=f"band {one.style}", d="M" + "L".join(f"{x},{y}" for x, y in edge) + "Z")


def _line(axes: _Axes, one: Series) -> list[Safe]:
    points = [axes.at(x, y) for x, y in zip(one.x, one.y, strict=True)]
    line = el("polyline", class_=f"line {one.style}", points=" ".join(f"{x},{y}" for x, y in points))
    if not one.dots:
        return [line]
    values = zip(points, one.x, one.y, strict=True)
    dots = [
        el("circle", el("title", f"{one.name}: {y:.4g} at {x:g}"), class_=f"dot {one.style}", cx=px, cy=py, r=3)
        for (px, py), x, y in values
    ]
    return [line, *dots]


def legend(series: Sequence[Series]) -> Safe:
    """The names of the lines, each beside its colour."""
    return el("p", [el("span", el("i", class_=f"key {one.style}"), one.name) for one in series], class_="legend")


def range_bars(rows: Sequence[tuple[str, float, tuple[float, float] | None]], *, width: int = 220) -> Safe:
    """Dots with their intervals on one scale that starts at zero, one line for each (CSS class, mean, interval)."""
    top = max([*(high for _, _, ci in rows if ci for high in [ci[1]]), *(mean for _, mean, _ in rows), 1e-9])
    scale = (width - 12) / top
    marks = []
    for i, (style, mean, interval) in enumerate(rows):
        y, x = 9 + 14 * i, 6 + max(mean, 0.0) * scale
        low, high = interval or (mean, mean)
        ends = {"x1": round(6 + max(low, 0.0) * scale, 1), "x2": round(6 + max(high, 0.0) * scale, 1)}
        marks.append(el("line", class_=f"range {style}", y1=y, y2=y, **ends))
        marks.append(el("circle", class_=f"dot {style}", cx=round(x, 1), cy=y, r=3.5))
    height = 4 + 14 * len(rows)
    zero = el("line", class_="grid", x1=6, x2=6, y1=0, y2=height)
    return el(
        "svg",
        zero,
        marks,
        viewBox=f"0 0 {width} {height}",
        width=width,
        height=height,
        class_="ranges",
        aria_hidden="true",
    )
