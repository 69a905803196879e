"""One command runs every part, goes on after one that fails, and says so; small scripts run whole on the CPU."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def scripts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    monkeypatch.syspath_prepend(ROOT / "tests" / "flows")


def run(name: str, monkeypatch: pytest.MonkeyPatch, *words: object) -> None:
    module = __import__(name)
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, words)])
    module.main()


def test_every_part_is_a_script_with_options_that_it_knows() -> None:
    import all as everything  # type: ignore[import-not-found]

    for name, part in everything.PARTS.items():
        script, *words = part.words.split()
        text = (ROOT / "benchmarks" / script).read_text()
        assert all(f'"{word}"' in text for word in words if word.startswith("--")), name


def test_a_part_that_fails_or_takes_too_long_does_not_stop_the_others(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    import all as everything

    for name, body in {
        "good.py": "print('ran')",
        "slow.py": "import time; time.sleep(60)",
        "bad.py": "raise SystemExit(1)",
    }.items():
        (tmp_path / "benchmarks").mkdir(exist_ok=True)
        start = "import pathlib, sys\np = pathlib.Path(sys.argv[-1]); p.parent.mkdir(parents=True, exist_ok=True)\n"
        write = "'slow' in sys.argv[0] or p.write_text('{}')"
        (tmp_path / "benchmarks" / name).write_text(f"{start}{write}\n{body}\n")
    parts = {name: everything.Part(f"{name}.py --out OUT", 20) for name in ("bad", "good")}
    parts = {"slow": everything.Part("slow.py --out OUT", 1), **parts}
    monkeypatch.setattr(everything, "ROOT", tmp_path)
    monkeypatch.setattr(everything, "PARTS", parts)
    results = tmp_path / "results"
    with pytest.raises(SystemExit, match=r"slow \(took longer than 1 s\); bad \(exit code 1\)"):
        run("all", monkeypatch, "--only", "good,slow,bad", "--results", results)
    assert {path.name for path in results.iterdir()} == {"good-cpu.json", "bad-cpu.json"}  # it wrote, then failed
    assert "== good: done after" in capfd.readouterr().out
    with pytest.raises(SystemExit):
        run("all", monkeypatch, "--only", "nothing")


@pytest.mark.slow
def test_a_sample_is_held_to_one_without_kernels(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    words = ("--preset", "tiny", "--device", "cpu", "--steps", 2, "--frames", 9, "--compare", "--out", tmp_path)
    run("sample", monkeypatch, *words)
    made = json.loads((tmp_path / "comparison.json").read_text())["made"]
    assert made.keys() == {"t2v", "long"}
    for figures in made.values():  # both are the definitions here
        assert figures["latents_relative_difference"] == 0 and figures["psnr_db"] == 100


@pytest.mark.parametrize(("factor", "added", "right"), [(1.04, 0, True), (1.06, 0, False), (1, 20, False)])
def test_a_sample_that_differs_ends_the_run(
    factor: float, added: int, right: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import comparison

    from sana_video.ops import select

    def make(*_: Any, **__: Any) -> Any:
        off = bool(select._off)  # the second is made without kernels
        frames = torch.full((4,), 100 if off else 100 + added, dtype=torch.uint8)
        return comparison.Made(torch.ones(4) * (1 if off else factor), frames)

    monkeypatch.setattr(comparison, "make", make)
    out = tmp_path / "comparison.json"
    if right:
        comparison.compare({"t2v": (None, {"frames": 9})}, out, {})
    else:
        with pytest.raises(SystemExit, match="t2v differs by more than"):
            comparison.compare({"t2v": (None, {"frames": 9})}, out, {})
    assert json.loads(out.read_text())["bounds"] == {"latents_relative_difference": 0.05, "psnr_db": 30.0}


def test_skipped_steps_are_told_with_what_they_cost(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from test_sample import write_release  # type: ignore[import-not-found]

    folder, out = write_release(tmp_path / "release", chunk_frames=2), tmp_path / "cache.json"
    monkeypatch.setattr("step_cache.THRESHOLDS", (0.0, 0.9))
    run("step_cache", monkeypatch, "--pipeline", folder, "--device", "cpu", "--steps", 8, "--out", out)
    every, some = json.loads(out.read_text())["rows"]
    assert (every["skipped"], every["latents_psnr_db"], every["frames_psnr_db"]) == (0, 100, 100)
    assert some["skipped"] > 0 and some["latents_psnr_db"] < 100 and some["latents_relative_difference"] > 0


def test_random_weights_tell_the_time_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    out = tmp_path / "cache.json"
    monkeypatch.setattr("step_cache.THRESHOLDS", (0.0,))
    words = ("--preset", "tiny", "--device", "cpu", "--steps", 4, "--frames", 9, "--out", out)
    run("step_cache", monkeypatch, *words)
    (row,) = json.loads(out.read_text())["rows"]
    assert row["skipped"] == 0 and row["seconds"] > 0 and "frames_psnr_db" not in row


def test_the_decoder_is_checked_on_a_cpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    out = tmp_path / "decoder.json"
    run("decoder", monkeypatch, "--preset", "tiny", "--device", "cpu", "--frames", 9, "--rounds", 1, "--out", out)
    errors = json.loads(out.read_text())["relative_error"]
    assert errors.keys() >= {"diffusers", "ours"} and all(0 < error < 4e-2 for error in errors.values())


@pytest.mark.slow
def test_fp8_costs_more_than_bf16(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from test_sample import write_release

    folder, out = write_release(tmp_path / "release", chunk_frames=None), tmp_path / "fp8.json"
    run("fp8_error", monkeypatch, "--pipeline", folder, "--device", "cpu", "--steps", 2, "--frames", 5, "--out", out)
    figures = json.loads(out.read_text())
    assert figures["velocity_relative_error"].keys() >= {"bf16", "all", "only attn.qkv", "all but ffn.temporal"}
    assert "bf16 against float32" in figures["film_psnr_db"]
