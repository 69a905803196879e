"""The release folder: what it holds, that its bytes follow from its inputs, what refuses it, and that it samples."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from typer.testing import CliRunner

from data_pipeline import tables
from flows import params as parameters
from flows.cli import app
from flows.package import package, require_same_gate
from infra import gates, registry
from infra.storage import digest
from sana_video import weights
from sana_video.text import TextParams

ROOT = Path(__file__).resolve().parents[2]
ATTRIBUTION = "(c) 2008 Blender Foundation, www.bigbuckbunny.org"
CAPTIONER = "template (stand-in for Qwen2.5-VL)"
FLOW = "DIS flow (stand-in for UniMatch)"
LOOK = "classical scorer (stand-in for DOVER)"
NULL = torch.full((48, 384), 0.25)  # tokens and width of the demo
SUMMARY = {
    "objective": "bidirectional",
    "steps": 3,
    "fingerprint": "f",
    "heldout_start": 2.0,
    "heldout_end": 1.0,
    "stand_ins": [],
}


def verdict(root: Path, boundary: str, colour: str = "green") -> None:
    kind, _, name = boundary.partition("-")
    covers = {"train": f"models/{name}", "shards": f"data/shards/{name}", "data": "data/*/*.parquet"}
    paths = sorted(root.glob(covers.get(kind, "reports/eval")))
    assert paths
    covered = {path.relative_to(root).as_posix(): digest(path) for path in paths}
    gates.write(gates.Verdict(boundary, colour, covered, {}, {}, ""), root / "reports" / "gates" / f"{boundary}.json")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose training and evaluation are done, with weights at random initialisation."""
    from sana_video.autoencoder.dcae_v import PRESETS, DcaeV
    from sana_video.config import SanaVideoConfig
    from sana_video.model import SanaVideo

    root = tmp_path_factory.mktemp("made")
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / name, root / name)
    (root / "LICENSE").write_text("Apache License\n")
    params = parameters.load(root / "params.yaml")
    for name in params.train.stages:
        model: Any = DcaeV(PRESETS["small"]) if name == "autoencoder" else SanaVideo(SanaVideoConfig.preset("tiny"))
        model.save_pretrained(root / "models" / name)
        if name != "autoencoder":
            weights.save(root / "models" / name / weights.NULL_FILE, {"text": NULL, "mask": torch.ones(48).bool()})
        (root / "models" / name / "summary.json").write_text(json.dumps({"stage": name, **SUMMARY}))
    evaluation = root / "reports" / "eval"
    evaluation.mkdir(parents=True)
    measure = {"mean": 1.5, "ci95": [1.0, 2.0], "n": 8, "unit": "px", "stand_in": "dis (stand-in for UniMatch)"}
    measures = {"t2v/flow_motion": {**measure, "real": {"mean": 3.4, "ci95": None, "n": 4}}}
    digests = {name: digest(root / name) for name in ("models/causal", "models/autoencoder")}
    size = {"height": 96, "width": 160, "frames": 33, "fps": 16.0}
    (evaluation / "summary.json").write_text(json.dumps({"measures": measures, "digests": digests, "size": size}))
    (evaluation / "report.html").write_text("<html></html>")
    for batch in params.data.batches:
        row = dict.fromkeys(tables.VIDEOS.names) | {"uri": f"{batch}.mp4", "batch": batch, "video_id": batch}
        row |= {"source": "big-buck-bunny", "licence": "CC BY 3.0", "attribution": ATTRIBUTION}
        tables.write("videos", [row], root / "data" / "videos" / f"{batch}.parquet")
        caption = dict.fromkeys(tables.CAPTIONS.names) | {"clip_id": batch, "captioner": CAPTIONER}
        tables.write("captions", [caption], root / "data" / "captions" / f"{batch}.parquet")
        scores = dict.fromkeys(tables.SCORES.names) | {
            "clip_id": batch,
            "flow_estimator": FLOW,
            "aesthetic_scorer": LOOK,
        }
        tables.write("scores", [scores], root / "data" / "scores" / f"{batch}.parquet")
    for view in ("pixels", *params.data.views):
        (root / "data" / "shards" / view).mkdir(parents=True)
        (root / "data" / "shards" / view / "00000.tar").write_text(view)
    for boundary in sorted(parameters.verdicts(params)):
        verdict(root, boundary)
    return root


