"""The whole way on a small project: tiny model, small autoencoder, rendered clips; then the gates over it.

The model is at random initialisation, which the shipped release bars must refuse.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from typer.testing import CliRunner

from eval.cli import Job, app
from eval.expectations import bar_sections
from eval.params import ReleaseParams
from eval.suite import EVAL_VERSION, heldout_rows
from infra import gates, storage
from infra.settings import load_section, load_yaml
from sana_video.autoencoder.dcae_v import PRESETS, DcaeV
from sana_video.config import SanaVideoConfig
from sana_video.data.shards import ShardWriter
from sana_video.model import SanaVideo
from sana_video.text import MiniLmTextEncoder, with_motion
from sana_video.train.config import TrainParams
from sana_video.video.io import probe
from sana_video.video.mp4 import read_metadata

ROOT = Path(__file__).resolve().parents[2]
CREDIT = "(c) 2008 Blender Foundation, www.bigbuckbunny.org"
H, W, F = 64, 96, 17


def clip(i: int) -> torch.Tensor:
    """A panning texture, uint8 (F, H, W, 3)."""
    y, x = np.mgrid[0:H, 0:W]
    wave = np.stack([120 + 60 * np.sin(2 * np.pi * (x * (1 + c) + y * i) / W) for c in range(3)], axis=-1)
    return torch.from_numpy(np.stack([np.roll(wave, 2 * t, axis=1) for t in range(F)]).astype(np.uint8))


def green(root: Path, boundary: str, *tables: str) -> None:
    """A verdict that a real gate gave on one honest row."""
    import pandas as pd

    section = gates.Section(pd.DataFrame([{"a": 1}]), [gates.expect("ExpectTableRowCountToEqual", value=1)], "a")
    verdict = gates.evaluate(boundary, {"s": section}, {table: storage.digest(root / table) for table in tables})
    assert verdict.verdict == "green"
    gates.write(verdict, root / "reports" / "gates" / f"{boundary}.json")


def lay_shards(root: Path, autoencoder: DcaeV) -> None:
    shards = root / "data" / "shards"
    encoder = MiniLmTextEncoder(48)
    captions = [f"pattern number {i}" for i in range(4)]
    text, mask = encoder.encode([with_motion(caption, 4.0) for caption in captions])
    with ShardWriter(shards / "pixels", 1 << 24) as pixels, ShardWriter(shards / "high", 1 << 24) as latents:
        for i, caption in enumerate(captions):
            key, subset = f"clip{i}", "train" if i == 0 else "val"
            pixels.add(key, {"pixels": clip(i), "fps": torch.tensor(16.0)}, f"{H}x{W}x{F}", subset)
            video = clip(i).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
            with torch.no_grad():
                sample = {"latents": autoencoder.encode(video)[0], "text": text[i].half(), "mask": mask[i]}
            sample |= {"motion": torch.tensor(4.0), "caption": torch.tensor(list(caption.encode()), dtype=torch.uint8)}
            latents.add(key, sample, f"{H}x{W}x{F}", subset)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project that is ready to be evaluated."""
    root = tmp_path_factory.mktemp("project")
    shutil.copy(ROOT / "dvc.yaml", root / "dvc.yaml")
    params = load_yaml(ROOT / "params.yaml")
    params["eval"] |= {"prompts": 2, "seeds_per_prompt": 1, "steps": 2, "latent_noise": [0.0, 0.2]}
    params["eval"]["gate"]["min_videos"] = 2
    (root / "params.yaml").write_text(yaml.safe_dump(params))
    torch.manual_seed(0)
    autoencoder = DcaeV(PRESETS["small"]).eval()
    autoencoder.save_pretrained(root / "models" / "autoencoder")
    SanaVideo(SanaVideoConfig.preset("tiny").with_(chunk_frames=3), seed=0).save_pretrained(root / "models" / "causal")
    trained = {"objective": "chunk_causal", "stand_ins": ["MiniLM (stand-in for Gemma-2-2b-it)"]}
    for stage in ("autoencoder", "t2i", "t2v_low", "t2v_high", "causal"):
        (root / "models" / stage).mkdir(exist_ok=True)
        (root / "models" / stage / "summary.json").write_text(json.dumps(trained))
        (root / "models" / stage / "curve.csv").write_text("step,loss,lr,heldout\n0,,0.0,1.2\n10,1.0,0.1,0.9\n")
    lay_shards(root, autoencoder)
    video = {"source": "film", "licence": "CC BY 3.0", "attribution": CREDIT, "reason": None}
    (root / "data" / "videos").mkdir()
    for batch in params["data"]["batches"]:
        pq.write_table(pa.Table.from_pylist([video]), root / "data" / "videos" / f"{batch}.parquet")
    green(root, "data", *(f"data/videos/{batch}.parquet" for batch in params["data"]["batches"]))
    green(root, "train-causal", "models/causal")
    green(root, "train-autoencoder", "models/autoencoder")
    green(root, "shards-pixels", "data/shards/pixels")
    green(root, "shards-high", "data/shards/high")
    return root


