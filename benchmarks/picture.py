"""The figures of one GPU as one picture: guided steps against their peers, and cost against length.

    python benchmarks/picture.py benchmarks/results --out docs/performance.svg

Reads step-h100.json, step-720p-h100.json and step-frames-h100.json (`step.py`); each panel names the commit it was
taken at. Bars are sorted; ours are filled, peers are grey, the error to float32 stands beside each.
"""

import argparse
import json
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

WIDTH, ROW, LABEL, RIGHT = 860, 26, 250, 190
STYLE = """<style>
text { font: 13px system-ui, sans-serif; fill: #1c1f24 } .small { font-size: 11px; fill: #5a616c }
.title { font-weight: 600 } .ours { fill: #0b7a75; stroke: #0b7a75 } .peer { fill: #b9c0c9; stroke: #8b94a0 }
.line { fill: none; stroke-width: 2.5 } .axis { stroke: #d5dae0 } .paper { fill: #ffffff }
@media (prefers-color-scheme: dark) { text { fill: #e6e9ee } .small { fill: #9aa3af } .paper { fill: #14171c }
.ours { fill: #3fc1b5; stroke: #3fc1b5 } .peer { fill: #4a525d; stroke: #6b7480 } .axis { stroke: #333a44 } }
</style>"""


def text(x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> str:
    return f'<text x="{x:.0f}" y="{y:.0f}" class="{kind}" text-anchor="{anchor}">{escape(words)}</text>'


def bars(figures: dict[str, Any], top: float) -> tuple[str, float]:
    """A panel of guided steps, fastest first, and where it ends."""
    found, about = figures["cfg"], figures["about"]
    title = f"Guided step, {found['preset']}, batch {found.get('batch', 1)}: milliseconds, and error to float32"
    drawn = [text(16, top + 16, title, "title")]
    drawn.append(text(WIDTH - 16, top + 16, f"{about['device']}, {about['commit']}", "small", "end"))
    times: dict[str, float] = found["ms"]
    longest = max(times.values())
    for i, (name, took) in enumerate(sorted(times.items(), key=lambda pair: pair[1])):
        y = top + 30 + i * ROW
        length = took / longest * (WIDTH - LABEL - RIGHT)
        kind = "ours" if name.startswith("ours") else "peer"
        drawn.append(text(LABEL - 10, y + 14, name, "", "end"))
        drawn.append(f'<rect x="{LABEL}" y="{y}" width="{length:.1f}" height="{ROW - 8}" rx="3" class="{kind}"/>')
        drawn.append(text(LABEL + length + 8, y + 14, f"{took:.0f} ms   {found['relative_error'][name]:.1e}"))
    return "\n".join(drawn), top + 30 + len(times) * ROW + 22


def lines(figures: dict[str, Any], top: float) -> tuple[str, float]:
    """A panel of microseconds per token over the number of frames, from zero, and where it ends."""
    found, about = figures["frames"]["us_per_token"], figures["about"]
    drawn = [text(16, top + 16, "One forward at 480p: microseconds per token over frames (level is linear)", "title")]
    drawn.append(text(WIDTH - 16, top + 16, f"{about['device']}, {about['commit']}", "small", "end"))
    low, high, bottom = LABEL, WIDTH - RIGHT, top + 220
    most_frames = max(int(frames) for costs in found.values() for frames in costs)
    most_cost = max(cost for costs in found.values() for cost in costs.values())

    def at(frames: int, cost: float) -> tuple[float, float]:
        return low + frames / most_frames * (high - low), bottom - cost / (1.1 * most_cost) * 180

    for tick in range(0, int(1.1 * most_cost) + 1, 5):
        y = at(0, tick)[1]
        drawn.append(f'<line x1="{low}" x2="{high}" y1="{y:.1f}" y2="{y:.1f}" class="axis"/>')
        drawn.append(text(low - 8, y + 4, str(tick), "small", "end"))
    for name, costs in found.items():
        kind = "ours" if name.startswith("ours") else "peer"
        points = [at(int(frames), cost) for frames, cost in sorted(costs.items(), key=lambda pair: int(pair[0]))]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        drawn.append(f'<polyline points="{path}" class="line {kind}" style="fill: none"/>')
        drawn += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" class="{kind}"/>' for x, y in points]
        drawn.append(text(points[-1][0] + 10, points[-1][1] + 4, name))
    for frames in next(iter(found.values())):
        drawn.append(text(at(int(frames), 0)[0], bottom + 16, frames, "small", "middle"))
    return "\n".join(drawn), bottom + 30


def picture(results: Path) -> str:
    """The SVG. Raises FileNotFoundError for a file of figures that is missing."""
    panels, top = [], 10.0
    for name, panel in (("step-h100", bars), ("step-720p-h100", bars), ("step-frames-h100", lines)):
        drawn, top = panel(json.loads((results / f"{name}.json").read_text()), top)
        panels.append(drawn)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top:.0f}" role="img">'
    title = "<title>Guided steps against their peers, and cost against length</title>"
    return "\n".join([head, title, STYLE, '<rect width="100%" height="100%" class="paper"/>', *panels, "</svg>\n"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    given.out.write_text(picture(given.results))


if __name__ == "__main__":
    main()
