"""The figures of one GPU as one picture: steps against their peers, cost against length, kernels against their floors.

    python benchmarks/picture.py benchmarks/results --card h200 --out docs/performance.svg

Reads what `step.py`, `decoder.py`, `linear_attention.py`, `mix_ffn.py`, `modulate.py` and `fp8.py` wrote there for that
card; each panel names the commit it was taken at. Bars are sorted; ours are filled, peers are grey.
"""

import argparse
import json
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

WIDTH, ROW, LABEL, RIGHT = 970, 26, 380, 170
KERNELS = ("linear-attention", "mix-ffn", "modulate", "fp8")
STYLE = """<style>
text { font: 13px system-ui, sans-serif; fill: #1c1f24 } .small { font-size: 11px; fill: #5a616c }
.title { font-weight: 600 } .ours { fill: #0b7a75; stroke: #0b7a75 } .peer { fill: #b9c0c9; stroke: #8b94a0 }
.line { fill: none; stroke-width: 2.5 } .axis { stroke: #d5dae0 } .paper { fill: #ffffff }
@media (prefers-color-scheme: dark) { text { fill: #e6e9ee } .small { fill: #9aa3af } .paper { fill: #14171c }
.ours { fill: #3fc1b5; stroke: #3fc1b5 } .peer { fill: #4a525d; stroke: #6b7480 } .axis { stroke: #333a44 } }
</style>"""


