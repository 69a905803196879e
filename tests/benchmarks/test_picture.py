"""The picture of the figures shows what their files hold, and is the one that stands in the docs."""

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"
CARD = "h200"


def test_the_picture_in_the_docs_is_of_these_figures(tmp_path: Path) -> None:
    out = tmp_path / "performance.svg"
    words = [sys.executable, ROOT / "benchmarks" / "picture.py", RESULTS, "--card", CARD, "--out", out]
    subprocess.run(words, check=True)
    assert out.read_text() == (ROOT / "docs" / "performance.svg").read_text(), "draw it again: benchmarks/picture.py"
    shown = "".join(ElementTree.parse(out).getroot().itertext())
    figures = json.loads((RESULTS / f"step-{CARD}.json").read_text())
    assert all(f"{took:.0f} ms" in shown for took in figures["cfg"]["ms"].values())
    assert figures["about"]["device"] in shown
    files = [RESULTS / f"{name}-{CARD}.json" for name in ("linear-attention", "mix-ffn", "modulate", "fp8")]
    commits = dict.fromkeys(json.loads(file.read_text())["about"]["commit"] for file in files)
    assert ", ".join(commits) in shown  # the panel of kernels is made of four files
    words = [text for text in ElementTree.parse(out).getroot().iter() if text.get("text-anchor") == "end"]
    names = [text for text in words if text.get("class") == ""]
    assert names and all(7 * len(text.text or "") < float(text.get("x", 0)) for text in names)  # 7 px a letter fit