def call(root: Path, *words: str, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.chdir(root)
    return CliRunner().invoke(app, list(words)).exit_code


@pytest.fixture(scope="module")
def evaluated(project: Path) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        for command in ("vae", "t2v", "report"):
            status = project / "runs" / "status" / "evaluate.json"
            assert call(project, command, monkeypatch=patch) == 0, status.read_text()
    return project


def test_it_writes_tables_clips_and_report(evaluated: Path) -> None:
    out = evaluated / "reports" / "eval"
    assert pq.read_table(out / "vae.parquet").num_rows == 3 * 2
    assert pq.read_table(out / "heldout.parquet").num_rows == 3 * 5
    rows = pq.read_table(out / "t2v.parquet").to_pylist()
    assert [row["kind"] for row in rows].count("generated") == 2 and {row["status"] for row in rows} == {"ok"}
    for row in rows:
        found = probe(out / row["file"])
        assert (found.width, found.height) == (W, H)
        told = read_metadata(out / row["file"])
        assert told["title"] == row["prompt"] and told["copyright"] == CREDIT
    page = (out / "report.html").read_text()
    assert CREDIT in page and "stand-in" in page and rows[0]["prompt"] in page


def test_the_same_model_gives_the_same_bytes(evaluated: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = storage.digest(evaluated / "reports" / "eval")
    for command in ("vae", "t2v", "report"):
        assert call(evaluated, command, monkeypatch=monkeypatch) == 0
    assert storage.digest(evaluated / "reports" / "eval") == before


def test_random_initialisation_fails_the_shipped_bars(evaluated: Path) -> None:
    """By the held-out ratio: the untrained DC-AE beats the mean colour already, for its shortcuts average pixels."""
    bars = load_section(ROOT / "params.yaml", "release", ReleaseParams).bars
    summary = json.loads((evaluated / "reports" / "eval" / "summary.json").read_text())
    verdict = gates.evaluate("release", bar_sections(summary, bars), {})
    assert verdict.verdict == "red" and "heldout_ratio" in "".join(verdict.failures())


def test_the_gates_run_and_the_release_is_refused(evaluated: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert call(evaluated, "gate", "eval", monkeypatch=monkeypatch) == 0
    assert call(evaluated, "gate", "release", monkeypatch=monkeypatch) == 3
    assert json.loads((evaluated / "reports" / "baseline.json").read_text())["baseline"] == "none"
    low = [
        part
        for bar in ("heldout_ratio=9", "psnr_gain_db=-99", "max_frozen=1")
        for part in ("--set", f"release.bars.{bar}")
    ]
    assert call(evaluated, "gate", "release", *low, monkeypatch=monkeypatch) == 0


@pytest.mark.parametrize("harm", ["red", "missing", "stale"])
@pytest.mark.parametrize(
    ("gate", "words"),
    [
        ("train-causal", ["vae"]),
        ("train-autoencoder", ["vae"]),
        ("train-autoencoder", ["t2v"]),
        ("train-autoencoder", ["report"]),
        ("data", ["t2v"]),
        ("data", ["report"]),
        ("shards-pixels", ["t2v"]),
        ("shards-high", ["report"]),
        ("train-causal", ["gate", "eval"]),
        ("eval", ["gate", "release"]),
        ("shards-high", ["gate", "train", "--stage", "causal"]),
    ],
)
def test_nothing_below_a_gate_runs_past_it(
    evaluated: Path, gate: str, words: list[str], harm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = evaluated / "reports" / "gates" / f"{gate}.json"
    if not path.exists():
        assert call(evaluated, "gate", "eval", monkeypatch=monkeypatch) == 0
    saved = path.read_text()
    verdict = json.loads(saved)
    changed = {"red": {"verdict": "red"}, "stale": {"tables": dict.fromkeys(verdict["tables"], "0")}, "missing": {}}
    try:
        path.unlink() if harm == "missing" else path.write_text(json.dumps({**verdict, **changed[harm]}))
        assert call(evaluated, *words, monkeypatch=monkeypatch) == 3
    finally:
        path.write_text(saved)


def test_an_autoencoder_from_elsewhere_has_no_gate_of_ours(evaluated: Path) -> None:
    shutil.copytree(evaluated / "models" / "autoencoder", evaluated / "weights", dirs_exist_ok=True)
    path = evaluated / "reports" / "gates" / "train-autoencoder.json"
    saved = path.read_text()
    train = load_section(evaluated / "params.yaml", "train", TrainParams)
    job = Job(evaluated, evaluated / "params.yaml", ["eval.autoencoder=weights"], train)
    try:
        path.unlink()
        assert job.subject().autoencoder == evaluated / "weights"
    finally:
        path.write_text(saved)


@pytest.mark.parametrize("folder", ["models/causal", "models/causal/"])
def test_the_line_of_a_model_ends_and_refuses_a_circle(project: Path, folder: str) -> None:
    path = project / "params.yaml"
    job = Job(project, path, [], load_section(path, "train", TrainParams))
    assert job.line() == ["autoencoder", "t2i", "t2v_low", "t2v_high", "causal"]
    circle = load_section(path, "train", TrainParams, [f"train.stages.t2v_low.init={folder}"])
    with pytest.raises(ValueError, match=r"causal\.init leads back to the stage itself: causal <- t2v_high <- t2v_low"):
        Job(project, path, [], circle).line()


def test_a_stage_that_training_did_not_finish_is_red(evaluated: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert call(evaluated, "gate", "train", "--stage", "t2i", monkeypatch=monkeypatch) in (2, 3)
    green(evaluated, "shards-high", "data/shards/high")
    saved = (evaluated / "reports" / "gates" / "train-causal.json").read_text()
    try:
        assert call(evaluated, "gate", "train", "--stage", "causal", monkeypatch=monkeypatch) == 3
    finally:
        (evaluated / "reports" / "gates" / "train-causal.json").write_text(saved)


def test_a_model_of_nan_is_told_and_counted(project: Path, tmp_path: Path) -> None:
    from eval.generate import Prompt, generated, watched
    from sana_video.autoencoder import load_autoencoder
    from sana_video.config import SamplingDefaults
    from sana_video.pipeline import SanaVideoPipeline

    model = SanaVideo.from_pretrained(project / "models" / "causal")
    with torch.no_grad():
        for value in model.parameters():
            value.fill_(float("nan"))
    rows = heldout_rows(model, project / "data" / "shards" / "high", 7, lambda clips, label: clips)
    assert {row["status"] for row in rows} == {"failed"} and all(row["zero"] > 0 for row in rows)
    defaults = SamplingDefaults(height=H, width=W, frames=F, steps=1, guidance=1.0, flow_shift=3.0)
    autoencoder = watched(load_autoencoder(project / "models" / "autoencoder"))
    pipeline = SanaVideoPipeline(model, autoencoder, MiniLmTextEncoder(48), defaults)
    row = generated(pipeline, Prompt("clip1", "a pattern", 4.0), 7, tmp_path, "")
    assert row["status"] == "failed" and "not finite" in row["reason"]


@pytest.mark.parametrize("words", [["vae", "--set", "eval.stage=nowhere"], ["gate", "train", "--stage", "nowhere"]])
def test_an_unknown_stage_lists_the_known_ones(
    project: Path, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 2
    assert "nowhere" in result.output and "t2v_high" in result.output


def test_too_few_captions_is_the_users_to_mend(evaluated: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert call(evaluated, "t2v", "--set", "eval.prompts=4", monkeypatch=monkeypatch) == 2
    status = json.loads((evaluated / "runs" / "status" / "evaluate.json").read_text())
    assert "eval.prompts 4" in status["reason"]


def test_print_config_shows_and_does_nothing(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    result = CliRunner().invoke(app, ["vae", "--print-config", "--set", "eval.steps=9"])
    assert result.exit_code == 0 and yaml.safe_load(result.output)["eval"]["steps"] == 9


def test_the_version_is_the_stated_one() -> None:
    assert load_yaml(ROOT / "versions.yaml")["eval"] == EVAL_VERSION