def text(x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> str:
    return f'<text x="{x:.0f}" y="{y:.0f}" class="{kind}" text-anchor="{anchor}">{escape(words)}</text>'


def headed(title: str, about: dict[str, Any], top: float) -> list[str]:
    told = f"{about['device']}, {about['commit']}"
    return [text(16, top + 16, title, "title"), text(WIDTH - 16, top + 16, told, "small", "end")]


def bars(title: str, figures: dict[str, Any], told: dict[str, str], top: float) -> tuple[str, float]:
    """A panel of milliseconds, fastest first, what is told of each behind its bar, and where the panel ends."""
    times: dict[str, float] = figures["ms"]
    drawn = headed(title, figures["about"], top)
    longest = max(times.values())
    for i, (name, took) in enumerate(sorted(times.items(), key=lambda pair: pair[1])):
        y = top + 30 + i * ROW
        length = took / longest * (WIDTH - LABEL - RIGHT)
        kind = "ours" if name.startswith("ours") else "peer"
        drawn.append(text(LABEL - 10, y + 14, name.removeprefix("diffusers "), "", "end"))
        drawn.append(f'<rect x="{LABEL}" y="{y}" width="{length:.1f}" height="{ROW - 8}" rx="3" class="{kind}"/>')
        drawn.append(text(LABEL + length + 8, y + 14, f"{took:.0f} ms   {told[name]}"))
    return "\n".join(drawn), top + 30 + len(times) * ROW + 22


def guided(figures: dict[str, Any], top: float) -> tuple[str, float]:
    found = figures["cfg"] | {"about": figures["about"]}
    title = f"Guided step, {found['preset']}, batch {found['batch']}: milliseconds, and error to float32"
    return bars(title, found, {name: f"{error:.1e}" for name, error in found["relative_error"].items()}, top)


def training(figures: dict[str, Any], top: float) -> tuple[str, float]:
    found = figures["train"] | {"about": figures["about"]}
    title = "Training step, 2b-480p, batch 1: milliseconds, and peak memory"
    return bars(title, found, {name: f"{peak:.1f} GiB" for name, peak in found["peak_gib"].items()}, top)


def decoding(figures: dict[str, Any], top: float) -> tuple[str, float]:
    title = "Wan's decoder, 81 frames of 480x832 in bf16: milliseconds, and peak memory"
    return bars(title, figures, {name: f"{peak:.1f} GiB" for name, peak in figures["peak_gib"].items()}, top)


def lines(figures: dict[str, Any], top: float) -> tuple[str, float]:
    """A panel of microseconds per token over the number of frames, from zero, and where it ends."""
    found, about = figures["frames"]["us_per_token"], figures["about"]
    drawn = headed("One forward at 480p: microseconds per token over frames (level is linear)", about, top)
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
    return "\n".join(drawn), bottom + 38


def shares(results: Path, card: str) -> dict[str, float]:
    """Floor over time of each kernel as shipped: its share of the bandwidth, or of the rate of a large product."""
    linear, mix, rows, narrow = (read(results, name, card) for name in KERNELS)
    stream = linear["pass_ms"]
    found = {
        "linear attention": 4 * stream / linear["forward_ms"]["ours"],
        "linear attention, with backward": 12 * stream / linear["forward_backward_ms"]["ours"],
        "SiLU + depthwise + GLU": mix["forward"]["floor_ms"] / mix["forward"]["ms"]["ours"],
        "its backward": mix["backward"]["floor_ms"] / mix["backward"]["ms"]["ours, backward"],
        "temporal convolution": mix["temporal"]["floor_ms"] / mix["temporal"]["ms"]["three products"],
    }
    for name in ("modulate", "gated_add", "gated_add_modulate", "rms_norm"):
        figures = rows[name]
        found[name] = figures["forward_floor_ms"] / figures["forward_ms"]["ours"]
        found[f"{name}, with backward"] = figures["forward_backward_floor_ms"] / figures["forward_backward_ms"]["ours"]
    for name in ("modulate", "gated_add_modulate", "three_frames"):
        found[f"{name} to fp8"] = narrow["rows"][name]["floor_ms"] / narrow["rows"][name]["ms"]["ours"]
    return found


def kernels(results: Path, card: str, top: float) -> tuple[str, float]:
    """A panel of the shares, in the order of the table in docs/performance.md, and where it ends."""
    about = [read(results, name, card)["about"] for name in KERNELS]
    commits = ", ".join(dict.fromkeys(each["commit"] for each in about))  # each file may be of another
    told = {"device": about[0]["device"], "commit": commits}
    drawn = headed("Kernels: share of the floor of their bytes or operations", told, top)
    found = shares(results, card)
    full = WIDTH - LABEL - RIGHT
    for i, (name, share) in enumerate(found.items()):
        y = top + 28 + i * 20
        drawn.append(text(LABEL - 10, y + 12, name, "", "end"))
        drawn.append(f'<rect x="{LABEL}" y="{y}" width="{share * full:.1f}" height="13" rx="2" class="ours"/>')
        drawn.append(text(LABEL + max(share, 1.0) * full + 8, y + 12, f"{share:.0%}"))
    bottom = top + 28 + len(found) * 20
    drawn.append(f'<line x1="{LABEL + full}" x2="{LABEL + full}" y1="{top + 24:.0f}" y2="{bottom:.0f}" class="axis"/>')
    return "\n".join(drawn), bottom + 16


def read(results: Path, name: str, card: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((results / f"{name}-{card}.json").read_text())
    return found


PANELS = {
    "step": guided,
    "step-720p": guided,
    "step-frames": lines,
    "step-train": training,
    "decoder": decoding,
}


def picture(results: Path, card: str) -> str:
    """The SVG. Raises FileNotFoundError for a file of figures that is missing."""
    drawn, top = [], 10.0
    for name, panel in PANELS.items():
        made, top = panel(read(results, name, card), top)
        drawn.append(made)
    made, top = kernels(results, card, top)
    drawn.append(made)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top:.0f}" role="img">'
    title = "<title>Steps against their peers, cost against length, kernels against their floors</title>"
    return "\n".join([head, title, STYLE, '<rect width="100%" height="100%" class="paper"/>', *drawn, "</svg>\n"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("--card", required=True, help="the end of the names of its files: h100, h200")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    given.out.write_text(picture(given.results, given.card))


if __name__ == "__main__":
    main()
