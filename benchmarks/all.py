"""Every benchmark of one GPU in one command: what is right first, then what is fast, then the picture.

    python benchmarks/all.py [--only step,step-train,sample] [--results benchmarks/results] [--limit SECONDS]

Figures are kept as `step-h200.json` on an H200, so that those of two cards stand beside each other.

Each part is a script of this folder with the options that docs/performance.md shows, and has a time limit of its own.
One that fails or takes longer is told at the end and the rest goes on. Each script checks what it times before it does.
`--only` takes names of parts, so that a short loan of a GPU can be split. Exit code 1 if any part failed.
"""

import argparse
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import torch

ROOT = Path(__file__).resolve().parents[1]


class Part(NamedTuple):
    """A command, OUT standing for its file, and the seconds that it may take. `made`: what it writes into a folder."""

    words: str
    limit: int
    made: str | None = None


PARTS = {
    "compare": Part("sample.py --compare --out OUT", 300, "comparison.json"),
    "linear-attention": Part("linear_attention.py --out OUT", 240),
    "mix-ffn": Part("mix_ffn.py --out OUT", 240),
    "modulate": Part("modulate.py --out OUT", 240),
    "modulate-frames": Part("modulate.py --frames 21 --out OUT", 240),
    "fp8": Part("fp8.py --out OUT", 240),
    "step": Part("step.py --only cfg --out OUT", 420),
    "step-b2": Part("step.py --only cfg --batch 2 --peers all --out OUT", 420),
    "step-b4": Part("step.py --only cfg --batch 4 --peers all --out OUT", 540),
    "step-720p": Part("step.py --only cfg --preset 2b-720p --out OUT", 300),
    "step-720p-b2": Part("step.py --only cfg --preset 2b-720p --batch 2 --peers all --out OUT", 300),
    "step-720p-b4": Part("step.py --only cfg --preset 2b-720p --batch 4 --peers all --out OUT", 300),
    "step-train": Part("step.py --only train --out OUT", 540),
    "step-frames": Part("step.py --only frames --out OUT", 300),
    "compiled": Part("compiled.py --out OUT", 300),
    "decoder": Part("decoder.py --out OUT", 240),
    "sample": Part("sample.py --peer --out OUT", 420, "figures.json"),
    "sample-fp8": Part("sample.py --fp8 --out OUT", 300, "figures.json"),
    "streaming": Part("streaming.py --seconds 5,30,60,120 --out OUT", 300),
}
PICTURE = "picture"


def card() -> str:
    """The GPU as files are named after it: NVIDIA H100 80GB HBM3 is `h100`; `cpu` where there is none."""
    if not torch.cuda.is_available():
        return "cpu"
    words = torch.cuda.get_device_name().removeprefix("NVIDIA ").split()
    return re.sub(r"[^a-z0-9]+", "-", words[0].lower())


def command(part: Part, out: Path) -> list[str]:
    script, *words = part.words.split()
    return [sys.executable, str(ROOT / "benchmarks" / script), *(str(out) if word == "OUT" else word for word in words)]


def run(name: str, results: Path, most: int) -> str | None:
    """None, or why the part failed. Figures appear in `results` only when the part wrote them."""
    part, made = PARTS[name], ROOT / "runs" / "benchmarks" / name
    shutil.rmtree(made, ignore_errors=True)
    out = made if part.made else made / "figures.json"
    limit = min(part.limit, most)
    try:
        code = subprocess.run(command(part, out), cwd=ROOT, timeout=limit, check=False).returncode
        failed = f"exit code {code}" if code else None
    except subprocess.TimeoutExpired:
        failed = f"took longer than {limit} s"
    figures = made / (part.made or "figures.json")
    if figures.is_file():  # a part that is slower than plain, or cut off, may have written what it found
        results.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(figures, results / f"{name}-{card()}.json")
    return failed or (None if figures.is_file() else "wrote no figures")


def draw(results: Path) -> str | None:
    words = [sys.executable, str(ROOT / "benchmarks" / "picture.py"), str(results), "--card", card()]
    code = subprocess.run([*words, "--out", str(ROOT / "docs" / "performance.svg")], cwd=ROOT, check=False).returncode
    return f"exit code {code}" if code else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help=f"of {', '.join([*PARTS, PICTURE])}, with commas; all without it")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--limit", type=int, default=3600, help="most seconds for any part, where its own is longer")
    given = parser.parse_args()
    asked = given.only.split(",") if given.only else [*PARTS, PICTURE]
    if unknown := set(asked) - {*PARTS, PICTURE}:
        parser.error(f"--only {', '.join(sorted(unknown))}: no such part; there are {', '.join([*PARTS, PICTURE])}")
    failed = {}
    for name in [*PARTS, PICTURE]:
        if name not in asked:
            continue
        print(f"== {name}", flush=True)
        began = time.monotonic()
        why = draw(given.results) if name == PICTURE else run(name, given.results, given.limit)
        print(f"== {name}: {why or 'done'} after {time.monotonic() - began:.0f} s", flush=True)
        if why:
            failed[name] = why
    if failed:
        raise SystemExit("failed: " + "; ".join(f"{name} ({why})" for name, why in failed.items()))


if __name__ == "__main__":
    main()