@pytest.fixture
def project(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "project"))


def pack(root: Path) -> str:
    package(root, parameters.load(root / "params.yaml"))
    return registry.verify_bundle(root / "release")


def test_a_stage_on_the_sft_set_brings_the_verdict_on_it(project: Path) -> None:
    changes = ["data.views.high.clips=sft", "data.views.high.clips_after=sft"]
    table = project / "data" / "sft.parquet"
    tables.write("sft", [], table)
    covered = {"data/sft.parquet": digest(table)}
    gates.write(gates.Verdict("sft", "green", covered, {}, {}, ""), project / "reports" / "gates" / "sft.json")
    package(project, parameters.load(project / "params.yaml", changes))
    assert (project / "release" / "gates" / "sft.json").is_file()
    table.write_bytes(b"")
    with pytest.raises(gates.GateRed, match=r"sft\.parquet changed"):
        package(project, parameters.load(project / "params.yaml", changes))


def test_the_folder_is_whole_and_its_bytes_repeat(project: Path) -> None:
    first = pack(project)
    assert pack(project) == first
    release = project / "release"
    card = (release / "README.md").read_text()
    assert card.startswith("---\nlicense: apache-2.0\n")
    assert ATTRIBUTION in card
    for part in (CAPTIONER, FLOW, LOOK, "(stand-in for Gemma-2-2b-it)", "small DCAE-V, the demo's own autoencoder"):
        assert part in card
    lineage = json.loads((release / "lineage.json").read_text())
    assert [stage["stage"] for stage in lineage["training"]] == ["autoencoder", "t2i", "t2v_low", "t2v_high", "causal"]
    assert {p.stem for p in (release / "gates").iterdir()} >= {"data", "release", "train-causal", "shards-high"}
    assert json.loads((release / "sampling.json").read_text())["motion_score"] == 3
    assert torch.equal(weights.load(release / weights.NULL_FILE)["text"], NULL)
    text = TextParams.model_validate_json((release / "text.json").read_text())
    assert text == parameters.load(project / "params.yaml").text


def test_a_published_autoencoder_is_released_in_our_layout(project: Path) -> None:
    """No stage trained it: as diffusers keeps it, it is read, and the release holds one that loads by itself."""
    from diffusers import AutoencoderKLWan

    from sana_video.autoencoder import load_autoencoder

    place = "weights/wan2.1-vae"
    document = yaml.safe_load((project / "params.yaml").read_text())
    del document["train"]["stages"]["autoencoder"]
    for name, stage in document["train"]["stages"].items():
        stage |= {"autoencoder": place} | ({"after": "shards-high"} if name == "t2i" else {})
    for view in document["data"]["views"].values():
        view |= {"autoencoder": place, "after": "data"}
    document["eval"]["autoencoder"] = place
    (project / "params.yaml").write_text(yaml.safe_dump(document))
    AutoencoderKLWan(base_dim=4, num_res_blocks=1).save_pretrained(project / place / "vae")
    summary = json.loads((project / "reports" / "eval" / "summary.json").read_text())
    summary["digests"] = {name: digest(project / name) for name in ("models/causal", place)}
    (project / "reports" / "eval" / "summary.json").write_text(json.dumps(summary))
    for boundary in ("eval", "release"):
        verdict(project, boundary)
    pack(project)
    assert json.loads((project / "release" / "autoencoder" / "config.json").read_text())["kind"] == "wan2.1"
    assert load_autoencoder(project / "release" / "autoencoder").stride == (4, 8, 8)
    assert "small DCAE-V" not in (project / "release" / "README.md").read_text()


