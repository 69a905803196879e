"""The commands over a small project of rendered film: every stage for real, from files to shards."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
import yaml
from diffusers import AutoencoderKLWan
from typer.testing import CliRunner

from data_pipeline.cli import app
from data_pipeline.encode import Encoders, Words, decoded, kept_clips, write_latents
from data_pipeline.params import ViewParams
from infra import gates
from infra.settings import AppContext
from infra.storage import digest
from sana_video.autoencoder.dcae_v import PRESETS, DcaeV
from sana_video.data.shards import ShardReader, read_index, read_null

ROOT = Path(__file__).resolve().parents[2]


def sana(root: Path, *words: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(words), obj=AppContext(root, root / "params.yaml"))
    return result.exit_code, result.output


@pytest.fixture
def project(tmp_path: Path, make_video: Callable[..., Path]) -> Path:
    """Two films of four shots, curated and gated."""
    for name in ("dvc.yaml", "versions.yaml"):
        shutil.copy(ROOT / name, tmp_path / name)
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["data"]["split"].update(frames=9, min_shot_seconds=0.6)
    params["data"]["gate"].update(min_videos=2, min_clips=4, min_kept=4, kept_fraction=[0.0, 1.0])
    params["data"]["curate"]["ranges"]["default"] = {
        key: [0, 255] for key in ("flow_motion", "vmaf_motion", "saturation")
    }
    params["data"]["curate"]["ranges"]["default"].update(overall=[0, 1], cuts_inside=[0, 5])
    params["data"]["dedup"]["max_distance"] = 0
    params["data"]["pixels"] = {"height": 32, "width": 48, "frames": 9}
    params["data"]["views"]["low"].update(height=32, width=48, frames=5)
    params["data"]["views"]["high"].update(height=32, width=48, frames=9)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    for number, batch in enumerate(("film", "more")):
        make_video(tmp_path / "data" / "raw" / batch / f"{batch}.mp4", seconds=6.0, shots=4, seed=number)
        for stage in ("ingest", "split", "score", "caption"):
            assert sana(tmp_path, stage, "--batch", batch)[0] == 0
    for stage in (["dedup"], ["quarantine"], ["classify"], ["curate"], ["gate", "data"]):
        code, said = sana(tmp_path, *stage)
        assert code == 0, said
    return tmp_path


@pytest.mark.slow
def test_the_way_from_films_to_a_gated_view_and_a_report(project: Path) -> None:
    assert sana(project, "encode", "--view", "pixels")[0] == 0
    assert sana(project, "gate", "shards", "--view", "pixels")[0] == 0
    assert sana(project, "report")[0] == 0
    selection = pq.read_table(project / "data/selection.parquet").to_pylist()
    kept = {row["clip_id"]: row["subset"] for row in selection if row["keep"]}
    index = read_index(project / "data/shards/pixels").to_pylist()
    assert {row["key"]: row["subset"] for row in index} == kept
    with ShardReader(project / "data/shards/pixels") as reader:
        assert reader.sample(0)["pixels"].shape == (9, 32, 48, 3)
    page = (project / "reports/data/report.html").read_text()
    assert "data:image/webp;base64," in page
    assert "http" not in page.replace("https://www.w3.org", "")
    assert "stand-in for UniMatch" in page
    summary = json.loads((project / "reports/data/summary.json").read_text())
    assert summary["kept"] == len(kept)
    funnel = (project / "reports/data/funnel.csv").read_text().splitlines()
    assert funnel[0] == "step,clips"
    assert f"kept,{len(kept)}" in funnel
    assert sana(project, "report")[0] == 0
    assert (project / "reports/data/report.html").read_text() == page
    latents_repeat_caption_and_motion(project)
    captions_are_read_once(project)
    a_published_autoencoder_is_taken_as_it_was_fetched(project)
    the_sft_set_is_judged_by_a_person_and_is_a_view(project)
    refuses_what_the_gate_has_not_seen(project)


def latents_repeat_caption_and_motion(project: Path) -> None:
    joined = {n: pq.read_table(project / "data" / n) for n in ("videos", "clips", "scores", "captions")}
    kept = kept_clips(**joined, selection=pq.read_table(project / "data/selection.parquet"))
    view, said = ViewParams(height=32, width=48, frames=5, autoencoder="test", after="data"), []

    def encode_text(prompts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        said.extend(prompts)
        return torch.ones(len(prompts), 8, 3), torch.ones(len(prompts), 8, dtype=torch.bool)

    def encode(pieces: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
        video = torch.cat(list(pieces), dim=2)
        assert video.shape[1:] == (3, 5, 32, 48)
        assert -1.0 <= float(video.min()) < 0 < float(video.max()) <= 1.0
        yield from (video[:, :, ::16, ::16, ::16], video[:, :, 4::4, ::16, ::16])

    folder, null = project / "data/shards/test", (torch.zeros(8, 3), torch.ones(8, dtype=torch.bool))
    words = Words(encode_text, null)
    encoders = Encoders(encode, words, 16, "test")
    assert write_latents(folder, kept, view, 16, 1 << 20, project, encoders, lambda i, n, _: i) == len(kept)
    assert all(map(torch.equal, read_null(folder), null))
    assert said == [f"{clip.caption} motion score: {int(clip.motion)}." for clip in kept]
    keys = read_index(folder).column("key").to_pylist()
    first, pixels = next(iter(decoded(kept, view.sizes(16), 5, 16, project)))
    with ShardReader(folder) as reader:
        sample = reader.sample(keys.index(first.clip_id))
    assert bytes(sample["caption"].tolist()).decode() == first.caption
    assert float(sample["motion"]) == pytest.approx(first.motion)
    assert torch.allclose(
        sample["latents"], torch.from_numpy(pixels).permute(3, 0, 1, 2)[:, ::4, ::16, ::16] / 127.5 - 1
    )


def captions_are_read_once(project: Path) -> None:
    """The embeddings of a view serve it again, byte for byte, and any other view of the same clips."""
    code, said = sana(project, "encode", "--view", "low")
    assert (code, "there is no verdict" in said) == (3, True)
    DcaeV(PRESETS["small"]).save_pretrained(project / "models" / "autoencoder")
    covered = {"models/autoencoder": digest(project / "models" / "autoencoder")}
    verdict = gates.Verdict("train-autoencoder", "green", covered, {}, {}, "")
    gates.write(verdict, project / "reports" / "gates" / "train-autoencoder.json")
    kept, shards = project / "runs" / "text", project / "data" / "shards"
    assert sana(project, "encode", "--view", "low")[0] == 0
    texts = {path: path.stat().st_mtime_ns for path in kept.rglob("*.safetensors")}
    first = digest(shards / "low")
    for view in ("low", "high"):
        assert sana(project, "encode", "--view", view)[0] == 0
    assert texts == {path: path.stat().st_mtime_ns for path in kept.rglob("*.safetensors")}
    assert 1 < len(texts) <= read_index(shards / "low").num_rows + 1  # the captions, and no caption
    assert digest(shards / "low") == first


def a_published_autoencoder_is_taken_as_it_was_fetched(project: Path) -> None:
    """A folder of diffusers, which no gate of ours has judged: the view comes after the data alone."""
    changes = ["--set", "data.views.low.autoencoder=weights/wan2.1-vae", "--set", "data.views.low.after=data"]
    code, said = sana(project, "encode", "--view", "low", *changes)
    assert (code, "wan2.1-vae" in said) == (2, True), said
    torch.manual_seed(0)
    AutoencoderKLWan(base_dim=4, num_res_blocks=1).save_pretrained(project / "weights" / "wan2.1-vae" / "vae")
    code, said = sana(project, "encode", "--view", "low", *changes)
    assert code == 0, said
    with ShardReader(project / "data/shards/low") as reader:
        latents = reader.sample(0)["latents"]
    assert latents.shape == (16, 2, 4, 6) and bool(latents.isfinite().all())
    code, said = sana(project, "encode", "--view", "low", *changes, "--set", "data.views.low.height=36")
    assert (code, "36x48 is no multiple of 8x8" in said) == (2, True), said


def the_sft_set_is_judged_by_a_person_and_is_a_view(project: Path) -> None:
    wide = ["--set", "data.sft.ranges={}", "--set", "data.sft.moves={object_motion: 0, camera_motion: 0}"]
    code, said = sana(project, "sft", *wide)
    assert code == 0, said
    table = project / "data/sft.parquet"
    chosen = {row["clip_id"] for row in pq.read_table(table).to_pylist() if row["chosen"]}
    kept = {row["clip_id"] for row in pq.read_table(project / "data/selection.parquet").to_pylist() if row["keep"]}
    assert chosen == kept
    assert sana(project, "sft", "review", *wide)[0] == 0
    page = (project / "reports/sft/review-001.html").read_text()
    assert all(clip in page for clip in chosen) and page.count("data:video/mp4;base64,") == len(chosen)
    bad = min(chosen)
    decision = {"clip_id": bad, "decision": "reject", "failed": ["composition"], "time": "2026-01-31T12:00:00Z"}
    review = {"kind": "sana-video-sft-review", "version": 1, "reviewer": "Ana", "decisions": [decision]}
    (project / "ana.json").write_text(json.dumps(review))
    assert sana(project, "sft", "decide", str(project / "ana.json"))[0] == 0
    code, said = sana(project, "sft", "decide", str(project / "ana.json"))
    assert (code, "nothing new" in said) == (2, True), said
    assert sana(project, "sft", *wide)[0] == 0
    changes = ["autoencoder=weights/wan2.1-vae", "after=data", "clips=sft", "clips_after=sft"]
    options = [word for change in changes for word in ("--set", f"data.views.low.{change}")]
    code, said = sana(project, "encode", "--view", "low", *options)
    assert (code, "there is no verdict" in said) == (3, True), said
    assert sana(project, "gate", "sft", *wide)[0] == 0
    code, said = sana(project, "encode", "--view", "low", *options)
    assert code == 0, said
    assert {row["key"] for row in read_index(project / "data/shards/low").to_pylist()} == chosen - {bad}
    an_export_holds_all_or_the_set(project, {"selection": kept, "sft": chosen - {bad}})
    assert sana(project, "sft", *wide, "--set", "data.sft.accepted_only=true")[0] == 0
    code, said = sana(project, "encode", "--view", "low", *options)
    assert (code, "data/sft.parquet changed" in said) == (3, True), said
    assert sana(project, "gate", "sft", *wide, "--set", "data.sft.accepted_only=true")[0] == 0
    code, said = sana(project, "encode", "--view", "low", *options)
    assert (code, "the SFT set holds no clip" in said) == (2, True), said


def an_export_holds_all_or_the_set(project: Path, wanted: dict[str, set[str]]) -> None:
    for clips, ids in wanted.items():
        out = project / "exported" / clips
        options = ["--format", "hf", "--out", str(out)]
        code, said = sana(project, "export", *options, "--clips", clips, "--limit", str(len(wanted["sft"])))
        assert code == 0, said
        exported = {path.stem for path in out.rglob("*.mp4")}
        assert len(exported) == len(wanted["sft"]) and exported <= ids
        assert ("of the SFT set" in (out / "README.md").read_text()) == (clips == "sft")
    for words in (["--clips", "sft"], ["--size", "720p"]):
        code, said = sana(project, "export", *options, "--view", "low", *words)
        assert (code, "give one of the two" in said) == (2, True), said


def refuses_what_the_gate_has_not_seen(project: Path) -> None:
    assert sana(project, "curate", "--set", "data.curate.ranges.default.saturation=[0,1]")[0] == 0
    for words in (["encode", "--view", "pixels"], ["gate", "shards", "--view", "pixels"]):
        code, said = sana(project, *words)
        assert (code, "stale" in said) == (3, True), said
    code, said = sana(project, "gate", "data")
    assert code == 3
    assert "gate data is red" in said
    assert json.loads((project / "runs/status/gate_data.json").read_text())["kind"] == "gate_red"
    assert sana(project, "report")[0] == 0, "the page is there to see why the gate is red"


def bare(tmp_path: Path) -> Path:
    for name in ("dvc.yaml", "versions.yaml", "params.yaml"):
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["ingest", "--batch", "flim"], "unknown batch 'flim': params.yaml has film, more"),
        (["encode", "--view", "huge"], "unknown view 'huge': params.yaml has pixels, low, high"),
        (["curate", "--set", "data.split.frames=32"], "32 frames is not 4k+1"),
        (["curate", "--set", "data.split.framez=33"], "did you mean frames?"),
        (["ingest", "--batch", "film"], "data/raw/film"),
        (["curate"], "is missing"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(tmp_path: Path, words: list[str], line: str) -> None:
    code, said = sana(bare(tmp_path), *words)
    assert (code, len(said.strip().splitlines())) == (2, 1), said
    assert line in said


def test_print_config_shows_what_is_in_force_and_does_nothing(tmp_path: Path) -> None:
    code, said = sana(bare(tmp_path), "dedup", "--print-config", "--set", "data.dedup.max_distance=3")
    assert code == 0
    assert yaml.safe_load(said)["data"]["dedup"] == {"max_distance": 3.0, "max_embedding_distance": 0.08}
    assert not (tmp_path / "runs").exists()


def test_importing_the_commands_loads_nothing_heavy() -> None:
    heavy = "{'torch', 'cv2', 'pandas', 'pyarrow', 'great_expectations', 'av'}"
    start = time.monotonic()
    code = f"import sys, data_pipeline.cli; print(sorted({heavy} & set(sys.modules)))"
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert said.strip() == "[]"
    assert time.monotonic() - start < 10