def test_what_is_released_is_sampled_as_params_say(project: Path) -> None:
    document = yaml.safe_load((project / "params.yaml").read_text())
    document["eval"] |= {"flow_shift": 8.0, "negative_prompt": "blurry"}
    document["release"]["motion_score"] = 30
    (project / "params.yaml").write_text(yaml.safe_dump(document))
    pack(project)
    told = json.loads((project / "release" / "sampling.json").read_text())
    assert (told["flow_shift"], told["negative_prompt"], told["motion_score"]) == (8.0, "blurry", 30)
    assert "shift 8" in (project / "release" / "README.md").read_text()


def test_a_red_or_stale_verdict_refuses(project: Path) -> None:
    verdict(project, "release", "red")
    with pytest.raises(gates.GateRed):
        pack(project)
    verdict(project, "release")
    (project / "reports" / "eval" / "report.html").write_text("changed since")
    with pytest.raises(gates.GateRed, match="stale"):
        pack(project)
    assert not (project / "release").exists()


@pytest.mark.parametrize(
    "changed",
    [
        "models/t2i/model.safetensors",
        "models/autoencoder/model.safetensors",
        "data/shards/low/00000.tar",
        "data/captions/film.parquet",
    ],
)
def test_what_changed_since_its_gate_is_not_packaged(project: Path, changed: str) -> None:
    with (project / changed).open("ab") as file:
        file.write(b" ")
    with pytest.raises(gates.GateRed, match="stale"):
        pack(project)
    assert not (project / "release").exists()


@pytest.mark.parametrize("name", ["causal", "autoencoder"])
def test_weights_that_passed_their_gate_but_were_not_evaluated_are_not_packaged(project: Path, name: str) -> None:
    with (project / "models" / name / "model.safetensors").open("ab") as file:
        file.write(b" ")
    verdict(project, f"train-{name}")
    with pytest.raises(gates.GateRed, match=f"evaluation is stale: models/{name}"):
        pack(project)


def test_only_what_the_standing_release_gate_let_through_is_registered(project: Path) -> None:
    pack(project)
    require_same_gate(project)
    path = project / "reports" / "gates" / "release.json"
    path.write_text(path.read_text().replace('"context": {}', '"context": {"release": "other bars"}'))
    with pytest.raises(gates.GateRed, match="release/ is stale"):
        require_same_gate(project)
    result = CliRunner().invoke(app, ["--root", str(project), "release", "register"])
    assert (result.exit_code, "release/ is stale" in result.output) == (3, True)
    verdict(project, "release", "red")
    with pytest.raises(gates.GateRed, match="is red"):
        require_same_gate(project)


def test_a_missing_part_is_named_and_leaves_nothing(project: Path) -> None:
    (project / "LICENSE").unlink()
    with pytest.raises(FileNotFoundError, match="LICENSE"):
        pack(project)
    assert not (project / "release").exists()


def test_the_folder_samples_a_film_that_says_what_it_is(project: Path, tmp_path: Path) -> None:
    from sana_video.video.mp4 import read_metadata

    pack(project)
    out = tmp_path / "out.mp4"
    words = ["--root", str(project), "sample", "--model", str(project / "release"), "--prompt", "a meadow"]
    words += ["--frames", "9", "--size", "32x48", "--steps", "1", "--seed", "3", "--json"]
    result = CliRunner().invoke(app, [*words, "--out", str(out)])
    assert result.exit_code == 0, result.output
    about = json.loads(read_metadata(out)["comment"])
    assert (about["prompt"], about["seed"], about["frames"]) == ("a meadow", 3, 9)
    assert ATTRIBUTION in read_metadata(out)["copyright"]
    odd = CliRunner().invoke(app, [*words, "--frames", "8", "--out", str(out)])
    assert odd.exit_code == 2, odd.output
    picture = CliRunner().invoke(app, [*words, "--frames", "1", "--out", str(tmp_path / "out.png")])
    assert picture.exit_code == 0, picture.output
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")
